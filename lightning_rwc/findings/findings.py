# SPDX-License-Identifier: Apache-2.0
"""The findings of a run: each is told once, when its rule has applied for long enough."""

import math
import weakref
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from itertools import chain
from typing import Any

from torch.nn import Parameter
from torch.optim import Optimizer

from lightning_rwc.findings.certain import (
    CERTAIN,
    NOT_IN_OPTIMIZER,
    NOT_THAWED,
    PATIENCE,
    SHRINKING,
    Rule,
    Scene,
    is_thawed,
    may_have_no_gradient,
    never_thawed,
)
from lightning_rwc.findings.facts import (
    LayerFacts,
    NamedLayers,
    Observation,
    Thaw,
    facts_at_start,
    facts_of,
    holders_of,
    learning_rate,
)
from lightning_rwc.findings.finding import Finding
from lightning_rwc.findings.gradients import Gradient, Gradients, gradient_of
from lightning_rwc.findings.likely import LIKELY
from lightning_rwc.findings.suspicions import Suspicions
from lightning_rwc.movement import ROUNDING

KINDS = tuple(rule.kind for rule in (*CERTAIN, *LIKELY))
"""The names of all kinds."""


class Findings:
    """What is wrong with a run, as far as its measurements tell.

    Args:
        ignored: kinds that are not told.

    """

    def __init__(self, ignored: Collection[str] = ()) -> None:
        self._ignored = ignored
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
        self._gradients: Gradients | None = None
        """Those after the last batch, if they may have been cleared since."""
        self._had_gradients = False
        self._has_looked_at_start = False
        self._suspicions = Suspicions()
        self._has_thawed = False
        self.facts: Sequence[LayerFacts] = ()
        """What was seen at the last measurement, if there was a reason to look."""
        self.suspects: dict[str, list[LayerFacts]] = {}
        """Kind of finding to the layers to which its rule applied at the last measurement, told or not."""

    def started(self, thaw: Thaw | None, epoch: int, step: int) -> None:
        """Look at what is promised for this fit.

        Args:
            thaw: a promise to thaw layers, if there is one.
            epoch: the epoch in which the fit begins.
            step: the step under which Lightning logs it.

        """
        self._has_thawed = False
        told = any(finding.kind == NOT_THAWED.kind for finding in self.found)
        if thaw is not None and thaw.epochs is not None and thaw.epochs <= thaw.epoch and not told:
            self._add(Finding(NOT_THAWED.kind, thaw.layers, epoch, step, never_thawed(thaw)))

    def optimizer_steps(self, optimizer: Optimizer) -> None:
        """Look at an optimizer that is about to step.

        Its learning rates are noted, because a scheduler may have changed them when the measurement comes. Gradients
        are looked at as long as there is a reason to.

        """
        self._gradients = None
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
            holders = holders_of(optimizers, {})
            # Others need no look, which would wait for the device.
            nobodys = {
                layer: parameters
                for layer, parameters in layers.items()
                if optimizers and not any(id(p) in holders for p in parameters.values() if p.requires_grad)
            }
            facts = facts_at_start(nobodys, holders, _gradients(nobodys).fetch())
            found = [one for one in facts if one.gradient is Gradient.SOME]
            if found:
                scene = Scene(facts, 0, True, False, False, True, ())
                self._tell_certain(NOT_IN_OPTIMIZER, scene, found, 1, epoch, step)

        for layer, loud in self._updated.items():
            # A gradient that has been clipped to zero counts too.
            if loud and gradient_of(p for p in layers.get(layer, {}).values() if p.requires_grad) is not Gradient.ZERO:
                self._quiet[layer] = 0
            else:
                self._quiet[layer] = self._quiet.get(layer, 0) + 1
        self._updated.clear()

    def before_validation(self, layers: NamedLayers) -> None:
        """Look at the gradients of all layers, because Lightning clears them before it validates."""
        self._gradients = _gradients(layers)

    def observe(self, observation: Observation) -> None:
        """Look at a measurement."""
        self.forget()
        rates, self._rates = self._rates, {}
        trends = not observation.since_start and observation.steps > 0
        if trends:
            stuck = set[str]().union(*(self._told.get(rule.kind, ()) for rule in CERTAIN))
            self._suspicions.measured(observation, rates, stuck)
        self._look_at_facts(observation, rates)
        if trends:
            for one in self._suspicions.found(self._told):
                self._tell(one.kind, one.layers, one.message, observation.epoch, observation.step)

    def forget(self) -> None:
        """Let go of parameters that the last measurement was about."""
        self.facts, self.suspects = (), {}

    def _look_at_facts(self, moment: Observation, rates: Mapping[int, float]) -> None:
        measurement = moment.measurement
        gradients, self._gradients = self._gradients, None
        thaw = moment.thaw if moment.thaw is not None and moment.epoch >= moment.thaw.epoch else None
        all_frozen = bool(rates) and _all_frozen(moment)
        promised = thaw is not None and not self._has_thawed
        if not (promised or all_frozen or self._may_be_wrong(moment)):
            self._steps, self._quiet, self._watched = {}, {}, {}
            return
        looks = (gradients or _gradients(moment.layers)).fetch()
        self.facts = facts = facts_of(moment, holders_of(moment.optimizers, rates), looks)
        if thaw is not None:
            # A promise is kept once. Layers that are frozen again later may be meant to be.
            self._has_thawed = self._has_thawed or any(is_thawed(one) for one in facts if one.name in thaw.layers)
        quiet = {layer for layer, batches in self._quiet.items() if batches >= PATIENCE}
        scene = Scene(
            facts,
            moment.steps,
            bool(moment.optimizers),
            moment.is_sampled,
            measurement.spans_ranks,
            self._had_gradients,
            quiet,
            all_frozen,
            None if self._has_thawed else thaw,
            moment.epoch,
            measurement.difference,
        )
        self._had_gradients = False
        for rule in CERTAIN:
            suspects, before = rule.suspects(scene), self._steps.get(rule.kind, {})
            self.suspects[rule.kind] = suspects
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
            self._tell_certain(rule, scene, due, applied, moment.epoch, moment.step)
        # Decay turns some layers whether they have a gradient or not, and manual optimization may clear gradients after
        # each step. So gradients of such layers are watched from step to step.
        told = self._told.get("no_gradient", set()) | self._told.get("nothing_moves", set())
        watched = [one for one in facts if one.name not in told and may_have_no_gradient(one, moment.steps)]
        self._watched = {one.name: [*map(weakref.ref, one.parameters)] for one in watched}
        self._quiet = {layer: self._quiet.get(layer, 0) for layer in self._watched}

    def _may_be_wrong(self, moment: Observation) -> bool:
        """Whether any rule can apply. As a rule none can, and a look at every parameter takes longer than this."""
        measurement, layers, steps = moment.measurement, moment.layers, moment.steps
        if measurement.difference is not None:
            return True
        rotations, growths, shares = (measurement.movements[name].values for name in ("rotation", "radial", "moved"))
        for layer, change in measurement.values.items():
            turns = rotations[layer] > steps * ROUNDING and -growths[layer] <= SHRINKING * rotations[layer]
            fine = turns and shares[layer] >= 0.1 and not math.isnan(change) and layer not in self._quiet
            if not fine and (math.isnan(change) or any(p.requires_grad for p in layers.get(layer, {}).values())):
                return True
        return False

    def _tell_certain(  # noqa: PLR0917
        self, rule: Rule, scene: Scene, layers: Sequence[LayerFacts], steps: int, epoch: int, step: int
    ) -> None:
        told = self._told.get(rule.kind, set())
        fresh = [layer for layer in layers if layer.name not in told]
        if fresh and not (rule.once and told):
            names = [layer.name for layer in fresh]
            self._tell(rule.kind, names, rule.message(scene, fresh, steps), epoch, step)

    def _tell(self, kind: str, layers: Sequence[str], message: str, epoch: int, step: int) -> None:
        self._add(Finding(kind, tuple(layers), epoch, step, message))
        # An ignored finding still explains others.
        self._told.setdefault(kind, set()).update(layers)

    def _add(self, finding: Finding) -> None:
        if finding.kind not in self._ignored:
            self.found.append(finding)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_watched": {}, "_quiet": {}, "_gradients": None}

    def state_dict(self) -> dict[str, Any]:
        """The findings, and for how long rules have applied, for a checkpoint."""
        return {
            "found": [asdict(finding) | {"layers": [*finding.layers]} for finding in self.found],
            "told": {kind: sorted(layers) for kind, layers in self._told.items()},
            "steps": {kind: dict(steps) for kind, steps in self._steps.items()},
            "trends": self._suspicions.trends.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resume from :meth:`state_dict`."""
        self.found = [Finding(**one | {"layers": tuple(one["layers"])}) for one in state["found"]]
        self._told = {kind: {*layers} for kind, layers in state["told"].items()}
        self._steps = {kind: dict(steps) for kind, steps in state["steps"].items()}
        self._suspicions.trends.load_state_dict(state["trends"])


def _gradients(layers: NamedLayers) -> Gradients:
    return Gradients({layer: parameters.values() for layer, parameters in layers.items()})


def _all_frozen(moment: Observation) -> bool:
    """Whether nothing has moved, and neither the module nor an optimizer has a parameter that requires gradients."""
    if any(moment.measurement.movements["moved"].values.values()):
        return False
    held = (parameter for one in moment.optimizers for group in one.param_groups for parameter in group["params"])
    return not any(parameter.requires_grad for parameter in chain(moment.module.parameters(), held))
