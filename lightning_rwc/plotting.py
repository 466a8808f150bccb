# SPDX-License-Identifier: Apache-2.0
"""Pictures of a history: a heatmap and a chart of curves, as matplotlib figures without pyplot's global state."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection
from matplotlib.colors import Colormap, LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.image import PcolorImage
from matplotlib.legend import Legend
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FixedFormatter, FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullFormatter
from PIL import Image

from lightning_rwc.activity import by_activity, spread
from lightning_rwc.findings.marks import FINDING, MARK, concerned, mark_columns, mark_rows, shown_at
from lightning_rwc.quantity import RELATIVE_WEIGHT_CHANGE, Quantity
from lightning_rwc.row_names import RowNames, short, text_width

if TYPE_CHECKING:
    from lightning_rwc.findings.finding import Finding

Table = npt.NDArray[np.float64]
Indices = npt.NDArray[np.intp]

_DPI = 100
_CMAP, _SIGNED_CMAP = colormaps["viridis"], colormaps["PuOr"]
# Not in the colour map, and distinct from it for colour-blind readers too.
_ZERO, _INFINITE, _MISSING = "#d4d4d4", "#f03b20", "#ffffff"
_DECADES = 6  # a colour scale over more decades hides the differences that matter
_MAX_COLUMNS = 260  # each two pixels wide
_MAX_ROWS = 320
_MAX_UNITS = 640  # each a pixel high at least
_NAMED_UNITS = 64
_MAX_POINTS = 24_000
_LEGEND_LAYERS = 12
# Of each colour channel. The eye sees no difference to 256, and a PNG is a quarter to two fifths smaller.
_LEVELS = [round(round(level * 31 / 255) * 255 / 31) for level in range(256)]


def heatmap(
    values: Table,
    layers: Sequence[str],
    epochs: Sequence[int],
    steps: Sequence[int],
    quantity: Quantity = RELATIVE_WEIGHT_CHANGE,
    *,
    findings: "Sequence[Finding]" = (),
) -> Figure:
    """Draw layers × measurements: definition order from top to bottom, time from left to right, logarithmic colour.

    The colour scale spans at most six decades below the largest finite value. For a signed quantity it is linear around
    zero, for shares linear from 0 to 1. On a logarithmic scale zeros have their own colour. Infinite and ``nan`` cells
    always have their own, and do not affect the scale. At most 260 measurements are drawn, evenly spaced and including
    the last. At most 320 layers are named.

    Args:
        values: of shape ``(measurements, layers)``.
        layers: names of the layers, in definition order.
        epochs: the epoch of each measurement. It is the x axis if no epoch has two measurements.
        steps: the step of each measurement. It is the x axis otherwise.
        quantity: what the values are.
        findings: each has a triangle above its measurement, or above the next one that is drawn. Triangles beside the
            names point at the rows of its layers, unless it is about all of them.

    Raises:
        ValueError: if there is no measurement.

    """
    label = "layer, in definition order"
    return _heatmap(values, layers, epochs, steps, quantity, most_names=_MAX_ROWS, label=label, findings=findings)


def unit_heatmap(
    values: Table,
    units: Sequence[str],
    epochs: Sequence[int],
    steps: Sequence[int],
    quantity: Quantity = RELATIVE_WEIGHT_CHANGE,
) -> Figure:
    """Draw units × measurements: the most active unit at the top, see :func:`~lightning_rwc.activity.by_activity`.

    Of more than 640 units, 640 are drawn, evenly spaced in this order and including the first and the last. At most 64
    are named. Colours and times are those of :func:`heatmap`.

    Args:
        values: of shape ``(measurements, units)``.
        units: names of the units.
        epochs: the epoch of each measurement, as for :func:`heatmap`.
        steps: the step of each measurement, as for :func:`heatmap`.
        quantity: what the values are.

    Raises:
        ValueError: if there is no measurement.

    """
    rows = by_activity(values)[spread(len(units), _MAX_UNITS)]
    label = "unit, most active first"
    if len(rows) < len(units):
        label += f" ({len(rows)} of {len(units):,}, evenly spaced)"
    return _heatmap(
        values[:, rows], [units[row] for row in rows], epochs, steps, quantity, most_names=_NAMED_UNITS, label=label
    )


def _heatmap(
    values: Table,
    rows: Sequence[str],
    epochs: Sequence[int],
    steps: Sequence[int],
    quantity: Quantity,
    *,
    most_names: int,
    label: str,
    findings: "Sequence[Finding]" = (),
) -> Figure:
    columns, times, time_label = _times(values, epochs, steps, most=_MAX_COLUMNS)
    cells = values[columns].T
    named = spread(len(rows), most_names)
    names = [short(rows[row]) for row in named]

    row_height = float(np.clip(5 / max(len(named), 1), 0.11, 0.4).round(2))
    font_size = min(9.0, row_height * 72 * 0.82)
    marked = concerned(findings, rows)
    gutter = MARK if marked.size else 0
    left = 0.5 + text_width(names, font_size) + gutter / 72
    figure, axes = _figure(height=max(row_height * len(named), 2.0), left=left, right=1.2)
    cmap, norm = _SIGNED_CMAP if quantity.signed else _CMAP, _colour_norm(cells, quantity)
    x, y = (np.arange(count + 1) - 0.5 for count in cells.shape[::-1])
    image = PcolorImage(axes, x, y, _colours(cells, norm, cmap))
    image.set_extent((x[0], x[-1], y[-1], y[0]))
    axes.add_image(image)
    axes.tick_params(axis="y", length=0, labelsize=font_size)
    axes.yaxis.set(major_locator=FixedLocator(named.tolist()), major_formatter=FixedFormatter(names), visible=False)
    figure.add_artist(RowNames(axes, font_size, gutter))
    figure.text(0.2 / figure.get_figwidth(), 0.5, label, rotation=90, va="center", ha="center")
    ticks = _round_times(times)
    axes.set_xticks(np.interp(ticks, times, np.arange(len(columns))), [f"{tick:g}" for tick in ticks])
    axes.set_xlabel(time_label)
    mark_rows(axes, marked, min(MARK, 0.9 * 72 * row_height))
    _mark_special(axes, cells, quantity, mark_columns(axes, shown_at(findings, epochs, steps, columns)))
    bar = _colour_bar(axes, norm, cmap, _axis_label(quantity))
    if not quantity.linear:
        log_ticks(bar.yaxis, *bar.get_ylim())
    return figure


def curves(
    values: Table,
    layers: Sequence[str],
    epochs: Sequence[int],
    steps: Sequence[int],
    quantity: Quantity = RELATIVE_WEIGHT_CHANGE,
    *,
    expected: Table | None = None,
    findings: "Sequence[Finding]" = (),
) -> Figure:
    """Draw each layer's curve in one chart, coloured by depth, on a logarithmic axis.

    Zeros and infinities are triangles at the lower and the upper edge. The axis of a signed quantity and of shares is
    linear. Up to 12 layers get a legend, more get a colour bar of depth. At most 320 layers and 260 measurements are
    drawn, and at most 24,000 points. They are evenly spaced and include the first and the last.

    Args:
        values: of shape ``(measurements, layers)``.
        layers: names of the layers, in definition order.
        epochs: the epoch of each measurement, as for :func:`heatmap`.
        steps: the step of each measurement, as for :func:`heatmap`.
        quantity: what the values are.
        expected: positive values of the same shape that curves should settle at. They are dashed lines: one if all
            layers have the same.
        findings: each has a triangle above its measurement, or above the next one that is drawn, and a dotted line.
            Triangles point at its layers in the legend or beside the colour bar, unless it is about all of them.

    Raises:
        ValueError: if there is no measurement.

    """
    rows = spread(len(layers), _MAX_ROWS)
    columns, times, time_label = _times(values, epochs, steps, most=min(_MAX_POINTS // max(len(rows), 1), _MAX_COLUMNS))
    values, names = values[columns][:, rows], [short(layers[row]) for row in rows]
    targets = np.empty((len(columns), 0)) if expected is None else _distinct(expected[columns][:, rows])
    depth = Normalize(0, max(len(layers) - 1, 1))
    colours = _CMAP(depth(rows))
    widest = text_width([names[row] for row in _listed(len(rows))], 8)
    figure, axes = _figure(height=3.4, left=0.9, right=0.6 + max(widest, 0.9))
    axes.set_xlabel(time_label)
    axes.set_ylabel(_axis_label(quantity))
    axes.grid(alpha=0.3)

    x = np.broadcast_to(times[:, None], values.shape)
    drawable = _drawable(values, quantity)
    margin = 0.03 * np.ptp(times) or 0.5
    axes.set_xlim(times.min() - margin, times.max() + margin)
    axes.set_xticks(_round_times(times))
    if quantity.signed:
        axes.axhline(0, color="0.6", linewidth=0.8)
        axes.update_datalim(np.column_stack((x[drawable], values[drawable])))
        axes.autoscale_view(scalex=False)
    elif quantity.share:
        axes.set_ylim(-0.03, 1.03)
    else:
        low, high = _log_limits(np.append(values[drawable], targets[np.isfinite(targets)]), decades=np.inf)
        axes.set_yscale("log")
        axes.set_ylim(low / 1.3, high * 1.3)
        log_ticks(axes.yaxis, low, high)
    lines = np.stack([x, np.where(drawable, values, np.nan)], axis=2).transpose(1, 0, 2)
    axes.add_collection(LineCollection(list(lines), colors=colours, linewidths=1.3 if len(rows) <= 40 else 0.8))
    if len(values) <= 30 and values.size <= 1000:
        _points(axes, x, values, drawable, colours, marker="o", s=10)
    special = mark_columns(axes, times[shown_at(findings, epochs, steps, columns)], lines=True)
    if targets.size:
        dashed: dict[str, Any] = {"color": "0.25", "linestyle": "--", "linewidth": 1.0}
        axes.plot(times, targets, **dashed)
        special.append(Line2D([], [], label="at equilibrium", **dashed))
    for mask, marker, edge, label in (
        ((values == 0) & ~drawable, "v", 0.015, quantity.zero),
        (np.isposinf(values), "^", 0.985, quantity.infinite),
    ):
        if mask.any():
            at_edge = {"transform": axes.get_xaxis_transform(), "clip_on": False}
            on_top = mask & (mask[:, ::-1].cumsum(axis=1)[:, ::-1] == 1)
            _points(axes, x, np.full_like(values, edge), on_top, colours, marker=marker, s=30, **at_edge)
            special.append(Line2D([], [], color="0.35", marker=marker, linestyle="", label=label))

    _legend(axes, special, above=True)
    _name_curves(axes, rows, names, depth, concerned(findings, layers))
    return figure


def _listed(count: int) -> Indices:
    return spread(count, count if count <= _LEGEND_LAYERS else 6)


def _name_curves(axes: Axes, rows: Indices, names: Sequence[str], depth: Normalize, marked: Indices) -> None:
    """Name all curves in a legend, or some beside a colour bar."""
    listed = _listed(len(rows))
    if len(listed) == len(rows):
        lines = [Line2D([], [], color=_CMAP(depth(row)), label=name) for row, name in zip(rows, names, strict=True)]
        for line, row in zip(lines, rows, strict=True):
            if row in marked:
                line.set(marker=">", markersize=MARK, markerfacecolor="black", markeredgecolor="black")
        _legend(axes, lines)
        return
    bar = _colour_bar(axes, depth, _CMAP, "")
    bar.text(0, 1.02, "depth", transform=bar.transAxes, fontsize=9)
    bar.set_yticks(rows[listed], [names[i] for i in listed], fontsize=8, parse_math=False)
    bar.invert_yaxis()
    mark_rows(bar, marked, MARK)


def to_image(figure: Figure) -> npt.NDArray[np.uint8]:
    """Render ``figure`` to an array of shape ``(height, width, 3)`` with 32 levels of each colour."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB").point(_LEVELS * 3))


