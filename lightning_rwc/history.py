# SPDX-License-Identifier: Apache-2.0
"""The history of a run: a table of layers × measurements."""

from collections.abc import Mapping, Sequence
from os import PathLike
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from lightning_rwc.extras import needs
from lightning_rwc.history_files import Content, file_format
from lightning_rwc.layer_order import merged_order
from lightning_rwc.quantity import RELATIVE_WEIGHT_CHANGE, Quantity, ScaleName

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from lightning_rwc.findings.finding import Finding


class RWCHistory:
    """Every measurement of a run.

    Args:
        layers: names of the layers, in definition order.
        epochs: for each measurement the epoch it was taken in, counted from 0 as Lightning does.
        steps: for each measurement the step under which Lightning's loggers have it.
        values: relative weight changes (dimensionless), of shape ``(measurements, layers)``.
        standard_errors: the standard error of each value, of the same shape. By default all are 0, for values that are
            not estimates.

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
        """The size of the table."""
        return f"RWCHistory({len(self)} measurements of {len(self.layers)} layers)"

    @property
    def values(self) -> npt.NDArray[np.float64]:
        """Relative weight changes, float64 of shape ``(measurements, layers)``. ``nan`` if a layer was not measured."""
        return np.array(self._rows).reshape(len(self), len(self.layers))

    @property
    def standard_errors(self) -> npt.NDArray[np.float64]:
        """The standard errors of the values, float64 of the same shape. 0 if a value is not an estimate."""
        return np.array(self._errors).reshape(len(self), len(self.layers))

    def record(
        self, epoch: int, step: int, values: Mapping[str, float], standard_errors: Mapping[str, float] | None = None
    ) -> None:
        """Append a measurement.

        Args:
            epoch: the epoch it was taken in.
            step: the step under which it is logged.
            values: layer name to relative weight change. A new layer gets a column at its position among the others,
                with ``nan`` in earlier rows. A layer that is left out gets ``nan``.
            standard_errors: layer name to the standard error of its value, for values that are estimates.

        """
        self._rows.append(np.full(len(self.layers), np.nan))
        self._errors.append(np.zeros(len(self.layers)))
        self.epochs.append(epoch)
        self.steps.append(step)
        if values:
            self.amend(values, standard_errors)

    def amend(self, values: Mapping[str, float], standard_errors: Mapping[str, float] | None = None) -> None:
        """Change values of the last measurement.

        Args:
            values: layer name to relative weight change. Layers that are left out keep theirs.
            standard_errors: layer name to the standard error of its value, for values that are estimates.

        """
        if not values.keys() <= {*self.layers}:
            self._arrange(merged_order([*values], self.layers))
        # Not in place, so that an interrupt finds the old row or the new one.
        self._errors[-1] = self._changed(self._errors[-1], standard_errors or {})
        self._rows[-1] = self._changed(self._rows[-1], values)

    def _changed(self, row: npt.NDArray[np.float64], changes: Mapping[str, float]) -> npt.NDArray[np.float64]:
        return np.array([changes.get(layer, old) for layer, old in zip(self.layers, row, strict=True)])

    def reordered(self, layers: Sequence[str]) -> "RWCHistory":
        """The same measurements with ``layers`` as columns.

        Args:
            layers: all names of the history in another order, or some of them.

        Raises:
            ValueError: if the history lacks one of them.

        """
        if missing := [layer for layer in layers if layer not in self.layers]:
            raise ValueError(f"`layers` has {missing[0]!r}, which the history lacks. It has {self.layers}.")
        columns = [self.layers.index(layer) for layer in layers]
        return RWCHistory(layers, self.epochs, self.steps, self.values[:, columns], self.standard_errors[:, columns])

    def _arrange(self, layers: list[str]) -> None:
        old = {layer: position for position, layer in enumerate(self.layers)}
        # The column after the last one stands for new layers.
        positions = [old.get(layer, len(old)) for layer in layers]
        rows = [np.append(row, np.nan)[positions] for row in self._rows]
        errors = [np.append(row, 0.0)[positions] for row in self._errors]
        self.layers, self._rows, self._errors = layers, rows, errors

    def newest(self) -> dict[str, float]:
        """The last measurement: layer name to value.

        Raises:
            IndexError: if there is none.

        """
        return dict(zip(self.layers, self._rows[-1].tolist(), strict=True))

    def to_frame(self) -> "pd.DataFrame":
        """The table as a data frame, with epochs and steps as index and layers as columns.

        Raises:
            ModuleNotFoundError: if pandas is missing.

        """
        with needs("pandas", extra="pandas", what="RWCHistory.to_frame"):
            import pandas as pd
        index = pd.MultiIndex.from_arrays([self.epochs, self.steps], names=["epoch", "step"])
        return pd.DataFrame(self.values, index=index, columns=pd.Index(self.layers, dtype=object))

    def save(self, path: str | PathLike[str]) -> None:
        """Write the table to a file. Values and standard errors keep every bit.

        Args:
            path: the file. Its suffix chooses the format: ``.csv``, ``.parquet`` (needs the extra ``parquet``) or
                ``.npz``. Missing folders are created.

        Raises:
            ValueError: if the suffix is another one.
            ModuleNotFoundError: if the suffix is ``.parquet`` and pandas or pyarrow is missing.

        """
        path, (write, _) = file_format(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        write(Content(self.layers, self.epochs, self.steps, self.values, self.standard_errors), path)

    @classmethod
    def load(cls, path: str | PathLike[str]) -> "RWCHistory":
        """Read a table that :meth:`save` wrote.

        Args:
            path: the file, of suffix ``.csv``, ``.parquet`` or ``.npz``.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if the suffix is unknown, or the file is broken or holds something else.
            ModuleNotFoundError: if the suffix is ``.parquet`` and pandas or pyarrow is missing.

        """
        path, (_, read) = file_format(path)
        if not path.is_file():
            raise FileNotFoundError(f"There is no file {path}.")
        try:
            return cls(*read(path))
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
        """The table that :meth:`state_dict` returned."""
        names = ("layers", "epochs", "steps", "values", "standard_errors")
        return cls(**{name: state[name] for name in names if name in state})

    def findings(self) -> "list[Finding]":
        """Say in words what is wrong, as far as relative weight change alone tells.

        The table must be of relative weight change, not of a further measure. It has any norm, and ``relative_to`` is
        either. There are three kinds:

        - ``non_finite``: the first layers that are ``nan`` from some row on, after they had a value.
        - ``unchanged``: layers that are 0 in every row, over ten steps or more. They are frozen, in no optimizer or
          without gradient. A table cannot tell which. Estimates from a sample do not count.
        - ``learning_rate_low``: over thirty steps or more from the start of training, no layer has moved by 1 % of its
          size.

        The callback's other kinds are left out, because a table would accuse trainings that are well. It does not tell
        which layers have learning rates of their own, and ``"elementwise"`` jumps whenever a weight is nearly zero.

        Returns:
            The findings, oldest first.

        Example:
            >>> history = RWCHistory(["stem", "head"], epochs=[0, 1], steps=[9, 19], values=[[0, 0.5], [0, 0.25]])
            >>> [(finding.kind, finding.layers, finding.epoch) for finding in history.findings()]
            [('unchanged', ('stem',), 1)]

        """
        from lightning_rwc.findings.afterwards import findings_of_table

        times = [*zip(self.epochs, self.steps, strict=True)]
        return findings_of_table(self.layers, times, self.values, self.standard_errors)

    def plot_heatmap(
        self,
        quantity: Quantity = RELATIVE_WEIGHT_CHANGE,
        *,
        findings: "Sequence[Finding]" = (),
        causes: npt.NDArray[np.uint8] | None = None,
        scale: ScaleName | None = None,
    ) -> "Figure":
        """Draw layers × measurements, see :func:`~lightning_rwc.plotting.heatmap`."""
        from lightning_rwc.plotting import heatmap

        table = self.values, self.layers, self.epochs, self.steps
        return heatmap(*table, quantity, findings=findings, causes=causes, scale=scale)

    def plot_units(
        self,
        quantity: Quantity = RELATIVE_WEIGHT_CHANGE,
        *,
        causes: npt.NDArray[np.uint8] | None = None,
        scale: ScaleName | None = None,
    ) -> "Figure":
        """Draw units × measurements, the most active unit at the top, see :func:`~lightning_rwc.plotting.unit_heatmap`.

        It is for the tables in ``callback.units`` and ``callback.unit_rotations``.
        """
        from lightning_rwc.plotting import unit_heatmap

        table = self.values, self.layers, self.epochs, self.steps
        return unit_heatmap(*table, quantity, causes=causes, scale=scale)

    def plot_curves(
        self,
        quantity: Quantity = RELATIVE_WEIGHT_CHANGE,
        expected: npt.NDArray[np.float64] | None = None,
        *,
        findings: "Sequence[Finding]" = (),
        causes: npt.NDArray[np.uint8] | None = None,
    ) -> "Figure":
        """Draw every layer's curve in one chart, see :func:`~lightning_rwc.plotting.curves`."""
        from lightning_rwc.plotting import curves

        table = self.values, self.layers, self.epochs, self.steps
        return curves(*table, quantity, expected=expected, findings=findings, causes=causes)


def _table(argument: str, values: npt.ArrayLike, shape: tuple[int, int]) -> npt.NDArray[np.float64]:
    table = np.asarray(values, dtype=np.float64)
    if table.size == 0 and 0 in shape:
        table = table.reshape(shape)
    if table.shape != shape:
        raise ValueError(
            f"`{argument}` must have the shape (measurements, layers), here {shape}, but has the shape {table.shape}."
        )
    return table
