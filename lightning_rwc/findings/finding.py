# SPDX-License-Identifier: Apache-2.0
"""A finding, and how it names layers."""

from collections.abc import Sequence
from dataclasses import dataclass

_NAMED = 6


@dataclass(frozen=True)
class Finding:
    """Something that is wrong with a training."""

    kind: str
    """What is wrong, as a name: ``"no_gradient"``."""
    layers: tuple[str, ...]
    """The layers it is about, in definition order."""
    epoch: int
    """The epoch of the measurement that showed it."""
    step: int
    """The step under which that measurement is logged."""
    message: str
    """What was seen, the likely cause and the remedy, in a few sentences."""


def one_or_more(things: Sequence[object], one: str, more: str) -> str:
    """``one`` if there is one thing, otherwise ``more``."""
    return one if len(things) == 1 else more


def listing(layers: Sequence[str]) -> str:
    """The names of ``layers``, or the first and the last few of many.

    Example:
        >>> listing(["conv1", "conv2"])
        "'conv1' and 'conv2'"
        >>> listing([f"layers.{number}" for number in range(9)])
        "'layers.0', 'layers.1', 'layers.2', … 'layers.7' and 'layers.8' (9 layers)"

    """
    names = [repr(layer) for layer in layers]
    if len(names) > _NAMED:
        return f"{', '.join(names[:3])}, … {names[-2]} and {names[-1]} ({len(names)} layers)"
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]])) if names else "no layer"
