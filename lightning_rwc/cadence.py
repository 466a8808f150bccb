# SPDX-License-Identifier: Apache-2.0
"""When to measure: at which ends of batches and epochs, also across a resume."""

from dataclasses import dataclass, field, fields
from typing import Any


@dataclass
class Cadence:
    """Knows where training is and where it was last measured, and says whether a measurement is due.

    Args:
        every_n_epochs: a measurement is due at the end of every n-th epoch.
        every_n_train_steps: or, instead, whenever ``global_step`` has passed a multiple of n.

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
    """The step under which Lightning's loggers have the last batch."""
    measured_step: int = field(default=0, init=False)
    """``global_step`` of the last measurement, or of the first snapshot."""
    measured_epoch: int = field(default=-1, init=False)
    """The epoch of the last measurement."""
    due: bool = field(default=False, init=False)
    """Whether a measurement is due and not taken yet."""

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
        """Training starts from a new snapshot."""
        self.epoch, self.step, self.measured_epoch, self.due = 0, 0, -1, False
        self.global_step = self.measured_step = global_step

    def batch_started(self, epoch: int) -> None:
        """A batch of ``epoch`` begins."""
        self.epoch = epoch

    def batch_ended(self, global_step: int, step: int) -> bool:
        """Whether a measurement is due now that a batch has ended."""
        # Several optimizers, or an accumulated gradient, let global_step jump over multiples or stand still on them.
        n = self.every_n_train_steps
        self.due = n is not None and global_step // n > self.global_step // n
        self.global_step, self.step = global_step, step
        return self.due

    def epoch_ended(self, epoch: int) -> bool:
        """Whether a measurement is due now that ``epoch`` has ended; the same end may come twice, after a resume."""
        self.epoch = epoch
        seen = (self.measured_step, self.measured_epoch) == (self.global_step, self.epoch)
        self.due = self.every_n_train_steps is None and (epoch + 1) % self.every_n_epochs == 0 and not seen
        return self.due

    def resumed(self, epoch: int, global_step: int, step: int) -> bool:
        """Whether a measurement was due at the checkpoint from which training goes on with ``epoch``.

        A checkpoint that is made at a boundary before our hook there resumes behind it, where that hook never runs.

        """
        due = self.due or (global_step != self.global_step and self.batch_ended(global_step, step))
        return due or (epoch > self.epoch and self.epoch_ended(self.epoch))

    def measured(self) -> None:
        """A measurement has been taken."""
        self.measured_step, self.measured_epoch, self.due = self.global_step, self.epoch, False

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint needs."""
        return {f.name: getattr(self, f.name) for f in fields(self) if not f.init}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        for name, value in state.items():
            setattr(self, name, value)


def check_count(name: str, value: int) -> None:
    """Raise unless ``value``, the argument ``name``, is an int of at least 1."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"`{name}` must be an int, but got {value!r}.")
    if value < 1:
        raise ValueError(f"`{name}` must be at least 1, but got {value}.")
