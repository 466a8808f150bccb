# SPDX-License-Identifier: Apache-2.0
"""What measuring, and telling of it, need to know of the program that trains."""

from collections.abc import MutableMapping, Sequence
from typing import Any, Protocol

from torch import Tensor
from torch.nn import Module
from torch.optim import Optimizer


class Training(Protocol):
    """A training, at the moment when it is asked."""

    @property
    def is_global_zero(self) -> bool:
        """Whether this process writes for all."""

    @property
    def loggers(self) -> Sequence[Any]:
        """Loggers with Lightning's ``log_metrics``. Pictures and texts go to those whose class has a known name."""

    @property
    def callback_metrics(self) -> MutableMapping[str, Tensor]:
        """The newest values by tag, for those who monitor them."""

    @property
    def module(self) -> Module:
        """The module that trains."""

    @property
    def epoch(self) -> int:
        """The present epoch; the first one is 0."""

    @property
    def global_step(self) -> int:
        """How many optimizer steps were taken."""

    @property
    def logged_step(self) -> int:
        """The step under which metrics are logged now."""

    @property
    def optimizers(self) -> Sequence[Optimizer]:
        """All optimizers."""

    @property
    def planned_steps(self) -> float:
        """How many optimizer steps the run will take; ``inf`` if that is unknown."""

    @property
    def has_replicas(self) -> bool:
        """Whether every rank has the same weights at the end of each step."""

    def agrees(self, text: str) -> bool:
        """Whether ``text`` is the same on every rank that trains together. This is a collective."""

    def settle(self) -> None:
        """End collectives that other ranks may have begun. It is called before a collective."""


def class_names(thing: object) -> set[str]:
    """The names of the class of ``thing`` and of its bases."""
    # `isinstance` would fail for `pytorch_lightning`, whose classes do not inherit from those of `lightning.pytorch`.
    return {base.__name__ for base in type(thing).__mro__}


def averages_locally(module: object) -> bool:
    """Whether ``module``, as DDP wraps it, averages gradients over some of the ranks only."""
    # DDP has no public name for its hooks.
    return any("PostLocalSGDState" in class_names(state) for _, state in getattr(module, "_comm_hooks", ()))
