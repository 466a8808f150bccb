# SPDX-License-Identifier: Apache-2.0
"""Heatmaps: layers or units × measurements."""

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.image import PcolorImage
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FixedFormatter, FixedLocator

from lightning_rwc.activity import by_activity, spread
from lightning_rwc.cells import LOOKS, TILES, Cell, classify
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
    log_ticks,
    lost_since,
    round_times,
    times_of,
)
from lightning_rwc.findings.marks import MARK, column_key, concerned, mark_columns, mark_rows, shown_at
from lightning_rwc.names import blocks, printable, shown
from lightning_rwc.quantity import RELATIVE_WEIGHT_CHANGE, Quantity, ScaleName
from lightning_rwc.row_names import RowNames, text_width
from lightning_rwc.scale import FIXED, auto_limits, scale_of, spans

if TYPE_CHECKING:
    from lightning_rwc.findings.finding import Finding

_CMAP, _SIGNED_CMAP = colormaps["viridis"], colormaps["PuOr"]
_MAX_UNITS = 640  # each a pixel high at least
_NAMED_UNITS = 64
_HATCHES = {"none": "", "stripes": "/////", "cross": "xxxxx", "dots": "....", "lines": "-----", "ring": "oo"}


class _Rows(NamedTuple):
    """The rows of a heatmap."""

    names: Sequence[str]
    blocks: Sequence[str]
    label: str
    most_named: int
    marked: Indices
    kind: str


def heatmap(
    values: Table,
    layers: Sequence[str],
    epochs: Sequence[int],
    steps: Sequence[int],
    quantity: Quantity = RELATIVE_WEIGHT_CHANGE,
    *,
    findings: "Sequence[Finding]" = (),
    causes: npt.NDArray[np.uint8] | None = None,
    scale: ScaleName | None = None,
) -> Figure:
    """Draw layers × measurements: definition order from top to bottom, time from left to right, logarithmic colour.

    The scale of colours is fixed, so that pictures of different runs compare: a value has the same colour everywhere.
    It is of values per optimizer step, because these change least with the batch size and with how often one measures.
    For a signed quantity the scale is linear around zero, for shares linear from 0 to 1, and for other quantities it
    spans the values.

    Cells without a colour have a pattern: values that are not finite, and layers that did not move, with the reason if
    ``causes`` has it. A key names those that are there. Thin lines part blocks. At most 260 measurements are drawn,
    evenly spaced and including the last. At most 320 layers are named, without what all names begin with.

    Args:
        values: of shape ``(measurements, layers)``.
        layers: names of the layers, in definition order.
        epochs: the epoch of each measurement. It is the x axis if no epoch has two measurements.
        steps: the step of each measurement. It is the x axis otherwise.
        quantity: what the values are.
        findings: each has a triangle above its measurement, or above the next one that is drawn. Triangles beside the
            names point at the rows of its layers, unless it is about all of them.
        causes: why layers did not move, such as :attr:`RWCCallback.causes <lightning_rwc.RWCCallback.causes>`, of the
            shape of ``values``.
        scale: ``"step"`` or ``"measurement"`` for a fixed scale of values per optimizer step or of the values
            themselves; ``"auto"`` for limits at the 2nd and 98th percentile of the values. By default that of
            ``quantity``.

    Raises:
        ValueError: if there is no measurement, or ``scale`` is unknown.

    """
    rows = _Rows(
        shown(layers), blocks(layers), "layer, in definition order", MAX_ROWS, concerned(findings, layers), "layer"
    )
    return _heatmap(values, rows, epochs, steps, quantity, findings=findings, causes=causes, scale=scale)


