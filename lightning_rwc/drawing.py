# SPDX-License-Identifier: Apache-2.0
"""What all pictures of a history share: the frame, times, logarithmic axes, keys and colour bars."""

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, Normalize
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from lightning_rwc.activity import spread
from lightning_rwc.quantity import Quantity

Table: TypeAlias = npt.NDArray[np.float64]
Indices: TypeAlias = npt.NDArray[np.intp]

DPI = 100
MAX_COLUMNS = 260  # each two pixels wide
MAX_ROWS = 320
_BOTTOM, _WIDTH = 0.62, 5.2
_TITLE, _MARKS, _LINE = 0.3, 0.15, 0.2
_SHORT = 3.3  # for the label of a colour bar in one line
_IN_A_LINE = 3


class Surroundings(NamedTuple):
    """What stands around a chart."""

    title: str
    warning: str
    """What must not be missed, or nothing."""
    has_marks: bool
    """Whether triangles stand above the chart."""
    key: Sequence[Patch | Line2D]
    """What stands below it."""


def frame(height: float, left: float, right: float, around: Surroundings) -> tuple[Figure, Axes]:
    """A figure with one chart, a title above it and a key below it. Sizes are in inches.

    Args:
        height: of the chart.
        left: the margin at its left.
        right: the margin at its right.
        around: what stands around it.

    """
    # A layout engine would measure every label, which at 300 layers takes longer than the picture.
    bottom = _BOTTOM + _LINE * -(-len(around.key) // _IN_A_LINE)
    top = _TITLE + _LINE * bool(around.warning) + _MARKS * around.has_marks
    total_width, total_height = left + _WIDTH + right, top + height + bottom
    figure = Figure(figsize=(total_width, total_height), dpi=DPI)
    box = (left / total_width, bottom / total_height, _WIDTH / total_width, height / total_height)
    axes = figure.add_axes(box)
    figure.text(box[0], 1 - 0.08 / total_height, around.title, fontsize=10, va="top", parse_math=False)
    if around.warning:
        bold: dict[str, Any] = {"fontsize": 9, "color": "#b0001a", "weight": "bold"}
        figure.text(box[0], 1 - 0.27 / total_height, around.warning, va="top", parse_math=False, **bold)
    key(axes, around.key, below=True)
    return figure, axes


def lost_since(
    lost: npt.NDArray[np.bool_], names: Sequence[str], times: Table, time_label: str, kind: str = "layer"
) -> str:
    """A line that says which rows are not finite since when, or nothing.

    Args:
        lost: of shape ``(measurements, rows)``.
        names: of the rows.
        times: of the measurements.
        time_label: what ``times`` are.
        kind: what rows are.

    """
    if not lost.any():
        return ""
    first = int(np.flatnonzero(lost.any(axis=1))[0])
    layers, ever = np.flatnonzero(lost[first]), int(lost.any(axis=0).sum())
    more = f" and {len(layers) - 1} more" if len(layers) > 1 else ""
    later = (
        f"; later {'all' if ever == len(names) else f'{ever} of'} {len(names)} {kind}s" if ever > len(layers) else ""
    )
    who = f"all {len(names)} {kind}s" if len(layers) == len(names) > 1 else f"{names[layers[0]]}{more}"
    return f"not finite since {time_label} {times[first]:g}: {who}{later}"


def times_of(epochs: Sequence[int], steps: Sequence[int], most: int) -> tuple[Indices, Table, str]:
    """Which measurements are drawn, when they were taken, and the unit of that.

    Raises:
        ValueError: if there is no measurement.

    """
    if not len(epochs):
        raise ValueError("There is no measurement to draw yet. The first is taken at the end of the first epoch.")
    if most < 1:
        raise ValueError("There is no layer to draw.")
    times, label = (epochs, "epoch") if len(set(epochs)) == len(epochs) else (steps, "step")
    drawn = spread(len(times), most)
    return drawn, np.array(times, dtype=np.float64)[drawn], label


def round_times(times: Table) -> Table:
    """Ticks at whole numbers."""
    low, high = times.min(), times.max()
    locator = MaxNLocator(nbins=8, integer=True, steps=[1, 2, 5, 10], min_n_ticks=1)
    ticks: Table = np.array(locator.tick_values(low, high))
    return np.asarray(ticks[(ticks >= low) & (ticks <= high) & (ticks == ticks.round())])


def log_ticks(axis: Axis, low: float, high: float) -> None:
    """Set ticks with plain numbers on a logarithmic ``axis`` from ``low`` to ``high``."""
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 300 * low else (1,)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(LogLocator(subs=(2, 5)))
    axis.set_minor_formatter(NullFormatter())


def drawable(values: Table, quantity: Quantity) -> npt.NDArray[np.bool_]:
    """Which values have a place on the scale of ``quantity``."""
    return np.isfinite(values) & ((values > 0) | quantity.linear)


def axis_label(quantity: Quantity, per: str = "") -> str:
    """The label of an axis of ``quantity``, with its unit and its scale."""
    name, _, unit = quantity.label.partition(" (")
    scale = "" if quantity.linear else "log scale"
    brackets = ", ".join(filter(None, [unit.removesuffix(")"), scale]))
    return f"{name}{per} ({brackets})" if brackets else f"{name}{per}"


def key(axes: Axes, entries: Sequence[Patch | Line2D], *, below: bool = False) -> None:
    """Draw a key below the chart, or at its right."""
    if not entries:
        return
    height = axes.get_window_extent().height / DPI
    # Texts are set later, because a legend omits labels that begin with an underscore, and layers' names may.
    legend = Legend(
        axes,
        entries,
        ["-"] * len(entries),
        loc="upper left",
        bbox_to_anchor=(0, -0.5 / height) if below else (1.01, 1),
        ncols=min(len(entries), _IN_A_LINE) if below else 1,
        borderaxespad=0 if below else 0.5,
        borderpad=0 if below else 0.4,
        columnspacing=1.2,
        handlelength=2,
        frameon=False,
        fontsize=8,
    )
    axes.add_artist(legend).set_clip_on(False)
    for text, entry in zip(legend.get_texts(), entries, strict=True):
        text.set_parse_math(False)
        text.set_text(str(entry.get_label()))


def colour_bar(axes: Axes, norm: Normalize, cmap: Colormap, label: str) -> Axes:
    """Draw a colour bar at the right of the chart."""
    figure = axes.get_figure()
    assert isinstance(figure, Figure)
    box, width = axes.get_position(), figure.get_figwidth()
    bar = figure.add_axes((box.x1 + 0.15 / width, box.y0, 0.18 / width, box.height))
    if box.height * figure.get_figheight() < _SHORT:
        label = label.replace(" (", "\n(")
    figure.colorbar(ScalarMappable(norm, cmap), cax=bar).set_label(label, fontsize=9)
    return bar
