# SPDX-License-Identifier: Apache-2.0
"""A history as a table in the terminal."""

import numpy as np
import numpy.typing as npt
from rich.table import Table

from lightning_rwc.history import RWCHistory
from lightning_rwc.quantity import RELATIVE_WEIGHT_CHANGE, Quantity

_BARS = "▁▂▃▄▅▆▇█"


def history_table(history: RWCHistory, quantity: Quantity = RELATIVE_WEIGHT_CHANGE) -> Table:
    """Build a table with a row per layer: name, first, last and mean value, and a sparkline."""
    table = Table(title=quantity.label.capitalize())
    logarithmic = not quantity.linear
    for heading in ("layer", "first", "last", "mean", "curve (log)" if logarithmic else "curve"):
        table.add_column(heading, justify="right" if heading in ("first", "last", "mean") else "left")
    curves = history.values.T
    drawn = curves[np.isfinite(curves) & ((curves > 0) | quantity.linear)]
    limits = (float(drawn.min()), float(drawn.max())) if drawn.size else (1.0, 1.0)
    for layer, curve in zip(history.layers, curves, strict=True):
        numbers = (f"{value:.3g}" for value in (curve[0], curve[-1], curve.mean()))
        table.add_row(layer, *numbers, sparkline(curve, *limits, logarithmic=logarithmic))
    return table


def sparkline(curve: npt.NDArray[np.float64], low: float, high: float, logarithmic: bool = True) -> str:
    """Draw ``curve`` in one line of text.

    Args:
        curve: the values. Infinity and ``nan`` become ``∞`` and ``?``; zero becomes ``0`` on a logarithmic scale.
        low: the lowest value on the scale.
        high: the highest.
        logarithmic: whether the scale is logarithmic, and not linear.

    Example:
        >>> sparkline(np.array([1.0, 10.0, 100.0, 0.0]), low=1.0, high=100.0)
        '▁▅█0'
        >>> sparkline(np.array([-1.0, 0.0, 1.0]), low=-1.0, high=1.0, logarithmic=False)
        '▁▅█'

    """
    scale = np.log if logarithmic else float
    marks = []
    for value in curve:
        if np.isfinite(value) and (value > 0 or not logarithmic):
            height = (scale(value) - scale(low)) / (scale(high) - scale(low)) if high > low else 0.5
            marks.append(_BARS[min(int(height * len(_BARS)), len(_BARS) - 1)])
        else:
            marks.append("0" if value == 0 else "∞" if value > 0 else "?")
    return "".join(marks)
