# SPDX-License-Identifier: Apache-2.0
"""The table of measurements: layers × measurements, kept in memory, saved to files."""

from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import is_zipfile

import numpy as np
import numpy.typing as npt
import pandas as pd

from lightning_rwc.quantity import RELATIVE_WEIGHT_CHANGE, Quantity

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_INDEX = ["epoch", "step"]
_ERROR = " (standard error)"


class RWCHistory:
    """Every measurement of a run.

    Args:
        layers: names of the layers, in depth order.
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
        return self._joined(self._rows, np.nan)

    @property
    def standard_errors(self) -> npt.NDArray[np.float64]:
        """The standard errors of the values, float64 of the same shape; 0 where a value is not an estimate."""
        return self._joined(self._errors, 0.0)

    def _joined(self, rows: Sequence[npt.NDArray[np.float64]], missing: float) -> npt.NDArray[np.float64]:
        table = np.full((len(self), len(self.layers)), missing)
        for filled, row in zip(table, rows, strict=True):
            filled[: len(row)] = row
        return table

    def record(
        self, epoch: int, step: int, values: Mapping[str, float], standard_errors: Mapping[str, float] | None = None
    ) -> None:
        """Append a measurement.

        Args:
            epoch: the epoch it was taken in.
            step: the step under which it is logged.
            values: layer name to relative weight change. A new layer gets a column, ``nan`` before this row;
                a layer left out gets ``nan``.
            standard_errors: layer name to the standard error of its value, where that is an estimate.

        """
        known = set(self.layers)
        self.layers += [layer for layer in values if layer not in known]
        self._rows.append(np.array([values.get(layer, np.nan) for layer in self.layers]))
        self._errors.append(np.array([(standard_errors or {}).get(layer, 0.0) for layer in self.layers]))
        self.epochs.append(epoch)
        self.steps.append(step)

    def newest(self) -> dict[str, float]:
        """The last measurement: layer name to value.

        Raises:
            IndexError: if there is none.

        """
        return dict(zip(self.layers, self._rows[-1].tolist(), strict=True))

    def to_frame(self) -> pd.DataFrame:
        """The table as a data frame: epochs and steps as index, layers as columns."""
        index = pd.MultiIndex.from_arrays([self.epochs, self.steps], names=_INDEX)
        return pd.DataFrame(self.values, index=index, columns=pd.Index(self.layers, dtype=object))

    def save(self, path: str | PathLike[str]) -> None:
        """Write the table to a file; every bit of every value and standard error is kept.

        Args:
            path: where to; the suffix chooses the format: ``.csv``, ``.parquet`` (needs ``lightning-rwc[parquet]``)
                or ``.npz``. Missing folders are made.

        Raises:
            ValueError: if the suffix is none of these.

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

        tables = {"values": self.values, "standard_errors": self.standard_errors}
        lists = {"layers": list(self.layers), "epochs": list(self.epochs), "steps": list(self.steps)}
        return lists | {name: torch.from_numpy(table) for name, table in tables.items()}

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Any]) -> "RWCHistory":
        """The table that :meth:`state_dict` gave."""
        return cls(**{name: state[name] for name in ("layers", "epochs", "steps", "values", "standard_errors")})

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


def _file_frame(history: RWCHistory) -> pd.DataFrame:
    frame = history.to_frame()
    # Also where layers are named as if they were standard errors: they would be read as such.
    if not history.standard_errors.any() and _without_errors(history.layers) is None:
        return frame
    suffix = _ERROR
    while not {layer + suffix for layer in history.layers}.isdisjoint(history.layers):
        suffix += "'"
    errors = pd.DataFrame(history.standard_errors, index=frame.index, columns=frame.columns + suffix)
    return pd.concat([frame, errors], axis=1)


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
    _file_frame(history).to_csv(path, na_rep="nan", encoding="utf-8")


def _read_csv(path: Path) -> RWCHistory:
    # As text: pandas would rename columns that bear one name, and round in the last digit.
    cells = pd.read_csv(path, header=None, dtype=str, keep_default_na=False, encoding="utf-8").to_numpy()
    header, body = cells[0], cells[1:]
    if list(header[:2]) != _INDEX:
        raise ValueError(f"its first columns must be {_INDEX}, but are {list(header[:2])}")
    return _from_file(list(header[2:]), body[:, 0].tolist(), body[:, 1].tolist(), body[:, 2:].astype(np.float64))


def _write_parquet(history: RWCHistory, path: Path) -> None:
    _file_frame(history).to_parquet(path)


def _read_parquet(path: Path) -> RWCHistory:
    frame = pd.read_parquet(path)
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
    path = Path(path)
    if path.suffix not in _FORMATS:
        raise ValueError(f"`path` must end in one of {', '.join(_FORMATS)}, but got {str(path)!r}.")
    return path, _FORMATS[path.suffix]
