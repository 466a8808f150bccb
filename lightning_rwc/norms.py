# SPDX-License-Identifier: Apache-2.0
"""The norms of relative weight change. Each is defined here, and nowhere else.

A norm is a ratio of two sums over the elements of a layer. The function of a norm gives the terms of these sums for one
element, from the size of its change and its own size before it. PyTorch runs that function on whole tensors, Numba and
Triton compile its source for one element or one block. So it may only use arithmetic and comparisons, and no
annotations. It must give ``nan`` or infinity where an argument is ``nan`` or infinite.

"""
# mypy: disable-error-code="no-untyped-def"

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, TypeAlias


def l1(change, size):
    """‖c − p‖₁ / ‖p‖₁."""
    return change, size


def l2(change, size):
    """‖c − p‖₂ / ‖p‖₂."""
    return change * change, size * size


def elementwise(change, size):
    """The mean of |cᵢ − pᵢ| / |pᵢ| over the elements that were not zero."""
    # A zero has the term change − change, which is nan where the change is not finite.
    zero = size == 0
    return change / (size + zero) - zero * change, size != 0


Terms: TypeAlias = Callable[[Any, Any], tuple[Any, Any]]


class Definition(NamedTuple):
    """What a norm is."""

    terms: Terms
    """From |c − p| and |p| of an element to its terms of the numerator and of the denominator."""
    root: int = 1
    """Which root is taken of numerator and denominator."""
    is_mean: bool = False
    """Whether the denominator is a number of elements."""


Norm: TypeAlias = Literal["l1", "l2", "elementwise"]

NORMS: dict[str, Definition] = {
    "l1": Definition(l1),
    "l2": Definition(l2, root=2),
    "elementwise": Definition(elementwise, is_mean=True),
}


def definition(norm: str) -> Definition:
    """The definition of ``norm``.

    Raises:
        ValueError: if there is no such norm.

    """
    if not isinstance(norm, str) or norm not in NORMS:
        raise ValueError(f"`norm` must be one of {', '.join(map(repr, NORMS))}, but got {norm!r}.")
    return NORMS[norm]
