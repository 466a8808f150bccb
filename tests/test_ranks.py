# SPDX-License-Identifier: Apache-2.0
"""No collective of ours waits for a rank that is somewhere else: each case is a program with a time limit."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parent.parent
LIMIT = 480  # seconds: many times what a case takes on an idle machine


def run(case, strategy, folder, *arguments, until=None):
    """Run a case to its end, or until there is a file; its exit status and what it printed. One that hangs fails."""
    command = [sys.executable, "-m", "tests.ranks_program", case, strategy, str(folder), *arguments]
    with (folder / "errors.txt").open("w+") as errors:
        program = subprocess.Popen(
            command,
            cwd=ROOT,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stdout=subprocess.DEVNULL,
            stderr=errors,
            start_new_session=True,
        )
        try:
            end = time.monotonic() + LIMIT
            while program.poll() is None and not (until is not None and until.exists()):
                assert time.monotonic() < end, "it hangs"
                time.sleep(0.1)
        finally:
            # Also the ranks that it has started.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(program.pid, signal.SIGKILL)
        errors.seek(0)
        return program.returncode, errors.read()


EVERY_READER = [f"{reader}-{place}" for reader in ("tqdm", "rich", "callback") for place in ("before", "after")]


@pytest.mark.integration
@pytest.mark.parametrize(
    ("strategy", "readers"),
    [
        ("ddp", EVERY_READER),
        ("fsdp", EVERY_READER),
        ("ddp_spawn", EVERY_READER[:2]),
    ],
)
def test_whoever_reads_metrics_on_one_rank(strategy, readers, tmp_path):
    if strategy == "fsdp" and not hasattr(torch.cpu.Stream, "record_event"):
        pytest.skip("fully_shard of this torch runs on GPUs only")
    status, errors = run("bars", strategy, tmp_path, *readers)
    assert status == 0, errors[-5000:]
    assert ("`callback.history` stays empty in the process that called `fit`" in errors) == (strategy == "ddp_spawn")


@pytest.mark.integration
def test_an_exception_on_one_rank_keeps_its_checkpoint(tmp_path):
    saved = tmp_path / "on_exception.ckpt"
    _, errors = run("exception", "ddp", tmp_path, until=saved)
    assert saved.exists(), errors[-5000:]
    status, errors = run("after_exception", "ddp", tmp_path)
    assert status == 0, errors[-5000:]


@pytest.mark.integration
@pytest.mark.parametrize("case", ["disagreement", "memory", "alone"])
def test_ranks_that_differ(case, tmp_path):
    status, errors = run(case, "ddp", tmp_path)
    assert status == 0, errors[-5000:]


@pytest.mark.integration
def test_ctrl_c_leaves_a_rank_that_does_not_answer(tmp_path):
    status, errors = run("dead_peer", "ddp", tmp_path)
    assert status == 1, errors[-5000:]
    assert "KeyboardInterrupt" in errors
