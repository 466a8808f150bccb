# SPDX-License-Identifier: Apache-2.0
"""The table of measurements: layers × measurements, kept in memory, saved to files."""

import csv
import os
import re
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import is_zipfile

import numpy as np
import numpy.typing as npt

from lightning_rwc.extras import needs
from lightning_rwc.layer_order import merged_order
from lightning_rwc.quantity import RELATIVE_WEIGHT_CHANGE, Quantity

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

_INDEX = ["epoch", "step"]
_ERROR = " (standard error)"


class RWCHistory:
    """Every measurement of a run.

    Args:
        layers: names of the layers, in definition order.
        epochs: for each measurement the epoch it was taken in, counted from 0 as Lightning does.
        steps: for each measurement the step under which Lightning's loggers have it.
        values: relative weight changes (dimensionless), of shape ``(measurements, layers)``.
        standard_errors: the standard error of each value, of the same shape; by default all 0, for values that are not
            estimates.

    Raises:
        ValueError: if the sizes do not fit together.

    Example:
        >>> history = RWCHistory(["conv", "fc"], epochs=[0, 1], steps=[9, 19], values=[[0.25, 0.5], [0.125, 0.25]])
        >>> history
        RWCHistory(2 measurements of 2 layers)
        >>> history.to_frame()
                     conv    fc
        epoch step
        0     9     0.250  0.50
        1     19    0.125  0.25

    """

    def __init__(
        self,
        layers: Sequence[str] = (),
        epochs: Sequence[int] = (),
        steps: Sequence[int] = (),
        values: npt.ArrayLike = (),
        standard_errors: npt.ArrayLike | None = None,
    ) -> None:
        self.layers = [str(layer) for layer in layers]
        self.epochs = [int(epoch) for epoch in epochs]
        self.steps = [int(step) for step in steps]
        shape = (len(self.epochs), len(self.layers))
        table = _table("values", values, shape)
        errors = np.zeros(shape) if standard_errors is None else _table("standard_errors", standard_errors, shape)
        if len(self.steps) != len(self.epochs):
            raise ValueError(f"There are {len(self.epochs)} `epochs` but {len(self.steps)} `steps`.")
        self._rows, self._errors = list(table), list(errors)

    def __len__(self) -> int:
        """The number of measurements."""
        return len(self._rows)

    def __repr__(self) -> str:
        """How much there is."""
        return f"RWCHistory({len(self)} measurements of {len(self.layers)} layers)"

    @property
    def values(self) -> npt.NDArray[np.float64]:
        """Relative weight changes, float64 of shape ``(measurements, layers)``; ``nan`` where none was measured."""
        return np.array(self._rows).reshape(len(self), len(self.layers))

    @property
    def standard_errors(self) -> npt.NDArray[np.float64]:
        """The standard errors of the values, float64 of the same shape; 0 where a value is not an estimate."""
        return np.array(self._errors).reshape(len(self), len(self.layers))

    def record(
        self, epoch: int, step: int, values: Mapping[str, float], standard_errors: Mapping[str, float] | None = None
    ) -> None:
        """Append a measurement.

        Args:
            epoch: the epoch it was taken in.
            step: the step under which it is logged.
            values: layer name to relative weight change. A new layer gets a column where it stands among the others,
                ``nan`` before this row; a layer left out gets ``nan``.
            standard_errors: layer name to the standard error of its value, where that is an estimate.

        """
        self._rows.append(np.full(len(self.layers), np.nan))
        self._errors.append(np.zeros(len(self.layers)))
        self.epochs.append(epoch)
        self.steps.append(step)
        if values:
            self.amend(values, standard_errors)

    def amend(self, values: Mapping[str, float], standard_errors: Mapping[str, float] | None = None) -> None:
        """Put other values into the last measurement.

        Args:
            values: layer name to relative weight change; layers left out keep theirs.
            standard_errors: layer name to the standard error of its value, where that is an estimate.

        """
        if not values.keys() <= {*self.layers}:
            self._arrange(merged_order([*values], self.layers))
        # Not in place: whoever interrupts finds the old row or the new one.
        self._errors[-1] = self._changed(self._errors[-1], standard_errors or {})
        self._rows[-1] = self._changed(self._rows[-1], values)

    def _changed(self, row: npt.NDArray[np.float64], changes: Mapping[str, float]) -> npt.NDArray[np.float64]:
        return np.array([changes.get(layer, old) for layer, old in zip(self.layers, row, strict=True)])

    def reordered(self, layers: Sequence[str]) -> "RWCHistory":
        """The same measurements with ``layers`` as columns: all of them in another order, or some.

        Args:
            layers: names of layers that the history has.

        Raises:
            ValueError: if it lacks one of them.

        """
        if missing := [layer for layer in layers if layer not in self.layers]:
            raise ValueError(f"`layers` has {missing[0]!r}, but the history has only {self.layers}.")
        columns = [self.layers.index(layer) for layer in layers]
        return RWCHistory(layers, self.epochs, self.steps, self.values[:, columns], self.standard_errors[:, columns])

    def _arrange(self, layers: list[str]) -> None:
        old = {layer: place for place, layer in enumerate(self.layers)}
        # One more column, for those that are new.
        places = [old.get(layer, len(old)) for layer in layers]
        rows = [np.append(row, np.nan)[places] for row in self._rows]
        errors = [np.append(row, 0.0)[places] for row in self._errors]
        self.layers, self._rows, self._errors = layers, rows, errors

    def newest(self) -> dict[str, float]:
        """The last measurement: layer name to value.

        Raises:
            IndexError: if there is none.

        """
        return dict(zip(self.layers, self._rows[-1].tolist(), strict=True))

    def to_frame(self) -> "pd.DataFrame":
        """The table as a data frame: epochs and steps as index, layers as columns.

        Raises:
            ModuleNotFoundError: if pandas is missing.

        """
        with needs("pandas", extra="pandas", what="RWCHistory.to_frame"):
            import pandas as pd
        index = pd.MultiIndex.from_arrays([self.epochs, self.steps], names=_INDEX)
        return pd.DataFrame(self.values, index=index, columns=pd.Index(self.layers, dtype=object))

    def save(self, path: str | PathLike[str]) -> None:
        """Write the table to a file; every bit of every value and standard error is kept.

        Args:
            path: where to; the suffix chooses the format: ``.csv``, ``.parquet`` (needs ``lightning-rwc[parquet]``)
                or ``.npz``. Missing folders are made.

        Raises:
            ValueError: if the suffix is none of these.
            ModuleNotFoundError: if the suffix is ``.parquet``, and pandas or pyarrow is missing.

        """
        path, (write, _) = _format_of(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        write(self, path)

    @classmethod
    def load(cls, path: str | PathLike[str]) -> "RWCHistory":
        """Read a table that :meth:`save` wrote.

        Args:
            path: the file, of suffix ``.csv``, ``.parquet`` or ``.npz``.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if the suffix is unknown, or the file is broken or holds something else.
            ModuleNotFoundError: if the suffix is ``.parquet``, and pandas or pyarrow is missing.

        """
        path, (_, read) = _format_of(path)
        if not path.is_file():
            raise FileNotFoundError(f"There is no file {path}.")
        try:
            return read(path)
        except ImportError:
            raise
        except Exception as error:
            raise ValueError(f"{path} is not a history written by RWCHistory.save: {error}") from error

    def state_dict(self) -> dict[str, Any]:
        """The table as lists and tensors, for a checkpoint."""
        import torch

        tables = {"values": self.values}
        if any(row.any() for row in self._errors):
            tables["standard_errors"] = self.standard_errors
        lists = {"layers": list(self.layers), "epochs": list(self.epochs), "steps": list(self.steps)}
        return lists | {name: torch.from_numpy(table) for name, table in tables.items()}

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Any]) -> "RWCHistory":
        """The table that :meth:`state_dict` gave."""
        names = ("layers", "epochs", "steps", "values", "standard_errors")
        return cls(**{name: state[name] for name in names if name in state})

    def plot_heatmap(self, quantity: Quantity = RELATIVE_WEIGHT_CHANGE) -> "Figure":
        """Draw layers × measurements, see :func:`~lightning_rwc.plotting.heatmap`."""
        from lightning_rwc.plotting import heatmap

        return heatmap(self.values, self.layers, self.epochs, self.steps, quantity)

    def plot_curves(self, quantity: Quantity = RELATIVE_WEIGHT_CHANGE) -> "Figure":
        """Draw every layer's curve in one chart, see :func:`~lightning_rwc.plotting.curves`."""
        from lightning_rwc.plotting import curves

        return curves(self.values, self.layers, self.epochs, self.steps, quantity)


