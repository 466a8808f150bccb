# SPDX-License-Identifier: Apache-2.0
"""Sums on the CPU, compiled by Numba: every weight is read once, before and after, and written once."""

import ctypes
import os
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lightning_rwc.functional import Sums
from lightning_rwc.norms import Norm
from lightning_rwc.sums.numba_kernel import worker
from lightning_rwc.sums.pieces import columns_of

_Numbers: TypeAlias = npt.NDArray[np.int64]

# NumPy has no bfloat16 and Numba no float16 on the CPU, so these travel as integers with the same bits.
_CARRIERS: dict[torch.dtype, Any] = {
    torch.float64: np.float64,
    torch.float32: np.float32,
    torch.bfloat16: np.int16,
    torch.float16: np.uint16,
}
# Elements of a task.
_TASK = 2**18
# A forked process has none of the threads that OpenMP started before, and would wait for them for ever.
_PROCESS = os.getpid()
# Threads of our own: how many bunches of tasks are worth another thread, and beyond how many they only wait for memory.
_PER_THREAD = 32
_MOST_THREADS = 16


def prepare_sums(
    previous: Sequence[Tensor], current: Sequence[Tensor], pieces: Sequence[int]
) -> Callable[[Norm, bool], Tensor]:
    """As :func:`lightning_rwc.sums.prepare_sums`, for tensors of 16, 32 or 64 bits on the CPU.

    Where the dtypes of a pair differ, the earlier values have at least 32 bits.

    """
    pairs = [*zip(previous, current, strict=True)]
    kinds: dict[tuple[torch.dtype, torch.dtype], list[int]] = {}
    for index, (p, c) in enumerate(pairs):
        kinds.setdefault((p.dtype, c.dtype), []).append(index)
    columns = columns_of(pieces)
    jobs = [
        (
            np.concatenate([columns[index] for index in indices]),
            _Job(*kind, [pairs[index] for index in indices], [pieces[index] for index in indices]),
        )
        for kind, indices in kinds.items()
    ]

    def sums(norm: Norm, advance: bool) -> Tensor:
        if len(jobs) == 1:
            return torch.from_numpy(jobs[0][1].run(norm, advance))
        total = np.empty((len(Sums._fields), sum(pieces)))
        for here, job in jobs:
            total[:, here] = job.run(norm, advance)
        return torch.from_numpy(total)

    return sums


class _Job:
    """Pairs of tensors of the same two types, cut into tasks."""

    def __init__(
        self,
        before: torch.dtype,
        after: torch.dtype,
        pairs: Sequence[tuple[Tensor, Tensor]],
        pieces: Sequence[int],
    ) -> None:
        # Tasks have addresses only, so the tensors must live as long as this.
        self._pairs = pairs
        self._carriers = _CARRIERS[before], _CARRIERS[after]
        self._tasks, self._firsts = _tasks(pairs, np.array(pieces))
        # Small neighbouring tasks form one bunch, so that counting bunches costs little.
        ends = np.flatnonzero(np.diff(np.cumsum(self._tasks[:, 2]) // _TASK)) + 1
        self._ends: _Numbers = np.array([0, *ends, len(self._tasks)])
        self._addresses = self._ends.ctypes.data, self._tasks.ctypes.data

    def run(self, norm: Norm, advance: bool) -> npt.NDArray[np.float64]:
        """The sums of every piece, of shape ``(6, pieces)``."""
        work = worker(*self._carriers, norm)
        sums = np.empty((len(Sums._fields), len(self._tasks)))
        bunches = len(self._ends) - 1
        job = np.array([0, bunches, *self._addresses, sums.ctypes.data, advance], np.int64)
        if bunches == 1 or torch.get_num_threads() == 1:
            work.ctypes(job.ctypes.data)
        else:
            _run_in_threads(work, job)
        # In the order of tasks, whichever thread took them.
        return sums if len(self._firsts) == len(self._tasks) else np.add.reduceat(sums, self._firsts, axis=1)


def _tasks(pairs: Sequence[tuple[Tensor, Tensor]], pieces: _Numbers) -> tuple[_Numbers, _Numbers]:
    """The addresses and the length of each task, and the first task of each piece."""
    rows = [(p.data_ptr(), c.data_ptr(), p.itemsize, c.itemsize, p.numel()) for p, c in pairs]
    tensors = np.array(rows, np.int64)
    lengths = tensors[:, 4] // np.maximum(pieces, 1)
    # Row by row: each piece of each tensor, then each task of each piece.
    tensor, piece = _runs(pieces)
    counts = np.maximum(-(-lengths // _TASK), 1)[tensor]
    owner, part = _runs(counts)
    tensor, piece = tensor[owner], piece[owner]
    before, after, before_size, after_size, _ = tensors[tensor].T
    starts = piece * lengths[tensor] + part * _TASK
    sizes = np.minimum(_TASK, lengths[tensor] - part * _TASK)
    tasks = np.stack((before + starts * before_size, after + starts * after_size, sizes), axis=1)
    return tasks, np.cumsum(counts) - counts


def _runs(counts: _Numbers) -> tuple[_Numbers, _Numbers]:
    """For each element of runs that have these lengths: which run it is in, and its place there."""
    run = np.repeat(np.arange(len(counts)), counts)
    return run, np.arange(len(run)) - (np.cumsum(counts) - counts)[run]


@cache
def _openmp() -> Any:
    """How compiled code enters a parallel region of GNU's OpenMP, or None if PyTorch does not bring that library.

    The function is meant for compilers. Its form is fixed because they rely on it. It is the only way to run in
    PyTorch's own threads. Those spin for a while after each operation, and other threads would wait for their cores:
    `python -m tests.benchmarks --only threads` shows what this buys.

    """
    function = getattr(ctypes.CDLL(None), "GOMP_parallel", None) if sys.platform == "linux" else None
    if function is not None:
        function.argtypes, function.restype = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint], None
    return function


def _run_in_threads(work: Any, job: _Numbers) -> None:
    openmp = _openmp() if os.getpid() == _PROCESS else None
    if openmp is not None:
        # As many as PyTorch uses. With fewer, OpenMP would end the others.
        openmp(work.address, job.ctypes.data, torch.get_num_threads(), 0)
        return
    helpers = max(min(torch.get_num_threads(), _MOST_THREADS, int(job[1]) // _PER_THREAD) - 1, 0)
    with ThreadPoolExecutor(max(helpers, 1)) as pool:
        futures = [pool.submit(work.ctypes, job.ctypes.data) for _ in range(helpers)]
        # This thread works too, because the others may have to wait for a core.
        work.ctypes(job.ctypes.data)
        for future in futures:
            future.result()
