# SPDX-License-Identifier: Apache-2.0
"""What a Trainer tells of its strategy, its steps and its ranks; what has no public name stands here."""

import sys
from types import FrameType

from lightning.pytorch import Trainer


def class_names(thing: object) -> set[str]:
    """The names of the classes of ``thing``."""
    # By name: each class exists in `lightning.pytorch` and again in `pytorch_lightning`, unrelated by inheritance.
    return {base.__name__ for base in type(thing).__mro__}


def has_replicas(trainer: Trainer) -> bool:
    """Whether every rank has the same weights at the end of each step."""
    # Local SGD lets replicas drift apart between averagings; the strategy has no public name for it.
    averages = getattr(trainer.strategy, "_model_averaging_period", None) is not None
    return "DDPStrategy" in class_names(trainer.strategy) and not averages


def logged_step(trainer: Trainer) -> int:
    """The step at which Lightning logs metrics now."""
    # It has no public name: the batches that stepped, which under manual optimisation with several optimizers is less
    # than `global_step`. Lightning's own LearningRateMonitor reads the same attribute.
    return trainer.fit_loop.epoch_loop._batches_that_stepped


def settle_reductions(trainer: Trainer) -> None:
    """Reduce the metrics of this epoch that other ranks may be reducing already; to be called before a collective.

    Lightning reduces what is logged with ``sync_dist=True`` when somebody first asks for it after the epoch's last
    batch. A progress bar asks on rank 0 alone, so rank 0 waits there for ranks that wait in the next collective. When
    every rank asks, all of them reduce the same metrics in the order in which they were logged, each metric once: a
    rank that has asked before has nothing left to do. Then no rank can meet our collective with another one.

    """
    if trainer.world_size > 1:
        _ = trainer.callback_metrics


def ranks_are_together(trainer: Trainer) -> bool:
    """Whether the other ranks reach this point too, so that a collective here ends.

    They may not after an exception, which one rank may have alone. Nor in the handler of a signal, which reaches each
    rank in another place: Lightning saves a checkpoint there when SLURM is about to end the job.

    """
    if trainer.interrupted:
        return False
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        # Python does not tell whether it runs a handler; Lightning's are methods of this private module.
        if frame.f_globals.get("__name__", "").endswith(".connectors.signal_connector"):
            return False
        frame = frame.f_back
    return True
