# SPDX-License-Identifier: Apache-2.0
"""The same number under every strategy that runs on CPUs: each case is a program of several processes."""

import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from lightning_rwc import RWCHistory
from tests import distributed_program

ROOT = Path(__file__).parent.parent


def run(case, processes, norm, relative_to, folder):
    command = [sys.executable, "-m", "tests.distributed_program", case, str(processes), norm, relative_to, str(folder)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-5000:]
    assert done.stderr.count("disk full") == 1
    return RWCHistory.load(folder / f"{processes}.npz")


@pytest.fixture(scope="module")
def one_process(tmp_path_factory):
    """The history of a run of this process alone."""

    @cache
    def train(case, norm, relative_to):
        folder = tmp_path_factory.mktemp("one")
        distributed_program.main(case, 1, norm, relative_to, folder)
        return RWCHistory.load(folder / "1.npz")

    return train


@pytest.mark.integration
@pytest.mark.parametrize(
    ("case", "processes", "norm", "relative_to"),
    [
        ("ddp", 2, "l1", "previous"),
        ("ddp", 3, "l2", "initial"),
        ("fsdp", 2, "l1", "previous"),
        ("fsdp", 3, "elementwise", "initial"),
        ("partly sharded", 2, "l2", "previous"),
        ("2-D", 4, "l1", "previous"),
        ("hybrid", 4, "elementwise", "previous"),
    ],
)
def test_equals_numpy_and_one_process(case, processes, norm, relative_to, one_process, tmp_path):
    if case != "ddp" and not hasattr(torch.cpu.Stream, "record_event"):
        pytest.skip("fully_shard of this torch runs on GPUs only")
    several = run(case, processes, norm, relative_to, tmp_path)
    one = one_process(case, norm, relative_to)
    assert several.layers == one.layers
    np.testing.assert_allclose(several.values, one.values, rtol=1e-6)