def _figure(height: float, left: float, right: float) -> tuple[Figure, Axes]:
    # Margins in inches. A layout engine would measure every label, which at 300 layers takes longer than the picture.
    width, top, bottom = 5.2, 0.4, 0.6
    total_width, total_height = left + width + right, top + height + bottom
    figure = Figure(figsize=(total_width, total_height), dpi=_DPI)
    box = (left / total_width, bottom / total_height, width / total_width, height / total_height)
    return figure, figure.add_axes(box)


def _times(values: Table, epochs: Sequence[int], steps: Sequence[int], most: int) -> tuple[Indices, Table, str]:
    if values.size == 0:
        raise ValueError("There is no measurement to draw yet. The first is taken at the end of the first epoch.")
    times, label = (epochs, "epoch") if len(set(epochs)) == len(epochs) else (steps, "step")
    drawn = spread(len(times), most)
    return drawn, np.array(times, dtype=np.float64)[drawn], label


def _round_times(times: Table) -> Table:
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


def _log_limits(positive: Table, decades: float) -> tuple[float, float]:
    if not positive.size:
        return 1e-6, 1.0
    # Matplotlib treats an axis with limits beyond these as empty.
    high, low = np.clip([positive.max(), positive.min()], 1e-200, 1e200).tolist()
    low = max(low, high / 10**decades)
    return (low, high) if low < high else (low / 3, high * 3)


