# SPDX-License-Identifier: Apache-2.0
"""The findings of a run: each is told once, when its rule has applied for long enough."""

import math
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, NamedTuple, TypeAlias

from torch.nn import Parameter
from torch.optim import Optimizer

from lightning_rwc.findings.certain import (
    CERTAIN,
    NOT_IN_OPTIMIZER,
    PATIENCE,
    SHRINKING,
    Rule,
    Scene,
    may_have_no_gradient,
)
from lightning_rwc.findings.facts import (
    Gradient,
    LayerFacts,
    facts_at_start,
    facts_of,
    gradient_of,
    holders_of,
    learning_rate,
)
from lightning_rwc.findings.finding import Finding
from lightning_rwc.metric import Measurement
from lightning_rwc.movement import ROUNDING

NamedLayers: TypeAlias = Mapping[str, Mapping[str, Parameter]]


class Moment(NamedTuple):
    """When a measurement was taken, and how."""

    epoch: int
    step: int
    """The step under which it is logged."""
    steps: int
    """How many optimizer steps were taken since the snapshot."""
    since_start: bool
    """Whether the snapshot is always the start of training."""
    is_sampled: bool
    """Whether values are estimates."""


class Findings:
    """What is wrong with a run, as far as its measurements tell."""

    def __init__(self) -> None:
        self.found: list[Finding] = []
        """All findings so far, oldest first."""
        self._told: dict[str, set[str]] = {}
        self._steps: dict[str, dict[str, int]] = {}
        self._watched: dict[str, list[weakref.ref[Parameter]]] = {}
        self._quiet: dict[str, int] = {}
        """For how many steps in a row the gradient of each watched layer has been zero or missing."""
        self._updated: dict[str, bool] = {}
        """Whether watched layers that are updated in this batch had a gradient."""
        self._rates: dict[int, float] = {}
        self._had_gradients = False
        self._has_looked_at_start = False

    def optimizer_steps(self, optimizer: Optimizer) -> None:
        """Look at an optimizer that is about to step.

        Its learning rates are noted, because a scheduler may have changed them when the measurement comes. Gradients
        are looked at as long as there is a reason to.

        """
        for group in optimizer.param_groups:
            rate = learning_rate(group)
            self._rates[id(group)] = max(rate, self._rates.get(id(group), rate))
            self._had_gradients = self._had_gradients or any(p.grad is not None for p in group["params"])
        if self._watched:
            mine = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
            for layer, references in self._watched.items():
                own = [p for reference in references if (p := reference()) is not None and id(p) in mine]
                if own:
                    loud = gradient_of(own) in (Gradient.SOME, Gradient.NOT_FINITE)
                    self._updated[layer] = self._updated.get(layer, False) or loud

    @property
    def watches(self) -> bool:
        """Whether :meth:`batch_ended` has anything to do."""
        return not self._has_looked_at_start or bool(self._watched)

    def batch_ended(self, layers: NamedLayers, optimizers: Sequence[Optimizer], epoch: int, step: int) -> None:
        """Look at gradients after a batch with an optimizer step, as long as there is a reason to.

        Args:
            layers: layer name to parameter name to parameter, as they are now.
            optimizers: those of the training.
            epoch: the present epoch.
            step: the step under which Lightning logs it.

        """
        if not self._has_looked_at_start:
            self._has_looked_at_start = True
            facts = facts_at_start(layers, holders_of(optimizers, {})) if optimizers else []
            found = [one for one in facts if one.is_held_by_nobody and one.gradient is Gradient.SOME]
            if found:
                scene = Scene(facts, 0, True, False, False, True, ())
                self._tell(NOT_IN_OPTIMIZER, scene, found, 1, epoch, step)

        for layer, loud in self._updated.items():
            # A gradient that has been clipped to zero counts too.
            if loud and gradient_of(p for p in layers.get(layer, {}).values() if p.requires_grad) is not Gradient.ZERO:
                self._quiet[layer] = 0
            else:
                self._quiet[layer] = self._quiet.get(layer, 0) + 1
        self._updated.clear()

    def observe(
        self, measurement: Measurement, layers: NamedLayers, optimizers: Sequence[Optimizer], moment: Moment
    ) -> None:
        """Look at a measurement.

        Args:
            measurement: it has the movements rotation, radial and moved.
            layers: layer name to parameter name to parameter, as they are now.
            optimizers: those of the training.
            moment: when it was taken.

        """
        rates, self._rates = self._rates, {}
        if not self._may_be_wrong(measurement, layers, moment.steps):
            self._steps, self._quiet, self._watched = {}, {}, {}
            return
        facts = facts_of(measurement, layers, holders_of(optimizers, rates))
        quiet = {layer for layer, batches in self._quiet.items() if batches >= PATIENCE}
        scene = Scene(
            facts,
            moment.steps,
            bool(optimizers),
            moment.is_sampled,
            measurement.spans_ranks,
            self._had_gradients,
            quiet,
            measurement.difference,
        )
        self._had_gradients = False
        for rule in CERTAIN:
            suspects, before = rule.suspects(scene), self._steps.get(rule.kind, {})
            steps = {
                layer.name: max(
                    moment.steps + (0 if moment.since_start else before.get(layer.name, 0)),
                    self._quiet.get(layer.name, 0),
                )
                for layer in suspects
            }
            self._steps[rule.kind] = steps
            due = [layer for layer in suspects if max(steps[layer.name], 1) >= rule.patience]
            applied = min((steps[layer.name] for layer in due), default=0)
            self._tell(rule, scene, due, applied, moment.epoch, moment.step)
        # Decay turns some layers whether they have a gradient or not, and Lightning clears gradients before it
        # validates. So gradients of such layers are watched from step to step.
        told = self._told["no_gradient"] | self._told["nothing_moves"]
        watched = [one for one in facts if one.name not in told and may_have_no_gradient(one, moment.steps)]
        self._watched = {one.name: [*map(weakref.ref, one.parameters)] for one in watched}
        self._quiet = {layer: self._quiet.get(layer, 0) for layer in self._watched}

    def _may_be_wrong(self, measurement: Measurement, layers: NamedLayers, steps: int) -> bool:
        """Whether any rule can apply. As a rule none can, and a look at every parameter takes longer than this."""
        if measurement.difference is not None:
            return True
        rotations, growths, shares = (measurement.movements[name].values for name in ("rotation", "radial", "moved"))
        for layer, change in measurement.values.items():
            turns = rotations[layer] > steps * ROUNDING and -growths[layer] <= SHRINKING * rotations[layer]
            fine = turns and shares[layer] >= 0.1 and not math.isnan(change) and layer not in self._quiet
            if not fine and (math.isnan(change) or any(p.requires_grad for p in layers.get(layer, {}).values())):
                return True
        return False

    def _tell(  # noqa: PLR0917
        self, rule: Rule, scene: Scene, layers: Sequence[LayerFacts], steps: int, epoch: int, step: int
    ) -> None:
        told = self._told.setdefault(rule.kind, set())
        fresh = [layer for layer in layers if layer.name not in told]
        if fresh and not (rule.once and told):
            names = tuple(layer.name for layer in fresh)
            self.found.append(Finding(rule.kind, names, epoch, step, rule.message(scene, fresh, steps)))
            told.update(names)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_watched": {}, "_quiet": {}}

    def state_dict(self) -> dict[str, Any]:
        """The findings, and for how long rules have applied, for a checkpoint."""
        return {
            "found": [asdict(finding) | {"layers": [*finding.layers]} for finding in self.found],
            "told": {kind: sorted(layers) for kind, layers in self._told.items()},
            "steps": {kind: dict(steps) for kind, steps in self._steps.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resume from :meth:`state_dict`."""
        self.found = [Finding(**one | {"layers": tuple(one["layers"])}) for one in state["found"]]
        self._told = {kind: {*layers} for kind, layers in state["told"].items()}
        self._steps = {kind: dict(steps) for kind, steps in state["steps"].items()}
