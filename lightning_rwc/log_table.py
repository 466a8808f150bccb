# SPDX-License-Identifier: Apache-2.0
"""A table that was read from a log, and the choice of one."""

from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from lightning_rwc.cells import classify
from lightning_rwc.findings.finding import Finding
from lightning_rwc.history import RWCHistory
from lightning_rwc.quantity import Quantity
from lightning_rwc.scale import spans

EVENTS = "tfevents"
"""What is in the name of each event file."""
_MOST_NAMED = 12


class LogTable(NamedTuple):
    """A table of one run, and what is known about it."""

    title: str
    """Which run, and where it is."""
    quantity: Quantity
    layers: Sequence[str]
    epochs: Sequence[int | None]
    """The epoch of each measurement, where it is known."""
    steps: Sequence[int]
    values: npt.NDArray[np.float64]
    """Of shape ``(measurements, layers)``."""
    spans: npt.NDArray[np.float64]
    """Over how many optimizer steps each measurement reaches."""
    cells: npt.NDArray[np.uint8]
    """What each cell is, as :class:`~lightning_rwc.cells.Cell`."""
    findings: Sequence[Finding]
    """Oldest first."""
    other_runs: Sequence[str] = ()
    """The newest first."""
    other_prefixes: Sequence[str] = ()
    """What the tags of the run's other tables start with."""


class NothingYetError(ValueError):
    """There is no measurement in a log yet. There may be some later."""


def of_history(path: Path, history: RWCHistory, quantity: Quantity, findings: Sequence[Finding]) -> LogTable:
    """The table of a history. All that is known of its cells are its values."""
    cells = classify(history.values, None, quantity)
    times = history.epochs, history.steps
    reach = spans(history.steps)
    return LogTable(str(path), quantity, history.layers, *times, history.values, reach, cells, findings)


def choice(prefix: str | None, prefixes: Sequence[str]) -> str:
    """The ``prefix`` that was asked for, or the first of ``prefixes``.

    Raises:
        ValueError: if it is none of them.

    """
    if prefix is not None and prefix not in prefixes:
        raise ValueError(f"`--prefix` must be one of {some(prefixes)} in this run, but got {prefix!r}.")
    return prefixes[0] if prefix is None else prefix


def without(names: Iterable[str], chosen: str) -> list[str]:
    """``names`` but the one that was chosen."""
    return [name for name in names if name != chosen]


def some(names: Sequence[str]) -> str:
    """``names`` for a message, the first twelve of many."""
    more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    return ", ".join(map(repr, names[:_MOST_NAMED])) + more


def sizes(paths: Iterable[Path]) -> list[tuple[str, int, int]]:
    """Names, sizes and times of files, which are others once a file has changed."""
    found = []
    for path in paths:
        with suppress(FileNotFoundError):
            stat = path.stat()
            found.append((str(path), stat.st_size, stat.st_mtime_ns))
    return sorted(found)
