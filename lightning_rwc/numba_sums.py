# SPDX-License-Identifier: Apache-2.0
"""The sums of tensors on the CPU, compiled by Numba: each weight is read once, before and after, and written once."""

import ctypes
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any, TypeAlias, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lightning_rwc.functional import Norm
from lightning_rwc.numba_kernel import worker

_Numbers: TypeAlias = npt.NDArray[np.int64]

# Half precision is unknown to NumPy or to Numba on the CPU: it travels as integers of its bits.
_CARRIERS: dict[torch.dtype, Any] = {
    torch.float64: np.float64,
    torch.float32: np.float32,
    torch.bfloat16: np.int16,
    torch.float16: np.uint16,
}
# Elements that a thread takes at a time.
_TASK = 2**18
# Threads of our own: for how many bunches of tasks it is worth starting another, and when they but wait for memory.
_PER_THREAD = 32
_MOST_THREADS = 16


def prepare_sums(previous: Sequence[Tensor], current: Sequence[Tensor]) -> Callable[[Norm, bool], Tensor]:
    """As :func:`lightning_rwc.sums.prepare_sums`, for tensors of 16, 32 or 64 bits on the CPU.

    Where precisions differ, ``previous`` has 32 bits at least.

    """
    tensors = [*zip(previous, current, strict=True)]
    kinds: dict[tuple[torch.dtype, torch.dtype], list[int]] = {}
    for index, (p, c) in enumerate(tensors):
        kinds.setdefault((p.dtype, c.dtype), []).append(index)
    jobs = [(indices, _Job(*kind, [tensors[index] for index in indices])) for kind, indices in kinds.items()]

    def sums(norm: Norm, advance: bool) -> Tensor:
        total = np.empty((len(tensors), 3))
        for indices, job in jobs:
            total[indices] = job.run(get_args(Norm).index(norm), advance)
        return torch.from_numpy(total.T.copy())

    return sums


class _Job:
    """Pairs of tensors of the same two types, cut into tasks."""

    def __init__(self, before: torch.dtype, after: torch.dtype, pairs: Sequence[tuple[Tensor, Tensor]]) -> None:
        # While this lives so do the tensors, of which tasks have but the addresses.
        self._pairs = pairs
        self._work = worker(_CARRIERS[before], _CARRIERS[after])
        tasks = [_tasks(*pair) for pair in pairs]
        self._firsts = np.cumsum([0, *map(len, tasks[:-1])])
        self._tasks: _Numbers = np.concatenate(tasks)
        # Neighbouring tasks go together until they are worth the counting.
        ends = np.flatnonzero(np.diff(np.cumsum(self._tasks[:, 2]) // _TASK)) + 1
        self._ends: _Numbers = np.array([0, *ends, len(self._tasks)])

    def run(self, norm: int, advance: bool) -> npt.NDArray[np.float64]:
        """The sums of every pair, of shape ``(pairs, 3)``."""
        sums = np.empty((len(self._tasks), 3))
        bunches = len(self._ends) - 1
        job = np.array(
            [0, bunches, self._ends.ctypes.data, self._tasks.ctypes.data, sums.ctypes.data, norm, advance], np.int64
        )
        if bunches == 1 or torch.get_num_threads() == 1:
            self._work.ctypes(job.ctypes.data)
        else:
            _run_in_threads(self._work, job)
        # In the order of tasks, whatever thread took them.
        return np.add.reduceat(sums, self._firsts)


def _tasks(previous: Tensor, current: Tensor) -> _Numbers:
    starts = np.arange(0, max(previous.numel(), 1), _TASK)
    before, after = previous.data_ptr() + starts * previous.itemsize, current.data_ptr() + starts * current.itemsize
    return np.stack((before, after, np.minimum(_TASK, previous.numel() - starts)), axis=1)


@cache
def _openmp() -> Any:
    """How compiled code enters a parallel region of GNU's OpenMP, or None where PyTorch does not bring that.

    It is meant for compilers, but its form is fixed as they have to rely on it. There is no other way to PyTorch's own
    threads, and beside those, which spin for a while after each operation, others wait for a core.

    """
    function = getattr(ctypes.CDLL(None), "GOMP_parallel", None) if sys.platform == "linux" else None
    if function is not None:
        function.argtypes, function.restype = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint], None
    return function


def _run_in_threads(work: Any, job: _Numbers) -> None:
    if openmp := _openmp():
        # As many as PyTorch takes: fewer would end the others.
        openmp(work.address, job.ctypes.data, torch.get_num_threads(), 0)
        return
    helpers = max(min(torch.get_num_threads(), _MOST_THREADS, int(job[1]) // _PER_THREAD) - 1, 0)
    with ThreadPoolExecutor(max(helpers, 1)) as pool:
        futures = [pool.submit(work.ctypes, job.ctypes.data) for _ in range(helpers)]
        # This thread works too: the others may have to wait for a core.
        work.ctypes(job.ctypes.data)
        for future in futures:
            future.result()
