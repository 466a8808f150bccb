# SPDX-License-Identifier: Apache-2.0
"""Pictures of a table of relative weight changes, as matplotlib figures without pyplot's global state."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

Table = npt.NDArray[np.float64]

_VALUE_LABEL = "relative weight change (ratio, log scale)"
_DPI = 100
_CMAP = colormaps["viridis"]
# Outside the colour map, and apart from it also without colour vision.
_ZERO, _INFINITE, _MISSING = "#d4d4d4", "#f03b20", "#ffffff"
_DECADES = 6  # a colour scale over more hides the differences people look for
_MAX_COLUMNS = 520  # the width of the chart in pixels
_MAX_LINES = 320
_MAX_NAME = 48
_LEGEND_LAYERS = 12


def heatmap(values: Table, layers: Sequence[str], epochs: Sequence[int], steps: Sequence[int]) -> Figure:
    """Draw layers × measurements: depth from top to bottom, time from left to right, logarithmic colour.

    Cells that are zero, infinite or ``nan`` have colours of their own and no say in the colour scale, which spans
    at most six decades below the largest finite value. Of more than 520 measurements 520 are drawn, evenly
    spaced, the last one always; of more than 320 layers 320 are named.

    Args:
        values: relative weight changes, of shape ``(measurements, layers)``.
        layers: names of the layers, in depth order.
        epochs: the epoch of each measurement; the x axis, where every epoch has one measurement.
        steps: the step of each measurement; the x axis elsewhere.

    Raises:
        ValueError: if there is no measurement.

    """
    _require_measurements(values)
    columns = _spread(len(values), _MAX_COLUMNS)
    cells = values[columns].T
    times, time_label = _times(epochs, steps)
    named = _spread(len(layers), _MAX_LINES)
    names = [_short(layers[row]) for row in named]

    row_height = float(np.clip(5 / max(len(named), 1), 0.115, 0.4))
    font_size = min(9.0, row_height * 72 * 0.82)
    figure, axes = _figure(
        height=max(row_height * len(named), 2.0), left=0.65 + _text_width(names, font_size), right=1.1
    )
    norm = LogNorm(*_log_limits(cells[np.isfinite(cells) & (cells > 0)], _DECADES), clip=True)
    axes.imshow(_colours(cells, norm), aspect="auto", interpolation="nearest")
    axes.set_yticks(named, names, fontsize=font_size, parse_math=False)
    axes.tick_params(axis="y", length=0)
    drawn_times = np.array(times, dtype=np.float64)[columns]
    ticks = _round_times(drawn_times)
    axes.set_xticks(np.interp(ticks, drawn_times, np.arange(len(columns))), [f"{tick:g}" for tick in ticks])
    axes.set_xlabel(time_label)
    axes.set_ylabel("layer, from input to output")
    _mark_special(axes, cells)
    bar = _colour_bar(axes, norm, _VALUE_LABEL)
    _log_ticks(bar.yaxis, *bar.get_ylim())
    return figure


def curves(values: Table, layers: Sequence[str], epochs: Sequence[int], steps: Sequence[int]) -> Figure:
    """Draw every layer's curve in one chart, coloured by depth, on a logarithmic axis.

    Zeros and infinities, which such an axis has no place for, stand as triangles at its lower and upper edge. Up to
    12 layers get a legend, more a colour bar of depth. Of more than 520 measurements or 320 layers that many are
    drawn, evenly spaced.

    Args:
        values: relative weight changes, of shape ``(measurements, layers)``.
        layers: names of the layers, in depth order.
        epochs: the epoch of each measurement; the x axis, where every epoch has one measurement.
        steps: the step of each measurement; the x axis elsewhere.

    Raises:
        ValueError: if there is no measurement.

    """
    _require_measurements(values)
    times, time_label = _times(epochs, steps)
    columns, rows = _spread(len(values), _MAX_COLUMNS), _spread(len(layers), _MAX_LINES)
    values, names = values[columns][:, rows], [_short(layers[row]) for row in rows]
    depth = Normalize(0, max(len(layers) - 1, 1))
    colours = _CMAP(depth(rows))
    listed = range(len(rows)) if len(rows) <= _LEGEND_LAYERS else _spread(len(rows), 8)
    figure, axes = _figure(height=3.4, left=0.9, right=0.6 + max(_text_width([names[i] for i in listed], 8), 0.9))
    axes.set_yscale("log")
    axes.set_xlabel(time_label)
    axes.set_ylabel(_VALUE_LABEL)
    axes.grid(alpha=0.3)

    drawn_times = np.array(times, dtype=np.float64)[columns]
    x = np.broadcast_to(drawn_times[:, None], values.shape)
    positive = np.isfinite(values) & (values > 0)
    margin = 0.03 * np.ptp(drawn_times) or 0.5
    axes.set_xlim(drawn_times.min() - margin, drawn_times.max() + margin)
    axes.set_xticks(_round_times(drawn_times))
    low, high = _log_limits(values[positive], decades=np.inf)
    axes.set_ylim(low / 1.3, high * 1.3)
    _log_ticks(axes.yaxis, low, high)
    lines = np.stack([x, np.where(positive, values, np.nan)], axis=2).transpose(1, 0, 2)
    axes.add_collection(LineCollection(list(lines), colors=colours, linewidths=1.3 if len(rows) <= 40 else 0.8))
    if len(values) <= 30:
        _points(axes, x, values, positive, colours, marker="o", s=10)
    special = []
    for mask, marker, edge, label in (
        (values == 0, "v", 0.015, "0: did not move"),
        (np.isposinf(values), "^", 0.985, "inf: moved from all zeros"),
    ):
        if mask.any():
            at_edge = {"transform": axes.get_xaxis_transform(), "clip_on": False}
            _points(axes, x, np.full_like(values, edge), mask, colours, marker=marker, s=30, **at_edge)
            special.append(Line2D([], [], color="0.35", marker=marker, linestyle="", label=label))

    _legend(axes, special, above=True)
    if len(rows) <= _LEGEND_LAYERS:
        _legend(axes, [Line2D([], [], color=c, label=name) for c, name in zip(colours, names, strict=True)])
    else:
        bar = _colour_bar(axes, depth, "")
        bar.set_title("depth", fontsize=9)
        bar.set_yticks(rows[listed], [names[i] for i in listed], fontsize=8, parse_math=False)
        bar.invert_yaxis()
    return figure


def to_image(figure: Figure) -> npt.NDArray[np.uint8]:
    """Render ``figure``: an array of shape ``(height, width, 3)``."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def _require_measurements(values: Table) -> None:
    if values.size == 0:
        raise ValueError("There is no measurement to draw yet: the first is taken at the end of the first epoch.")


