# SPDX-License-Identifier: Apache-2.0
"""The fixed scale of colours: the same value has the same colour in every run, at every time and in every file."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from lightning_rwc.quantity import SCALES, Quantity, ScaleName

AUTO_PERCENTILES = (2, 98)


class Tick(NamedTuple):
    """A value of a fixed scale, and what it means."""

    value: float
    word: str


# From trainings that learn well: python -m tests.benchmarks --only colours
_WORDS = ("still", "slow", "typical", "fast", "replaced")
FIXED = {
    "step": tuple(map(Tick, (1e-5, 1e-4, 1e-3, 1e-2, 1e-1), _WORDS)),
    "measurement": tuple(map(Tick, (1e-3, 1e-2, 1e-1, 1.0, 1e1), _WORDS)),
}
"""The ticks of each fixed scale, from its lower to its upper end. Both scales are logarithmic."""


def spans(steps: Sequence[int]) -> npt.NDArray[np.float64]:
    """Over how many optimizer steps each measurement reaches.

    The first one reaches from the beginning of training, but not further than the second one, because a history may
    begin later. Two measurements at the same step count as one step apart.

    Args:
        steps: the step under which each measurement is logged. The first step is 0.

    Returns:
        Numbers of at least 1, of the same length.

    Example:
        >>> spans([9, 19, 39])
        array([10., 10., 20.])
        >>> spans([1004, 1009])
        array([5., 5.])

    """
    times = np.asarray(steps, dtype=np.float64)
    apart = np.diff(times, prepend=-1.0)
    if len(apart) > 1:
        apart[0] = min(apart[0], apart[1])
    return np.maximum(apart, 1.0)


def scale_of(quantity: Quantity, scale: ScaleName | None = None) -> ScaleName:
    """The scale of pictures of ``quantity``: the one that was asked for, or else its own.

    Only distances relative to a layer's size have fixed scales.

    Raises:
        ValueError: if ``scale`` is unknown.

    """
    if scale is not None and scale not in SCALES:
        raise ValueError(f"`scale` must be one of {', '.join(SCALES)}, but got {scale!r}.")
    return quantity.scale if scale is None or quantity.scale == "auto" else scale


def auto_limits(
    positive: npt.NDArray[np.float64], percentiles: tuple[int, int] = AUTO_PERCENTILES
) -> tuple[float, float]:
    """The limits of a logarithmic scale for positive values: two of their percentiles, apart from each other.

    By default these are the 2nd and the 98th, so that a few layers that start at zero do not take the differences from
    all others.

    Example:
        >>> auto_limits(np.arange(101.0))
        (2.0, 98.0)

    """
    if not positive.size:
        return 1e-6, 1.0
    # Matplotlib treats an axis with limits beyond these as empty.
    low, high = np.clip(np.percentile(positive, percentiles), 1e-200, 1e200).tolist()
    return (low, high) if low < high else (low / 3, high * 3)


def described(quantity: Quantity) -> dict[str, Any]:
    """What the tab needs to know of a quantity, as JSON."""
    fixed = {name: {"ticks": ticks} for name, ticks in FIXED.items()}
    return {
        "label": quantity.label,
        "signed": quantity.signed,
        "share": quantity.share,
        "words": {"zero": quantity.zero, "from_zero": quantity.infinite},
        "scales": None if quantity.scale == "auto" else {"default": quantity.scale, **fixed},
    }
