# SPDX-License-Identifier: Apache-2.0
# mypy: ignore-errors
"""What Numba compiles: functions of memory addresses."""

from functools import cache

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic, overload

# Sums may be taken in any order; nan and inf stay what they are.
_FASTMATH = {"reassoc", "nsz", "contract", "arcp"}
# One function to compile is one order of summation: several, each cached, were joined to other code when they came from
# the cache than when they had just been compiled, and a resumed history would differ in its last bit.
_inlined = numba.njit(inline="always", fastmath=_FASTMATH)

_LARGEST = np.finfo(np.float64).max


@intrinsic
def _pointer(typing_context, address):
    def code(context, builder, signature, arguments):
        return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))

    return types.voidptr(types.int64), code


@intrinsic
def _count_up(typing_context, address):
    """Add one to the int64 number at ``address``, at once for all threads; what it was before."""

    def code(context, builder, signature, arguments):
        number = builder.bitcast(arguments[0], ir.IntType(64).as_pointer())
        return builder.atomic_rmw("add", number, ir.IntType(64)(1), "monotonic")

    return types.int64(types.voidptr), code


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


@cache
def worker(before, after):
    """A function of C that sums tasks, in as many threads at a time as call it.

    Args:
        before: the NumPy type of what tasks have before.
        after: and of what they have after.

    Returns:
        A function of the address of int64 numbers:

        1. the number of bunches of tasks that have been begun, which is counted up
        2. the number of bunches
        3. the address of their ends, as numbers of tasks, from the 0 of what is before the first bunch
        4. the address of the tasks: an address before, an address after, and a number of elements
        5. the address of the sums, three float64 numbers a task: written to
        6. 0 for l1, 1 for l2, 2 for elementwise
        7. whether to write what is after to before

    """

    @numba.cfunc(types.void(types.voidptr), cache=True, fastmath=_FASTMATH)
    def work(address):
        job = numba.carray(address, 7, np.int64)
        bunches, norm, advance = job[1], job[5], job[6] != 0
        ends = numba.carray(_pointer(job[2]), bunches + 1, np.int64)
        tasks = numba.carray(_pointer(job[3]), (ends[bunches], 3), np.int64)
        sums = numba.carray(_pointer(job[4]), (ends[bunches], 3), np.float64)
        bunch = _count_up(address)
        while bunch < bunches:
            for task in range(ends[bunch], ends[bunch + 1]):
                p = numba.carray(_pointer(tasks[task, 0]), tasks[task, 2], before)
                c = numba.carray(_pointer(tasks[task, 1]), tasks[task, 2], after)
                if norm == 0:
                    sums[task] = _l1(p, c, advance)
                elif norm == 1:
                    sums[task] = _l2(p, c, advance)
                else:
                    sums[task] = _elementwise(p, c, advance)
            bunch = _count_up(address)

    return work
