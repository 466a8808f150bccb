# SPDX-License-Identifier: Apache-2.0
"""A heatmap in the terminal: a coloured block for each cell, or a shade where there is no colour."""

import re
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import groupby
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from matplotlib import colormaps
from rich.cells import cell_len, set_cell_size
from rich.console import Console, ConsoleOptions, RenderResult
from rich.segment import Segment
from rich.style import Style
from rich.text import Text

from lightning_rwc.activity import spread
from lightning_rwc.cells import LOOKS, Cell
from lightning_rwc.drawing import axis_label, lost_since
from lightning_rwc.findings.summary import heading, headline
from lightning_rwc.log_table import LogTable
from lightning_rwc.names import printable, shown
from lightning_rwc.quantity import Quantity, ScaleName
from lightning_rwc.scale import FIXED, Tick, auto_limits, scale_of

Indices = npt.NDArray[np.intp]
Numbers = npt.NDArray[np.float64]

_SHADES = "·░▒▓█"
_ROW_MARK, _COLUMN_MARK = "▸", "▾"
_MOST_BRIEF = 5
_STRIDES = [digit * 10**power for power in range(6) for digit in (1, 2, 5)]
_WIDEST_CELL = 6
_WIDEST_BAR = 72
_AROUND = 9
"""Lines of a terminal for what is around the rows: title, marks, axis, key and prompt."""
_GLYPHS = {"none": " ", "stripes": "╱", "cross": "╳", "dots": ":", "lines": "═", "ring": "○"}
# Without colour, kinds of the same pattern must differ.
_LETTERS = {
    Cell.MISSING: " ",
    Cell.NOT_FINITE: "!",
    Cell.FROM_ZERO: "o",
    Cell.ZERO: "0",
    Cell.FROZEN: "=",
    Cell.NO_GRADIENT: "/",
    Cell.ONLY_DECAYS: ":",
    Cell.NOT_IN_OPTIMIZER: "x",
    Cell.ROUNDED_AWAY: "~",
}


class _Scale(NamedTuple):
    """From a value to a place on the colour bar."""

    label: str
    ticks: Sequence[Tick]
    logarithmic: bool
    palette: str = "viridis"

    def places(self, values: Numbers) -> Numbers:
        """Where ``values`` are between the ends of the scale, from 0 to 1. ``nan`` stays."""
        low, high = (self._height(np.array(tick.value)) for tick in (self.ticks[0], self.ticks[-1]))
        return np.clip((self._height(values) - low) / (high - low), 0, 1)

    def colour(self, place: float) -> str:
        """The colour at ``place``, as ``#rrggbb``."""
        return _colours(self.palette)[min(int(place * 256), 255)]

    def shade(self, place: float) -> str:
        """The shade for ``place``: that of the nearest tick with a word."""
        anchors = self.places(np.array([tick.value for tick in self._named]))
        return _SHADES[int(np.abs(anchors - place).argmin())]

    @property
    def names(self) -> list[str]:
        """What each shade stands for."""
        return [tick.word or f"{tick.value:.2g}" for tick in self._named]

    @property
    def _named(self) -> Sequence[Tick]:
        return [tick for tick in self.ticks if tick.word] or self.ticks

    def _height(self, values: Numbers) -> Numbers:
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.log(values) if self.logarithmic else np.asarray(values, np.float64)


@cache
def _colours(palette: str) -> list[str]:
    return [f"#{red:02x}{green:02x}{blue:02x}" for red, green, blue, _ in colormaps[palette](range(256), bytes=True)]


def _scale_for(table: LogTable, cells: npt.NDArray[np.uint8], name: ScaleName | None) -> tuple[_Scale, Numbers]:
    """The scale, and the numbers that are looked up on it."""
    values, quantity = table.values, table.quantity
    if name not in (None, "auto") and quantity.scale == "auto":
        raise ValueError(f"`--scale` must be auto for {quantity.label!r}, which has no fixed scale, but got {name!r}.")
    name = scale_of(quantity, name)
    if name == "step":
        return _Scale(axis_label(quantity, " per step"), FIXED[name], True), values / table.spans[:, None]
    if name == "measurement":
        return _Scale(axis_label(quantity, " per measurement"), FIXED[name], True), values
    shown_values = values[(cells == Cell.VALUE) & np.isfinite(values)]
    if quantity.share:
        low, high = 0.0, 1.0
    elif quantity.signed:
        high = float(np.abs(shown_values).max(initial=0)) or 1.0
        low = -high
    else:
        low, high = auto_limits(shown_values[shown_values > 0])
    between = np.linspace(low, high, 5) if quantity.linear else np.geomspace(low, high, 5)
    ticks = [Tick(value, "") for value in between.tolist()]
    return _Scale(axis_label(quantity), ticks, not quantity.linear, "PuOr" if quantity.signed else "viridis"), values


