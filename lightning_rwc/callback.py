# SPDX-License-Identifier: Apache-2.0
"""The Lightning callback: when to measure, and where the numbers go."""

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Literal, cast
from warnings import warn

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_warn
from lightning.pytorch.utilities.memory import is_oom_error
from torch.nn.parameter import is_lazy
from typing_extensions import override

from lightning_rwc.cadence import Cadence
from lightning_rwc.functional import Norm, check_norm
from lightning_rwc.history import RWCHistory
from lightning_rwc.interrupts import signals_held
from lightning_rwc.layers import GroupBy, LayerFilter, LayerSelection
from lightning_rwc.measures import Measure, MeasureTables
from lightning_rwc.metric import (
    RelativeTo,
    RelativeWeightChange,
    check_max_elements,
    check_relative_to,
    check_snapshot_device,
)
from lightning_rwc.report import Report
from lightning_rwc.start import (
    hint_if_nothing_learns,
    refuse_shared_tags,
    refuse_unverified,
    require_layers,
    warn_if_history_stays_behind,
)
from lightning_rwc.tags import find_shared
from lightning_rwc.trainer_state import has_replicas, logged_step, ranks_are_together, settle_reductions


class RWCCallback(Callback):
    r"""Measures the relative weight change of every layer while a Trainer trains.

    At the end of every epoch each layer's weights are compared with those of the measurement before, the first time
    with those at the start of training. The values go to every logger of the Trainer under the tags of
    :class:`~lightning_rwc.tags.Tags`, at the step at which Lightning logs the metrics of that epoch's end, and to
    ``trainer.callback_metrics``, so that EarlyStopping and ModelCheckpoint can monitor them. Loggers that can show
    pictures get a heatmap and a chart of all curves. The table itself is ``callback.history``.

    The callback keeps one copy of the tracked weights, the snapshot, on the device of the model. Under DDP every rank
    keeps and measures one part of it; with ``max_elements`` it is a sample, with ``snapshot_device="cpu"`` elsewhere.

    Checkpoints hold the history, and the snapshot where the weights have moved since the last measurement: a resumed
    run has the history of an uninterrupted one. Where ranks hold shards, each measures its own.

    No collective of the callback can meet another one, wherever it stands in the list of callbacks. A measurement that
    fails has a row of ``nan`` and one warning, and training goes on.

    An epoch cut short by ``max_steps`` or ``trainer.should_stop`` is measured like a whole one. Training is the same
    to the bit with and without the callback.

    Args:
        norm: the definition, see :func:`~lightning_rwc.functional.relative_weight_change`.
        relative_to: measure from the ``"previous"`` measurement, or from the ``"initial"`` weights, which tells how far
            a layer has come.
        layers: which parameters are tracked: a regular expression searched for in the parameter's name, several of
            them, or a function of name and parameter. By default all with two or more dimensions larger than 1:
            kernels and matrices, not biases and norm scales.
        group_by: how parameters form layers: an int ``n`` for the modules ``n`` names deep, or a function from
            parameter name to layer name. By default every tracked parameter is a layer, named after its module. In
            YAML either function is written ``package.module:function``.
        every_n_epochs: measure at the end of every n-th epoch.
        every_n_train_steps: measure every n optimizer steps instead (``trainer.global_step``, which counts the
            steps of all optimizers).
        heatmap: draw the pictures: at each of the first 20 measurements and then whenever there are a tenth more, so
            that a long run's log stays small, but never for more than a quarter of a percent of the time (``True``);
            every n measurements (an int); or never (``False``). The last measurement is always drawn.
        prefix: what the tags start with.
        max_elements: of each layer with more elements, measure a fixed sample of about so many: the snapshot is that
            much smaller, and values are estimates, whose standard errors ``history.standard_errors`` has: about half a
            percent of the value for 65536. A warning names layers whose estimates a few elements carry. By default
            every element is measured.
        snapshot_device: ``"cpu"`` keeps the snapshot in main memory, at the cost of a copy of the weights in both
            directions at each measurement. By default it is on the device of the model.
        measures: what is measured: ``"rwc"``, and beside it ``"strength"`` and ``"fluctuation"`` (see
            :class:`~lightning_rwc.measures.NodeStrength` and :class:`~lightning_rwc.measures.LayerFluctuation`) or
            instances of a :class:`~lightning_rwc.measures.Measure` of your own. Their tags start with their names.

    Attributes:
        history: the :class:`~lightning_rwc.RWCHistory` of all measurements, at any time, also without a logger.

    Raises:
        TypeError: at construction, if an argument is of the wrong type.
        ValueError: at construction, if an argument is out of range; at the start of fit, if the selection of layers
            finds nothing, parameters are still uninitialised, the strategy is not verified (FSDP1, DeepSpeed), or
            another RWCCallback has the same ``prefix``.

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
        measures: Sequence[str | Measure] = ("rwc",),
    ) -> None:
        super().__init__()
        check_norm(norm)
        check_relative_to(relative_to)
        check_max_elements(max_elements, norm)
        check_snapshot_device(snapshot_device)
        LayerSelection(layers, group_by)
        self._cadence = Cadence(every_n_epochs, every_n_train_steps)
        self._report = Report(prefix, heatmap)
        self._measures = MeasureTables(measures)
        if pair := find_shared([prefix, *self._measures.tables]):
            raise ValueError(
                f"`prefix={prefix!r}` and `measures` could give one tag to two things: tags start with {pair[0]!r} and "
                f"with {pair[1]!r}. Choose another `prefix`, or another name for the measure."
            )
        self.norm: Norm = norm
        self.relative_to: RelativeTo = relative_to
        self.layers = layers
        self.group_by = group_by
        self.every_n_epochs = every_n_epochs
        self.every_n_train_steps = every_n_train_steps
        self.heatmap = heatmap
        self.prefix = prefix
        self.max_elements = max_elements
        self.snapshot_device: Literal["cpu"] | None = snapshot_device
        self.measures = measures
        self.history = RWCHistory()
        self._metric: RelativeWeightChange | None = None
        self._module_id: int | None = None
        self._loaded: dict[str, Any] | None = None
        self._saved_keys: list[str] = []
        self._resuming = False
        self._told_failure = False
        self._initial: dict[str, Any] | None = None

    @property
    def histories(self) -> dict[str, RWCHistory]:
        """The table of each of ``measures``, by name; ``history`` is that of ``"rwc"``."""
        return {"rwc": self.history, **self._measures.tables}

    @property
    @override
    def state_key(self) -> str:
        # What differs in any of these cannot go on from one another's history.
        names = ("prefix", "norm", "relative_to")
        return f"RWCCallback[{', '.join(f'{name}={getattr(self, name)!r}' for name in names)}]"

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._loaded, self._resuming = None, False

    @override
    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        # `trainer.validate(ckpt_path=...)` loads too; what it loads is nothing to the history of a fit.
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
        refuse_shared_tags([[callback.prefix, *callback._measures.tables] for callback in callbacks])
        warn_if_history_stays_behind(trainer)
        # Lazy parameters may still be initialised by the sanity check; `on_train_start` looks again.
        if not any(is_lazy(parameter) for parameter in pl_module.parameters()):
            require_layers(trainer, pl_module, LayerSelection(self.layers, self.group_by))

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        fresh = trainer.global_step == 0 and trainer.current_epoch == 0
        if self._resuming and not fresh:
            self._resume(trainer, pl_module)
        elif fresh or self._metric is None or self._module_id != id(pl_module):
            # A checkpoint from before the first step, as a search for the learning rate makes, has no history to keep.
            self._loaded, self._resuming = None, False
            self._start(trainer, pl_module)
            self._keep_initial(trainer)

    @override
    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *args: Any, **kwargs: Any) -> None:
        self._resume_if_loaded(trainer, pl_module)
        self._cadence.batch_started(trainer.current_epoch)

    @override
    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, *args: Any, **kwargs: Any) -> None:
        self._resume_if_loaded(trainer, pl_module)

    @override
    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any, **kwargs: Any) -> None:
        self._resume_if_loaded(trainer, pl_module)
        if self._cadence.batch_ended(trainer.global_step, logged_step(trainer)):
            self._measure(trainer, pl_module)

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._resume_if_loaded(trainer, pl_module)
        if self._cadence.epoch_ended(trainer.current_epoch):
            self._measure(trainer, pl_module)

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._report.pictures(trainer, self.history, self._measures)

    @override
    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._report.pictures(trainer, self.history, self._measures)

    @override
    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # A checkpoint of a finished run: training does not start again, but its last boundary may want measuring, also
        # where `max_steps` ended the run inside an epoch.
        if self._resuming:
            self._resume(trainer, pl_module)
            if self._cadence.epoch_ended(self._cadence.epoch):
                self._measure(trainer, pl_module)
            self._report.pictures(trainer, self.history, self._measures)

    @override
    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        # Lightning takes the model off the accelerator; a later fit brings both back.
        if self._metric is not None:
            self._metric.cpu()

    @override
    def state_dict(self) -> dict[str, Any]:
        if self._loaded is not None:
            return self._loaded  # nothing has changed since it was loaded
        return {
            "cadence": self._cadence.state_dict(),
            "settings": self._settings(),
            "tracked": list(self._metric.layers) if self._metric is not None else [],
            "history": self.history.state_dict(),
            "measures": self._measures.state_dict(),
        }

    @override
    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        # The weights in the checkpoint are the snapshot, unless they have moved since the last measurement.
        moved = self.relative_to == "initial" or self._cadence.measured_step != trainer.global_step
        if self._metric is None or not moved or self._loaded is not None:
            return
        # Without `_initial` it is None: other ranks hold parts of the snapshot, and may not be there to send them.
        snapshot = self._initial
        if not self._metric.spans_ranks:
            snapshot = self._metric.get_extra_state()
        elif ranks_are_together(trainer):
            settle_reductions(trainer)
            snapshot = self._metric.get_extra_state()
        checkpoint["callbacks"][self.state_key]["metric"] = snapshot

    def _start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.history = RWCHistory()
        self._measures.clear()
        self._report.restart()
        self._cadence.start(trainer.global_step)
        self._module_id = id(pl_module)
        self._told_failure = False
        self._metric = self._initial = None
        selection = LayerSelection(self.layers, self.group_by)
        settle_reductions(trainer)
        require_layers(trainer, pl_module, selection)
        try:
            self._metric = RelativeWeightChange(
                pl_module,
                norm=self.norm,
                relative_to=self.relative_to,
                layers=self.layers,
                group_by=self.group_by,
                max_elements=self.max_elements,
                snapshot_device=self.snapshot_device,
                share_ranks=has_replicas(trainer),
            )
        except (MemoryError, RuntimeError) as error:
            if not isinstance(error, MemoryError) and not is_oom_error(error):
                raise
            rank_zero_warn(
                f"There is no memory for the snapshot of the weights, {selection.nbytes(pl_module):,} bytes: {error}. "
                "Training goes on without measurements of relative weight change; track fewer layers by `layers=`, "
                "sample them by `max_elements=` or keep the snapshot elsewhere by `snapshot_device=` to have them."
            )
        # Measuring takes all ranks.
        if not trainer.strategy.reduce_boolean_decision(self._metric is not None):
            self._metric = None
        if self._metric is not None:
            hint_if_nothing_learns(self._metric.tracked(pl_module), pl_module)

    def _keep_initial(self, trainer: Trainer) -> None:
        # For checkpoints that are made where ranks may have parted. Only rank 0 stores what it has.
        if self._metric is not None and self._metric.spans_ranks and self.relative_to == "initial":
            state = self._metric.get_extra_state()
            self._initial = state if trainer.is_global_zero else None

    def _resume_if_loaded(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # A callback may load a checkpoint inside a fit, as a search for the learning rate does to put back the weights.
        if self._resuming:
            self._resume(trainer, pl_module)

    def _resume(self, trainer: Trainer, pl_module: LightningModule) -> None:
        state, self._loaded, self._resuming = self._loaded, None, False
        self._start(trainer, pl_module)
        if state is None:
            rank_zero_warn(
                f"The checkpoint holds no state of {self.state_key}, but of {', '.join(self._saved_keys) or 'none'}. "
                "The history starts anew, and its first measurement is relative to the weights of the checkpoint."
            )
            return
        self.history = RWCHistory.from_state_dict(state["history"])
        self._measures.load_state_dict(state["measures"])
        self._cadence.load_state_dict(state["cadence"])
        if self._metric is None:
            return
        self._compare(state, trainer)
        lost = "metric" in state and state["metric"] is None
        if lost:
            rank_zero_warn(
                "The checkpoint was made when one rank had failed or was about to end, and could not ask the others "
                "for their parts of the snapshot. The next measurement is relative to the weights of the checkpoint."
            )
        elif "metric" in state:
            self._metric.set_extra_state(state["metric"])
        self._keep_initial(trainer)
        if not self._cadence.resumed(trainer.current_epoch, trainer.global_step, logged_step(trainer)):
            return
        if lost:
            self._begin_row({})
        else:
            self._measure(trainer, pl_module)

    def _compare(self, state: dict[str, Any], trainer: Trainer) -> None:
        """Warn of what has changed since the checkpoint."""
        assert self._metric is not None
        if new := set(self._metric.layers).symmetric_difference(state["tracked"] or self._metric.layers):
            rank_zero_warn(
                f"The checkpoint and the model differ in layers of {self.state_key}: {sorted(new)}. Those that are new "
                "are first measured relative to the weights of the checkpoint."
            )
        changes = [
            f"`{name}` was {state['settings'][name]} and is {value}"
            for name, value in self._settings().items()
            if state["settings"][name] != value
        ]
        if changes:
            rank_zero_warn(
                f"Since the checkpoint of {self.state_key}, {', and '.join(changes)}. The history goes on, but from "
                f"epoch {trainer.current_epoch}, step {trainer.global_step} on its values do not compare with those "
                "before."
            )

    def _settings(self) -> dict[str, int | None]:
        return {name: getattr(self, name) for name in ("every_n_epochs", "every_n_train_steps", "max_elements")}

    def _measure(self, trainer: Trainer, pl_module: LightningModule) -> None:
        metric = self._metric
        if metric is None:
            return
        settle_reductions(trainer)
        row: dict[str, float] = {}
        total = math.nan
        try:
            # Measures are the user's code, and may be interrupted: nothing has changed yet.
            beside = self._measures.rows(partial(metric.tracked, pl_module))
            with signals_held():
                self._begin_row(beside)
                metric.measure(pl_module)
                if not metric.spans_ranks:
                    row, total = self._fill_row(metric)
            if metric.spans_ranks:
                # Not held: the wait for a rank that has died must be able to end.
                row, total = self._fill_row(metric)
        except Exception as error:
            if not self.history.layers:
                self.history.amend(dict.fromkeys(metric.layers, math.nan))  # so that monitors find their keys
            if not self._told_failure:
                self._told_failure = True
                warn(
                    f"On rank {trainer.global_rank} a measurement of relative weight change failed with "
                    f"{type(error).__name__}: {error}. Training goes on; the row of epoch "
                    f"{self._cadence.epoch} is nan. Further failures are not reported.",
                    stacklevel=2,
                )
        self._report.measurement(trainer, self.history, row or self.history.newest(), total, self._measures)

    def _begin_row(self, beside: Mapping[str, Mapping[str, float]]) -> None:
        """Give each table its row of this measurement: ``nan`` for relative weight change until the sums are there."""
        epoch, step = self._cadence.epoch, self._cadence.step
        self.history.record(epoch, step, {})
        self._measures.record(beside, epoch, step)
        self._cadence.measured()

    def _fill_row(self, metric: RelativeWeightChange) -> tuple[dict[str, float], float]:
        """Put the sums of all ranks into the newest row; what it holds then, and the value of the whole model."""
        metric.reduce()
        layers, changes = metric.latest()
        (*values, total), (*errors, _), (*doubts, _) = changes.tolist()  # the one copy to the host
        row = dict(zip(layers, values, strict=True))
        with signals_held():
            self.history.amend(row, dict(zip(layers, errors, strict=True)))
        self._report.non_finite(row, self.history, metric.spans_ranks)
        self._report.unreliable([layer for layer, doubt in zip(layers, doubts, strict=True) if doubt], self.history)
        return row, total
