# SPDX-License-Identifier: Apache-2.0
"""What is likely wrong with a run, looked for at each measurement."""

import math
import weakref
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from lightning_rwc.findings.facts import Observation, moves_of
from lightning_rwc.findings.kinds import Kinds, kinds_of
from lightning_rwc.findings.likely import LIKELY, LikelyRule
from lightning_rwc.findings.trends import Moves, Trends


class Suspicion(NamedTuple):
    """What is likely wrong."""

    kind: str
    layers: list[str]
    message: str


class Suspicions:
    """Applies the likely rules to the trends of a run.

    Args:
        kinds: what is known of the layers, unless :meth:`measured` finds out.

    """

    def __init__(self, kinds: Kinds | None = None) -> None:
        self.trends = Trends()
        self._layers: weakref.ref[Any] | None = None
        self._sizes: list[int] = []
        self._kinds = kinds or Kinds()

    def measured(self, observation: Observation, rates: Mapping[int, float], stuck: Collection[str]) -> None:
        """Add a measurement to the trends.

        Args:
            observation: the measurement.
            rates: the id of each parameter group that has stepped, to its largest learning rate.
            stuck: layers of which it is known that they do not learn.

        """
        groups = [group for one in observation.optimizers for group in one.param_groups]
        sizes = [len(group["params"]) for group in groups]
        names = [*observation.measurement.values]
        seen = self._layers() if self._layers is not None else None
        if observation.layers is not seen or sizes != self._sizes or names != self.trends.layers:
            # A layer that the model has no longer stays in the table.
            layers = {name: observation.layers.get(name, {}) for name in names}
            self._kinds = kinds_of(observation.module, layers, observation.optimizers)
            self._layers, self._sizes = weakref.ref(observation.layers), sizes
        known = np.array([*(rates.get(id(group), math.nan) for group in groups), math.nan])
        moves = moves_of(observation, known[self._kinds.groups])
        if stuck:
            them = np.isin(names, [*stuck])
            moves.changes[them] = moves.rotations[them] = math.nan
        self.add(names, moves, observation.planned_steps)

    def add(self, layers: Sequence[str], moves: Moves, planned_steps: float = math.inf) -> None:
        """Add to the trends how far ``layers`` moved in a run of so many optimizer steps."""
        self.trends.planned_steps = planned_steps
        self.trends.follow(layers)
        self.trends.add(moves)

    def found(self, told: Mapping[str, Collection[str]], rules: Sequence[LikelyRule] = LIKELY) -> Iterator[Suspicion]:
        """What is likely wrong after the last measurement.

        Args:
            told: kinds of findings to the layers they were about. These are left out.
            rules: which rules to apply.

        """
        for rule in rules:
            before = told.get(rule.kind, ())
            if (rule.once and before) or not rule.explained_by.isdisjoint(told):
                continue
            chosen = rule.applies(self.trends, self._kinds)
            if before and chosen.any():
                chosen &= ~np.isin(self.trends.layers, [*before])
            if chosen.any():
                message = rule.message(self.trends, self._kinds, chosen)
                yield Suspicion(rule.kind, self.trends.names(chosen), message)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_layers": None}
