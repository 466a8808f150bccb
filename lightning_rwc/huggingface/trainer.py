# SPDX-License-Identifier: Apache-2.0
"""The Trainer of transformers: its steps, ranks and callbacks, and what it does not hand to callbacks."""

import math
import sys
from collections.abc import MutableMapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from torch import Tensor
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.nn import Module
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer
from typing_extensions import override

from lightning_rwc.huggingface.integrations import loggers_of
from lightning_rwc.shards import ranks, same_on_all_ranks
from lightning_rwc.training import Training, averages_locally, class_names


class TransformersTraining(Training):
    """A training by transformers. Create it in ``on_train_begin``; the arguments are those of that hook."""

    def __init__(self, args: Any, state: Any, control: Any, model: Module, optimizer: Any) -> None:
        self._args, self._state, self._model = args, state, model
        # accelerate wraps optimizers, and a rule may ask for the class.
        self._optimizer: Optimizer = getattr(optimizer, "optimizer", optimizer)
        self._epoch = int(state.epoch or 0)
        self._metrics: dict[str, Tensor] = {}
        self.callbacks: Sequence[Any] = ()
        """All callbacks of the Trainer, in their order."""
        self.checkpoint: Path | None = None
        """The folder from which it resumes, if it is known."""
        self._trainer: Any = None
        self._trial: Any = None
        self._look_at_callers()
        self._loggers = loggers_of(self.callbacks, args, state, control, model) if self.is_global_zero else []

    def _look_at_callers(self) -> None:
        # A callback gets neither the Trainer, nor the other callbacks, nor the argument of `train` that names the
        # checkpoint. All of them are names of the functions that are running, and have been for years.
        frame: FrameType | None = sys._getframe()
        while frame is not None:
            owner: Any = frame.f_locals.get("self")
            path = frame.f_locals.get("resume_from_checkpoint")
            names = class_names(owner)
            if "CallbackHandler" in names and not self.callbacks:
                self.callbacks = owner.callbacks
            if "Trainer" in names and self._trainer in (None, owner):
                self._trainer = owner
                self._trial = frame.f_locals.get("trial") if self._trial is None else self._trial
                if isinstance(path, str | Path) and self.checkpoint is None:
                    self.checkpoint = Path(path)
            frame = frame.f_back

    @property
    def folder(self) -> Path:
        """The folder of a checkpoint that is saved now."""
        # Each trial of a search for hyperparameters has a folder of its own, which has no public name.
        of_trial = getattr(self._trainer, "_get_output_dir", None)
        folder = self._args.output_dir if of_trial is None else of_trial(self._trial)
        return Path(folder or "", f"checkpoint-{self._state.global_step}")

    @property
    @override
    def is_global_zero(self) -> bool:
        return bool(self._state.is_world_process_zero)

    @property
    @override
    def loggers(self) -> Sequence[Any]:
        return self._loggers

    @property
    @override
    def callback_metrics(self) -> MutableMapping[str, Tensor]:
        return self._metrics

    @property
    @override
    def module(self) -> Module:
        return self._model

    @property
    @override
    def epoch(self) -> int:
        return self._epoch

    def epoch_ended(self) -> None:
        """Note that the next epoch begins."""
        self._epoch += 1

    @property
    @override
    def global_step(self) -> int:
        return int(self._state.global_step)

    @property
    @override
    def logged_step(self) -> int:
        return self.global_step

    @property
    @override
    def optimizers(self) -> Sequence[Optimizer]:
        return [self._optimizer]

    @property
    @override
    def planned_steps(self) -> float:
        return float(self._state.max_steps) if self._state.max_steps > 0 else math.inf

    @property
    @override
    def has_replicas(self) -> bool:
        wrapped = getattr(self._trainer, "model_wrapped", None)
        # accelerate compiles what DDP has wrapped.
        wrapped = getattr(wrapped, "_orig_mod", wrapped)
        return ranks() > 1 and isinstance(wrapped, DistributedDataParallel) and not averages_locally(wrapped)

    @override
    def agrees(self, text: str) -> bool:
        # As for Lightning: the processes of a group may train apart.
        return bool(self._args.world_size == 1) or same_on_all_ranks(text)

    @override
    def settle(self) -> None:
        """Nothing to do: the Trainer has no collective in flight when it calls callbacks."""

    def may_end_epoch(self, step: int) -> bool:
        """Whether the optimizer step of this number may be the last one of an epoch, as far as that is planned."""
        return bool(step >= self._state.max_steps) or step % max(self._steps_in_epoch, 1) == 0

    @property
    def _steps_in_epoch(self) -> int:
        try:
            batches = len(self._trainer.callback_handler.train_dataloader)
        except (AttributeError, TypeError):
            return sys.maxsize  # a stream
        return math.ceil(batches / self._args.gradient_accumulation_steps)


def refuse_unverified(args: Any, model: Module) -> None:
    """Raise ``ValueError`` if the callback has not been tested with the way in which the model is spread over ranks."""
    kind = "DeepSpeed" if getattr(args, "deepspeed", None) or getattr(args, "deepspeed_plugin", None) else ""
    kind = kind or ("FSDP1" if any(isinstance(child, FullyShardedDataParallel) for child in model.modules()) else "")
    if kind:
        raise ValueError(
            f"RWCTrainerCallback is not verified under {kind}, where each rank sees only a part of each layer. Train "
            "with FSDP2 (`fsdp_version: 2`), DDP or a single device, or remove the callback."
        )