def _table(argument: str, values: npt.ArrayLike, shape: tuple[int, int]) -> npt.NDArray[np.float64]:
    table = np.asarray(values, dtype=np.float64)
    if table.size == 0 and 0 in shape:
        table = table.reshape(shape)
    if table.shape != shape:
        raise ValueError(
            f"`{argument}` must be of shape (measurements, layers), which by `epochs` and `layers` is {shape}, "
            f"but is of shape {table.shape}."
        )
    return table


def _file_table(history: RWCHistory) -> RWCHistory:
    # Also where layers are named as if they were standard errors: they would be read as such.
    if not history.standard_errors.any() and _without_errors(history.layers) is None:
        return history
    suffix = _ERROR
    while not {layer + suffix for layer in history.layers}.isdisjoint(history.layers):
        suffix += "'"
    columns = [*history.layers, *(layer + suffix for layer in history.layers)]
    table = np.concatenate([history.values, history.standard_errors], axis=1)
    return RWCHistory(columns, history.epochs, history.steps, table)


def _from_file(columns: list[str], epochs: list[int], steps: list[int], table: npt.NDArray[np.float64]) -> RWCHistory:
    layers = _without_errors(columns)
    if layers is None:
        return RWCHistory(columns, epochs, steps, table)
    return RWCHistory(layers, epochs, steps, table[:, : len(layers)], table[:, len(layers) :])


