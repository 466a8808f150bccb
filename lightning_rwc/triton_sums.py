# SPDX-License-Identifier: Apache-2.0
# mypy: disable-error-code="import-not-found, import-untyped, no-untyped-def, untyped-decorator"
"""The sums of tensors on a CUDA device, compiled by Triton: each weight is read once, and written once."""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import TypeAlias

import torch
import triton
import triton.language as tl
from torch import Tensor

from lightning_rwc.functional import Norm

# Addresses before and after, elements, and the column of the result.
_Entry: TypeAlias = tuple[int, int, int, int]

_TYPES = {
    torch.float64: tl.float64,
    torch.float32: tl.float32,
    torch.bfloat16: tl.bfloat16,
    torch.float16: tl.float16,
}
# Elements of a program: in float64 too they stay in registers, and leave some for other programs, which hide latency.
_BLOCK = 2048
# Programs whose sums are added up at once.
_CHUNK = 4096
# The widest load of a GPU, in bytes.
_VECTOR = 16
# Fusion is Triton's default until 3.10, and from 3.9 on not naming it warns.
_OPTIONS = {"num_warps": 8, "enable_fp_fusion": True}


def prepare_sums(previous: Sequence[Tensor], current: Sequence[Tensor]) -> Callable[[Norm, bool], Tensor]:
    """As :func:`lightning_rwc.sums.prepare_sums`, for real tensors on one CUDA device."""
    return lambda norm, advance: fused_sums(previous, current, norm, advance)


def fused_sums(previous: Sequence[Tensor], current: Sequence[Tensor], norm: Norm, advance: bool) -> Tensor:
    """Sum the change of every tensor, and with ``advance`` make ``current`` the ``previous`` in the same pass.

    Terms are float32, or float64 where a tensor is; they are summed in float32 over at most 2048 elements, and in
    float64 beyond, always in the same order. Nothing here waits for the device.

    Args:
        previous: the earlier values, contiguous tensors on one CUDA device, of real floating point; at least one.
        current: the present values, each as long, on that device, sharing no memory with ``previous``.
        norm: the definition, see :func:`~lightning_rwc.functional.relative_weight_change`.
        advance: whether to overwrite ``previous``.

    Returns:
        A float64 tensor of shape ``(3, tensors)`` in the form of :func:`~lightning_rwc.functional.change_sums`.

    """
    device = current[0].device
    groups: dict[tuple[torch.dtype, torch.dtype, bool], list[_Entry]] = {}
    for column, (p, c) in enumerate(zip(previous, current, strict=True)):
        before, after = p.data_ptr(), c.data_ptr()
        aligned = before % _VECTOR == after % _VECTOR == 0
        groups.setdefault((p.dtype, c.dtype, aligned), []).append((before, after, p.numel(), column))
    sums = torch.empty(3, len(current), dtype=torch.float64, device=device)
    stream = torch.get_device_module(device).current_stream(device)
    # Triton launches on the current device, whatever device its arguments are on.
    with torch.cuda.device_of(sums):
        tables = _tables(tuple(map(tuple, groups.values())), device, stream)
        for (before_type, after_type, aligned), (table, owners) in zip(groups, tables, strict=True):
            partials = torch.empty(3, len(owners), dtype=torch.float64, device=device)
            wide = tl.float64 if torch.float64 in (before_type, after_type) else tl.float32
            types = _TYPES[before_type], _TYPES[after_type], wide
            _block_sums[(len(owners),)](table, owners, partials, norm, advance, *types, aligned, _BLOCK, **_OPTIONS)
            _tensor_sums[(len(table), 3)](table, partials, sums, len(owners), len(current), _CHUNK, **_OPTIONS)
    return sums


# Addresses say all that is in a table, so none is ever out of date; memory that one stream alone uses is safe to free
# at any time. A few, since each device has a call of its own.
@lru_cache(maxsize=8)
def _tables(
    groups: tuple[tuple[_Entry, ...], ...], device: torch.device, stream: object
) -> list[tuple[Tensor, Tensor]]:
    """For each group, the entry, first block and number of blocks of each tensor; and the tensor of each block."""
    tables = []
    for entries in groups:
        rows, blocks = [], 0
        for entry in entries:
            count = triton.cdiv(entry[2], _BLOCK)
            rows.append((*entry, blocks, count))
            blocks += count
        # A copy from memory that is not pinned may wait for the device.
        table = torch.tensor(rows, dtype=torch.int64, pin_memory=device.type == "cuda").to(device, non_blocking=True)
        # So does one that has to ask for the size of its result.
        tables.append((table, torch.repeat_interleave(table[:, 5].int(), output_size=blocks)))
    return tables


