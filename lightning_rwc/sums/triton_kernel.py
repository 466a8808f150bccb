# SPDX-License-Identifier: Apache-2.0
# mypy: ignore-errors
"""What Triton compiles: kernels that sum blocks, the blocks of each long piece, and short pieces."""

from functools import cache
from types import FunctionType
from typing import Any

import triton
import triton.language as tl

from lightning_rwc.norms import definition


@triton.jit
def _cast(values, kind: tl.constexpr):
    # Older GPUs cannot convert bfloat16. Its bits are the upper half of those of float32.
    if values.dtype == tl.bfloat16:  # noqa: SIM102 - Triton 3.2 has no `and` here
        if kind != tl.bfloat16:
            values = (values.to(tl.int16, bitcast=True).to(tl.int32) << 16).to(tl.float32, bitcast=True)
    return values.to(kind)


def _sums(p, c, axis: tl.constexpr):
    # The sums of a block or of each row of one, and whether its type can hold the terms of the norm.
    change, size = tl.abs(c - p), tl.abs(p)
    numerators, denominators = _terms(change, size)  # noqa: F821 - see `_compiled`
    numerator, denominator = tl.sum(numerators.to(p.dtype), axis), tl.sum(denominators.to(p.dtype), axis)
    held = (numerator < float("inf")) & (denominator < float("inf"))
    # Squares smaller than this have lost digits, or everything. Zero itself is common, and exact.
    held &= (numerator > 1e-30) | (tl.max(change, axis) == 0)
    held &= (denominator > 1e-30) | (tl.max(size, axis) == 0)
    if axis == 1:
        held = tl.min(held.to(tl.int32), 0) == 1
    return numerator.to(tl.float64), denominator.to(tl.float64), held


def _store_sums(p, c, target, stride, inside, wide: tl.constexpr, axis: tl.constexpr):  # noqa: PLR0917
    # `_norm_sums` is `_sums`: see `_compiled`.
    numerator, denominator, held = _norm_sums(_cast(p, wide), _cast(c, wide), axis)  # noqa: F821
    before, after = _cast(p, tl.float64), _cast(c, tl.float64)
    # Many GPUs compute float64 at 1/64 of the speed of float32. So numerator and denominator are float32. Those of
    # blocks that overflow or underflow, or hold a nan, are summed again in float64.
    if wide != tl.float64:  # noqa: SIM102 - known to the compiler, unlike the other
        if not held:
            numerator, denominator, held = _norm_sums(before, after, axis)  # noqa: F821
    # Where a change points shows in the difference of sums that are nearly equal.
    difference = after - before
    tl.store(target, numerator, inside)
    tl.store(target + stride, denominator, inside)
    tl.store(target + 2 * stride, tl.sum((after != before).to(tl.int32), axis).to(tl.float64), inside)
    tl.store(target + 3 * stride, tl.sum(difference * before, axis), inside)
    tl.store(target + 4 * stride, tl.sum(difference * difference, axis), inside)
    tl.store(target + 5 * stride, tl.sum(before * before, axis), inside)


def _block_sums(  # noqa: PLR0917
    table,
    owners,
    partials,
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
    # A mask would forbid wide loads, so only the last block of a piece has one.
    if count == block:
        p, c = tl.load(before), tl.load(after)
        if advance:
            tl.store(before, _cast(c, before_type))
    else:
        inside = offsets < count
        p, c = tl.load(before, inside, 0), tl.load(after, inside, 0)
        if advance:
            tl.store(before, _cast(c, before_type), inside)
    _store_sums(p, c, partials + index, tl.num_programs(0), True, wide, 0)


def _row_sums(  # noqa: PLR0917
    table,
    owners,
    sums,
    columns,
    advance: tl.constexpr,
    before_type: tl.constexpr,
    after_type: tl.constexpr,
    wide: tl.constexpr,
    block: tl.constexpr,
    width: tl.constexpr,
):
    # A block has one short piece a row.
    index = tl.program_id(0)
    row = table + 6 * tl.load(owners + index)
    length, first, pieces = tl.load(row + 2), tl.load(row + 3), tl.load(row + 5)
    here = (index - tl.load(row + 4)) * (block // width) + tl.arange(0, block // width)
    places = tl.arange(0, width)
    offsets = here[:, None] * length + places[None, :]
    inside = (here < pieces)[:, None] & (places < length)[None, :]
    before = tl.load(row).to(tl.pointer_type(before_type)) + offsets
    after = tl.load(row + 1).to(tl.pointer_type(after_type)) + offsets
    p, c = tl.load(before, inside, 0), tl.load(after, inside, 0)
    if advance:
        tl.store(before, _cast(c, before_type), inside)
    _store_sums(p, c, sums + first + here, columns, here < pieces, wide, 1)


def block_sums(norm: str) -> Any:
    """The kernel that sums each block of long pieces for ``norm``."""
    return _compiled(definition(norm).terms)[0]


def row_sums(norm: str) -> Any:
    """The kernel that sums short pieces for ``norm``."""
    return _compiled(definition(norm).terms)[1]


@cache
def _compiled(terms):
    # Triton 3.2 takes no function as an argument of a kernel, but a kernel may call a function among its globals. The
    # interpreter also looks for `tl` there.
    store = _jit(_store_sums, _norm_sums=_jit(_sums, _terms=_jit(terms, tl=tl)))
    return _jit(_block_sums, _store_sums=store), _jit(_row_sums, do_not_specialize=["columns"], _store_sums=store)


def _jit(function, do_not_specialize=None, **names):
    """Compile ``function``, with ``names`` among its globals."""
    copy = FunctionType(function.__code__, function.__globals__ | names, function.__name__)
    copy.__annotations__ = function.__annotations__
    return triton.jit(copy, do_not_specialize=do_not_specialize)


@triton.jit(do_not_specialize=["blocks", "columns"])
def piece_sums(table, partials, sums, blocks, columns, chunk: tl.constexpr):  # noqa: PLR0917
    """Add up the sums of the blocks of each long piece."""
    row = table + 6 * tl.program_id(0)
    first, count = tl.load(row + 4), tl.load(row + 5)
    partials += tl.program_id(1) * blocks + first
    offsets = tl.arange(0, chunk)
    total = tl.zeros([chunk], tl.float64)
    for start in range(0, count, chunk):
        total += tl.load(partials + start + offsets, start + offsets < count, 0)
    tl.store(sums + tl.program_id(1) * columns + tl.load(row + 3), tl.sum(total, 0))
