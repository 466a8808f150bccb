# SPDX-License-Identifier: Apache-2.0
"""The chart of all layers' curves."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from lightning_rwc.activity import spread
from lightning_rwc.cells import Cell, classify
from lightning_rwc.drawing import (
    MAX_COLUMNS,
    MAX_ROWS,
    Indices,
    Surroundings,
    Table,
    axis_label,
    colour_bar,
    drawable,
    frame,
    key,
    log_ticks,
    lost_since,
    round_times,
    times_of,
)
from lightning_rwc.findings.marks import MARK, column_key, concerned, mark_columns, mark_rows, shown_at
from lightning_rwc.names import shown
from lightning_rwc.quantity import RELATIVE_WEIGHT_CHANGE, Quantity
from lightning_rwc.row_names import text_width
from lightning_rwc.scale import auto_limits

if TYPE_CHECKING:
    from lightning_rwc.findings.finding import Finding

# Viridis stands for values. The yellow end of this one is too faint for lines.
_DEPTHS = LinearSegmentedColormap.from_list("depths", colormaps["plasma"](np.linspace(0, 0.85, 256)))
_MAX_POINTS = 24_000
_LEGEND_LAYERS = 12


def curves(
    values: Table,
    layers: Sequence[str],
    epochs: Sequence[int],
    steps: Sequence[int],
    quantity: Quantity = RELATIVE_WEIGHT_CHANGE,
    *,
    expected: Table | None = None,
    findings: "Sequence[Finding]" = (),
    causes: npt.NDArray[np.uint8] | None = None,
) -> Figure:
    """Draw each layer's curve in one chart, coloured by depth, on a logarithmic axis.

    Zeros and infinities are triangles at the lower and the upper edge. The axis of a signed quantity and of shares is
    linear. Up to 12 layers get a legend, more get a colour bar of depth. At most 320 layers and 260 measurements are
    drawn, and at most 24,000 points. They are evenly spaced and include the first and the last. A line above the chart
    says which layers are not finite since when.

    Args:
        values: of shape ``(measurements, layers)``.
        layers: names of the layers, in definition order.
        epochs: the epoch of each measurement, as for :func:`~lightning_rwc.plotting.heatmap`.
        steps: the step of each measurement, as for :func:`~lightning_rwc.plotting.heatmap`.
        quantity: what the values are.
        expected: positive values of the same shape that curves should settle at. They are dashed lines: one if all
            layers have the same.
        findings: each has a triangle above its measurement, or above the next one that is drawn, and a dotted line.
            Triangles point at its layers in the legend or beside the colour bar, unless it is about all of them.
        causes: as for :func:`~lightning_rwc.plotting.heatmap`. They tell ``nan`` of layers that were not measured from
            that of weights that are not finite.

    Raises:
        ValueError: if there is no measurement.

    """
    rows = spread(len(layers), MAX_ROWS)
    most = min(_MAX_POINTS // max(len(rows), 1), MAX_COLUMNS) if len(layers) else 0
    columns, times, time_label = times_of(epochs, steps, most=most)
    short = shown(layers)
    lost = classify(values, causes, quantity)[columns][:, rows] == Cell.NOT_FINITE
    values, names = values[columns][:, rows], [short[row] for row in rows]
    targets = np.empty((len(columns), 0)) if expected is None else _distinct(expected[columns][:, rows])
    depth = Normalize(0, max(len(layers) - 1, 1))
    colours = _DEPTHS(depth(rows))
    places = drawable(values, quantity)
    edges = [
        (mask, marker, edge, label)
        for mask, marker, edge, label in (
            ((values == 0) & ~places, "v", 0.015, quantity.zero),
            (np.isposinf(values), "^", 0.985, quantity.infinite),
        )
        if mask.any()
    ]
    marks = shown_at(findings, epochs, steps, columns)
    dashed: dict[str, Any] = {"color": "0.25", "linestyle": "--", "linewidth": 1.0}
    special = column_key(marks, lines=True)
    special += [Line2D([], [], label="at equilibrium", **dashed)] if targets.size else []
    special += [Line2D([], [], color="0.35", marker=marker, linestyle="", label=label) for _, marker, _, label in edges]

    widest = text_width([names[row] for row in _listed(len(rows))], 8)
    warning = lost_since(lost, names, times, time_label)
    around = Surroundings(quantity.label, warning, marks.size > 0, special)
    figure, axes = frame(height=3.4, left=0.9, right=0.6 + max(widest, 0.9), around=around)
    axes.set_xlabel(time_label)
    axes.set_ylabel(axis_label(quantity))
    axes.grid(alpha=0.3)
    x = np.broadcast_to(times[:, None], values.shape)
    margin = 0.03 * np.ptp(times) or 0.5
    axes.set_xlim(times.min() - margin, times.max() + margin)
    axes.set_xticks(round_times(times))
    _scale_axis(axes, x, values, places, targets, quantity)
    if not places.any() and not edges:
        axes.text(0.5, 0.5, "no value is finite", transform=axes.transAxes, ha="center", va="center", fontsize=11)
        axes.set_yticks([])
        axes.minorticks_off()
    lines = np.stack([x, np.where(places, values, np.nan)], axis=2).transpose(1, 0, 2)
    axes.add_collection(LineCollection(list(lines), colors=colours, linewidths=1.3 if len(rows) <= 40 else 0.8))
    if len(values) <= 30 and values.size <= 1000:
        _points(axes, x, values, places, colours, marker="o", s=10)
    mark_columns(axes, times[marks], lines=True)
    if targets.size:
        axes.plot(times, targets, **dashed)
    for mask, marker, edge, _ in edges:
        at_edge = {"transform": axes.get_xaxis_transform(), "clip_on": False}
        on_top = mask & (mask[:, ::-1].cumsum(axis=1)[:, ::-1] == 1)
        _points(axes, x, np.full_like(values, edge), on_top, colours, marker=marker, s=30, **at_edge)
    _name_curves(axes, rows, names, depth, concerned(findings, layers))
    return figure


def _scale_axis(  # noqa: PLR0917
    axes: Axes, x: Table, values: Table, places: npt.NDArray[np.bool_], targets: Table, quantity: Quantity
) -> None:
    if quantity.signed:
        axes.axhline(0, color="0.6", linewidth=0.8)
        axes.update_datalim(np.column_stack((x[places], values[places])))
        axes.autoscale_view(scalex=False)
    elif quantity.share:
        axes.set_ylim(-0.03, 1.03)
    else:
        low, high = auto_limits(np.append(values[places], targets[np.isfinite(targets)]), (0, 100))
        axes.set_yscale("log")
        axes.set_ylim(low / 1.3, high * 1.3)
        log_ticks(axes.yaxis, low, high)


def _listed(count: int) -> Indices:
    return spread(count, count if count <= _LEGEND_LAYERS else 6)


def _name_curves(axes: Axes, rows: Indices, names: Sequence[str], depth: Normalize, marked: Indices) -> None:
    """Name all curves in a legend, or some beside a colour bar."""
    listed = _listed(len(rows))
    if len(listed) == len(rows):
        lines = [Line2D([], [], color=_DEPTHS(depth(row)), label=name) for row, name in zip(rows, names, strict=True)]
        for line, row in zip(lines, rows, strict=True):
            if row in marked:
                line.set(marker=">", markersize=MARK, markerfacecolor="black", markeredgecolor="black")
        key(axes, lines)
        return
    bar = colour_bar(axes, depth, _DEPTHS, "")
    bar.text(0, 1.02, "depth", transform=bar.transAxes, fontsize=9)
    bar.set_yticks(rows[listed], [names[i] for i in listed], fontsize=8, parse_math=False)
    bar.invert_yaxis()
    mark_rows(bar, marked, MARK)


def _distinct(expected: Table) -> Table:
    """The columns that differ by more than rounding, and have a value."""
    known = np.log(expected[:, np.isfinite(expected).any(0)])
    # A nan differs from itself.
    known = np.unique(np.nan_to_num(known.round(6), nan=np.inf), axis=1)
    return np.where(np.isinf(known), np.nan, np.exp(known))


def _points(axes: Axes, x: Table, y: Table, mask: npt.NDArray[np.bool_], colours: Table, **style: Any) -> None:
    axes.scatter(x[mask], y[mask], c=colours[np.nonzero(mask)[1]], zorder=3, **style)