class TerminalMap:
    """Layers × measurements for a console of rich, with marks of findings, an axis, a key, and the findings in words.

    It fits the width: of too many measurements, evenly spaced ones are drawn. In a terminal it fits the height too. If
    there are more layers than lines, two of them share a line. If that is not enough, evenly spaced layers are drawn,
    and those of findings.

    Args:
        table: what to draw.
        scale: one of :data:`~lightning_rwc.scale.SCALES`, or None for what pictures have.
        every_row: whether each layer gets a line, however low the terminal is.
        brief: whether a finding has a line, and not its whole message.

    Raises:
        ValueError: if the quantity of ``table`` does not have that ``scale``.

    """

    def __init__(
        self, table: LogTable, scale: ScaleName | None = None, *, every_row: bool = False, brief: bool = False
    ) -> None:
        self._table, self._every_row, self._brief = table, every_row, brief
        self._cells = table.cells
        self._scale, numbers = _scale_for(table, self._cells, scale)
        self._places = self._scale.places(numbers)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Draw what fits ``options``."""
        table, width = self._table, options.max_width
        plain = console.no_color or console.color_system is None
        lines = len(table.layers)
        if console.is_terminal and not self._every_row:
            lines = max(console.height - _AROUND - min(len(table.findings), console.height // 4), 1)
        marked = {layer for one in table.findings if not {*one.layers} >= {*table.layers} for layer in one.layers}
        at = np.array([row for row, layer in enumerate(table.layers) if layer in marked], dtype=np.intp)
        groups = _lines_of(len(table.layers), at, lines, at_once=1 if plain else 2)
        rows = np.concatenate(groups)
        short = shown(table.layers)
        names = _fitting(short, width // 3)
        gutter = max(cell_len(names[row]) for row in rows) + 2
        columns = spread(len(table.steps), max(width - gutter, 1))
        wide = min(max((width - gutter) // len(columns), 1), _WIDEST_CELL)

        yield Text(f"{printable(table.title)}: {self._scale.label}", style="bold")
        times, time_label = self._times
        lost = self._cells == Cell.NOT_FINITE
        if lost.any():
            yield Text(lost_since(lost, short, np.array(times, dtype=np.float64), time_label), style="bold red")
        if len(rows) < len(table.layers):
            yield Text(f"{len(rows)} of {len(table.layers):,} layers, evenly spaced. --rows all draws every layer.")
        yield from self._column_marks(columns, wide, gutter)
        for group in groups:
            named = next((row for row in group if row in at), group[0])
            margin = " " * (gutter - 2 - cell_len(names[named]))
            yield Segment(f"{margin}{names[named]} {_ROW_MARK if named in at else ' '}")
            cells = [[self._look(column, row, plain) for column in columns] for row in group]
            for look, run in groupby(_halves(*cells) if len(group) == 2 else cells[0]):
                yield look.segment(wide * len([*run]))
            yield Segment.line()
        yield from self._axis(columns, wide, gutter)
        yield from self._key({*np.unique(self._cells[np.ix_(columns, rows)]).tolist()}, plain, gutter, width)
        yield from self._findings()

    @property
    def _times(self) -> tuple[Sequence[int | None], str]:
        epochs = self._table.epochs
        by_epoch = None not in epochs and len({*epochs}) == len(epochs)
        return (epochs, "epoch") if by_epoch else (self._table.steps, "step")

    def _look(self, column: int, row: int, plain: bool) -> "_Look":
        kind = self._cells[column, row]
        if kind != Cell.VALUE:
            return _special(Cell(int(kind)), plain)
        place = self._places[column, row]
        if np.isnan(place):
            # A negative value of a quantity that says it has none.
            return _special(Cell.MISSING, plain)
        return _Look(self._scale.shade(place), None, None) if plain else _Look(" ", None, self._scale.colour(place))

    def _column_marks(self, columns: Indices, wide: int, gutter: int) -> Iterator[Text]:
        if not self._table.findings:
            return
        steps = np.asarray(self._table.steps)[columns]
        line = [" "] * (gutter + wide * len(columns))
        for one in self._table.findings:
            column = min(int(np.searchsorted(steps, one.step)), len(columns) - 1)
            line[gutter + column * wide + wide // 2] = _COLUMN_MARK
        yield Text("".join(line).rstrip(), no_wrap=True)

    def _axis(self, columns: Indices, wide: int, gutter: int) -> Iterator[Text]:
        all_times, time_label = self._times
        times = [str(all_times[column]) for column in columns]
        stride = next(n for n in _STRIDES if n * wide > max(map(len, times)) or n >= len(times))
        line = f"{time_label:>{gutter - 2}}  "
        for position in range(0, len(times), stride):
            start = gutter + position * wide + max((wide - len(times[position])) // 2, 0)
            fits = len(line) <= start <= gutter + len(times) * wide - len(times[position])
            if fits or not position:
                line = f"{line:<{start}}{times[position]}"
        yield Text(line, no_wrap=True)

    def _key(self, kinds: set[int], plain: bool, gutter: int, width: int) -> Iterator[Text]:
        scale = self._scale
        if plain:
            yield Text("   ".join(f"{shade} {name}" for shade, name in zip(_SHADES, scale.names, strict=True)))
        else:
            indent, size = Text(" " * gutter, no_wrap=True), min(width - gutter, _WIDEST_BAR)
            bar = Text.assemble(*((" ", Style(bgcolor=scale.colour(place))) for place in np.linspace(0, 1, size)))
            yield indent + bar
            for texts in ([tick.word for tick in scale.ticks], [_number(tick.value) for tick in scale.ticks]):
                if any(texts):
                    yield indent + Text(_below(scale, texts, size))
        special = Text()
        for kind in (Cell(kind) for kind in sorted(kinds) if kind not in (Cell.VALUE, Cell.MISSING)):
            look = _special(kind, plain)
            special.append(look.character * (1 if plain else 3), look.style)
            special.append(f" {_words(kind, self._table.quantity)}   ")
        if special:
            yield special

    def _findings(self) -> Iterator[Text]:
        findings = self._table.findings
        if self._brief:
            yield from (
                Text(printable(headline(one)), no_wrap=True, overflow="ellipsis") for one in findings[-_MOST_BRIEF:]
            )
        else:
            for one in findings:
                yield Text.assemble("\n", (heading(one), "bold"), f": {printable(one.message)}")


class _Look(NamedTuple):
    """How a cell is drawn."""

    character: str
    ink: str | None
    """The colour of the character, as ``#rrggbb``."""
    ground: str | None
    """The colour behind it. None is the terminal's own."""

    @property
    def style(self) -> Style:
        return Style(color=self.ink, bgcolor=self.ground)

    def segment(self, width: int) -> Segment:
        return Segment(self.character * width, self.style)


