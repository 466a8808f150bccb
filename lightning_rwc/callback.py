# SPDX-License-Identifier: Apache-2.0
"""The callback: it hooks measurements into a Trainer."""

from collections.abc import Sequence
from typing import Any, Literal, cast

import numpy as np
import numpy.typing as npt
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_warn
from lightning.pytorch.utilities.memory import is_oom_error
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer
from typing_extensions import override

from lightning_rwc.announcer import Announcer
from lightning_rwc.cadence import Cadence
from lightning_rwc.findings import Finding
from lightning_rwc.findings.findings import KINDS
from lightning_rwc.history import RWCHistory
from lightning_rwc.layers import GroupBy, LayerFilter, LayerSelection
from lightning_rwc.measures import Measure
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
from lightning_rwc.start import (
    hint_if_nothing_learns,
    refuse_shared_tags,
    refuse_unverified,
    require_layers,
    warn_if_history_stays_behind,
    warn_of_many_units,
)
from lightning_rwc.tags import Tags, find_shared
from lightning_rwc.trainer_state import (
    has_replicas,
    logged_step,
    may_validate_now,
    planned_steps,
    promised_thaw,
    ranks_are_together,
    settle_reductions,
)
from lightning_rwc.units import UnitColumns, UnitFilter, UnitSelection

_STATE_VERSION = 4


