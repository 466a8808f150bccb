# SPDX-License-Identifier: Apache-2.0
"""The callback: it hooks measurements into a Trainer."""

from collections.abc import Sequence
from typing import Any, cast

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.trainer.states import TrainerFn
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer
from typing_extensions import override

from lightning_rwc.measuring import MeasuringCallback
from lightning_rwc.start import refuse_shared_tags
from lightning_rwc.trainer_state import (
    LightningTraining,
    may_validate_now,
    promised_thaw,
    ranks_are_together,
    refuse_unverified,
    warn_if_history_stays_behind,
)
from lightning_rwc.training import Training


class RWCCallback(MeasuringCallback, Callback):
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
            (:class:`~lightning_rwc.measures.LayerFluctuation`), ``"adapter"`` for LoRA
            (:class:`~lightning_rwc.measures.AdapterChange`), and instances of your own
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

    _loaded: dict[str, Any] | None = None
    _saved_keys: Sequence[str] = ()
    _resuming = False
    _initial: dict[str, Any] | None = None

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
            self._require_layers(LightningTraining(trainer, pl_module))

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        training = LightningTraining(trainer, pl_module)
        fresh = trainer.global_step == 0 and trainer.current_epoch == 0
        if self._resuming and not fresh:
            self._resume_loaded(training)
        elif fresh or self._metric is None or not self._metric.is_of(pl_module):
            # A checkpoint from before the first step has no history. A search for the learning rate makes such a one.
            self._loaded, self._resuming = None, False
            self._start(training)
            self._keep_initial(training)
        thaw = promised_thaw(trainer, pl_module, self._metric.tracked(pl_module)) if self._metric is not None else None
        self._begin(training, thaw)

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
        training = LightningTraining(trainer, pl_module)
        due = self._cadence.batch_ended(training.global_step, training.logged_step)
        if stepped:
            self._recorder.batch_ended(pl_module, self._cadence, trainer.optimizers)
            self._announcer.findings(training, self._recorder)
        if due:
            self._measure(training)
        if self._cadence.measures_at_end_of(trainer.current_epoch) and may_validate_now(trainer):
            self._recorder.before_validation(pl_module)

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._resume_if_loaded(trainer, pl_module)
        if self._cadence.epoch_ended(trainer.current_epoch):
            self._measure(LightningTraining(trainer, pl_module))

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._announcer.pictures(LightningTraining(trainer, pl_module), self._recorder)
        self._announcer.summary(self._recorder, pl_module)

    @override
    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._announcer.pictures(LightningTraining(trainer, pl_module), self._recorder)

    @override
    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Training does not start again from the checkpoint of a finished run. But its last boundary may be unmeasured,
        # also if `max_steps` ended the run inside an epoch.
        if self._resuming:
            training = LightningTraining(trainer, pl_module)
            self._resume_loaded(training)
            if self._cadence.epoch_ended(self._cadence.epoch):
                self._measure(training)
            self._announcer.pictures(training, self._recorder)

    @override
    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        # Lightning moves the model off the accelerator. A later fit moves both back.
        if self._metric is not None:
            self._metric.cpu()

    @override
    def state_dict(self) -> dict[str, Any]:
        return self._state() if self._loaded is None else self._loaded  # nothing has changed since it was loaded

    @override
    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        if self._metric is None or self._loaded is not None or not self._needs_snapshot(trainer.global_step):
            return
        # Other ranks hold parts of the snapshot, and may not be able to send them now.
        snapshot = self._initial
        if not self._metric.spans_ranks:
            snapshot = self._metric.get_extra_state()
        elif ranks_are_together(trainer):
            LightningTraining(trainer, pl_module).settle()
            snapshot = self._metric.get_extra_state()
        checkpoint["callbacks"][self.state_key]["metric"] = snapshot

    @override
    def _keep_initial(self, training: Training) -> None:
        # For checkpoints at moments when not all ranks can answer. Only rank 0 writes checkpoints.
        state = None
        if self._metric is not None and self._metric.spans_ranks and self.relative_to == "initial":
            state = self._metric.get_extra_state()
        self._initial = state if training.is_global_zero else None

    def _resume_if_loaded(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # A callback may load a checkpoint inside a fit. A search for the learning rate does so to restore the weights.
        if self._resuming:
            self._resume_loaded(LightningTraining(trainer, pl_module))

    def _resume_loaded(self, training: LightningTraining) -> None:
        state, self._loaded, self._resuming = self._loaded, None, False
        others = ", ".join(self._saved_keys) or "none at all"
        self._resume(training, state, f"has no state of {self.state_key}. It has {others}")