def unit_heatmap(
    values: Table,
    units: Sequence[str],
    epochs: Sequence[int],
    steps: Sequence[int],
    quantity: Quantity = RELATIVE_WEIGHT_CHANGE,
    *,
    causes: npt.NDArray[np.uint8] | None = None,
    scale: ScaleName | None = None,
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
        causes: why the layer did not move, of the shape of ``values``.
        scale: as for :func:`heatmap`.

    Raises:
        ValueError: if there is no measurement, or ``scale`` is unknown.

    """
    chosen = by_activity(values)[spread(len(units), _MAX_UNITS)]
    label = "unit, most active first"
    if len(chosen) < len(units):
        label += f" ({len(chosen)} of {len(units):,}, evenly spaced)"
    names = [printable(units[row]) for row in chosen]
    rows = _Rows(names, [""] * len(names), label, _NAMED_UNITS, np.empty(0, np.intp), "unit")
    causes = None if causes is None else causes[:, chosen]
    return _heatmap(values[:, chosen], rows, epochs, steps, quantity, causes=causes, scale=scale)


def _heatmap(
    values: Table,
    rows: _Rows,
    epochs: Sequence[int],
    steps: Sequence[int],
    quantity: Quantity,
    *,
    findings: "Sequence[Finding]" = (),
    causes: npt.NDArray[np.uint8] | None = None,
    scale: ScaleName | None = None,
) -> Figure:
    scale = scale_of(quantity, scale)
    columns, times, time_label = times_of(epochs, steps, most=MAX_COLUMNS if rows.names else 0)
    reach = spans(steps)[columns]
    kinds = classify(values, causes, quantity)[columns].T
    shown_values = (values[columns] / reach[:, None] if scale == "step" else values[columns]).T
    named = spread(len(rows.names), rows.most_named)
    names = [rows.names[row] for row in named]

    row_height = float(np.clip(5 / max(len(named), 1), 0.11, 0.4).round(2))
    font_size = min(9.0, row_height * 72 * 0.82)
    gutter = MARK if rows.marked.size else 0
    marks = shown_at(findings, epochs, steps, columns)
    around = Surroundings(
        f"{quantity.label}; each column has {_steps(reach)}" if scale == "step" else quantity.label,
        lost_since(kinds.T == Cell.NOT_FINITE, rows.names, times, time_label, rows.kind),
        has_marks=marks.size > 0,
        key=[*column_key(marks), *_key_of_cells(kinds, quantity)],
    )
    figure, axes = frame(
        height=max(row_height * len(named), 2.0),
        left=0.5 + text_width(names, font_size) + gutter / 72,
        right=1.2 if scale == "auto" else 1.75,
        around=around,
    )
    cmap, norm = _SIGNED_CMAP if quantity.signed else _CMAP, _norm(shown_values, quantity, scale)
    x, y = (np.arange(count + 1) - 0.5 for count in shown_values.shape[::-1])
    image = PcolorImage(axes, x, y, cmap(norm(np.where(kinds == Cell.VALUE, shown_values, 1.0)), bytes=True))
    image.set_extent((x[0], x[-1], y[-1], y[0]))
    axes.add_image(image)
    _draw_special(axes, kinds)
    if len(set(rows.blocks)) < len(rows.blocks) <= MAX_ROWS:
        edges = [row - 0.5 for row, (above, below) in enumerate(pairwise(rows.blocks), start=1) if above != below]
        axes.hlines(edges, x[0], x[-1], color="white", linewidth=0.8)
    axes.tick_params(axis="y", length=0, labelsize=font_size)
    axes.yaxis.set(major_locator=FixedLocator(named.tolist()), major_formatter=FixedFormatter(names), visible=False)
    figure.add_artist(RowNames(axes, font_size, gutter))
    figure.text(0.2 / figure.get_figwidth(), 0.5, rows.label, rotation=90, va="center", ha="center")
    ticks = round_times(times)
    axes.set_xticks(np.interp(ticks, times, np.arange(len(columns))), [f"{tick:g}" for tick in ticks])
    axes.set_xlabel(time_label)
    mark_rows(axes, rows.marked, min(MARK, 0.9 * 72 * row_height))
    mark_columns(axes, marks)
    bar = colour_bar(axes, norm, cmap, axis_label(quantity, " per step" if scale == "step" else ""))
    if scale != "auto":
        numbers = [np.format_float_positional(tick.value, trim="-") for tick in FIXED[scale]]
        words = [f"{number} {tick.word}" for number, tick in zip(numbers, FIXED[scale], strict=True)]
        bar.set_yticks([tick.value for tick in FIXED[scale]], words)
    elif not quantity.linear:
        log_ticks(bar.yaxis, *bar.get_ylim())
    return figure


def _steps(reach: Table) -> str:
    low, high = float(reach.min()), float(reach.max())
    each = f"{low:g}" if low == high else f"{low:g} to {high:g}"
    return f"{each} step{'s' * (high > 1)}"


def _norm(values: Table, quantity: Quantity, scale: ScaleName) -> Normalize:
    if quantity.share:
        return Normalize(0, 1)
    there = values[drawable(values, quantity)]
    if quantity.signed:
        reach = float(np.abs(there).max(initial=0)) or 1.0
        return Normalize(-reach, reach)
    limits = auto_limits(there) if scale == "auto" else (FIXED[scale][0].value, FIXED[scale][-1].value)
    return LogNorm(*limits, clip=True)


def _draw_special(axes: Axes, kinds: npt.NDArray[np.uint8]) -> None:
    """Draw what is no value over ``kinds``, of shape ``(rows, columns)``, with patterns in pixels of the screen."""
    if not kinds.any():
        return
    box = axes.get_window_extent()
    height, width = (max(round(size), count) for size, count in zip((box.height, box.width), kinds.shape, strict=True))
    down, across = (np.arange(size) * count // size for size, count in zip((height, width), kinds.shape, strict=True))
    large = kinds[np.ix_(down, across)]
    picture = np.zeros((height, width, 4), np.uint8)
    for kind in _present(kinds):
        look, mask = LOOKS[kind], large == kind
        picture[mask] = _rgba(look.fill)
        if look.pattern in TILES:
            tile = TILES[look.pattern]
            repeats = [-(-size // len(tile)) for size in (height, width)]
            picture[mask & np.tile(tile, repeats)[:height, :width]] = _rgba(look.ink)
    rows, columns = kinds.shape
    extent = (-0.5, columns - 0.5, rows - 0.5, -0.5)
    axes.imshow(picture, extent=extent, aspect="auto", interpolation="nearest", zorder=0.5)


def _present(kinds: npt.NDArray[np.uint8]) -> list[Cell]:
    found = {Cell(kind) for kind in np.unique(kinds)} - {Cell.VALUE}
    return sorted(found, key=lambda kind: (not LOOKS[kind].loud, kind))


def _key_of_cells(kinds: npt.NDArray[np.uint8], quantity: Quantity) -> list[Patch | Line2D]:
    own = {Cell.ZERO: quantity.zero, Cell.FROM_ZERO: quantity.infinite}
    entries: list[Patch | Line2D] = []
    for kind in _present(kinds):
        look = LOOKS[kind]
        patch = Patch(facecolor=look.fill, hatch=_HATCHES[look.pattern], label=own.get(kind, look.words))
        patch.set_edgecolor(look.ink if look.pattern != "none" else "0.5")
        entries.append(patch)
    return entries


def _rgba(colour: str) -> list[int]:
    return [*bytes.fromhex(colour[1:]), 255]
