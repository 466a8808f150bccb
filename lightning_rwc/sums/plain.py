# SPDX-License-Identifier: Apache-2.0
"""Sums by PyTorch's own operations, for any device and any dtype."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from lightning_rwc.functional import Sums, change_sums, change_terms, sums_dtype, widen
from lightning_rwc.norms import Norm, definition
from lightning_rwc.sums.pieces import chunks

# Elements of a chunk. On a CPU a chunk stays in the caches from one operation to the next, and is large enough to make
# an operation worth its call. A device gets fewer and larger launches, though it may have little memory left.
_CPU_CHUNK = 2**17
DEVICE_CHUNK = 2**20


def prepare_sums(
    previous: Sequence[Tensor], current: Sequence[Tensor], pieces: Sequence[int]
) -> Callable[[Norm, bool], Tensor]:
    """As :func:`lightning_rwc.sums.prepare_sums`, for all kinds of tensors. The present ones share a device."""
    device = current[0].device
    longest = max(map(len, previous))

    def sums(norm: Norm, advance: bool) -> Tensor:
        total = torch.zeros(len(Sums._fields), sum(pieces), dtype=sums_dtype(device), device=device)
        scratch = torch.empty(2, min(longest, _CPU_CHUNK), dtype=torch.float64)
        for p, c, columns in zip(previous, current, total.split([*pieces], dim=1), strict=True):
            real = _is_real_on_cpu(p, c)
            chunk = _CPU_CHUNK if device.type == "cpu" else DEVICE_CHUNK
            for elements, places in chunks(len(p), columns.shape[1], chunk):
                before, after, part = p[elements], c[elements], columns[:, places]
                if real:
                    part += _real_sums(before, after, part.shape[1], norm, scratch)
                else:
                    part += piece_sums(before.to(device), after, part.shape[1], norm)
                if advance:
                    before.copy_(after)
        return total

    return sums


def piece_sums(previous: Tensor, current: Tensor, pieces: int, norm: Norm) -> Tensor:
    """The sums of each piece of a chunk, of shape ``(6, pieces)``."""
    if pieces == 1:
        # Tensors of other types may have no other shape.
        return change_sums(previous, current, norm)[:, None]
    return change_terms(widen(previous).view(pieces, -1), widen(current).view(pieces, -1), norm).sum(2)


def _is_real_on_cpu(previous: Tensor, current: Tensor) -> bool:
    on_cpu = previous.device.type == current.device.type == "cpu"
    return on_cpu and type(previous) is type(current) is Tensor and not (previous.is_complex() or current.is_complex())


def _real_sums(previous: Tensor, current: Tensor, pieces: int, norm: Norm, scratch: Tensor) -> Tensor:
    """As :func:`piece_sums`, in the memory of ``scratch``, which spares the caches some arrays."""
    size, change = scratch[:, : len(previous)].unflatten(1, (pieces, -1))
    size.copy_(previous.view_as(size))
    change.copy_(current.view_as(change))
    # PyTorch's own comparison takes three times as long.
    moved = torch.from_numpy(np.not_equal(size.numpy(), change.numpy()))
    change -= size
    dots = _dots(change, size), _dots(change, change), _dots(size, size)
    numerators, denominators = definition(norm).terms(change.abs_(), size.abs_())
    rows = numerators.sum(1), denominators.sum(1), moved.sum(1), *dots
    return torch.stack([row.to(torch.float64) for row in rows])


def _dots(first: Tensor, second: Tensor) -> Tensor:
    if len(first) == 1:
        return torch.dot(first[0], second[0])[None]
    return torch.from_numpy(np.einsum("ij,ij->i", first.numpy(), second.numpy()))
