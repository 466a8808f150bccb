# SPDX-License-Identifier: Apache-2.0
"""Sums on a CUDA device of weights whose snapshot is in pinned memory of the CPU."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from lightning_rwc.functional import Sums, sums_dtype
from lightning_rwc.norms import Norm
from lightning_rwc.sums.pieces import chunks
from lightning_rwc.sums.plain import DEVICE_CHUNK, piece_sums


def prepare_sums(
    previous: Sequence[Tensor], current: Sequence[Tensor], pieces: Sequence[int]
) -> Callable[[Norm, bool], Tensor]:
    """As :func:`lightning_rwc.sums.prepare_sums`, for ``previous`` on the CPU and ``current`` on one CUDA device."""
    return lambda norm, advance: _sums(previous, current, pieces, norm, advance)


def _sums(
    previous: Sequence[Tensor], current: Sequence[Tensor], pieces: Sequence[int], norm: Norm, advance: bool
) -> Tensor:
    """Copies in both directions run while other chunks are summed."""
    device = current[0].device
    here, inward, outward = torch.cuda.current_stream(device), torch.cuda.Stream(device), torch.cuda.Stream(device)
    most = min(max(map(len, previous)), DEVICE_CHUNK)
    dtype = max((p.dtype for p in previous), key=lambda kind: kind.itemsize)
    buffers = [torch.empty(most, dtype=dtype, device=device) for _ in range(2)]
    free = [here.record_event() for _ in buffers]
    turn = 0
    sums = torch.zeros(len(Sums._fields), sum(pieces), dtype=sums_dtype(device), device=device)
    for p, c, columns in zip(previous, current, sums.split([*pieces], dim=1), strict=True):
        for elements, places in chunks(len(p), columns.shape[1], DEVICE_CHUNK):
            before, after = p[elements], c[elements]
            near = buffers[turn].view(p.dtype)[: len(before)]
            with torch.cuda.stream(inward):
                inward.wait_event(free[turn])
                near.copy_(before, non_blocking=True)
            here.wait_stream(inward)
            part = columns[:, places]
            part += piece_sums(near, after, part.shape[1], norm)
            free[turn] = here.record_event()
            if advance:
                with torch.cuda.stream(outward):
                    outward.wait_stream(inward)
                    before.copy_(after, non_blocking=True)
            turn = 1 - turn
    # Then everything that waits for the sums waits for the snapshot too.
    here.wait_stream(outward)
    return sums