def _without_errors(columns: list[str]) -> list[str] | None:
    half = len(columns) // 2
    layers, errors = columns[:half], columns[half:]
    suffix = errors[0].removeprefix(layers[0]) if layers else ""
    return layers if suffix.startswith(_ERROR) and errors == [layer + suffix for layer in layers] else None


def _write_csv(history: RWCHistory, path: Path) -> None:
    table = _file_table(history)
    with path.open("w", encoding="utf-8", newline="") as file:
        # Not by the csv module, which in older versions of Python leaves a carriage return without quotes.
        print(*_INDEX, *map(_quoted, table.layers), sep=",", end=os.linesep, file=file)
        for epoch, step, row in zip(table.epochs, table.steps, table.values.tolist(), strict=True):
            print(epoch, step, *row, sep=",", end=os.linesep, file=file)


def _quoted(name: str) -> str:
    return name if set(name).isdisjoint(',"\r\n') else '"' + name.replace('"', '""') + '"'


def _read_csv(path: Path) -> RWCHistory:
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = [row for row in csv.reader(file, strict=True) if row]
    header, body = rows[0] if rows else [], rows[1:]
    if header[:2] != _INDEX:
        raise ValueError(f"its first columns must be {_INDEX}, but are {header[:2]}")
    for number, row in enumerate(body, start=2):
        if len(row) != len(header):
            raise ValueError(f"row {number} has {len(row)} cells, but the header has {len(header)}")
    epochs, steps = ([int(row[place]) for row in body] for place in range(2))
    values = np.array([[float(cell) for cell in row[2:]] for row in body], dtype=np.float64)
    return _from_file(header[2:], epochs, steps, values.reshape(len(body), len(header) - 2))


def _pandas_for_parquet() -> Any:
    with needs("pandas and pyarrow", extra="parquet", what="Parquet"):
        import_module("pyarrow")
        return import_module("pandas")


def _write_parquet(history: RWCHistory, path: Path) -> None:
    _pandas_for_parquet()
    _file_table(history).to_frame().to_parquet(path, engine="pyarrow")


def _read_parquet(path: Path) -> RWCHistory:
    frame = _pandas_for_parquet().read_parquet(path, engine="pyarrow")
    if list(frame.index.names) != _INDEX:
        raise ValueError(f"its index must be {_INDEX}, but is {list(frame.index.names)}")
    epochs, steps = (frame.index.get_level_values(level).tolist() for level in _INDEX)
    return _from_file(frame.columns.tolist(), epochs, steps, frame.to_numpy())


def _write_npz(history: RWCHistory, path: Path) -> None:
    layers = np.array(history.layers, dtype=np.str_)
    np.savez_compressed(
        path,
        layers=layers,
        epochs=history.epochs,
        steps=history.steps,
        values=history.values,
        standard_errors=history.standard_errors,
    )


def _read_npz(path: Path) -> RWCHistory:
    if not is_zipfile(path):
        raise ValueError("it is not an npz archive")
    with np.load(path, allow_pickle=False) as arrays:
        return RWCHistory(
            arrays["layers"].tolist(), arrays["epochs"], arrays["steps"], arrays["values"], arrays["standard_errors"]
        )


_Writer = Callable[[RWCHistory, Path], None]
_Reader = Callable[[Path], RWCHistory]
_FORMATS: dict[str, tuple[_Writer, _Reader]] = {
    ".csv": (_write_csv, _read_csv),
    ".parquet": (_write_parquet, _read_parquet),
    ".npz": (_write_npz, _read_npz),
}


def _format_of(path: str | PathLike[str]) -> tuple[Path, tuple[_Writer, _Reader]]:
    # A Path has made one slash of two. Drives of Windows have one letter.
    if re.match(r"[A-Za-z][\w+.-]+:/", address := os.fspath(path).replace("\\", "/")):
        raise ValueError(
            f"`path` must be a file on this machine, but got the address {address!r}: "
            "save to a local file and copy that there, or fetch the file first and load the copy."
        )
    path = Path(path)
    if path.suffix not in _FORMATS:
        raise ValueError(f"`path` must end in one of {', '.join(_FORMATS)}, but got {str(path)!r}.")
    return path, _FORMATS[path.suffix]
