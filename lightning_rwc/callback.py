# SPDX-License-Identifier: Apache-2.0
"""The Lightning callback: when to measure, and where the numbers go."""

import math
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities import rank_zero_warn
from torch.nn.parameter import is_lazy
from typing_extensions import override

from lightning_rwc.functional import Norm, check_norm, depth_correlation
from lightning_rwc.history import RWCHistory
from lightning_rwc.layers import GroupBy, LayerFilter, LayerSelection
from lightning_rwc.loggers import LoggerOutput
from lightning_rwc.metric import RelativeTo, RelativeWeightChange, check_relative_to
from lightning_rwc.tags import Tags

_UNVERIFIED_STRATEGIES = {"FSDPStrategy", "DeepSpeedStrategy"}


class RWCCallback(Callback):
    r"""Measures the relative weight change of every layer while a Trainer trains.

    At the end of every epoch each layer's weights are compared with those of the measurement before, the first time
    with those at the start of training. The values go to every logger of the Trainer under the tags of
    :class:`~lightning_rwc.tags.Tags`, at the step at which Lightning logs the metrics of that epoch's end, and to
    ``trainer.callback_metrics``, so that EarlyStopping and ModelCheckpoint can monitor them. Loggers that can show
    pictures get a heatmap and a chart of all curves. The table itself is ``callback.history``.

    An epoch cut short by ``max_steps`` or ``trainer.should_stop`` is measured like a whole one. Training is the same
    to the bit with and without the callback.

    Args:
        norm: the definition, see :func:`~lightning_rwc.functional.relative_weight_change`.
        relative_to: measure from the ``"previous"`` measurement, or from the ``"initial"`` weights, which tells how far
            a layer has come.
        layers: which parameters are tracked: a regular expression searched for in the parameter's name, several of
            them, or a function of name and parameter. By default all of two or more dimensions: kernels and matrices,
            not biases and norm scales.
        group_by: how parameters form layers: an int ``n`` for the modules ``n`` names deep, or a function from
            parameter name to layer name. By default every tracked parameter is a layer, named after its module. In
            YAML either function is written ``package.module:function``.
        every_n_epochs: measure at the end of every n-th epoch.
        every_n_train_steps: measure every n optimizer steps instead (``trainer.global_step``, which counts the
            steps of all optimizers).
        heatmap: draw the pictures: at each of the first 20 measurements and then whenever there are a tenth more, so
            that a long run's log stays small (``True``); every n measurements (an int); or never (``False``). The
            last measurement is always drawn.
        prefix: what the tags start with.

    Attributes:
        history: the :class:`~lightning_rwc.RWCHistory` of all measurements, at any time, also without a logger.

    Raises:
        TypeError: at construction, if an argument is of the wrong type.
        ValueError: at construction, if an argument is out of range; at the start of fit, if the selection of layers
            finds nothing, parameters are still uninitialised, or weights are sharded over ranks.

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
    ) -> None:
        super().__init__()
        check_norm(norm)
        check_relative_to(relative_to)
        LayerSelection(layers, group_by)
        _check_count("every_n_epochs", every_n_epochs)
        if every_n_train_steps is not None:
            _check_count("every_n_train_steps", every_n_train_steps)
            if every_n_epochs != 1:
                raise ValueError(
                    f"`every_n_epochs={every_n_epochs}` and `every_n_train_steps={every_n_train_steps}` exclude each "
                    "other: give one of them."
                )
        if not isinstance(heatmap, bool):
            _check_count("heatmap", heatmap)
        if not isinstance(prefix, str) or not prefix.strip():
            raise ValueError(f"`prefix` must be a string that is not blank, such as 'rwc', but got {prefix!r}.")
        self.norm: Norm = norm
        self.relative_to: RelativeTo = relative_to
        self.layers = layers
        self.group_by = group_by
        self.every_n_epochs = every_n_epochs
        self.every_n_train_steps = every_n_train_steps
        self.heatmap = heatmap
        self.prefix = prefix
        self.history = RWCHistory()
        self._metric: RelativeWeightChange | None = None
        self._global_step = 0
        self._drawn = 0
        self._told_non_finite = False
        self._output = LoggerOutput()

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        _refuse_sharded(trainer, pl_module)
        # Lazy parameters may still be initialised by the sanity check; `on_train_start` looks again.
        if not any(is_lazy(parameter) for parameter in pl_module.parameters()):
            LayerSelection(self.layers, self.group_by).require(pl_module)

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._global_step = trainer.global_step
        fresh = trainer.global_step == 0 and trainer.current_epoch == 0
        if fresh:
            self.history, self._drawn, self._told_non_finite = RWCHistory(), 0, False
        if self._metric is None or fresh or trainer.ckpt_path is not None:
            self._metric = RelativeWeightChange(
                pl_module,
                norm=self.norm,
                relative_to=self.relative_to,
                layers=self.layers,
                group_by=self.group_by,
            )

    @override
    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any, **kwargs: Any) -> None:
        # Several optimizers, or an accumulated gradient, let global_step jump over multiples or stand still on them.
        n = self.every_n_train_steps
        if n is not None and trainer.global_step // n > self._global_step // n:
            self._global_step = trainer.global_step
            self._measure(trainer, pl_module, _logged_step(trainer))

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.every_n_train_steps is None and (trainer.current_epoch + 1) % self.every_n_epochs == 0:
            self._measure(trainer, pl_module, max(_logged_step(trainer) - 1, 0))

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._draw(trainer)

    @override
    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._draw(trainer)

    def _measure(self, trainer: Trainer, pl_module: LightningModule, step: int) -> None:
        assert self._metric is not None
        self._metric.update(pl_module)
        changes = self._metric.compute()
        *values, total = torch.stack([*changes.values(), self._metric.total]).tolist()  # the one copy to the host
        row = dict(zip(changes, values, strict=True))
        self.history.record(trainer.current_epoch, step, row)
        self._warn_if_non_finite(row, step)

        tags = Tags(self.prefix)
        scalars = {tags.layer(layer): value for layer, value in row.items()}
        scalars |= {tags.total: total, tags.depth_correlation: depth_correlation(values)}
        trainer.callback_metrics.update({tag: torch.tensor(value) for tag, value in scalars.items()})
        self._output.scalars(trainer.loggers, scalars, step)

        spacing = self.heatmap if self.heatmap is not True else max(self._drawn // 10, 1)
        if spacing and len(self.history) - self._drawn >= spacing:
            self._draw(trainer)

    def _draw(self, trainer: Trainer) -> None:
        measured = len(self.history)
        if not self.heatmap or self._drawn == measured or not trainer.is_global_zero:
            return
        loggers = self._output.showing_images(trainer.loggers)
        if not loggers:
            return
        self._drawn = measured
        with self._output.survive("drawing the pictures"):
            from lightning_rwc.plotting import to_image

            tags = Tags(self.prefix)
            figures = {tags.heatmap: self.history.plot_heatmap(), tags.curves: self.history.plot_curves()}
            images = {tag: to_image(figure) for tag, figure in figures.items()}
            self._output.images(loggers, images, self.history.steps[-1])

    def _warn_if_non_finite(self, row: dict[str, float], step: int) -> None:
        layer = next((layer for layer, value in row.items() if math.isnan(value)), None)
        if layer is not None and not self._told_non_finite:
            self._told_non_finite = True
            rank_zero_warn(
                f"Layer {layer!r} has a weight that is nan or infinite at step {step}. Its relative weight change is "
                "nan from here on while that lasts; other layers stay right. This is said once a run."
            )


def _check_count(name: str, value: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"`{name}` must be an int, but got {value!r}.")
    if value < 1:
        raise ValueError(f"`{name}` must be at least 1, but got {value}.")


def _logged_step(trainer: Trainer) -> int:
    # Lightning logs at a step that has no public name: the batches that stepped, which under manual optimisation
    # with several optimizers is less than `global_step`. Its own LearningRateMonitor reads the same attribute.
    return trainer.fit_loop.epoch_loop._batches_that_stepped


def _refuse_sharded(trainer: Trainer, pl_module: LightningModule) -> None:
    names = {base.__name__ for base in type(trainer.strategy).__mro__}
    if names & _UNVERIFIED_STRATEGIES or any(hasattr(p, "to_local") for p in pl_module.parameters()):
        raise ValueError(
            f"RWCCallback does not measure weights that {type(trainer.strategy).__name__} shards over ranks: each rank "
            "would see a part of every layer. Remove the callback, or train with `strategy='ddp'` or a single device."
        )
