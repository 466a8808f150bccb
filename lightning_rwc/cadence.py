# SPDX-License-Identifier: Apache-2.0
"""When to measure: at the end of which batches and epochs, also after a resume."""

from dataclasses import dataclass, field, fields
from typing import Any

from lightning_rwc.options import check_count


@dataclass
class Cadence:
    """Keeps track of training and of the last measurement, and decides whether a measurement is due.

    Args:
        every_n_epochs: a measurement is due at the end of every n-th epoch.
        every_n_train_steps: if given, a measurement is due whenever ``global_step`` passes a multiple of n instead.

    Raises:
        TypeError: if an argument is not an int.
        ValueError: if an argument is below 1, or both are given.

    """

    every_n_epochs: int = 1
    every_n_train_steps: int | None = None
    epoch: int = field(default=0, init=False)
    """The epoch of the last batch."""
    global_step: int = field(default=0, init=False)
    """Lightning's ``global_step`` after the last batch."""
    step: int = field(default=0, init=False)
    """The step at which Lightning logs the last batch."""
    measured_step: int = field(default=0, init=False)
    """``global_step`` of the last measurement, or of the first snapshot."""
    measured_epoch: int = field(default=-1, init=False)
    """The epoch of the last measurement."""
    due: bool = field(default=False, init=False)
    """Whether a measurement is due but not taken yet."""

    def __post_init__(self) -> None:
        check_count("every_n_epochs", self.every_n_epochs)
        if self.every_n_train_steps is not None:
            check_count("every_n_train_steps", self.every_n_train_steps)
            if self.every_n_epochs != 1:
                raise ValueError(
                    f"`every_n_epochs={self.every_n_epochs}` and `every_n_train_steps={self.every_n_train_steps}` "
                    "exclude each other: give one of them."
                )

    def start(self, global_step: int) -> None:
        """Note that training starts, with a new snapshot."""
        self.epoch, self.step, self.measured_epoch, self.due = 0, 0, -1, False
        self.global_step = self.measured_step = global_step

    def batch_started(self, epoch: int) -> None:
        """Note that a batch of ``epoch`` starts."""
        self.epoch = epoch

    def batch_ended(self, global_step: int, step: int) -> bool:
        """Note that a batch has ended, and return whether a measurement is due."""
        # With several optimizers `global_step` can jump over a multiple. With accumulated gradients it can stay on one.
        n = self.every_n_train_steps
        self.due = n is not None and global_step // n > self.global_step // n
        self.global_step, self.step = global_step, step
        return self.due

    def epoch_ended(self, epoch: int) -> bool:
        """Note that ``epoch`` has ended, and return whether a measurement is due."""
        self.epoch = epoch
        # After a resume, the same epoch may end a second time.
        seen = (self.measured_step, self.measured_epoch) == (self.global_step, self.epoch)
        self.due = self.measures_at_end_of(epoch) and not seen
        return self.due

    def measures_at_end_of(self, epoch: int) -> bool:
        """Whether a measurement belongs to the end of ``epoch``."""
        return self.every_n_train_steps is None and (epoch + 1) % self.every_n_epochs == 0

    def resumed(self, epoch: int, global_step: int, step: int) -> bool:
        """Note that training resumes with ``epoch``, and return whether the checkpoint missed a due measurement.

        A checkpoint may be saved at the end of a batch or an epoch before our hook runs there. Training then resumes
        after that hook, which never runs.

        """
        due = self.due or (global_step != self.global_step and self.batch_ended(global_step, step))
        return due or (epoch > self.epoch and self.epoch_ended(self.epoch))

    def measured(self) -> None:
        """Note that a measurement has been taken."""
        self.measured_step, self.measured_epoch, self.due = self.global_step, self.epoch, False

    def state_dict(self) -> dict[str, Any]:
        """The state to save in a checkpoint."""
        return {f.name: getattr(self, f.name) for f in fields(self) if not f.init}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state of a checkpoint."""
        for name in self.state_dict():
            setattr(self, name, state[name])
