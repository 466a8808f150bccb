# SPDX-License-Identifier: Apache-2.0
"""The state of a Trainer: its strategy, steps and ranks. Some of it has no public name."""

import sys
from types import FrameType

from lightning.pytorch import Trainer


def class_names(thing: object) -> set[str]:
    """The names of the class of ``thing`` and of its bases."""
    # `isinstance` would fail for `pytorch_lightning`, whose classes do not inherit from those of `lightning.pytorch`.
    return {base.__name__ for base in type(thing).__mro__}


def has_replicas(trainer: Trainer) -> bool:
    """Whether every rank has the same weights at the end of each step."""
    # Under local SGD, replicas differ between averagings. Neither the strategy nor DDP has a public name for it.
    averages = getattr(trainer.strategy, "_model_averaging_period", None) is not None
    states = [state for _, state in getattr(trainer.strategy.model, "_comm_hooks", ())]
    is_local = averages or any("PostLocalSGDState" in class_names(state) for state in states)
    return "DDPStrategy" in class_names(trainer.strategy) and not is_local


def logged_step(trainer: Trainer) -> int:
    """The step at which Lightning logs metrics now."""
    # The number of batches that stepped has no public name. It is smaller than `global_step` with several optimizers
    # under manual optimisation. Lightning's LearningRateMonitor reads the same attribute.
    return trainer.fit_loop.epoch_loop._batches_that_stepped


def settle_reductions(trainer: Trainer) -> None:
    """Reduce the metrics of this epoch that other ranks may be reducing already. Call it before a collective.

    Lightning reduces metrics logged with ``sync_dist=True`` when a program first asks for them after the last batch of
    an epoch. A progress bar asks on rank 0 only. Rank 0 would then wait for ranks that wait in the next collective.
    When every rank asks, all ranks reduce the same metrics in the order in which they were logged. Each metric is
    reduced once, so a rank that asked before has nothing left to do. Then our collective cannot meet another one.

    """
    if trainer.world_size > 1:
        _ = trainer.callback_metrics


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
