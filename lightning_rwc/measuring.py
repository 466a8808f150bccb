# SPDX-License-Identifier: Apache-2.0
"""What callbacks of every Trainer share: arguments, tables, and how measuring starts, resumes and goes on."""

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import torch

from lightning_rwc.announcer import Announcer
from lightning_rwc.cadence import Cadence
from lightning_rwc.findings import Finding
from lightning_rwc.findings.facts import Thaw
from lightning_rwc.findings.findings import KINDS
from lightning_rwc.history import RWCHistory
from lightning_rwc.layers import GroupBy, LayerFilter, LayerSelection
from lightning_rwc.measures import Measure
from lightning_rwc.messages import LIGHTNING, rank_zero_warn
from lightning_rwc.metric import RelativeWeightChange
from lightning_rwc.norms import Norm
from lightning_rwc.options import (
    RelativeTo,
    check_findings,
    check_ignore_findings,
    check_max_elements,
    check_norm,
    check_relative_to,
    check_snapshot_device,
    check_units_with_samples,
)
from lightning_rwc.quantity import RWC, ScaleName
from lightning_rwc.recorder import Recorder
from lightning_rwc.start import hint_if_nothing_learns, require_layers, warn_of_many_units
from lightning_rwc.tags import Tags, find_shared
from lightning_rwc.training import Training
from lightning_rwc.units import UnitColumns, UnitFilter, UnitSelection

_STATE_VERSION = 4