def _figure(height: float, left: float, right: float) -> tuple[Figure, Axes]:
    # Margins in inches: a layout engine measures every label, which at 300 layers costs more than the picture.
    width, top, bottom = 5.2, 0.4, 0.6
    total_width, total_height = left + width + right, top + height + bottom
    figure = Figure(figsize=(total_width, total_height), dpi=_DPI)
    box = (left / total_width, bottom / total_height, width / total_width, height / total_height)
    return figure, figure.add_axes(box)


def _text_width(texts: Sequence[str], font_size: float) -> float:
    return max(map(len, texts), default=0) * font_size * 0.62 / 72


def _times(epochs: Sequence[int], steps: Sequence[int]) -> tuple[Sequence[int], str]:
    return (epochs, "epoch") if len(set(epochs)) == len(epochs) else (steps, "step")


def _spread(count: int, most: int) -> npt.NDArray[np.int_]:
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(int))


def _short(name: str) -> str:
    name = "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in name)
    half = _MAX_NAME // 2
    return name if len(name) <= _MAX_NAME else f"{name[: half - 1]}…{name[-half:]}"


def _round_times(times: Table) -> Table:
    low, high = times.min(), times.max()
    locator = MaxNLocator(nbins=8, integer=True, steps=[1, 2, 5, 10], min_n_ticks=1)
    ticks: Table = np.array(locator.tick_values(low, high))
    shown: Table = ticks[(ticks >= low) & (ticks <= high) & (ticks == ticks.round())]
    return shown


def _log_ticks(axis: Axis, low: float, high: float) -> None:
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 300 * low else (1,)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def _log_limits(positive: Table, decades: float) -> tuple[float, float]:
    if not positive.size:
        return 1e-6, 1.0
    # Beyond this matplotlib takes an axis for empty.
    high, low = np.clip([positive.max(), positive.min()], 1e-200, 1e200).tolist()
    low = max(low, high / 10**decades)
    return (low, high) if low < high else (low / 3, high * 3)


def _colours(cells: Table, norm: LogNorm) -> npt.NDArray[np.uint8]:
    finite = np.isfinite(cells) & (cells > 0)
    image = _CMAP(norm(np.where(finite, cells, 1.0)), bytes=True)
    for mask, colour in ((cells == 0, _ZERO), (np.isposinf(cells), _INFINITE), (np.isnan(cells), _MISSING)):
        image[mask] = [*bytes.fromhex(colour[1:]), 255]
    return np.asarray(image)


def _mark_special(axes: Axes, cells: Table) -> None:
    box = axes.get_window_extent()
    size = 0.45 * 72 / _DPI * min(box.height / max(cells.shape[0], 1), box.width / max(cells.shape[1], 1))
    entries = []
    for mask, colour, marker, label in (
        (cells == 0, _ZERO, None, "0: did not move"),
        (np.isposinf(cells), _INFINITE, r"$\infty$", "inf: moved from all zeros"),
        (np.isnan(cells), _MISSING, "x", "nan: not finite, or not there"),
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
    # Texts are set afterwards: matplotlib leaves out of a legend what begins with an underscore, as layers may.
    legend = Legend(
        axes,
        entries,
        ["-"] * len(entries),
        loc="lower right" if above else "upper left",
        bbox_to_anchor=(1, 1) if above else (1.01, 1),
        ncols=len(entries) if above else 1,
        frameon=False,
        fontsize=8,
    )
    axes.add_artist(legend)
    for text, entry in zip(legend.get_texts(), entries, strict=True):
        text.set_parse_math(False)
        text.set_text(str(entry.get_label()))


def _colour_bar(axes: Axes, norm: Normalize, label: str) -> Axes:
    figure = axes.get_figure()
    assert isinstance(figure, Figure)
    box, width = axes.get_position(), figure.get_figwidth()
    bar = figure.add_axes((box.x1 + 0.15 / width, box.y0, 0.18 / width, box.height))
    figure.colorbar(ScalarMappable(norm, _CMAP), cax=bar).set_label(label, fontsize=9)
    return bar
