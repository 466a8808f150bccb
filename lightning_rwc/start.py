# SPDX-License-Identifier: Apache-2.0
"""What a fit cannot start with, and what its user should know before."""

from collections.abc import Sequence

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn

from lightning_rwc.layers import Layers, LayerSelection
from lightning_rwc.tags import find_shared
from lightning_rwc.trainer_state import class_names

_UNVERIFIED_STRATEGIES = {"FSDPStrategy", "DeepSpeedStrategy"}


def refuse_unverified(trainer: Trainer) -> None:
    """Raise ``ValueError`` under a strategy that the callback has not been tried with."""
    if class_names(trainer.strategy) & _UNVERIFIED_STRATEGIES:
        raise ValueError(
            f"RWCCallback is not verified under {type(trainer.strategy).__name__}, where a rank sees a part of every "
            "layer. Remove the callback, or train with `ModelParallelStrategy` (FSDP2), DDP or a single device."
        )


def refuse_shared_tags(names: Sequence[Sequence[str]]) -> None:
    """Raise ``ValueError`` if two callbacks could write under one tag.

    Args:
        names: for each callback its prefix and the names of its further measures.

    """
    prefixes = [prefix for prefix, *_ in names]
    if repeated := [prefix for prefix in prefixes if prefixes.count(prefix) > 1]:
        raise ValueError(f"Two RWCCallbacks have `prefix={repeated[0]!r}`: give each a prefix of its own.")
    if pair := find_shared(name for one in names for name in one):
        if pair[0] == pair[1]:
            raise ValueError(f"Two RWCCallbacks have tags that start with {pair[0]!r}: give one of them the measure.")
        raise ValueError(
            f"Two RWCCallbacks have tags that start with {pair[0]!r} and with {pair[1]!r}, which can be the same. "
            "Give one of them a `prefix` that does not continue the other behind a slash or as its `_summary`."
        )


def require_layers(trainer: Trainer, pl_module: LightningModule, selection: LayerSelection) -> None:
    """Raise if there is nothing to track, or if ranks do not track the same; a collective.

    Raises:
        Exception: on a rank where the selection fails, its error.
        ValueError: on the others.

    """
    error: Exception | None = None
    answer = ""
    try:
        layers = selection.require(pl_module)
        answer = repr({layer: [*parameters] for layer, parameters in layers.items()})
    except Exception as raised:
        error = raised
    # Every rank takes part, also one that is about to raise.
    agreed = trainer.strategy.reduce_boolean_decision(trainer.strategy.broadcast(answer) == answer and not error)
    if error is not None:
        raise error
    if not agreed:
        raise ValueError(
            "The ranks do not track the same layers: `layers` and `group_by` must give the same answer on every rank. "
            "A function must not depend on the rank, nor on the part of a parameter that the rank holds."
        )


def warn_if_history_stays_behind(trainer: Trainer) -> None:
    """Say so where fit runs in processes whose callbacks do not return to the caller's."""
    # Of all that a callback has, Lightning's launcher takes back `callback_metrics` only.
    if "_MultiProcessingLauncher" in class_names(trainer.strategy.launcher):
        rank_zero_warn(
            "This strategy trains in processes of its own, and `callback.history` stays empty in the one that called "
            "`fit`. Read the table from a checkpoint or a logger, save it in `on_train_end` by "
            "`callback.history.save(...)`, or use `Trainer(strategy='ddp')`."
        )


def hint_if_nothing_learns(layers: Layers, pl_module: LightningModule) -> None:
    """Warn if no tracked layer requires gradients but other parameters do."""
    if any(parameter.requires_grad for parameters in layers.values() for parameter in parameters.values()):
        return
    if learning := [name for name, parameter in pl_module.named_parameters() if parameter.requires_grad]:
        rank_zero_warn(
            f"None of the {len(layers)} tracked layers requires gradients, so their relative weight change will be 0. "
            f"The model learns {len(learning)} other parameters, such as {learning[0]!r}. Choose them by `layers=`."
        )