class MeasuringCallback:
    """Measures whenever a subclass, which knows a Trainer's hooks, asks it to.

    Arguments and attributes are those of :class:`~lightning_rwc.callback.RWCCallback`.

    """

    _name: ClassVar[str] = "RWCCallback"
    """What checkpoints and messages call it, also if it is of a subclass."""
    _log: ClassVar[str] = LIGHTNING
    """The name of the log for messages that are no warnings."""

    def __init__(
        self,
        *,
        norm: Norm = "l1",
        relative_to: RelativeTo = "previous",
        layers: LayerFilter = None,
        group_by: GroupBy = None,
        every_n_epochs: int = 1,
        every_n_train_steps: int | None = None,
        heatmap: bool | int = True,
        prefix: str = "rwc",
        max_elements: int | None = None,
        snapshot_device: Literal["cpu"] | None = None,
        measures: Sequence[str | Measure] = (),
        units: UnitFilter = None,
        findings: bool = True,
        ignore_findings: Sequence[str] = (),
        scale: ScaleName | None = None,
        strip_prefix: str = "",
    ) -> None:
        super().__init__()
        check_norm(norm)
        check_relative_to(relative_to)
        check_max_elements(max_elements, norm)
        check_snapshot_device(snapshot_device)
        LayerSelection(layers, group_by)
        self._cadence = Cadence(every_n_epochs, every_n_train_steps)
        self._announcer = Announcer(prefix, heatmap, scale, strip_prefix, self._log)
        check_findings(findings)
        check_ignore_findings(ignore_findings, KINDS)
        self._recorder = Recorder(measures, findings, ignore_findings)
        self._unit_selection = UnitSelection(units)
        if self._recorder.measures.has_equilibrium and relative_to == "initial":
            raise ValueError(
                "`measures` has 'equilibrium', which compares the rotation since the previous measurement with a "
                "prediction, but `relative_to='initial'`. Leave out one of them."
            )
        check_units_with_samples(max_elements, units, self._recorder.measures.movements)
        self.norm: Norm = norm
        self.relative_to: RelativeTo = relative_to
        self.layers = layers
        self.group_by = group_by
        self.every_n_epochs = every_n_epochs
        self.every_n_train_steps = every_n_train_steps
        self.heatmap = heatmap
        self.prefix = prefix
        self.strip_prefix = strip_prefix
        self.max_elements = max_elements
        self.snapshot_device: Literal["cpu"] | None = snapshot_device
        self.measures = measures
        self._units = units
        if pair := find_shared(self._prefixes):
            raise ValueError(
                f"`prefix={prefix!r}` and `measures` could give one tag to two things: tags start with {pair[0]!r} and "
                f"with {pair[1]!r}. Give the measure another name."
            )

    @property
    def history(self) -> RWCHistory:
        """All measurements of relative weight change so far."""
        return self._recorder.history

    @property
    def histories(self) -> dict[str, RWCHistory]:
        """The tables by name: ``history`` under ``"rwc"``, and the table of each of ``measures``."""
        return {RWC: self.history, **self._recorder.measures.tables}

    @property
    def units(self) -> dict[str, RWCHistory]:
        """Layer name to the relative weight changes of its units."""
        return self._recorder.units

    @property
    def unit_rotations(self) -> dict[str, RWCHistory]:
        """Layer name to the rotations of its units, in radians."""
        return self._recorder.unit_rotations

    @property
    def findings(self) -> list[Finding]:
        """What is wrong, oldest finding first."""
        return self._recorder.findings

    @property
    def causes(self) -> npt.NDArray[np.uint8]:
        """Why layers did not move, for :meth:`RWCHistory.plot_heatmap`.

        Numbers of :class:`~lightning_rwc.cells.Cell` of the shape of ``history.values``; 0 where nothing is known.
        """
        return self._recorder.causes.table(self.history.layers, len(self.history))

    @property
    def _prefixes(self) -> list[str]:
        tags = Tags(self.prefix)
        measures = [tags.measure(name).prefix for name in self._recorder.measures.tables]
        return [tags.prefix, *measures, *([tags.units] if self._units is not None else [])]

    @property
    def _metric(self) -> RelativeWeightChange | None:
        return self._recorder.metric

    @property
    def state_key(self) -> str:
        """The name of its state in checkpoints."""
        # Callbacks that differ in one of these cannot resume each other's history.
        names = ("prefix", "norm", "relative_to")
        return f"{self._name}[{', '.join(f'{name}={getattr(self, name)!r}' for name in names)}]"

    def _state(self) -> dict[str, Any]:
        return {
            "version": _STATE_VERSION,
            "cadence": self._cadence.state_dict(),
            "settings": self._settings(),
            **self._recorder.state_dict(),
        }

    def _needs_snapshot(self, global_step: int) -> bool:
        # If the weights have not moved since the last measurement, those in the checkpoint are the snapshot.
        moved = self.relative_to == "initial" or self._cadence.measured_step != global_step
        return self._metric is not None and moved

    def _require_layers(self, training: Training) -> None:
        require_layers(training, LayerSelection(self.layers, self.group_by), self._unit_selection, self.strip_prefix)

    def _start(self, training: Training) -> None:
        """Begin a new history."""
        self._recorder.restart()
        self._announcer.restart()
        self._cadence.start(training.global_step)
        training.settle()
        self._require_layers(training)
        try:
            self._recorder.metric = RelativeWeightChange(
                training.module,
                norm=self.norm,
                relative_to=self.relative_to,
                layers=self.layers,
                group_by=self.group_by,
                max_elements=self.max_elements,
                snapshot_device=self.snapshot_device,
                units=self._units,
                movements=self._recorder.measures.movements,
                share_ranks=training.has_replicas,
            )
        except (MemoryError, RuntimeError) as error:
            if not _is_out_of_memory(error):
                raise
            nbytes = LayerSelection(self.layers, self.group_by).nbytes(training.module)
            rank_zero_warn(
                f"There is no memory for the snapshot of the weights, {nbytes:,} bytes: "
                f"{error}. Training continues, but relative weight change is not measured. Track fewer layers with "
                "`layers`, sample them with `max_elements`, or keep the snapshot in main memory with "
                "`snapshot_device='cpu'`."
            )
        # A measurement needs all ranks.
        if not training.agrees(str(self._metric is None)):
            self._recorder.metric = None
        if self._metric is not None:
            warn_of_many_units(UnitColumns(self._metric.tracked(training.module), self._unit_selection))

    def _begin(self, training: Training, thaw: Thaw | None = None) -> None:
        """Look at what is going to train, whether measuring starts, resumes or goes on."""
        # A second training has optimizers of its own.
        self._recorder.follow(training.optimizers)
        if self._metric is not None:
            if thaw is None:
                hint_if_nothing_learns(self._metric.tracked(training.module), training.module)
            self._recorder.promised(thaw, self._cadence)
            self._announcer.findings(training, self._recorder)

    def _keep_initial(self, training: Training) -> None:
        """Called when the snapshot has been taken or restored."""

    def _resume(self, training: Training, state: dict[str, Any] | None, problem: str) -> None:
        """Go on from ``state``, or else begin anew and warn that the checkpoint has this ``problem``."""
        self._start(training)
        if state is not None and state.get("version") != _STATE_VERSION:
            problem = (
                f"has version {state.get('version')!r} of the state of {self.state_key}, but this version of "
                f"lightning-rwc reads version {_STATE_VERSION}"
            )
            state = None
        self._recorder.follow(training.optimizers)
        if state is None:
            rank_zero_warn(
                f"The checkpoint {problem}. A new history begins, and its first measurement is relative to the weights "
                "of the checkpoint."
            )
            self._keep_initial(training)
            return
        self._recorder.load_state_dict(state)
        self._announcer.resume(self._recorder)
        if state["settings"]["units"] != self._settings()["units"]:
            # Their columns may be other units.
            self._recorder.forget_units()
        self._cadence.load_state_dict(state["cadence"])
        if self._metric is None:
            return
        self._compare(state, training)
        lost = "metric" in state and state["metric"] is None
        if lost:
            self._recorder.restart_interval()
            rank_zero_warn(
                "The checkpoint was written when a rank had failed or was about to end, so it lacks the other ranks' "
                "parts of the snapshot. The next measurement is relative to the weights of the checkpoint."
            )
        elif "metric" in state:
            self._metric.set_extra_state(state["metric"])
        self._keep_initial(training)
        if not self._cadence.resumed(training.epoch, training.global_step, training.logged_step):
            return
        if lost:
            self._recorder.begin_row(self._cadence, {})
        else:
            self._measure(training)

    def _compare(self, state: dict[str, Any], training: Training) -> None:
        """Warn if layers or settings have changed since the checkpoint."""
        assert self._metric is not None
        if new := set(self._metric.layers).symmetric_difference(state["tracked"] or self._metric.layers):
            rank_zero_warn(
                f"The checkpoint and the model have different layers for {self.state_key}: {sorted(new)}. The first "
                "measurement of new layers is relative to the weights of the checkpoint."
            )
        changes = [
            f"`{name}` was {state['settings'][name]} and is {value}"
            for name, value in self._settings().items()
            if state["settings"][name] != value
        ]
        if changes:
            rank_zero_warn(
                f"{', and '.join(changes)} since the checkpoint of {self.state_key}. The history continues, but from "
                f"epoch {training.epoch}, step {training.global_step} on, its values do not compare with earlier "
                "ones."
            )

    def _settings(self) -> dict[str, Any]:
        settings = {name: getattr(self, name) for name in ("every_n_epochs", "every_n_train_steps", "max_elements")}
        return settings | {"units": self._unit_selection.rows_of_patterns}

    def _measure(self, training: Training) -> None:
        if self._metric is not None:
            training.settle()
            measurement = self._recorder.measure(
                training.module, self._cadence, training.optimizers, training.planned_steps
            )
            self._announcer.measurement(training, self._recorder, measurement)


def _is_out_of_memory(error: Exception) -> bool:
    out = isinstance(error, MemoryError | torch.OutOfMemoryError)
    return out or "DefaultCPUAllocator: can't allocate memory" in str(error)
