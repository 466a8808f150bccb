# SPDX-License-Identifier: Apache-2.0
"""What PyTorch's own OpenMP threads buy over threads of our own."""

import torch

from lightning_rwc.sums import numba_sums
from tests.benchmarks.timing import interleaved, summary


def threads(repeats, quick):
    """the compiled sums in PyTorch's OpenMP threads, in threads of our own, and in one thread"""
    rows, openmp = {}, numba_sums._openmp
    for millions in (1, 25) if quick else (1, 25, 100):
        previous, current = (torch.randn(millions * 10**6) for _ in range(2))
        prepared = numba_sums.prepare_sums([previous], [current])

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
        times = {way: summary(taken) for way, taken in interleaved(ways, repeats).items()}
        for way, columns in times.items():
            rows[f"{millions} M, {way}"] = columns | {"times OpenMP": columns["ms"] / times["OpenMP"]["ms"]}
    yield "l1", f"of float32 weights, {torch.get_num_threads()} threads", rows
