# SPDX-License-Identifier: Apache-2.0
"""What PyTorch's own OpenMP threads buy over other threads and another compiler."""

from importlib.util import find_spec
from shutil import which

import numpy as np
import torch

from lightning_rwc.sums import numba_sums
from tests.benchmarks.timing import interleaved, summary

_TASK = 2**18


def threads(repeats, quick):
    """the compiled sums in PyTorch's OpenMP threads, in others, in one, and by `torch.compile`"""
    rows, openmp = {}, numba_sums._openmp
    makers = {"prange": _prange(), "torch.compile": _compiled()}
    for millions in (1, 25) if quick else (1, 25, 100):
        previous, current = (torch.randn(millions * 10**6) for _ in range(2))
        prepared = numba_sums.prepare_sums([previous], [current], [1])

        def own(prepared=prepared):
            numba_sums._openmp = lambda: None
            prepared("l1", True)
            numba_sums._openmp = openmp

        def one(prepared=prepared):
            count = torch.get_num_threads()
            torch.set_num_threads(1)
            prepared("l1", True)
            torch.set_num_threads(count)

        # PyTorch's threads have just worked, as in training, because `interleaved` sweeps the caches with them.
        ways = {"OpenMP": lambda prepared=prepared: prepared("l1", True), "own": own, "one": one}
        for name, sums in makers.items():
            if sums is not None:
                expected = prepared("l1", False)[:, 0]
                np.testing.assert_allclose(sums(previous.clone(), current), expected, rtol=1e-6)
                ways[name] = lambda sums=sums, p=previous, c=current: sums(p, c)
        times = {way: summary(taken) for way, taken in interleaved(ways, repeats).items()}
        for way, columns in times.items():
            rows[f"{millions} M, {way}"] = columns | {"times OpenMP": columns["ms"] / times["OpenMP"]["ms"]}
    yield "l1", f"of float32 weights, {torch.get_num_threads()} threads", rows


def _prange():
    """The same loop in the threads that Numba starts."""
    import numba

    from lightning_rwc.sums import numba_kernel

    numba.set_num_threads(min(torch.get_num_threads(), numba.config.NUMBA_NUM_THREADS))

    @numba.njit(parallel=True, fastmath=numba_kernel._FASTMATH, error_model="numpy")
    def sums(p, c):
        tasks = (len(p) + _TASK - 1) // _TASK
        parts = np.empty((tasks, 6))
        for task in numba.prange(tasks):
            span = slice(task * _TASK, (task + 1) * _TASK)
            parts[task] = numba_kernel._sums(p[span], c[span], "l1", True)
        return parts.sum(0)

    return lambda p, c: sums(p.numpy(), c.numpy())


def _compiled():
    """The same sums by PyTorch's compiler, or None where it has no compiler of C++."""
    if not (which("g++") or which("clang++")) or find_spec("torch._inductor") is None:
        return None

    @torch.compile(dynamic=False)
    def sums(p, c):
        before, after = p.double(), c.double()
        d = after - before
        terms = d.abs(), before.abs(), (c != p).double(), d * before, d * d, before * before
        found = [term.sum() for term in terms]
        p.copy_(c)
        return found

    return sums
