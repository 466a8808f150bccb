# SPDX-License-Identifier: Apache-2.0
"""What changed from one saved model to another, as a table and a profile in the terminal."""

from collections.abc import Sequence

import numpy as np
from rich.console import Console
from rich.table import Table

from lightning_rwc.depth import depth_correlation
from lightning_rwc.diff_result import MEASURES, LayerDiff, WeightDiff
from lightning_rwc.diff_words import percent, statements
from lightning_rwc.names import printable
from lightning_rwc.terminal_table import sparkline

# Up to so many layers are all in the table. Of more, so many at either end are.
_ALL, _ENDS = 24, 10
_PROFILE = 72


def print_diff(diff: WeightDiff, console: Console) -> None:
    """Print the layers that moved most and least, how the change goes with depth, and what was found."""
    # A nan is no distance, so it is told in words.
    moved = sorted((one for one in diff.layers if one.l1 > 0), key=lambda one: -one.l1)
    if moved:
        few = len(moved) <= _ALL
        console.print(_table("Layers by l1" if few else "Largest l1", moved if few else moved[:_ENDS]))
        if not few:
            console.print(_table("Smallest l1 above 0", moved[-_ENDS:]))
        console.print(profile(diff), highlight=False, markup=False)
    for statement in statements(diff):
        console.print(f"- {printable(statement)}", highlight=False, markup=False)


def profile(diff: WeightDiff) -> str:
    """The l1 of the layers, from the first to the last, as a line of bars. Where there are many, medians of a few."""
    values = np.array([one.l1 for one in diff.layers])
    parts = np.array_split(values, min(len(values), _PROFILE))
    bars = np.array([np.nan if np.isnan(part).all() else np.nanmedian(part) for part in parts])
    drawn = bars[np.isfinite(bars) & (bars > 0)]
    low, high = (float(drawn.min()), float(drawn.max())) if drawn.size else (1.0, 1.0)
    each = "" if len(bars) == len(values) else f", medians of about {len(values) / len(bars):.1f} layers"
    return (
        f"l1 from the first layer to the last (log, {low:.3g} to {high:.3g}{each}; rank correlation with depth "
        f"{depth_correlation(values.tolist()):.2f}):\n{sparkline(bars, low, high)}\n"
    )


def _table(title: str, layers: Sequence[LayerDiff]) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column("layer", overflow="fold")
    for measure in MEASURES:
        table.add_column(measure, justify="right", no_wrap=True)
    for one in layers:
        numbers = (f"{getattr(one, measure):.3g}" for measure in MEASURES[:-1])
        table.add_row(printable(one.layer).replace("[", r"\["), *numbers, percent(one.moved))
    return table
