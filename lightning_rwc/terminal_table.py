# SPDX-License-Identifier: Apache-2.0
"""A history as a table in the terminal."""

import numpy as np
import numpy.typing as npt
from rich.table import Table

from lightning_rwc.history import RWCHistory

_BARS = "▁▂▃▄▅▆▇█"


def history_table(history: RWCHistory) -> Table:
    """Build a table with a row per layer: name, first, last and mean relative weight change, and a sparkline."""
    table = Table(title="Relative weight change")
    for heading in ("layer", "first", "last", "mean", "curve (log)"):
        table.add_column(heading, justify="right" if heading in ("first", "last", "mean") else "left")
    curves = history.values.T
    positive = curves[np.isfinite(curves) & (curves > 0)]
    limits = (np.log(positive.min()), np.log(positive.max())) if positive.size else (0.0, 0.0)
    for layer, curve in zip(history.layers, curves, strict=True):
        numbers = (f"{value:.3g}" for value in (curve[0], curve[-1], curve.mean()))
        table.add_row(layer, *numbers, sparkline(curve, *limits))
    return table


def sparkline(curve: npt.NDArray[np.float64], low: float, high: float) -> str:
    """Draw ``curve`` on a logarithmic scale in one line of text.

    Args:
        curve: the values. Zero, infinity and ``nan`` become ``0``, ``∞`` and ``?``.
        low: the logarithm of the lowest value on the scale.
        high: the logarithm of the highest.

    Example:
        >>> sparkline(np.array([1.0, 10.0, 100.0, 0.0]), low=np.log(1.0), high=np.log(100.0))
        '▁▅█0'

    """
    marks = []
    for value in curve:
        if np.isfinite(value) and value > 0:
            height = (np.log(value) - low) / (high - low) if high > low else 0.5
            marks.append(_BARS[min(int(height * len(_BARS)), len(_BARS) - 1)])
        else:
            marks.append("0" if value == 0 else "∞" if value > 0 else "?")
    return "".join(marks)
