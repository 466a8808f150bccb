# SPDX-License-Identifier: Apache-2.0
# mypy: ignore-errors
"""What Numba compiles: functions of memory addresses, typed by the arrays that they are called with."""

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic, overload

# Sums may be taken in any order; nan and inf stay what they are.
_OPTIONS = {"nogil": True, "cache": True, "fastmath": {"reassoc", "nsz", "contract", "arcp"}}
_compiled = numba.njit(**_OPTIONS)
# One function to compile is one order of summation: several, each cached, were joined to other code when they came from
# the cache than when they had just been compiled, and a resumed history would differ in its last bit.
_inlined = numba.njit(inline="always", **_OPTIONS)

_LARGEST = np.finfo(np.float64).max


@intrinsic
def _pointer(typing_context, address, like):
    def code(context, builder, signature, arguments):
        return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))

    return types.CPointer(like.dtype)(address, like), code


@intrinsic
def _from_float16(typing_context, bits):
    def code(context, builder, signature, arguments):
        return builder.fpext(builder.bitcast(arguments[0], ir.HalfType()), ir.FloatType())

    return types.float32(types.uint16), code


@intrinsic
def _from_bfloat16(typing_context, bits):
    def code(context, builder, signature, arguments):
        word = ir.IntType(32)
        return builder.bitcast(builder.shl(builder.zext(arguments[0], word), word(16)), ir.FloatType())

    return types.float32(types.int16), code


def _number(carrier):
    """The number whose bits ``carrier`` has."""


@overload(_number)
def _number_of(carrier):
    if carrier == types.uint16:
        return lambda carrier: _from_float16(carrier)  # noqa: PLW0108
    if carrier == types.int16:
        return lambda carrier: _from_bfloat16(carrier)  # noqa: PLW0108
    return lambda carrier: carrier


def _carried(carrier, like):
    """What to store of ``carrier`` where ``like`` stands."""


@overload(_carried)
def _carried_like(carrier, like):
    if carrier == like:
        return lambda carrier, like: carrier
    return lambda carrier, like: _number(carrier)


# All arithmetic is float64: a CPU core still waits for memory most of the time.
@_inlined
def _l1(p, c, advance):
    numerator = denominator = 0.0
    for i in range(len(p)):
        x, y = np.float64(_number(p[i])), np.float64(_number(c[i]))
        numerator += abs(y - x)
        denominator += abs(x)
        if advance:
            p[i] = _carried(c[i], p[i])
    return numerator, denominator, numerator


@_inlined
def _l2(p, c, advance):
    numerator = denominator = 0.0
    for i in range(len(p)):
        x, y = np.float64(_number(p[i])), np.float64(_number(c[i]))
        numerator += (y - x) * (y - x)
        denominator += x * x
        if advance:
            p[i] = _carried(c[i], p[i])
    return numerator, denominator, numerator


@_inlined
def _elementwise(p, c, advance):
    numerator = denominator = moved = 0.0
    for i in range(len(p)):
        x, y = np.float64(_number(p[i])), np.float64(_number(c[i]))
        change = abs(y - x)
        zero = x == 0
        # What is left out of the mean must still show when it is not finite.
        numerator += (0.0 if change <= _LARGEST else np.nan) if zero else change / abs(x)
        denominator += 0.0 if zero else 1.0
        moved += 1.0 if zero and change != 0 else 0.0
        if advance:
            p[i] = _carried(c[i], p[i])
    return numerator, denominator, moved


@_compiled
def run(tasks, sums, norm, advance, carriers):
    """Sum tasks, each an address before, an address after, and a number of elements.

    Args:
        tasks: int64, of shape ``(tasks, 3 or more)``.
        sums: float64, of shape ``(tasks, 3)``: written to.
        norm: 0 for l1, 1 for l2, 2 for elementwise.
        advance: whether to write what is after to before.
        carriers: arrays of the types that the two addresses point to.

    """
    for task in range(len(tasks)):
        p = numba.carray(_pointer(tasks[task, 0], carriers[0]), tasks[task, 2])
        c = numba.carray(_pointer(tasks[task, 1], carriers[1]), tasks[task, 2])
        if norm == 0:
            sums[task] = _l1(p, c, advance)
        elif norm == 1:
            sums[task] = _l2(p, c, advance)
        else:
            sums[task] = _elementwise(p, c, advance)