@triton.jit
def _cast(values, kind: tl.constexpr):
    # Not every GPU with a Triton converts bfloat16, but its bits are the upper half of those of float32.
    if values.dtype == tl.bfloat16:  # noqa: SIM102 - Triton 3.2 has no `and` here
        if kind != tl.bfloat16:
            values = (values.to(tl.int16, bitcast=True).to(tl.int32) << 16).to(tl.float32, bitcast=True)
    return values.to(kind)


@triton.jit
def _sums(p, c, norm: tl.constexpr):
    # The sums of a block, and whether its type could hold them.
    change, size = tl.abs(c - p), tl.abs(p)
    if norm == "elementwise":
        from_zero = size == 0
        # What is left out of the mean must still show when it is not finite.
        numerator = tl.sum(tl.where(from_zero, 0 * change, change / size), 0)
        denominator = tl.sum((size != 0).to(p.dtype), 0)
        moved = tl.sum((from_zero & (change != 0)).to(p.dtype), 0)
        held = numerator < float("inf")
    elif norm == "l1":
        numerator, denominator = tl.sum(change, 0), tl.sum(size, 0)
        moved = numerator
        held = (numerator < float("inf")) & (denominator < float("inf"))
    else:
        numerator, denominator = tl.sum(change * change, 0), tl.sum(size * size, 0)
        moved = numerator
        held = (numerator < float("inf")) & (denominator < float("inf"))
        # Squares smaller than this have lost digits, or everything. Zero itself is common, and exact.
        held &= (numerator > 1e-30) | (tl.max(change, 0) == 0)
        held &= (denominator > 1e-30) | (tl.max(size, 0) == 0)
    return numerator.to(tl.float64), denominator.to(tl.float64), moved.to(tl.float64), held


@triton.jit
def _block_sums(  # noqa: PLR0917
    table,
    owners,
    partials,
    norm: tl.constexpr,
    advance: tl.constexpr,
    before_type: tl.constexpr,
    after_type: tl.constexpr,
    wide: tl.constexpr,
    aligned: tl.constexpr,
    block: tl.constexpr,
):
    index = tl.program_id(0)
    row = table + 6 * tl.load(owners + index)
    start = (index - tl.load(row + 4)) * block
    count = tl.minimum(tl.load(row + 2) - start, block)
    before = tl.load(row).to(tl.pointer_type(before_type)) + start
    after = tl.load(row + 1).to(tl.pointer_type(after_type)) + start
    if aligned:
        before, after = tl.multiple_of(before, 16), tl.multiple_of(after, 16)
    offsets = tl.arange(0, block)
    before += offsets
    after += offsets
    # A mask would forbid wide loads, so only the last block of a tensor has one.
    if count == block:
        p, c = tl.load(before), tl.load(after)
        if advance:
            tl.store(before, _cast(c, before_type))
    else:
        inside = offsets < count
        p, c = tl.load(before, inside, 0), tl.load(after, inside, 0)
        if advance:
            tl.store(before, _cast(c, before_type), inside)
    numerator, denominator, moved, held = _sums(_cast(p, wide), _cast(c, wide), norm)
    # Float64 throughout would be simpler, but many a GPU does it at 1/64 of the rate of float32, and would no longer be
    # as fast as its memory. So it is for those blocks alone that leave the range of float32, or hold a nan.
    if wide != tl.float64:  # noqa: SIM102 - known to the compiler, unlike the other
        if not held:
            numerator, denominator, moved, held = _sums(_cast(p, tl.float64), _cast(c, tl.float64), norm)
    blocks = tl.num_programs(0)
    tl.store(partials + index, numerator)
    tl.store(partials + blocks + index, denominator)
    tl.store(partials + 2 * blocks + index, moved)


@triton.jit(do_not_specialize=["blocks", "columns"])
def _tensor_sums(table, partials, sums, blocks, columns, chunk: tl.constexpr):  # noqa: PLR0917
    row = table + 6 * tl.program_id(0)
    first, count = tl.load(row + 4), tl.load(row + 5)
    partials += tl.program_id(1) * blocks + first
    offsets = tl.arange(0, chunk)
    total = tl.zeros([chunk], tl.float64)
    for start in range(0, count, chunk):
        total += tl.load(partials + start + offsets, start + offsets < count, 0)
    tl.store(sums + tl.program_id(1) * columns + tl.load(row + 3), tl.sum(total, 0))
