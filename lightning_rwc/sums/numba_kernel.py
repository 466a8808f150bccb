# SPDX-License-Identifier: Apache-2.0
# mypy: ignore-errors
"""What Numba compiles: functions of memory addresses."""

import inspect
import zlib
from functools import cache

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic, overload

from lightning_rwc import norms

# Sums may be taken in any order. nan and inf keep their meaning.
_FASTMATH = {"reassoc", "nsz", "contract", "arcp"}
# Everything is inlined into one function. Several functions, each cached, sum in another order when they come from the
# cache than when they have just been compiled, and a resumed history would differ in its last bit.
_inlined = numba.njit(inline="always", fastmath=_FASTMATH)


@intrinsic
def _pointer(typing_context, address):
    def code(context, builder, signature, arguments):
        return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))

    return types.voidptr(types.int64), code


@intrinsic
def _count_up(typing_context, address):
    """Add one to the int64 number at ``address``, atomically, and return what it was before."""

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


def _definition(norm):
    return norms.definition(norm.literal_value.partition(" ")[0])


def _terms(norm, change, size):
    """The terms of an element for ``norm``."""


@overload(_terms, prefer_literal=True)
def _terms_of(norm, change, size):
    terms = numba.njit(_definition(norm).terms, error_model="numpy", fastmath=_FASTMATH)
    return lambda norm, change, size: terms(change, size)


def _zero(norm):
    """The zero from which the denominator of ``norm`` starts."""


@overload(_zero, prefer_literal=True)
def _zero_of(norm):
    zero = np.int32(0) if _definition(norm).is_mean else 0.0
    return lambda norm: zero


def _plus(total, term):
    """Their sum, of the type of ``total``."""


@overload(_plus)
def _plus_of(total, term):
    if isinstance(total, types.Integer):
        return lambda total, term: np.int32(total + np.int32(term))
    return lambda total, term: total + term


# A core waits for memory most of the time, though all arithmetic is float64. That holds because numbers of elements are
# integers of the width of the weights. As float64 numbers they would make the loop slower by half.
@_inlined
def _sums(p, c, norm, advance):
    numerator = dot = squared_change = squared_size = 0.0
    denominator, moved = _zero(norm), np.int32(0)
    for i in range(len(p)):
        before, after = np.float64(_number(p[i])), np.float64(_number(c[i]))
        difference = after - before
        numerators, denominators = _terms(norm, abs(difference), abs(before))
        numerator += numerators
        denominator = _plus(denominator, denominators)
        moved = _plus(moved, after != before)
        dot += difference * before
        squared_change += difference * difference
        squared_size += before * before
        if advance:
            p[i] = _carried(c[i], p[i])
    return numerator, np.float64(denominator), np.float64(moved), dot, squared_change, squared_size


@cache
def worker(before, after, norm):
    """Compile a C function that sums tasks. Any number of threads may call it at the same time.

    Args:
        before: the NumPy type of a task's earlier values.
        after: the NumPy type of its present values.
        norm: the norm.

    Returns:
        A function of the address of these int64 numbers:

        1. how many bunches of tasks have begun; the function counts it up
        2. the number of bunches
        3. the address of the bunches' ends: 0, then for each bunch the number of tasks up to its end
        4. the address of the tasks: each has an address of earlier values, one of present values, and their number
        5. the address of the results: six rows of float64 numbers, those of `Sums`, with a column for each task
        6. whether to overwrite earlier values with present ones

    """
    # Numba keeps compiled code in files, and would not notice that a definition has changed.
    key = f"{norm} {zlib.crc32(inspect.getsource(norms).encode())}"

    @numba.cfunc(types.void(types.voidptr), cache=True, fastmath=_FASTMATH, error_model="numpy")
    def work(address):
        job = numba.carray(address, 6, np.int64)
        bunches, advance = job[1], job[5] != 0
        ends = numba.carray(_pointer(job[2]), bunches + 1, np.int64)
        tasks = numba.carray(_pointer(job[3]), (ends[bunches], 3), np.int64)
        sums = numba.carray(_pointer(job[4]), (6, ends[bunches]), np.float64)
        bunch = _count_up(address)
        while bunch < bunches:
            for task in range(ends[bunch], ends[bunch + 1]):
                p = numba.carray(_pointer(tasks[task, 0]), tasks[task, 2], before)
                c = numba.carray(_pointer(tasks[task, 1]), tasks[task, 2], after)
                numerator, denominator, moved, dot, squared_change, squared_size = _sums(p, c, key, advance)
                sums[0, task], sums[1, task], sums[2, task] = numerator, denominator, moved
                sums[3, task], sums[4, task], sums[5, task] = dot, squared_change, squared_size
            bunch = _count_up(address)

    return work