def _words(kind: Cell, quantity: Quantity) -> str:
    return {Cell.ZERO: quantity.zero, Cell.FROM_ZERO: quantity.infinite}.get(kind, LOOKS[kind].words)


@cache
def _special(kind: Cell, plain: bool) -> _Look:
    if plain or kind is Cell.MISSING:
        return _Look(_LETTERS[kind], None, None)
    look = LOOKS[kind]
    return _Look(_GLYPHS[look.pattern], look.ink, look.fill)


def _halves(upper: Sequence[_Look], lower: Sequence[_Look]) -> list[_Look]:
    """Two rows in one line of half blocks. Cells that are alike keep their pattern."""
    return [one if one == other else _half(one.ground, other.ground) for one, other in zip(upper, lower, strict=True)]


def _half(upper: str | None, lower: str | None) -> _Look:
    return _Look("▄", lower, None) if upper is None else _Look("▀", upper, lower)


def _lines_of(count: int, marked: Indices, lines: int, at_once: int) -> list[list[int]]:
    """Which of ``count`` rows each line has.

    Args:
        count: how many rows there are.
        marked: rows that have a line of their own, which shows patterns.
        lines: how many lines there may be.
        at_once: how many of the other rows a line may have, if there are too few lines.

    """
    if count <= lines:
        return [[row] for row in range(count)]
    # Those that are marked must not push out all others.
    kept = marked[spread(len(marked), max(lines // 2, 1))] if marked.size else marked
    others = np.setdiff1d(np.arange(count), marked)
    room = min((lines - len(kept)) * at_once, len(others))
    alone = {*kept.tolist()}
    while True:
        chosen = others[spread(len(others), room)] if room else others[:0]
        groups: list[list[int]] = []
        for row in sorted([*alone, *chosen.tolist()]):
            if groups and len(groups[-1]) < at_once and alone.isdisjoint([row, *groups[-1]]):
                groups[-1].append(row)
            else:
                groups.append([row])
        if len(groups) <= lines:
            return groups
        room -= 1  # a row between two that are alone is alone too


def _fitting(names: Sequence[str], most: int) -> list[str]:
    """``names`` of at most ``most`` columns of the terminal, without their middle if they are longer."""
    half = max(most - 1, 4) // 2
    return [
        name if cell_len(name) <= most else f"{set_cell_size(name, half)}…{set_cell_size(name[::-1], half)[::-1]}"
        for name in names
    ]


def _below(scale: _Scale, texts: Sequence[str], size: int) -> str:
    """``texts`` of the ticks below a bar of ``size`` characters, as many as there is room for."""
    line = ""
    for tick, text in zip(scale.ticks, texts, strict=True):
        centre = round(float(scale.places(np.array(tick.value))) * (size - 1))
        start = min(max(centre - len(text) // 2, 0), size - len(text))
        if text and (start > len(line) or not line):
            line = f"{line:<{start}}{text}"
    return line


def _number(value: float) -> str:
    return re.sub(r"e([+-])0", r"e\1", f"{value:.2g}")
