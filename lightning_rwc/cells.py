# SPDX-License-Identifier: Apache-2.0
"""What each cell of a heatmap is: a value, or something that a picture must show in another way."""

import json
from enum import IntEnum
from importlib import resources
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from lightning_rwc.quantity import RELATIVE_WEIGHT_CHANGE, Quantity


class Cell(IntEnum):
    """A kind of cell. The numbers are those in checkpoints and in the tab."""

    VALUE = 0
    MISSING = 1
    NOT_FINITE = 2
    FROM_ZERO = 3
    ZERO = 4
    FROZEN = 5
    NO_GRADIENT = 6
    ONLY_DECAYS = 7
    NOT_IN_OPTIMIZER = 8
    ROUNDED_AWAY = 9


class Look(NamedTuple):
    """How a kind of cell is drawn."""

    fill: str
    """The ground, as ``#rrggbb``."""
    ink: str
    """The pattern on it, likewise."""
    pattern: str
    """One of :data:`TILES`, or ``none``."""
    loud: bool
    """Whether it must be seen first."""
    words: str
    """What a key says."""


APPEARANCE = resources.files(__package__).joinpath("appearance.json")
"""The file that says how cells look. The tab reads it too."""
_SPECIFICATION = json.loads(APPEARANCE.read_text("utf-8"))

LOOKS = {
    Cell[name.upper()]: Look(**{field: look[field] for field in Look._fields})
    for name, look in _SPECIFICATION["cells"].items()
}
"""All kinds but :attr:`Cell.VALUE`."""
TILES = {
    name: np.array([[letter == "#" for letter in row] for row in rows])
    for name, rows in _SPECIFICATION["patterns"].items()
}
"""Which pixels of a square have ink. Patterns repeat it."""

# Layers that move although they learn nothing. Their values mean little, so that pictures show the cause instead.
_MOVES_WITHOUT_LEARNING = [Cell.ONLY_DECAYS, Cell.ROUNDED_AWAY]


def classify(
    values: npt.NDArray[np.floating],
    causes: npt.NDArray[np.uint8] | None = None,
    quantity: Quantity = RELATIVE_WEIGHT_CHANGE,
) -> npt.NDArray[np.uint8]:
    """Say of each cell what kind it is.

    Causes explain why something did not move, so they count for quantities that have a fixed scale. Where they are not
    known, ``nan`` of such a quantity is missing before a layer has a number, and not finite everywhere else.

    Args:
        values: of shape ``(measurements, layers)``.
        causes: what was known at the measurement, of the same shape, with :attr:`Cell.VALUE` where nothing was.
        quantity: what the values are.

    Returns:
        Numbers of :class:`Cell`, of the same shape.

    Raises:
        ValueError: if ``causes`` has another shape.

    Example:
        >>> classify(np.array([[np.nan, 0.5], [np.inf, 0.0], [0.25, np.nan]])).tolist()
        [[1, 0], [3, 4], [0, 2]]

    """
    moves = quantity.scale != "auto"
    cells = np.zeros(values.shape, np.uint8)
    known = cells if causes is None or not moves else causes
    if causes is not None and causes.shape != values.shape:
        raise ValueError(f"`causes` must have the shape of the values, {values.shape}, but has {causes.shape}.")
    if not quantity.linear:
        cells = np.where(values == 0, np.where(known == Cell.VALUE, Cell.ZERO, known), cells).astype(np.uint8)
    if quantity.scale == "step":
        idle = (values > 0) & np.isin(known, _MOVES_WITHOUT_LEARNING)
        cells[idle] = known[idle]
    cells[np.isinf(values)] = Cell.FROM_ZERO
    absent = np.isnan(values)
    if causes is not None:
        lost = causes == Cell.NOT_FINITE
    else:
        lost = moves & ~((np.cumsum(~absent, axis=0) == 0) & ~absent.all(axis=0))
    cells[absent] = np.where(lost, Cell.NOT_FINITE, Cell.MISSING)[absent]
    return cells
