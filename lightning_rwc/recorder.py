# SPDX-License-Identifier: Apache-2.0
"""The recorder: it measures a module, and writes the rows of all tables."""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any
from warnings import warn

import numpy as np
from torch.nn import Module
from torch.optim import Optimizer

from lightning_rwc.cadence import Cadence
from lightning_rwc.cells import Cell
from lightning_rwc.equilibrium import EQUILIBRIUM, EquilibriumForecast
from lightning_rwc.findings.causes import Causes, causes_of
from lightning_rwc.findings.facts import Observation, Thaw
from lightning_rwc.findings.finding import Finding
from lightning_rwc.findings.findings import Findings
from lightning_rwc.history import RWCHistory
from lightning_rwc.interrupts import signals_held
from lightning_rwc.layers import Layers
from lightning_rwc.measure_tables import MeasureTables
from lightning_rwc.measures import Measure
from lightning_rwc.metric import Measurement, Readings, RelativeWeightChange
from lightning_rwc.shards import rank

# A comparison of ranks reads all weights, while a measurement under DDP reads only this rank's part of them.
_BATCHES_TO_COMPARISON = 10


class Recorder:
    """Keeps the tables of a run.

    Args:
        measures: see :class:`~lightning_rwc.RWCCallback`.
        looks_for_findings: whether to look at each measurement for what is wrong.
        ignored_findings: kinds of findings that are not told.

    """

    def __init__(
        self, measures: Sequence[str | Measure], looks_for_findings: bool, ignored_findings: Sequence[str] = ()
    ) -> None:
        self.measures = MeasureTables(measures)
        self.looks_for_findings = looks_for_findings
        self._ignored_findings = ignored_findings
        self._thaw: Thaw | None = None
        self.restart()

    def restart(self) -> None:
        """Begin with new tables and no metric."""
        self.history = RWCHistory()
        self.measures.clear()
        self.units: dict[str, RWCHistory] = {}
        """Layer to the relative weight changes of its units, if these were asked for."""
        self.unit_rotations: dict[str, RWCHistory] = {}
        """Layer to the rotations of its units."""
        self.forecast: EquilibriumForecast | None = None
        """Follows the optimizers, if rotations are compared with a prediction."""
        self.causes = Causes()
        """Why layers did not move, as far as it is known."""
        self._observer = Findings(self._ignored_findings)
        self.metric: RelativeWeightChange | None = None
        """What measures relative weight change, or None if nothing can be measured."""
        self._warned: set[str] = set()
        # The first measurement compares. All ranks count alike, also if they have loaded different checkpoints.
        self._batches = _BATCHES_TO_COMPARISON

    @property
    def findings(self) -> list[Finding]:
        """What is wrong, oldest finding first."""
        return self._observer.found

    def promised(self, thaw: Thaw | None, cadence: Cadence) -> None:
        """Note which layers are to be thawed in this fit, if any are."""
        self._thaw = thaw
        if self.looks_for_findings:
            with self._looking():
                self._observer.started(thaw, cadence.epoch, cadence.step)

    def optimizer_steps(self, optimizer: Optimizer) -> None:
        """Note the settings of an optimizer that is about to step."""
        if self.forecast is not None:
            self.forecast.note(optimizer)
        if self.looks_for_findings:
            with self._looking():
                self._observer.optimizer_steps(optimizer)

    def count_batch(self) -> None:
        """Note that a batch has ended, on all ranks."""
        self._batches += 1

    def batch_ended(self, module: Module, cadence: Cadence, optimizers: Sequence[Optimizer]) -> None:
        """Look at gradients after a batch with an optimizer step, if there is a reason to."""
        if self.looks_for_findings and self.metric is not None and self._observer.watches:
            with self._looking():
                self._observer.batch_ended(self.metric.tracked(module), optimizers, cadence.epoch, cadence.step)

    def before_validation(self, module: Module) -> None:
        """Look at gradients before Lightning clears them. The measurement may come after that."""
        if self.looks_for_findings and self.metric is not None:
            with self._looking():
                self._observer.before_validation(self.metric.tracked(module))

    def measure(
        self, module: Module, cadence: Cadence, optimizers: Sequence[Optimizer], planned_steps: float = math.inf
    ) -> Measurement | None:
        """Measure ``module`` and write a row. If :attr:`metric` spans ranks or has replicas, this is a collective.

        It never raises an error of its own. If a measurement fails, its row is ``nan``, and the first failure is
        reported.

        Args:
            module: the module that :attr:`metric` is for.
            cadence: it knows the epoch and the step.
            optimizers: those of the training.
            planned_steps: how many optimizer steps the run will take, if that is known.

        Returns:
            The measurement, or None if it failed.

        """
        metric = self.metric
        assert metric is not None
        measurement = self._measure(metric, module, cadence)
        if measurement is not None and self.looks_for_findings:
            with self._looking():
                observation = Observation(
                    measurement,
                    module,
                    metric.tracked(module),
                    optimizers,
                    cadence.epoch,
                    cadence.step,
                    metric.steps,
                    since_start=metric.relative_to == "initial",
                    is_sampled=metric.is_sampled,
                    planned_steps=planned_steps,
                    thaw=self._thaw,
                )
                self._observer.observe(observation)
        with self._looking():
            self.causes.note(len(self.history) - 1, self._causes(measurement, metric, module))
            self._observer.forget()
        return measurement

    def _causes(self, measurement: Measurement | None, metric: RelativeWeightChange, module: Module) -> dict[str, Cell]:
        # Layers that are not measured any more, and all layers if a measurement fails.
        causes = dict.fromkeys(self.history.layers, Cell.MISSING)
        if measurement is None or (measurement.spans_ranks and all(map(math.isnan, measurement.values.values()))):
            return causes
        for layer in measurement.values:
            del causes[layer]
        observer = self._observer
        return causes | causes_of(measurement.values, metric.tracked(module), observer.facts, observer.suspects)

    def _measure(self, metric: RelativeWeightChange, module: Module, cadence: Cadence) -> Measurement | None:
        compare = self.looks_for_findings and self._batches >= _BATCHES_TO_COMPARISON
        self._batches = 0 if compare else self._batches
        try:
            # Measures are the user's code and may be interrupted, because nothing has changed yet.
            further = self.measures.rows(partial(metric.tracked, module))
            start = 0 if metric.relative_to == "initial" else cadence.measured_step
            with signals_held():
                self.begin_row(cadence, further)
                metric.measure(module, cadence.global_step - start, compare)
                if not metric.needs_all_ranks:
                    metric.reduce()
                    return self._fill_row(metric, module)
            # Signals are not held here, so that Ctrl-C can end the wait for a rank that has died.
            metric.reduce()
            with signals_held():
                return self._fill_row(metric, module)
        except Exception as error:
            if not self.history.layers:
                self.history.amend(dict.fromkeys(metric.layers, math.nan))  # monitors need their keys
            if metric.has_advanced:
                self.restart_interval()
            self._warn_once(
                "measurement",
                f"A measurement of relative weight change failed on rank {rank()} with {type(error).__name__}: "
                f"{error}. The row of epoch {cadence.epoch} is nan.",
            )
            return None

    @contextmanager
    def _looking(self) -> Iterator[None]:
        """Let no error of a look for findings reach training."""
        try:
            yield
        except Exception as error:
            self._warn_once("findings", f"Looking for findings failed with {type(error).__name__}: {error}.")

    def _warn_once(self, kind: str, message: str) -> None:
        if kind not in self._warned:
            self._warned.add(kind)
            warn(f"{message} Training continues, and further failures are not reported.", stacklevel=2)

    def begin_row(self, cadence: Cadence, further: Mapping[str, Mapping[str, float]]) -> None:
        """Begin the row of a measurement in each table. Relative weight change is ``nan`` until it is known.

        Args:
            cadence: it knows the epoch and the step.
            further: the values of the further measures, see :meth:`MeasureTables.rows`.

        """
        self.history.record(cadence.epoch, cadence.step, {})
        self.measures.record(further, cadence.epoch, cadence.step)
        for table in (*self.units.values(), *self.unit_rotations.values()):
            table.record(cadence.epoch, cadence.step, {})
        cadence.measured()

    def _fill_row(self, metric: RelativeWeightChange, module: Module) -> Measurement:
        movements = self.measures.movements
        needed = ["rotation"] if self.measures.has_equilibrium else []
        needed += ["rotation", "radial", "moved"] if self.looks_for_findings else []
        measurement = metric.fetch([*dict.fromkeys([*movements, *needed])])
        self.history.amend(measurement.values, measurement.standard_errors)
        self.measures.amend({name: measurement.movements[name] for name in movements})
        for layer, units in measurement.units.items():
            for tables, values in ((self.units, units.changes), (self.unit_rotations, units.rotations)):
                if layer not in tables:
                    times = self.history.epochs, self.history.steps
                    tables[layer] = RWCHistory((), *times, np.empty((len(self.history), 0)))
                tables[layer].amend(values)
        if self.forecast is not None:
            rotations, layers = measurement.movements["rotation"], metric.tracked(module)
            self.measures.amend({EQUILIBRIUM.name: _ratios(rotations, layers, self.forecast)})
            self.forecast.restart()
        return measurement

    def follow(self, optimizers: Sequence[Optimizer]) -> None:
        """Compare rotations with those that these optimizers should lead to, if that was asked for."""
        if self.measures.has_equilibrium and (self.forecast is None or not self.forecast.follows(optimizers)):
            self.forecast = EquilibriumForecast(optimizers)

    def restart_interval(self) -> None:
        """Begin the interval that is compared with a prediction anew, because the snapshot does."""
        if self.forecast is not None:
            self.forecast.restart()

    def forget_units(self) -> None:
        """Begin new tables of units."""
        self.units, self.unit_rotations = {}, {}

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"forecast": None}

    def state_dict(self) -> dict[str, Any]:
        """The tables, and the names of the layers, for a checkpoint."""
        return {
            "tracked": list(self.metric.layers) if self.metric is not None else [],
            "history": self.history.state_dict(),
            "measures": self.measures.state_dict(),
            "units": {layer: table.state_dict() for layer, table in self.units.items()},
            "unit_rotations": {layer: table.state_dict() for layer, table in self.unit_rotations.items()},
            "findings": self._observer.state_dict(),
            "causes": self.causes.state_dict(),
            "forecast": self.forecast.state_dict() if self.forecast is not None else None,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the tables of a checkpoint."""
        self.history = RWCHistory.from_state_dict(state["history"])
        self.measures.load_state_dict(state["measures"])
        self.units, self.unit_rotations = (
            {layer: RWCHistory.from_state_dict(table) for layer, table in state[name].items()}
            for name in ("units", "unit_rotations")
        )
        if self.forecast is not None:
            self.forecast.load_state_dict(state["forecast"])
        self._observer.load_state_dict(state["findings"])
        self.causes.load_state_dict(state.get("causes", {}))


def _ratios(rotations: Readings, layers: Layers, forecast: EquilibriumForecast) -> Readings:
    """Each layer's rotation over the predicted one, which is not a number where it is unknown or zero."""
    expected = {layer: forecast.of(layers[layer].values()) or math.nan for layer in rotations.values}
    return Readings(
        {layer: value / expected[layer] for layer, value in rotations.values.items()},
        {layer: error / expected[layer] for layer, error in rotations.standard_errors.items()},
    )
