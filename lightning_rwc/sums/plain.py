# SPDX-License-Identifier: Apache-2.0
"""Sums by PyTorch's own operations, for any device and any dtype."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from lightning_rwc.functional import change_sums, common_dtype
from lightning_rwc.norms import Norm, Terms, definition, l1

# Elements of a chunk. On a CPU a chunk stays in the caches from one operation to the next, and is large enough to make
# an operation worth its call. A device gets fewer and larger launches, though it may have little memory left.
_CPU_CHUNK = 2**16
_CPU_L1_CHUNK = 2**19
DEVICE_CHUNK = 2**21


def prepare_sums(previous: Sequence[Tensor], current: Sequence[Tensor]) -> Callable[[Norm, bool], Tensor]:
    """As :func:`lightning_rwc.sums.prepare_sums`, for tensors of all kinds."""
    pairs = [*zip(previous, current, strict=True)]

    def sums(norm: Norm, advance: bool) -> Tensor:
        terms, columns = definition(norm).terms, []
        for p, c in pairs:
            narrow = terms is l1 and _can_be_narrow(p, c)
            columns.append(_narrow_sums(p, c, terms, advance) if narrow else _in_chunks(p, c, norm, advance))
        return torch.stack(columns, dim=1)

    return sums


def _in_chunks(previous: Tensor, current: Tensor, norm: Norm, advance: bool) -> Tensor:
    chunk = _CPU_CHUNK if current.device.type == "cpu" else DEVICE_CHUNK
    sums = []
    for p, c in zip(previous.split(chunk), current.split(chunk), strict=True):
        sums.append(change_sums(p.to(c.device), c, norm))
        if advance:
            p.copy_(c)
    return torch.stack(sums).sum(0)


def _can_be_narrow(previous: Tensor, current: Tensor) -> bool:
    on_cpu = previous.device.type == current.device.type == "cpu"
    return on_cpu and type(previous) is type(current) is Tensor and not (previous.is_complex() or current.is_complex())


def _narrow_sums(previous: Tensor, current: Tensor, terms: Terms, advance: bool) -> Tensor:
    # Float32 is enough for these terms. The difference of two weights that are near each other is exact, and PyTorch
    # sums pairwise within a chunk. Python's floats are float64, and add up the chunks.
    dtype = common_dtype(common_dtype(previous.dtype, current.dtype), torch.float32)
    scratch = torch.empty(2, min(len(previous), _CPU_L1_CHUNK), dtype=dtype)
    in_place = advance and previous.dtype == current.dtype == dtype
    numerator = denominator = 0.0
    for p, c in zip(previous.split(_CPU_L1_CHUNK), current.split(_CPU_L1_CHUNK), strict=True):
        size, difference = scratch[:, : len(p)]
        if in_place:
            # The snapshot's values are about to be overwritten. As scratch they spare the caches another array.
            torch.abs(p, out=size)
            change = p.sub_(c).abs_()
        else:
            size.copy_(p)
            change = difference.copy_(c).sub_(size).abs_()
            size.abs_()
        numerators, denominators = terms(change, size)
        numerator += numerators.sum().item()
        denominator += denominators.sum().item()
        if advance:
            p.copy_(c)
    return torch.tensor([numerator, denominator, numerator], dtype=torch.float64)
