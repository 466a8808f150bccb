# SPDX-License-Identifier: Apache-2.0
"""The sums of tensors on the CPU, compiled by Numba: each weight is read once, before and after, and written once."""

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import pairwise, starmap
from typing import Any, TypeAlias, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lightning_rwc.functional import Norm
from lightning_rwc.numba_kernel import run

_Tasks: TypeAlias = npt.NDArray[np.int64]

# Half precision is unknown to NumPy or to Numba on the CPU: it travels as integers of its bits.
_CARRIERS: dict[torch.dtype, Any] = {
    torch.float64: np.float64,
    torch.float32: np.float32,
    torch.bfloat16: np.int16,
    torch.float16: np.uint16,
}
# Elements that a thread takes at a time, and for how many it is worth starting another.
_TASK = 2**20
_PER_THREAD = 2**23
# More threads than this wait for memory.
_MOST_THREADS = 16


def prepare_sums(previous: Sequence[Tensor], current: Sequence[Tensor]) -> Callable[[Norm, bool], Tensor]:
    """As :func:`lightning_rwc.sums.prepare_sums`, for tensors of 16, 32 or 64 bits on the CPU.

    Where precisions differ, ``previous`` has 32 bits at least.

    """
    kinds: dict[tuple[torch.dtype, torch.dtype], list[int]] = {}
    for index, (p, c) in enumerate(zip(previous, current, strict=True)):
        kinds.setdefault((p.dtype, c.dtype), []).append(index)
    jobs = [
        (
            np.array([task for index in indices for task in _tasks(previous[index], current[index], index)]),
            tuple(np.empty(0, _CARRIERS[dtype]) for dtype in kind),
        )
        for kind, indices in kinds.items()
    ]

    tensors = [*zip(previous, current, strict=True)]

    def sums(norm: Norm, advance: bool) -> Tensor:
        # While this lives so do the tensors, of which tasks have but the addresses.
        total = np.zeros((len(tensors), 3))
        for tasks, carriers in jobs:
            # In the order of tasks, whatever thread took them.
            np.add.at(total, tasks[:, 3], _run_all(tasks, get_args(Norm).index(norm), advance, carriers))
        return torch.from_numpy(total.T.copy())

    return sums


def _tasks(previous: Tensor, current: Tensor, index: int) -> list[tuple[int, int, int, int]]:
    before, after = previous.data_ptr(), current.data_ptr()
    wide, narrow, numel = previous.itemsize, current.itemsize, previous.numel()
    starts = range(0, max(numel, 1), _TASK)
    return [(before + start * wide, after + start * narrow, min(_TASK, numel - start), index) for start in starts]


def _run_all(tasks: _Tasks, norm: int, advance: bool, carriers: tuple[Any, ...]) -> npt.NDArray[np.float64]:
    sums = np.empty((len(tasks), 3))
    # Neighbouring tasks go together until they are worth a call.
    ends = np.flatnonzero(np.diff(np.cumsum(tasks[:, 2]) // _TASK)) + 1
    todo = deque(starmap(slice, pairwise([0, *ends.tolist(), len(tasks)])))

    def work() -> None:
        while todo:
            with suppress(IndexError):  # another thread was faster
                some = todo.popleft()
                run(tasks[some], sums[some], norm, advance, carriers)

    # This thread works too: the others may have to wait for a core on which PyTorch's threads still spin.
    helpers = max(min(torch.get_num_threads(), _MOST_THREADS, int(tasks[:, 2].sum()) // _PER_THREAD) - 1, 0)
    with ThreadPoolExecutor(max(helpers, 1)) as pool:
        futures = [pool.submit(work) for _ in range(helpers)]
        work()
        for future in futures:
            future.result()
    return sums
