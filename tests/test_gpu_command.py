# SPDX-License-Identifier: Apache-2.0
"""The command ``python -m tests.gpu``: it resumes, records failures, and tells by its exit code how far it is."""

import json
import os
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path

import pytest

from tests.gpu import runner
from tests.gpu.checks import CHECKS, Check
from tests.gpu.here import NotHere
from tests.gpu.tables import tables

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parent.parent


def passing(here, word):
    return {"row": {"ms": 1234.5678, "word": word, "small": 0.000123456}}


def failing(here):
    raise ValueError("one | two\nthree")


def absent(here):
    raise NotHere("needs CUDA")


def crashing(here):
    os.abort()


def hanging(here):
    time.sleep(600)


def fake(function, *arguments, **options):
    return Check(f"what {function} shows", "tests.test_gpu_command", function, arguments, **options)


GOOD = {"a": fake("passing", "first"), "b": fake("passing", "second"), "c": fake("absent")}


def records(out):
    return json.loads(out.read_text())["results"]


def test_a_second_call_goes_on_where_the_first_stopped(tmp_path, capsys, monkeypatch):
    out, started = tmp_path / "gpu.json", []
    run_check = runner.run_check

    def run(check, rehearse):
        started.append(check.arguments)
        return run_check(check, rehearse)

    monkeypatch.setattr(runner, "run_check", run)
    # There is time for the check that may take ten seconds only.
    checks = {"a": GOOD["a"], "b": GOOD["b"]._replace(limit=9000)}
    checks["a"] = checks["a"]._replace(limit=10)
    assert runner.run(checks, out, minutes=1) == 2
    printed = capsys.readouterr().out
    assert "Left: b." in printed
    assert "--minutes 151" in printed
    assert records(out)["a"]["status"] == "passed"
    assert list(records(out)) == ["a"]

    assert runner.run(checks, out, minutes=160) == 0
    assert started == [("first",), ("second",)]
    assert "1 of 2 checks are in" in capsys.readouterr().out
    assert not list(tmp_path.glob("*.partial"))

    # Nothing that a rehearsal shows, or other code, counts.
    assert runner.remaining(checks, records(out), rehearse=False) == []
    assert runner.remaining(checks, records(out), rehearse=True) == ["a", "b"]
    monkeypatch.setattr(runner, "_package_hash", lambda: "other code")
    assert runner.remaining(checks, records(out), rehearse=False) == ["a", "b"]


def test_an_interrupted_call_keeps_what_it_has(tmp_path, monkeypatch):
    out, run_check = tmp_path / "gpu.json", runner.run_check

    def interrupted(check, rehearse):
        if check.arguments == ("second",):
            raise KeyboardInterrupt
        return run_check(check, rehearse)

    with monkeypatch.context() as patch:
        patch.setattr(runner, "run_check", interrupted)
        with pytest.raises(KeyboardInterrupt):
            runner.run(GOOD, out, minutes=9)
    assert list(records(out)) == ["a"]
    assert runner.run(GOOD, out, minutes=9) == 0
    assert [record["status"] for record in records(out).values()] == ["passed", "passed", "not here"]
    assert runner.remaining(GOOD, records(out), rehearse=False, again=True) == ["c"]


def test_failures_are_recorded_and_the_rest_goes_on(tmp_path, capsys):
    out = tmp_path / "gpu.json"
    checks = {
        "wrong": fake("failing"),
        "crash": fake("crashing"),
        "hang": fake("hanging", limit=3),
        "good": GOOD["a"],
    }
    assert runner.run(checks, out, minutes=9) == 1
    found = records(out)
    assert [record["status"] for record in found.values()] == ["failed"] * 3 + ["passed"]
    assert found["wrong"]["reason"] == "ValueError: one | two\nthree"
    assert 'raise ValueError("one | two' in found["wrong"]["error"]
    assert "code -6" in found["crash"]["reason"]
    # The stack shows where it hung.
    assert found["hang"]["reason"] == "the process took too long"
    assert "in hanging" in found["hang"]["error"]
    assert "3 failed, 1 passed" in capsys.readouterr().out
    # The record stands until it is asked for again.
    assert runner.run(checks, out, minutes=9) == 1
    table = tables(checks, runner.load(out))
    assert "| `wrong` | what failing shows | failed: ValueError: one \\| two |" in table


def test_a_probe_may_fail(tmp_path):
    out = tmp_path / "gpu.json"
    checks = {"probe": fake("failing", kind="probe")}
    assert runner.run(checks, out, minutes=9) == 0
    assert "| probe failed: ValueError" in tables(checks, runner.load(out))


def test_tables(tmp_path):
    out = tmp_path / "gpu.json"
    runner.run(GOOD, out, minutes=9, rehearse=True)
    table = tables(GOOD, runner.load(out))
    assert table.startswith("# Rehearsal on a CPU: no figure here is one of a GPU")
    assert "### a: what passing shows\n\n|  | ms | word | small |\n| --- | --- | --- | --- |" in table
    assert "| row | 1,235 | first | 0.000123 |" in table
    assert "| `a` | what passing shows | passed in a rehearsal |" in table
    assert "| `c` | what absent shows | not here: needs CUDA |" in table


def command(*arguments, cwd=ROOT):
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT)}
    arguments = [sys.executable, "-m", "tests.gpu", *map(str, arguments)]
    return subprocess.run(arguments, cwd=cwd, env=environment, capture_output=True, text=True, check=False)


def test_the_command_rehearses(tmp_path):
    out = tmp_path / "gpu.json"
    asked = ["--rehearse", "--out", out, "--only", "speed/25 M*"]
    done = command(*asked)
    assert done.returncode == 0, done.stdout + done.stderr
    assert {name: record["status"] for name, record in records(out).items()} == {"speed/25 M weights": "passed"}
    assert "0.1 M bfloat16" in command(*asked, "--tables").stdout


def test_without_a_gpu_the_command_says_so(tmp_path):
    done = command("--out", tmp_path / "gpu.json")
    assert done.returncode == 2
    assert "There is no CUDA device here" in done.stdout
    assert not list(tmp_path.iterdir())


def test_every_check_exists_and_has_time_in_a_run_of_ten_minutes():
    for check in CHECKS.values():
        assert callable(getattr(import_module(check.module), check.function))
        assert check.limit <= 300
    assert command("--list").stdout.count("\n") == len(CHECKS)
    assert command("--only", "nothing").returncode == 2
