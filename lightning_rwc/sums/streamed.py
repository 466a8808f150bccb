# SPDX-License-Identifier: Apache-2.0
"""Sums on a CUDA device of weights whose snapshot is in pinned memory of the CPU."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from lightning_rwc.functional import change_sums
from lightning_rwc.norms import Norm
from lightning_rwc.sums.plain import DEVICE_CHUNK


def prepare_sums(previous: Sequence[Tensor], current: Sequence[Tensor]) -> Callable[[Norm, bool], Tensor]:
    """As :func:`lightning_rwc.sums.prepare_sums`, for ``previous`` on the CPU and ``current`` on one CUDA device."""
    return lambda norm, advance: _sums(previous, current, norm, advance)


def _sums(previous: Sequence[Tensor], current: Sequence[Tensor], norm: Norm, advance: bool) -> Tensor:
    """Copies in both directions run while other chunks are summed."""
    device = current[0].device
    here, inward, outward = torch.cuda.current_stream(device), torch.cuda.Stream(device), torch.cuda.Stream(device)
    most = min(max(map(len, previous)), DEVICE_CHUNK)
    dtype = max((p.dtype for p in previous), key=lambda kind: kind.itemsize)
    buffers = [torch.empty(most, dtype=dtype, device=device) for _ in range(2)]
    free = [here.record_event() for _ in buffers]
    sums, turn = [], 0
    for p, c in zip(previous, current, strict=True):
        parts = []
        for before, after in zip(p.split(DEVICE_CHUNK), c.split(DEVICE_CHUNK), strict=True):
            near = buffers[turn].view(p.dtype)[: len(before)]
            with torch.cuda.stream(inward):
                inward.wait_event(free[turn])
                near.copy_(before, non_blocking=True)
            here.wait_stream(inward)
            parts.append(change_sums(near, after, norm))
            free[turn] = here.record_event()
            if advance:
                with torch.cuda.stream(outward):
                    outward.wait_stream(inward)
                    before.copy_(after, non_blocking=True)
            turn = 1 - turn
        sums.append(torch.stack(parts).sum(0))
    # Then everything that waits for the sums waits for the snapshot too.
    here.wait_stream(outward)
    return torch.stack(sums, dim=1)
