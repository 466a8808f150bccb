# SPDX-License-Identifier: Apache-2.0
"""Lightning's Trainer: its strategy, steps and ranks, and what its callbacks promise."""

import math
import sys
from collections.abc import MutableMapping, Sequence
from types import FrameType
from typing import Any, cast

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor
from torch.nn import Module
from torch.optim import Optimizer
from typing_extensions import override

from lightning_rwc.findings.facts import Thaw
from lightning_rwc.layers import Layers
from lightning_rwc.messages import rank_zero_warn
from lightning_rwc.shards import same_on_all_ranks
from lightning_rwc.training import Training, averages_locally, class_names

_UNVERIFIED_STRATEGIES = {"FSDPStrategy", "DeepSpeedStrategy"}


class LightningTraining(Training):
    """A training by Lightning."""

    def __init__(self, trainer: Trainer, module: LightningModule) -> None:
        self._trainer, self._module = trainer, module

    @property
    @override
    def is_global_zero(self) -> bool:
        return self._trainer.is_global_zero

    @property
    @override
    def loggers(self) -> Sequence[Any]:
        return self._trainer.loggers

    @property
    @override
    def callback_metrics(self) -> MutableMapping[str, Tensor]:
        return self._trainer.callback_metrics

    @property
    @override
    def module(self) -> Module:
        return self._module

    @property
    @override
    def epoch(self) -> int:
        return self._trainer.current_epoch

    @property
    @override
    def global_step(self) -> int:
        return self._trainer.global_step

    @property
    @override
    def logged_step(self) -> int:
        # The number of batches that stepped has no public name. It is smaller than `global_step` with several
        # optimizers under manual optimisation. Lightning's LearningRateMonitor reads the same attribute.
        return self._trainer.fit_loop.epoch_loop._batches_that_stepped

    @property
    @override
    def optimizers(self) -> Sequence[Optimizer]:
        return self._trainer.optimizers

    @property
    @override
    def planned_steps(self) -> float:
        try:
            steps = float(self._trainer.estimated_stepping_batches)
        except MisconfigurationException:
            return math.inf  # the number of accumulated batches changes
        return steps if steps > 0 else math.inf

    @property
    @override
    def has_replicas(self) -> bool:
        return has_replicas(self._trainer)

    @override
    def agrees(self, text: str) -> bool:
        # Each rank of a process group may have a Trainer of its own.
        return self._trainer.world_size == 1 or same_on_all_ranks(text)

    @override
    def settle(self) -> None:
        """Reduce the metrics of this epoch that other ranks may be reducing already.

        Lightning reduces metrics logged with ``sync_dist=True`` when a program first asks for them after the last batch
        of an epoch. A progress bar asks on rank 0 only. Rank 0 would then wait for ranks that wait in the next
        collective. When every rank asks, all ranks reduce the same metrics in the order in which they were logged. Each
        metric is reduced once, so a rank that asked before has nothing left to do. Then our collective cannot meet
        another one.

        """
        if self._trainer.world_size > 1:
            _ = self._trainer.callback_metrics


def refuse_unverified(trainer: Trainer) -> None:
    """Raise ``ValueError`` if the callback has not been tested with the strategy."""
    if class_names(trainer.strategy) & _UNVERIFIED_STRATEGIES:
        raise ValueError(
            f"RWCCallback is not verified under {type(trainer.strategy).__name__}, where each rank sees only a part of "
            "each layer. Train with `ModelParallelStrategy` (FSDP2), DDP or a single device, or remove the callback."
        )


def warn_if_history_stays_behind(trainer: Trainer) -> None:
    """Warn if fit runs in separate processes, because their callbacks do not come back to the caller."""
    # Lightning's launcher brings back `callback_metrics`, but not the callbacks.
    if "_MultiProcessingLauncher" in class_names(trainer.strategy.launcher):
        rank_zero_warn(
            "This strategy trains in separate processes, so `callback.history` stays empty in the process that called "
            "`fit`. Read the history from a checkpoint or a logger, save it in `on_train_end` with "
            "`callback.history.save(...)`, or use `Trainer(strategy='ddp')`."
        )


def has_replicas(trainer: Trainer) -> bool:
    """Whether every rank has the same weights at the end of each step."""
    # Under local SGD, replicas differ between averagings. The strategy has no public name for it.
    averages = getattr(trainer.strategy, "_model_averaging_period", None) is not None
    is_local = averages or averages_locally(trainer.strategy.model)
    return "DDPStrategy" in class_names(trainer.strategy) and not is_local


def may_validate_now(trainer: Trainer) -> bool:
    """Whether the batch that ends now may be followed by validation. It may be without, but hardly the reverse.

    Not foreseen are validation at fixed times (unless the epoch ends too), and a stop that another callback asks for
    later in the same hook.

    """
    n, every = trainer.check_val_every_n_epoch, trainer.val_check_batch
    if not trainer.enable_validation or (n is not None and (trainer.current_epoch + 1) % n):
        return False
    # Without `n`, Lightning counts batches over all epochs.
    batches = 1 + (trainer.fit_loop.total_batch_idx if n is None else trainer.fit_loop.batch_idx)
    is_turn = every is not None and batches % every == 0
    return trainer.is_last_batch or trainer.should_stop or is_turn


def promised_thaw(trainer: Trainer, pl_module: LightningModule, layers: Layers) -> Thaw | None:
    """Which frozen layers Lightning's ``BackboneFinetuning`` is to thaw in this fit. Call it when the fit begins.

    A layer counts if all of its parameters are in the backbone. A subclass with a ``finetune_function`` of its own
    thaws whenever it likes, so it promises nothing that can be read here.

    """
    name, backbone = "BackboneFinetuning", getattr(pl_module, "backbone", None)
    epochs = [
        one.unfreeze_backbone_at_epoch
        for one in cast(Any, trainer).callbacks
        if _owner(one, "finetune_function") == name
    ]
    if not epochs or not isinstance(backbone, Module):
        return None
    frozen = {id(parameter) for parameter in backbone.parameters() if not parameter.requires_grad}
    names = tuple(layer for layer, found in layers.items() if all(id(p) in frozen for p in found.values()))
    # `fast_dev_run` trains one epoch, whatever the user has planned.
    known = trainer.max_epochs is not None and trainer.max_epochs >= 0 and not cast(Any, trainer).fast_dev_run
    thaw = Thaw(name, names, min(epochs), trainer.current_epoch, trainer.max_epochs if known else None)
    return thaw if names else None


def _owner(thing: object, method: str) -> str | None:
    """The name of the class from which ``thing`` has ``method``."""
    return next((base.__name__ for base in type(thing).__mro__ if method in vars(base)), None)


def ranks_are_together(trainer: Trainer) -> bool:
    """Whether the other ranks reach this point too, so that a collective here can complete.

    After an exception they may not, because it may have occurred on one rank only. In the handler of a signal they may
    not either, because the signal finds each rank at a different line. Lightning saves a checkpoint in such a handler
    when SLURM is about to end the job.

    """
    if trainer.interrupted:
        return False
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        # Python does not tell whether a handler is running. Lightning's handlers are methods of this private module.
        if frame.f_globals.get("__name__", "").endswith(".connectors.signal_connector"):
            return False
        frame = frame.f_back
    return True