def _drawable(values: Table, quantity: Quantity) -> npt.NDArray[np.bool_]:
    return np.isfinite(values) & ((values > 0) | quantity.linear)


def _distinct(expected: Table) -> Table:
    """The columns that differ by more than rounding, and have a value."""
    known = np.log(expected[:, np.isfinite(expected).any(0)])
    # A nan differs from itself.
    known = np.unique(np.nan_to_num(known.round(6), nan=np.inf), axis=1)
    return np.where(np.isinf(known), np.nan, np.exp(known))


def _axis_label(quantity: Quantity) -> str:
    if quantity.linear:
        return quantity.label
    name, unit, _ = quantity.label.partition(")")
    return f"{name}, log scale)" if unit else f"{name} (log scale)"


def _colour_norm(cells: Table, quantity: Quantity) -> Normalize:
    values = cells[_drawable(cells, quantity)]
    if quantity.share:
        return Normalize(0, 1)
    if not quantity.signed:
        return LogNorm(*_log_limits(values, _DECADES), clip=True)
    reach = float(np.abs(values).max(initial=0)) or 1.0
    return Normalize(-reach, reach)


def _colours(cells: Table, norm: Normalize, cmap: Colormap) -> npt.NDArray[np.uint8]:
    image = cmap(norm(np.where(np.isfinite(cells), cells, 1.0)), bytes=True)
    zero = (cells == 0) & isinstance(norm, LogNorm)
    for mask, colour in ((zero, _ZERO), (np.isinf(cells), _INFINITE), (np.isnan(cells), _MISSING)):
        image[mask] = [*bytes.fromhex(colour[1:]), 255]
    return np.asarray(image)


