# SPDX-License-Identifier: Apache-2.0
"""Read curves from files: histories of this package, and plain CSV tables."""

import csv
import re
from os import PathLike
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from lightning_rwc.history import RWCHistory

Table: TypeAlias = npt.NDArray[np.float64]

_LAYERS_ARE_ROWS = {"layer", "layers", "name", "parameter", "module"}
_LAYERS_ARE_COLUMNS = {"epoch", "step", "measurement", "iteration", "batch", "time"}
# Whole numbers only: in a table without times, the first column holds values such as 0.5.
_TIME = re.compile(rf"(?:(?:{'|'.join(_LAYERS_ARE_COLUMNS)})[ _.:-]*)?\d+", re.IGNORECASE)


def read_curves(path: str | PathLike[str]) -> RWCHistory:
    """Read curves from a file that :meth:`RWCHistory.save` wrote, or from a plain CSV table.

    A plain table has its layers as columns or as rows. The first cell decides which: ``layer`` or a similar word heads
    rows of layers, ``epoch`` or a similar word heads columns of layers. With any other first cell, the layers are on
    the side whose labels are not numbered times (``3``, ``epoch_3``). A table may also have a header of layers and no
    column of times. Measurements of a plain table are counted from 0; the count is both their epoch and their step.
    Blank cells are ``nan``.

    Args:
        path: a file on this machine.

    Returns:
        The curves.

    Raises:
        FileNotFoundError: if the file does not exist.
        ValueError: if ``path`` is a folder, or a file without a table that can be read. The message names the file and
            the problem.

    """
    path = Path(path)
    if path.is_dir():
        tables = [file.name for file in sorted(path.iterdir()) if file.suffix in (".csv", ".parquet", ".npz")]
        there = f"Name its files one by one: {', '.join(tables[:5])}" if tables else "It has no .csv, .parquet or .npz"
        raise ValueError(f"{path} is a folder, not a file of curves. {there}.")
    if path.suffix != ".csv" or not path.is_file():
        return RWCHistory.load(path)
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = [row for row in csv.reader(file, strict=True) if row]
        if rows and rows[0][:2] == ["epoch", "step"]:
            return RWCHistory.load(path)
        layers, table = _plain(rows)
    except (ValueError, csv.Error) as error:
        raise ValueError(f"{path} is not a table of relative weight changes: {error}") from error
    times = range(table.shape[0])
    return RWCHistory(layers, times, times, table)


def _plain(rows: list[list[str]]) -> tuple[list[str], Table]:
    if len(rows) < 2 or len(rows[0]) < 2:
        raise ValueError("it needs a header, at least one row below it, and at least two columns separated by commas")
    for number, row in enumerate(rows, start=1):
        if len(row) != len(rows[0]):
            raise ValueError(f"row {number} has {len(row)} cells, but the header has {len(rows[0])}")
    header, down = rows[0], [row[0] for row in rows[1:]]
    corner, across = header[0].strip().lower(), header[1:]
    times_across, times_down = _are_times(across), _are_times(down)
    if corner in _LAYERS_ARE_ROWS or (corner not in _LAYERS_ARE_COLUMNS and times_across and not times_down):
        layers, table = down, _numbers(rows, first=1).T
    elif corner in _LAYERS_ARE_COLUMNS or (times_down and not times_across):
        layers, table = across, _numbers(rows, first=1)
    elif corner and not times_across and all(map(_is_number, down)):
        layers, table = header, _numbers(rows, first=0)
    else:
        raise ValueError(
            f"its first cell, {header[0]!r}, does not say whether rows or columns are layers. Write 'layer' there if "
            "rows are, 'epoch' if columns are"
        )
    if repeated := [layer for layer in layers if layers.count(layer) > 1]:
        raise ValueError(f"it has the layer {repeated[0]!r} more than once")
    return layers, table


def _numbers(rows: list[list[str]], first: int) -> Table:
    for number, row in enumerate(rows[1:], start=2):
        if wrong := [cell for cell in row[first:] if not _is_number(cell)]:
            raise ValueError(f"row {number} has {wrong[0]!r} where a number is needed")
    return np.array([[float(cell.strip() or "nan") for cell in row[first:]] for row in rows[1:]])


def _is_number(cell: str) -> bool:
    try:
        float(cell.strip() or "nan")
    except ValueError:
        return False
    return True


def _are_times(labels: list[str]) -> bool:
    return len(set(labels)) == len(labels) and all(_TIME.fullmatch(label.strip()) for label in labels)
