# SPDX-License-Identifier: Apache-2.0
"""The callback for transformers: it hooks measurements into its Trainer."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import torch
from typing_extensions import override

from lightning_rwc.extras import needs
from lightning_rwc.huggingface.trainer import TransformersTraining, refuse_unverified
from lightning_rwc.measuring import MeasuringCallback
from lightning_rwc.messages import rank_zero_warn
from lightning_rwc.start import refuse_shared_tags

with needs("transformers", extra="transformers", what="RWCTrainerCallback"):
    from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments


class RWCTrainerCallback(MeasuringCallback, TrainerCallback):
    """Measures the relative weight change of every layer while the Trainer of transformers trains.

    It is :class:`~lightning_rwc.callback.RWCCallback` for ``transformers.Trainer`` and what is built on it, such as
    the trainers of TRL, also with adapters of PEFT. Arguments, attributes, tags and promises are the same, except for
    what follows.

    Values go to what ``report_to`` names, at ``state.global_step``. TensorBoard, Weights & Biases, MLflow and Comet get
    scalars under the callback's own tags, pictures and findings. Other integrations get scalars in the same way as
    the Trainer's metrics, so that most of them put ``train/`` before the tags. There is no ``callback_metrics``.

    Gradients are looked at where an epoch is planned to end. If training stops earlier, some findings need
    ``every_n_train_steps``. After an exception the last pictures are not drawn, because no hook says so.

    ``every_n_train_steps`` counts ``state.global_step``: optimizer steps, however many batches each accumulates. Each
    call of ``trainer.train()`` begins a new history, unless it resumes from a checkpoint. The callback keeps its state
    in a file of its own in the checkpoint's folder.

    Raises:
        MissingPackageError: when the class is imported, if transformers is not installed.
        TypeError: at construction, if an argument is of the wrong type.
        ValueError: at construction, if an argument is out of range. At the start of training, if no layer is selected,
            the model is trained by FSDP1 or DeepSpeed, which nobody has verified yet, or another RWCTrainerCallback
            could write the same tags.

    Example:
        >>> from lightning_rwc.huggingface import RWCTrainerCallback
        >>> callback = RWCTrainerCallback(every_n_train_steps=100)  # for `Trainer(..., callbacks=[callback])`

    """

    _name = "RWCTrainerCallback"
    _log = "transformers.rwc"
    _training: TransformersTraining | None = None

    @override
    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        refuse_unverified(args, kwargs["model"])
        self._training = training = TransformersTraining(args, state, control, kwargs["model"], kwargs["optimizer"])
        others = [one for one in training.callbacks if isinstance(one, RWCTrainerCallback)]
        refuse_shared_tags([one._prefixes for one in others])
        if state.global_step:
            saved, problem = self._load(training, training.checkpoint or training.folder, state.global_step)
            self._resume(training, saved, problem)
        else:
            self._start(training)
        self._begin(training)

    @override
    def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
        if self._training is not None:
            self._cadence.batch_started(self._training.epoch)

    @override
    def on_pre_optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        if self._training is not None:
            self._recorder.optimizer_steps(self._training.optimizers[0])

    @override
    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        training = self._training
        if training is None:
            return
        # The Trainer clears gradients before the next hook, and counts the step only then.
        step = state.global_step + 1
        self._recorder.count_batch()
        due = self._cadence.batch_ended(step, step)
        self._recorder.batch_ended(training.module, self._cadence, training.optimizers)
        self._announcer.findings(training, self._recorder)
        if due or (self._cadence.measures_at_end_of(training.epoch) and training.may_end_epoch(step)):
            self._recorder.before_validation(training.module)

    @override
    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        if self._training is not None and self._cadence.due:
            self._measure(self._training)

    @override
    def on_epoch_end(self, *args: Any, **kwargs: Any) -> None:
        if self._training is not None:
            if self._cadence.epoch_ended(self._training.epoch):
                self._measure(self._training)
            self._training.epoch_ended()

    @override
    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self._training is None:
            return
        path = self._path(self._training.folder)
        try:
            saved = {"key": self.state_key, **self._state()}
            # All ranks come here, so that those that hold parts of the snapshot can send them.
            if self._metric is not None and self._needs_snapshot(state.global_step):
                saved["metric"] = self._metric.get_extra_state()
            if args.should_save:
                # A run that ends while it writes leaves no half of a file.
                torch.save(saved, part := path.with_suffix(".part"))
                part.replace(path)
        except Exception as error:
            rank_zero_warn(
                f"Saving the state of {self.state_key} failed with {type(error).__name__}: {error}. Training "
                "continues, but a run that resumes from this checkpoint will begin a new history."
            )

    @override
    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        # The last log. When training has ended, integrations before this callback have closed their logs.
        if self._training is not None and "train_runtime" in (logs or {}):
            self._announcer.pictures(self._training, self._recorder)
            self._announcer.summary(self._recorder, self._training.module)

    @override
    def on_train_end(self, *args: Any, **kwargs: Any) -> None:
        self._training = None  # it has the model
        if self._metric is not None:
            self._metric.cpu()

    def _path(self, folder: Path) -> Path:
        return folder / f"lightning_rwc_{quote(self.prefix, safe='')}.pt"

    def _load(
        self, training: TransformersTraining, folder: Path, global_step: int
    ) -> tuple[dict[str, Any] | None, str]:
        """The state in a checkpoint, or None and what is wrong with it."""
        path, state, problem, answer = self._path(folder), None, "", ""
        try:
            found = torch.load(path, map_location="cpu", weights_only=True)
            whose, step = found["key"], found["cadence"]["global_step"]
            if (whose, step) == (self.state_key, global_step):
                state, answer = found, repr((found["cadence"], found["tracked"]))
            else:
                problem = (
                    f"has no state of {self.state_key} at step {global_step}. {path} has that of {whose} at step {step}"
                )
        except Exception as error:
            problem = f"has no state of {self.state_key}: reading {path} failed with {type(error).__name__}: {error}"
        if not training.agrees(answer):
            state, problem = None, problem or f"has a state of {self.state_key} that not all ranks can read: {path}"
        return state, problem
