# SPDX-License-Identifier: Apache-2.0
"""The tables of the measures that a user asked for: those of present weights, and those of how layers moved."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from lightning_rwc.equilibrium import EQUILIBRIUM, Equilibrium
from lightning_rwc.history import RWCHistory
from lightning_rwc.measures import MEASURES, Layers, Measure
from lightning_rwc.messages import rank_zero_warn
from lightning_rwc.metric import Readings
from lightning_rwc.movement import MOVEMENTS, Movement
from lightning_rwc.quantity import RWC

_KNOWN = [*MOVEMENTS, EQUILIBRIUM.name, *MEASURES]


class MeasureTables:
    """Measures, and for each of them the table of what it has measured.

    Args:
        measures: names or instances.

    Raises:
        TypeError: if ``measures`` is not a sequence of names and instances.
        ValueError: if a name is unknown, blank, given twice, or ``"rwc"``.

    """

    def __init__(self, measures: Sequence[str | Measure]) -> None:
        if isinstance(measures, str) or not all(isinstance(measure, str | Measure) for measure in measures):
            raise TypeError(
                "`measures` must be a sequence of names and instances of Measure, such as ('fluctuation',), but got "
                f"{measures!r}."
            )
        for measure in measures:
            if isinstance(measure, str) and measure not in _KNOWN:
                hint = " Relative weight change is always measured: leave it out." if measure == RWC else ""
                raise ValueError(
                    f"`measures` has {measure!r}, but must have names of {_KNOWN}, or instances of Measure.{hint}"
                )
        self._measures = [_named(measure) if isinstance(measure, str) else measure for measure in measures]
        names = [measure.name for measure in self._measures]
        distinct = {RWC, *names}
        if len(distinct) <= len(names) or not all(isinstance(name, str) and name.strip() for name in names):
            raise ValueError(f"`measures` must have different names, not blank and not {RWC!r}, but they are {names}.")
        self.clear()

    @property
    def movements(self) -> list[str]:
        """The names of those that follow from the measurement itself."""
        return [measure.name for measure in self._measures if isinstance(measure, Movement)]

    @property
    def has_equilibrium(self) -> bool:
        """Whether rotations are compared with those that the optimizers should lead to."""
        return EQUILIBRIUM in self._measures

    def __iter__(self) -> Iterator[tuple[Measure | Movement | Equilibrium, RWCHistory]]:
        """Each measure with its table."""
        return zip(self._measures, self.tables.values(), strict=True)

    def clear(self) -> None:
        """Begin new tables."""
        self.tables = {measure.name: RWCHistory() for measure in self._measures}
        self._failed: set[str] = set()

    def rows(self, find_layers: Callable[[], Layers]) -> dict[str, dict[str, float]]:
        """Measure the present weights of the layers that ``find_layers`` returns.

        Returns:
            Measure name to layer name to value, which is ``nan`` if the measure fails. Others than a Measure are
            left out.

        """
        rows = {}
        layers: Layers | None = None
        for measure in self._measures:
            if not isinstance(measure, Measure):
                continue
            row: dict[str, float] = {}
            try:
                layers = find_layers() if layers is None else layers
                row = dict.fromkeys(layers, math.nan)
                row |= _values(measure, layers)
            except Exception as error:
                if measure.name not in self._failed:
                    self._failed.add(measure.name)
                    rank_zero_warn(
                        f"The measure {measure.name!r} failed with {type(error).__name__}: {error}. Its values are nan "
                        "where it fails. Training continues, and further failures are not reported."
                    )
            rows[measure.name] = row
        return rows

    def expected(self, table: RWCHistory) -> npt.NDArray[np.float64] | None:
        """What the values of ``table``, one of these tables, should settle at, if that is known."""
        ratios, rotations = self.tables.get(EQUILIBRIUM.name), self.tables.get("rotation")
        if ratios is None:
            return None
        if table is ratios:
            return np.ones_like(ratios.values)
        if table is rotations and table.layers == ratios.layers:
            with np.errstate(divide="ignore", invalid="ignore"):
                return table.values / ratios.values
        return None

    def record(self, rows: Mapping[str, Mapping[str, float]], epoch: int, step: int) -> None:
        """Append to each table its row of ``rows``, which :meth:`rows` returned. The others get ``nan``."""
        for name, table in self.tables.items():
            table.record(epoch, step, rows.get(name, {}))

    def amend(self, readings: Mapping[str, Readings]) -> None:
        """Fill in the last row of tables, by name."""
        for name, one in readings.items():
            self.tables[name].amend(one.values, one.standard_errors)

    def state_dict(self) -> dict[str, Any]:
        """The tables, for a checkpoint."""
        return {name: table.state_dict() for name, table in self.tables.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resume from :meth:`state_dict`. A measure that it lacks begins with an empty table."""
        self.tables |= {name: RWCHistory.from_state_dict(state[name]) for name in self.tables if name in state}


def _named(name: str) -> Measure | Movement | Equilibrium:
    if name == EQUILIBRIUM.name:
        return EQUILIBRIUM
    return MOVEMENTS[name] if name in MOVEMENTS else MEASURES[name]()


def _values(measure: Measure, layers: Layers) -> dict[str, float]:
    with torch.no_grad():
        values = measure(layers)
    tensors = [*values.values()]
    # One copy to the host.
    numbers = torch.stack([tensor.to(tensors[0].device) for tensor in tensors]) if tensors else torch.empty(0)
    return dict(zip(values, map(float, numbers.tolist()), strict=True))