def _mark_special(axes: Axes, cells: Table, quantity: Quantity, entries: Sequence[Patch | Line2D]) -> None:
    entries = [*entries]
    box = axes.get_window_extent()
    size = 0.45 * 72 / _DPI * min(box.height / max(cells.shape[0], 1), box.width / max(cells.shape[1], 1))
    for mask, colour, marker, label in (
        ((cells == 0) & (not quantity.linear), _ZERO, None, quantity.zero),
        (np.isinf(cells), _INFINITE, r"$\infty$", quantity.infinite),
        (np.isnan(cells), _MISSING, "x", "nan: not finite, or missing"),
    ):
        if mask.any():
            entries.append(Patch(facecolor=colour, edgecolor="0.5", label=label))
            if marker and size >= 3:
                rows, columns = np.nonzero(mask)
                axes.scatter(columns, rows, s=min(size, 8) ** 2, c="black", marker=marker, linewidths=0.6)
    _legend(axes, entries, above=True)


def _points(axes: Axes, x: Table, y: Table, mask: npt.NDArray[np.bool_], colours: Table, **style: Any) -> None:
    axes.scatter(x[mask], y[mask], c=colours[np.nonzero(mask)[1]], zorder=3, **style)


def _legend(axes: Axes, entries: Sequence[Patch | Line2D], above: bool = False) -> None:
    if not entries:
        return
    pad = 0.5 if not above or FINDING not in [entry.get_label() for entry in entries] else 1.3  # in font sizes
    # Texts are set later, because a legend omits labels that begin with an underscore, and layers' names may.
    legend = Legend(
        axes,
        entries,
        ["-"] * len(entries),
        loc="lower right" if above else "upper left",
        bbox_to_anchor=(1, 1) if above else (1.01, 1),
        ncols=len(entries) if above else 1,
        borderaxespad=pad,
        frameon=False,
        fontsize=8,
    )
    axes.add_artist(legend).set_clip_on(False)
    for text, entry in zip(legend.get_texts(), entries, strict=True):
        text.set_parse_math(False)
        text.set_text(str(entry.get_label()))


def _colour_bar(axes: Axes, norm: Normalize, cmap: Colormap, label: str) -> Axes:
    figure = axes.get_figure()
    assert isinstance(figure, Figure)
    box, width = axes.get_position(), figure.get_figwidth()
    bar = figure.add_axes((box.x1 + 0.15 / width, box.y0, 0.18 / width, box.height))
    figure.colorbar(ScalarMappable(norm, cmap), cax=bar).set_label(label, fontsize=9)
    return bar
