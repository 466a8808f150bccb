# SPDX-License-Identifier: Apache-2.0
"""Run checks one after the other, each in its own process, and keep what they found in one file."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from functools import cache
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).parents[2]
LEFT, FAILED = 2, 1
# A rehearsal is small, and its checks take seconds.
_REHEARSAL_LIMIT = 120
# A process that passes its limit ends by itself, with the stacks of its threads. This is for one that cannot.
_GRACE = 15


def load(out):
    """The content of the file of results, or an empty one."""
    if out.exists():
        return json.loads(out.read_text(encoding="utf-8"))
    return {"commit": _commit(), "machines": {}, "results": {}}


def is_done(check, record, rehearse):
    """Whether ``record`` is of this check, this code, and a GPU (or, in a rehearsal, of a rehearsal)."""
    return record is not None and record["version"] == version(check) and record["rehearsal"] == rehearse


def remaining(checks, results, rehearse, again=False):
    """The names of the checks that are still to run. ``again`` repeats those that did not pass."""

    def is_left(name):
        record = results.get(name)
        return not is_done(checks[name], record, rehearse) or (again and record["status"] != "passed")

    return [name for name in checks if is_left(name)]


def run(checks, out, minutes, rehearse=False, again=False):
    """Run what is left of ``checks`` until the time is up, print what happens, and return the exit code."""
    end = time.monotonic() + 60 * minutes
    state = load(out)
    left = remaining(checks, state["results"], rehearse, again)
    if done := len(checks) - len(left):
        print(f"{done} of {len(checks)} checks are in {out} already.")
    waiting = []
    for name in left:
        if _longest(checks[name], rehearse) > end - time.monotonic():
            waiting.append(name)
            continue
        record = run_check(checks[name], rehearse)
        machine = record.pop("machine", None)
        if machine is not None:
            record["device"] = machine["gpu"] or machine["cpu"]
            state["machines"][record["device"]] = machine
        state["results"][name] = record
        state["commit"] = _commit()
        _save(out, state)
        print(_line(name, record), flush=True)
    print(_end(checks, state["results"], waiting, out))
    if (longest := max((_longest(checks[name], rehearse) for name in waiting), default=0)) > 60 * minutes:
        print(f"Allow more time, because a check may take {longest} s: --minutes {longest // 60 + 1}.")
    return exit_code(checks, state["results"], waiting)


def run_check(check, rehearse):
    """Run ``check`` in a new process and return its record."""
    record = {"status": "failed", "figures": {}}
    if rehearse and not check.rehearsed:
        record |= {"status": "not here", "reason": "needs CUDA", "seconds": 0.0}
    else:
        record |= _record_of_child(check, rehearse)
    return record | {"kind": check.kind, "version": version(check), "rehearsal": rehearse}


def _record_of_child(check, rehearse):
    limit = _limit(check, rehearse)
    with tempfile.TemporaryDirectory() as folder:
        result, output = Path(folder, "result.json"), Path(folder, "output.txt")
        start = time.monotonic()
        with output.open("wb") as file:
            code = _run_child(check, limit, result, rehearse, file)
        if result.exists():
            return json.loads(result.read_text(encoding="utf-8"))
        seconds = time.monotonic() - start
        return {
            "reason": f"the process {'took too long' if seconds >= limit else f'ended with code {code}'}",
            "seconds": round(seconds, 1),
            "error": output.read_text(encoding="utf-8", errors="replace")[-5000:],
        }


def _run_child(check, limit, result, rehearse, output):
    arguments = [check.module, check.function, str(result), str(limit), str(int(rehearse)), *check.arguments]
    environment = os.environ | {"CUBLAS_WORKSPACE_CONFIG": ":4096:8"}  # or CUDA's matrix products vary
    if rehearse:
        # The models are too small for threads, which spin while they wait.
        environment |= {"TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.gpu.child", *arguments],
        cwd=ROOT,
        env=environment,
        stdout=output,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        return process.wait(limit + _GRACE)
    except subprocess.TimeoutExpired:
        return None
    finally:
        # Also the processes that it has started, and also after Ctrl-C.
        _end_group(process)


def _end_group(process):
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _limit(check, rehearse):
    return min(check.limit, _REHEARSAL_LIMIT) if rehearse else check.limit


def _longest(check, rehearse):
    return 0 if rehearse and not check.rehearsed else _limit(check, rehearse) + _GRACE


def exit_code(checks, results, left):
    """What the command exits with."""
    if left:
        return LEFT
    broken = [name for name in checks if results[name]["status"] == "failed" and checks[name].kind != "probe"]
    return FAILED if broken else 0


def version(check):
    """A hash of the package's code and of the check's."""
    return hashlib.sha256((_package_hash() + _hash([_source(check.module)])).encode()).hexdigest()[:12]


@cache
def _package_hash():
    return _hash(sorted((ROOT / "lightning_rwc").rglob("*.py")))


def _hash(files):
    return hashlib.sha256(b"\0".join(file.read_bytes() for file in files)).hexdigest()


@cache
def _source(module):
    return Path(find_spec(module).origin)


@cache
def _commit():
    try:
        command = ["git", "rev-parse", "HEAD"]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def _save(out, state):
    partial = out.with_name(out.name + ".partial")
    partial.write_text(json.dumps(state, indent=1) + "\n", encoding="utf-8")
    partial.replace(out)


def _line(name, record):
    reason = record.get("reason", "").partition("\n")[0]
    status = "failed (a probe)" if record["status"] == "failed" and record["kind"] == "probe" else record["status"]
    return f"{status:8}  {name}, {record['seconds']:.0f} s{': ' * bool(reason)}{reason[:200]}"


def _end(checks, results, left, out):
    counts = {}
    for name in checks:
        status = results[name]["status"] if name in results and name not in left else "left"
        counts[status] = counts.get(status, 0) + 1
    lines = [f"\n{', '.join(f'{count} {status}' for status, count in counts.items())}. Results are in {out}."]
    if left:
        lines += [f"Left: {', '.join(left)}.", "To go on, give the same command again."]
    return "\n".join(lines)
