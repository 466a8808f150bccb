# SPDX-License-Identifier: Apache-2.0
# mypy: ignore-errors
"""What Triton compiles: kernels that sum blocks, and the blocks of each tensor."""

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


def _sums(p, c):
    # The sums of a block, and whether its type can hold them.
    change, size = tl.abs(c - p), tl.abs(p)
    numerators, denominators = _terms(change, size)  # noqa: F821 - see `_block_sums_of`
    numerator, denominator = tl.sum(numerators.to(p.dtype), 0), tl.sum(denominators.to(p.dtype), 0)
    total = tl.sum(change, 0)
    held = (numerator < float("inf")) & (denominator < float("inf")) & (total < float("inf"))
    # Squares smaller than this have lost digits, or everything. Zero itself is common, and exact.
    held &= (numerator > 1e-30) | (tl.max(change, 0) == 0)
    held &= (denominator > 1e-30) | (tl.max(size, 0) == 0)
    return numerator.to(tl.float64), denominator.to(tl.float64), total.to(tl.float64), held


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
    numerator, denominator, total, held = _sums(_cast(p, wide), _cast(c, wide))
    # Many GPUs compute float64 at 1/64 of the speed of float32, which is slower than their memory. So only blocks that
    # overflow or underflow in float32, or hold a nan, are summed again in float64.
    if wide != tl.float64:  # noqa: SIM102 - known to the compiler, unlike the other
        if not held:
            numerator, denominator, total, held = _sums(_cast(p, tl.float64), _cast(c, tl.float64))
    blocks = tl.num_programs(0)
    tl.store(partials + index, numerator)
    tl.store(partials + blocks + index, denominator)
    tl.store(partials + 2 * blocks + index, total)


def block_sums(norm: str) -> Any:
    """The kernel that sums each block for ``norm``."""
    return _block_sums_of(definition(norm).terms)


@cache
def _block_sums_of(terms):
    # Triton 3.2 takes no function as an argument of a kernel, but a kernel may call a function among its globals. The
    # interpreter also looks for `tl` there.
    return _jit(_block_sums, _sums=_jit(_sums, _terms=_jit(terms, tl=tl)))


def _jit(function, **names):
    """Compile ``function``, with ``names`` among its globals."""
    copy = FunctionType(function.__code__, function.__globals__ | names, function.__name__)
    copy.__annotations__ = function.__annotations__
    return triton.jit(copy)


@triton.jit(do_not_specialize=["blocks", "columns"])
def tensor_sums(table, partials, sums, blocks, columns, chunk: tl.constexpr):  # noqa: PLR0917
    """Add up the sums of the blocks of each tensor."""
    row = table + 6 * tl.program_id(0)
    first, count = tl.load(row + 4), tl.load(row + 5)
    partials += tl.program_id(1) * blocks + first
    offsets = tl.arange(0, chunk)
    total = tl.zeros([chunk], tl.float64)
    for start in range(0, count, chunk):
        total += tl.load(partials + start + offsets, start + offsets < count, 0)
    tl.store(sums + tl.program_id(1) * columns + tl.load(row + 3), tl.sum(total, 0))
