# SPDX-License-Identifier: Apache-2.0
"""What each cell of a heatmap is: a value, or something that a picture must show in another way."""

import json
from enum import IntEnum
from importlib import resources
from typing import NamedTuple

import numpy as np
import numpy.typing as npt


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
    values: npt.NDArray[np.floating], causes: npt.NDArray[np.uint8] | None = None, *, linear: bool = False
) -> npt.NDArray[np.uint8]:
    """Say of each cell what kind it is.

    Without a cause, ``nan`` is missing where a layer has not had a number yet and gets one later, and not finite
    everywhere else.

    Args:
        values: of shape ``(measurements, layers)``.
        causes: what was known at the measurement, of the same shape, with :attr:`Cell.VALUE` where nothing was.
        linear: whether zero is a value like any other, because the scale is linear.

    Returns:
        Numbers of :class:`Cell`, of the same shape.

    Example:
        >>> classify(np.array([[np.nan, 0.5], [np.inf, 0.0], [0.25, np.nan]])).tolist()
        [[1, 0], [3, 4], [0, 2]]

    """
    causes = np.zeros(values.shape, np.uint8) if causes is None else causes
    cells = np.zeros(values.shape, np.uint8)
    if not linear:
        zero = values == 0
        cells[zero] = np.where(causes == Cell.VALUE, Cell.ZERO, causes)[zero]
        idle = (values > 0) & np.isin(causes, _MOVES_WITHOUT_LEARNING)
        cells[idle] = causes[idle]
    cells[np.isinf(values)] = Cell.FROM_ZERO
    absent = np.isnan(values)
    first = ~absent
    not_yet = np.cumsum(first, axis=0) == 0
    missing = np.where(not_yet & first.any(axis=0), Cell.MISSING, Cell.NOT_FINITE)
    known = np.isin(causes, [Cell.MISSING, Cell.NOT_FINITE])
    cells[absent] = np.where(known, causes, missing)[absent]
    return cells
