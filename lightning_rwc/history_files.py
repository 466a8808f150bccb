# SPDX-License-Identifier: Apache-2.0
"""The file formats of a history."""

import csv
import os
import re
from collections.abc import Callable
from importlib import import_module
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple
from zipfile import is_zipfile

import numpy as np
import numpy.typing as npt

from lightning_rwc.extras import needs

_INDEX = ["epoch", "step"]
# If there are standard errors, every measurement has two rows, and this third column says what is in a row.
_STATISTIC = "statistic"
_STATISTICS = ["value", "standard error"]


class Content(NamedTuple):
    """What a file holds: the arguments of :class:`~lightning_rwc.RWCHistory`."""

    layers: list[str]
    epochs: list[int]
    steps: list[int]
    values: npt.NDArray[np.float64]
    standard_errors: npt.NDArray[np.float64]


Write = Callable[[Content, Path], None]
Read = Callable[[Path], Content]


def file_format(path: str | PathLike[str]) -> tuple[Path, tuple[Write, Read]]:
    """The functions that write and read ``path``, chosen by its suffix.

    Raises:
        ValueError: if the suffix is unknown, or ``path`` is not on this machine.

    """
    # A Path has made one slash of two. Drives of Windows have one letter.
    if re.match(r"[A-Za-z][\w+.-]+:/", address := os.fspath(path).replace("\\", "/")):
        raise ValueError(
            f"`path` must be a file on this machine, but got the address {address!r}. Save to a local file and copy it "
            "there, or copy the file to this machine and load the copy."
        )
    path = Path(path)
    if path.suffix not in _FORMATS:
        raise ValueError(f"`path` must end in one of {', '.join(_FORMATS)}, but got {str(path)!r}.")
    return path, _FORMATS[path.suffix]


def _with_statistics(content: Content) -> bool:
    # A layer of that name would be read as the third column if there were none.
    return bool(content.standard_errors.any()) or content.layers[:1] == [_STATISTIC]


def _rows(content: Content) -> tuple[list[str], list[list[Any]], npt.NDArray[np.float64]]:
    """The names of the index, and for each row its index and its numbers."""
    times = [[*time] for time in zip(content.epochs, content.steps, strict=True)]
    if not _with_statistics(content):
        return _INDEX, times, content.values
    index = [[*time, statistic] for time in times for statistic in _STATISTICS]
    numbers = np.stack([content.values, content.standard_errors], axis=1).reshape(len(index), len(content.layers))
    return [*_INDEX, _STATISTIC], index, numbers


def _content(names: list[str], index: list[list[Any]], layers: list[str], numbers: npt.NDArray[np.float64]) -> Content:
    if names not in (_INDEX, [*_INDEX, _STATISTIC]):
        raise ValueError(f"its first columns must be {_INDEX}, but are {names[:2]}")
    errors = np.zeros_like(numbers)
    if names != _INDEX:
        if [row[-1] for row in index] != _STATISTICS * (len(index) // 2):
            raise ValueError(f"its rows must be {_STATISTICS} in turn")
        index, numbers, errors = index[::2], numbers[::2], numbers[1::2]
    return Content(layers, [int(row[0]) for row in index], [int(row[1]) for row in index], numbers, errors)


def _write_csv(content: Content, path: Path) -> None:
    names, index, numbers = _rows(content)
    with path.open("w", encoding="utf-8", newline="") as file:
        # Older versions of Python's csv module leave a carriage return without quotes.
        print(*names, *map(_quoted, content.layers), sep=",", end=os.linesep, file=file)
        for key, row in zip(index, numbers.tolist(), strict=True):
            print(*key, *row, sep=",", end=os.linesep, file=file)


def _quoted(name: str) -> str:
    return name if set(name).isdisjoint(',"\r\n') else '"' + name.replace('"', '""') + '"'


def _read_csv(path: Path) -> Content:
    with path.open(encoding="utf-8-sig", newline="") as file:
        header, *body = [row for row in csv.reader(file, strict=True) if row] or [[]]
    names = header[:3] if header[2:3] == [_STATISTIC] else header[:2]
    for number, row in enumerate(body, start=2):
        if len(row) != len(header):
            raise ValueError(f"row {number} has {len(row)} cells, but the header has {len(header)}")
    numbers = np.array([[float(cell) for cell in row[len(names) :]] for row in body], dtype=np.float64)
    layers = header[len(names) :]
    return _content(names, [row[: len(names)] for row in body], layers, numbers.reshape(len(body), len(layers)))


def _pandas_for_parquet() -> Any:
    with needs("pandas and pyarrow", extra="parquet", what="Parquet"):
        import_module("pyarrow")
        return import_module("pandas")


def _write_parquet(content: Content, path: Path) -> None:
    pandas = _pandas_for_parquet()
    names, index, numbers = _rows(content)
    columns = [[row[level] for row in index] for level in range(len(names))]
    levels = pandas.MultiIndex.from_arrays(columns, names=names)
    frame = pandas.DataFrame(numbers, index=levels, columns=pandas.Index(content.layers, dtype=object))
    frame.to_parquet(path, engine="pyarrow")


def _read_parquet(path: Path) -> Content:
    frame = _pandas_for_parquet().read_parquet(path, engine="pyarrow")
    index = [[*row] for row in frame.index.tolist()] if frame.index.nlevels > 1 else []
    return _content([*map(str, frame.index.names)], index, frame.columns.tolist(), frame.to_numpy(dtype=np.float64))


def _write_npz(content: Content, path: Path) -> None:
    arrays = content._asdict() | {"layers": np.array(content.layers, dtype=np.str_)}
    np.savez_compressed(path, **arrays)


def _read_npz(path: Path) -> Content:
    if not is_zipfile(path):
        raise ValueError("it is not an npz archive")
    with np.load(path, allow_pickle=False) as arrays:
        return Content(*(arrays[name] if arrays[name].ndim > 1 else arrays[name].tolist() for name in Content._fields))


_FORMATS: dict[str, tuple[Write, Read]] = {
    ".csv": (_write_csv, _read_csv),
    ".parquet": (_write_parquet, _read_parquet),
    ".npz": (_write_npz, _read_npz),
}