class RWCCallback(Callback):
    r"""Measures the relative weight change of every layer while a Trainer trains.

    At the end of every epoch the callback compares the weights of each layer with those of the previous measurement.
    The first measurement compares them with the weights at the start of training. The values go to every logger of the
    Trainer, with the tags of :class:`~lightning_rwc.tags.Tags`, at the step at which Lightning logs the metrics of that
    epoch's end. They also go to ``trainer.callback_metrics``, so EarlyStopping and ModelCheckpoint can monitor them.
    Loggers that can show pictures get a heatmap and a chart of all curves. The table itself is ``callback.history``.

    The callback keeps one copy of the tracked weights, the snapshot, on the device of the model. Under DDP every rank
    keeps and measures one part of it. ``max_elements`` makes the snapshot smaller, ``snapshot_device="cpu"`` moves it.

    Checkpoints hold the history. They also hold the snapshot if the weights have moved since the last measurement. So a
    resumed run has the same history as a run without interruption.

    Training is the same, bit for bit, with and without the callback. Its collectives cannot meet those of other
    callbacks, wherever it stands in the list. If a measurement fails, its row is ``nan``, a warning says why, and
    training continues. An epoch that ``max_steps`` or ``trainer.should_stop`` cuts short is measured like a whole one.

    Args:
        norm: the definition, see :func:`~lightning_rwc.functional.relative_weight_change`.
        relative_to: ``"previous"`` measures from the previous measurement, ``"initial"`` from the initial weights.
        layers: which parameters are tracked: a regular expression that is searched in the parameter's name, several of
            them, or a function of name and parameter. By default all parameters with two or more dimensions larger
            than 1: kernels and matrices, not biases and norm scales.
        group_by: how parameters form layers. An int ``n`` makes a layer of each module at depth ``n`` of the names
            (``2``: ``encoder.block1``). A function returns the layer name for a parameter name. By default each tracked
            parameter is a layer, named after its module. In YAML a function is ``package.module:function``.
        every_n_epochs: measure at the end of every n-th epoch.
        every_n_train_steps: measure every n optimizer steps instead (``trainer.global_step``, which counts the steps of
            all optimizers).
        heatmap: when to draw the pictures. ``True`` draws them at each of the first 20 measurements, and later whenever
            there are 10 % more, so that the log of a long run stays small. It waits longer if drawing would otherwise
            take more than 0.25 % of the time. An int draws them every n measurements. Both also draw the last one.
            ``False`` draws nothing.
        prefix: the start of all tags.
        max_elements: measure a fixed sample of about this many elements of each larger layer. The snapshot is smaller
            by the same factor. Values are estimates; ``history.standard_errors`` has their errors, about half a percent
            of the value for 65536 elements. A warning names layers in which a few elements carry the change. At least
            256, and not with ``norm="elementwise"``. By default every element is measured.
        snapshot_device: ``"cpu"`` keeps the snapshot in main memory, at the cost of a copy of the weights in both
            directions at each measurement. By default it is on the device of the model.
        measures: further quantities of each layer. Their tags start with ``{prefix}_{measure}``. From the same
            measurement follow ``"rotation"``, ``"radial"``, ``"moved"`` and ``"still"``
            (:mod:`lightning_rwc.movement`), and ``"equilibrium"``, the rotation over the one that the optimizer should
            lead to (:mod:`lightning_rwc.equilibrium`). From the present weights follow ``"strength"``
            (:class:`~lightning_rwc.measures.NodeStrength`), ``"fluctuation"``
            (:class:`~lightning_rwc.measures.LayerFluctuation`), and instances of your own
            :class:`~lightning_rwc.measures.Measure`. ``"still"`` does not go with ``max_elements``.
        units: layers of which every unit is measured too: a regular expression that is searched in the layer's name, or
            several of them. A unit is a row of a weight's first dimension: a neuron or an output channel. A mapping
            from expressions to ints makes a unit of so many rows, such as an attention head of 64. Each measurement
            keeps 32 bytes a unit. It does not go with ``max_elements``.
        findings: whether to say in words what is wrong, such as layers that get no gradient or that no optimizer has.
            Each finding is a warning, and a text in loggers that take text.
        ignore_findings: kinds of findings that are not told, such as ``["burst"]``.
        scale: the scale of colours. By default it is fixed, so that a value has the same colour in every run.
            ``"step"`` is for values per optimizer step and ``"measurement"`` for the values themselves. ``"auto"``
            takes its limits from the values of each picture. See :func:`~lightning_rwc.plotting.heatmap`.
        strip_prefix: what tags leave out at the start of layers' names, such as ``"model.base_model."``. Pictures
            leave out what all names begin with anyway. The history has whole names.

    Attributes:
        history: the :class:`~lightning_rwc.RWCHistory` of all measurements so far. It needs no logger.
        histories: all tables by name: ``history`` as ``"rwc"``, and the table of each of ``measures``.
        units: layer name to the :class:`~lightning_rwc.RWCHistory` of the relative weight changes of its units, for the
            layers that the argument ``units`` selects.
        unit_rotations: the same for the rotations of units, in radians.
        findings: what is wrong with the training so far, a list of :class:`~lightning_rwc.Finding`.

    Raises:
        TypeError: at construction, if an argument is of the wrong type.
        ValueError: at construction, if an argument is out of range. At the start of fit, if no layer is selected,
            parameters are uninitialised, the strategy is not verified (FSDP1, DeepSpeed), or another RWCCallback could
            write the same tags.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> from lightning_rwc import RWCCallback
        >>> trainer = Trainer(callbacks=[RWCCallback()], logger=False, enable_checkpointing=False)

    """

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
        self._announcer = Announcer(prefix, heatmap, scale, strip_prefix)
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
        self._loaded: dict[str, Any] | None = None
        self._saved_keys: list[str] = []
        self._resuming = False
        self._initial: dict[str, Any] | None = None

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
    @override
    def state_key(self) -> str:
        # Callbacks that differ in one of these cannot resume each other's history.
        names = ("prefix", "norm", "relative_to")
        return f"RWCCallback[{', '.join(f'{name}={getattr(self, name)!r}' for name in names)}]"

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._loaded, self._resuming = None, False

    @override
    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        # `trainer.validate(ckpt_path=...)` also loads a checkpoint, which has nothing to do with the history of a fit.
        self._loaded, self._resuming = None, trainer.state.fn == TrainerFn.FITTING
        self._saved_keys = [key for key in map(str, checkpoint["callbacks"]) if key.startswith("RWCCallback[")]

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if self._resuming:
            self._loaded = state_dict

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        refuse_unverified(trainer)
        callbacks = [c for c in cast(Any, trainer).callbacks if isinstance(c, RWCCallback)]
        refuse_shared_tags([callback._prefixes for callback in callbacks])
        warn_if_history_stays_behind(trainer)
        # The sanity check may still initialise lazy parameters. `on_train_start` looks again.
        if not any(is_lazy(parameter) for parameter in pl_module.parameters()):
            selection = LayerSelection(self.layers, self.group_by)
            require_layers(trainer, pl_module, selection, self._unit_selection, self.strip_prefix)

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        fresh = trainer.global_step == 0 and trainer.current_epoch == 0
        if self._resuming and not fresh:
            self._resume(trainer, pl_module)
        elif fresh or self._metric is None or not self._metric.is_of(pl_module):
            # A checkpoint from before the first step has no history. A search for the learning rate makes such a one.
            self._loaded, self._resuming = None, False
            self._start(trainer, pl_module)
            self._keep_initial(trainer)
        # A second fit has optimizers of its own.
        self._recorder.follow(trainer.optimizers)
        if self._metric is not None:
            layers = self._metric.tracked(pl_module)
            thaw = promised_thaw(trainer, pl_module, layers)
            if thaw is None:
                hint_if_nothing_learns(layers, pl_module)
            self._recorder.promised(thaw, self._cadence)
            self._announcer.findings(trainer, self._recorder)

    @override
    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *args: Any, **kwargs: Any) -> None:
        self._resume_if_loaded(trainer, pl_module)
        self._cadence.batch_started(trainer.current_epoch)

    @override
    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        self._resume_if_loaded(trainer, pl_module)
        self._recorder.optimizer_steps(optimizer)

    @override
    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any, **kwargs: Any) -> None:
        self._resume_if_loaded(trainer, pl_module)
        self._recorder.count_batch()
        stepped = trainer.global_step > self._cadence.global_step
        due = self._cadence.batch_ended(trainer.global_step, logged_step(trainer))
        if stepped:
            self._recorder.batch_ended(pl_module, self._cadence, trainer.optimizers)
            self._announcer.findings(trainer, self._recorder)
        if due:
            self._measure(trainer, pl_module)
        if self._cadence.measures_at_end_of(trainer.current_epoch) and may_validate_now(trainer):
            self._recorder.before_validation(pl_module)

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._resume_if_loaded(trainer, pl_module)
        if self._cadence.epoch_ended(trainer.current_epoch):
            self._measure(trainer, pl_module)

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._announcer.pictures(trainer, self._recorder)
        self._announcer.summary(self._recorder, pl_module)

    @override
    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._announcer.pictures(trainer, self._recorder)

    @override
    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Training does not start again from the checkpoint of a finished run. But its last boundary may be unmeasured,
        # also if `max_steps` ended the run inside an epoch.
        if self._resuming:
            self._resume(trainer, pl_module)
            if self._cadence.epoch_ended(self._cadence.epoch):
                self._measure(trainer, pl_module)
            self._announcer.pictures(trainer, self._recorder)

    @override
    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        # Lightning moves the model off the accelerator. A later fit moves both back.
        if self._metric is not None:
            self._metric.cpu()

    @override
    def state_dict(self) -> dict[str, Any]:
        if self._loaded is not None:
            return self._loaded  # nothing has changed since
        return {
            "version": _STATE_VERSION,
            "cadence": self._cadence.state_dict(),
            "settings": self._settings(),
            **self._recorder.state_dict(),
        }

    @override
    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        # If the weights have not moved since the last measurement, those in the checkpoint are the snapshot.
        moved = self.relative_to == "initial" or self._cadence.measured_step != trainer.global_step
        if self._metric is None or not moved or self._loaded is not None:
            return
        # Other ranks hold parts of the snapshot, and may not be able to send them now.
        snapshot = self._initial
        if not self._metric.spans_ranks:
            snapshot = self._metric.get_extra_state()
        elif ranks_are_together(trainer):
            settle_reductions(trainer)
            snapshot = self._metric.get_extra_state()
        checkpoint["callbacks"][self.state_key]["metric"] = snapshot

    def _start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._recorder.restart()
        self._announcer.restart()
        self._cadence.start(trainer.global_step)
        self._initial = None
        selection = LayerSelection(self.layers, self.group_by)
        settle_reductions(trainer)
        require_layers(trainer, pl_module, selection, self._unit_selection, self.strip_prefix)
        try:
            self._recorder.metric = RelativeWeightChange(
                pl_module,
                norm=self.norm,
                relative_to=self.relative_to,
                layers=self.layers,
                group_by=self.group_by,
                max_elements=self.max_elements,
                snapshot_device=self.snapshot_device,
                units=self._units,
                movements=self._recorder.measures.movements,
                share_ranks=has_replicas(trainer),
            )
        except (MemoryError, RuntimeError) as error:
            if not isinstance(error, MemoryError) and not is_oom_error(error):
                raise
            rank_zero_warn(
                f"There is no memory for the snapshot of the weights, {selection.nbytes(pl_module):,} bytes: "
                f"{error}. Training continues, but relative weight change is not measured. Track fewer layers with "
                "`layers`, sample them with `max_elements`, or keep the snapshot in main memory with "
                "`snapshot_device='cpu'`."
            )
        # A measurement needs all ranks.
        if not trainer.strategy.reduce_boolean_decision(self._metric is not None):
            self._recorder.metric = None
        if self._metric is not None:
            warn_of_many_units(UnitColumns(self._metric.tracked(pl_module), self._unit_selection))

    def _keep_initial(self, trainer: Trainer) -> None:
        # For checkpoints at moments when not all ranks can answer. Only rank 0 writes checkpoints.
        if self._metric is not None and self._metric.spans_ranks and self.relative_to == "initial":
            state = self._metric.get_extra_state()
            self._initial = state if trainer.is_global_zero else None

    def _resume_if_loaded(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # A callback may load a checkpoint inside a fit. A search for the learning rate does so to restore the weights.
        if self._resuming:
            self._resume(trainer, pl_module)

    def _resume(self, trainer: Trainer, pl_module: LightningModule) -> None:
        state, self._loaded, self._resuming = self._loaded, None, False
        self._start(trainer, pl_module)
        problem = ""
        if state is None:
            problem = f"has no state of {self.state_key}. It has {', '.join(self._saved_keys) or 'none at all'}"
        elif state.get("version") != _STATE_VERSION:
            problem = (
                f"has version {state.get('version')!r} of the state of {self.state_key}, but this version of "
                f"lightning-rwc reads version {_STATE_VERSION}"
            )
        self._recorder.follow(trainer.optimizers)
        if state is None or problem:
            rank_zero_warn(
                f"The checkpoint {problem}. A new history begins, and its first measurement is relative to the weights "
                "of the checkpoint."
            )
            self._keep_initial(trainer)
            return
        self._recorder.load_state_dict(state)
        self._announcer.resume(self._recorder)
        if state["settings"]["units"] != self._settings()["units"]:
            # Their columns may be other units.
            self._recorder.forget_units()
        self._cadence.load_state_dict(state["cadence"])
        if self._metric is None:
            return
        self._compare(state, trainer)
        lost = "metric" in state and state["metric"] is None
        if lost:
            self._recorder.restart_interval()
            rank_zero_warn(
                "The checkpoint was written when a rank had failed or was about to end, so it lacks the other ranks' "
                "parts of the snapshot. The next measurement is relative to the weights of the checkpoint."
            )
        elif "metric" in state:
            self._metric.set_extra_state(state["metric"])
        self._keep_initial(trainer)
        if not self._cadence.resumed(trainer.current_epoch, trainer.global_step, logged_step(trainer)):
            return
        if lost:
            self._recorder.begin_row(self._cadence, {})
        else:
            self._measure(trainer, pl_module)

    def _compare(self, state: dict[str, Any], trainer: Trainer) -> None:
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
                f"epoch {trainer.current_epoch}, step {trainer.global_step} on, its values do not compare with earlier "
                "ones."
            )

    def _settings(self) -> dict[str, Any]:
        settings = {name: getattr(self, name) for name in ("every_n_epochs", "every_n_train_steps", "max_elements")}
        return settings | {"units": self._unit_selection.rows_of_patterns}

    def _measure(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._metric is not None:
            settle_reductions(trainer)
            measurement = self._recorder.measure(pl_module, self._cadence, trainer.optimizers, planned_steps(trainer))
            self._announcer.measurement(trainer, self._recorder, measurement)
