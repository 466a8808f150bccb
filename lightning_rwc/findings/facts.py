# SPDX-License-Identifier: Apache-2.0
"""What rules know of each layer: how it moved, who updates it, and what its gradient is."""

from collections.abc import Iterable, Mapping, Sequence
from math import nan
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from torch.nn import Module, Parameter
from torch.optim import Optimizer

from lightning_rwc.findings.gradients import Gradient, Look, is_coarse
from lightning_rwc.findings.trends import Moves, Numbers
from lightning_rwc.metric import Measurement

# PyTorch's optimizers that add weight decay to the gradient before they divide by its size.
_ADAPTIVE = {"Adadelta", "Adagrad", "Adam", "Adamax", "NAdam", "RAdam", "RMSprop"}


NamedLayers: TypeAlias = Mapping[str, Mapping[str, Parameter]]


class Holder(NamedTuple):
    """What a parameter group of an optimizer does."""

    has_stepped: bool
    """Whether its optimizer has stepped since the last measurement."""
    learning_rate: float
    """The largest since then; ``nan`` if it is unknown."""
    decay_turns: bool
    """Whether weight decay turns weights that have no gradient, instead of making them shorter."""


class Thaw(NamedTuple):
    """A promise to thaw layers that are frozen when a fit begins."""

    callback: str
    """The name of the class that promises it."""
    layers: tuple[str, ...]
    epoch: int
    """The epoch at whose beginning they are to be thawed. The first epoch is 0."""
    first_epoch: int
    """The epoch in which this fit begins."""
    epochs: int | None
    """How many epochs there are in all, if that is known."""


class Observation(NamedTuple):
    """A measurement, and what is known around it."""

    measurement: Measurement
    """It has the movements rotation, radial and moved."""
    module: Module
    """What was measured."""
    layers: NamedLayers
    """Layer name to parameter name to parameter, as they are now."""
    optimizers: Sequence[Optimizer]
    """Those of the training."""
    epoch: int
    step: int
    """The step under which it is logged."""
    steps: int
    """How many optimizer steps were taken since the snapshot."""
    since_start: bool
    """Whether the snapshot is always the start of training."""
    is_sampled: bool
    """Whether values are estimates."""
    planned_steps: float
    """How many optimizer steps the run will take; ``inf`` if that is unknown."""
    thaw: Thaw | None
    """A promise to thaw layers, if there is one."""


class LayerFacts(NamedTuple):
    """A layer at a measurement."""

    name: str
    change: float
    """Relative weight change."""
    rotation: float
    growth: float
    moved: float
    """The movements of :mod:`lightning_rwc.movement`."""
    parameters: Sequence[Parameter]
    """Those that require gradients."""
    holders: Sequence[Holder]
    """The optimizers of these parameters. A parameter that no optimizer has is left out."""
    look: Look
    """What was seen of its gradient after the last batch."""

    @property
    def is_trainable(self) -> bool:
        """Whether it requires gradients."""
        return bool(self.parameters)

    @property
    def is_held(self) -> bool:
        """Whether an optimizer has all parameters that require gradients."""
        return self.is_trainable and len(self.holders) == len(self.parameters)

    @property
    def is_updated(self) -> bool:
        """Whether all optimizers that have a parameter of it have stepped."""
        return self.is_held and all(holder.has_stepped for holder in self.holders)

    @property
    def is_held_by_nobody(self) -> bool:
        """Whether no optimizer has any of them."""
        return self.is_trainable and not self.holders

    @property
    def has_rate_zero(self) -> bool:
        """Whether optimizers have it, all with a learning rate of 0."""
        return bool(self.holders) and all(holder.learning_rate == 0 for holder in self.holders)

    @property
    def decay_turns(self) -> bool:
        """Whether weight decay alone would turn it."""
        return any(holder.decay_turns for holder in self.holders)

    @property
    def is_coarse(self) -> bool:
        """Whether its weights have fewer digits than float32."""
        return any(map(is_coarse, self.parameters))

    @property
    def gradient(self) -> Gradient:
        """Its gradient after the last batch."""
        return self.look.gradient

    @property
    def gradient_share(self) -> float:
        """The share of its elements whose gradient is not zero; ``nan`` if that is unknown."""
        return self.look.share


def learning_rate(group: Mapping[str, Any]) -> float:
    """The present learning rate of a parameter group; ``nan`` if it has none, or has it on a device."""
    rate = group.get("lr")
    return float(rate) if isinstance(rate, int | float) else nan


def holders_of(optimizers: Iterable[Optimizer], rates: Mapping[int, float]) -> dict[int, Holder]:
    """The id of each parameter that an optimizer has, to what its group does.

    Args:
        optimizers: those of the training.
        rates: the id of each group that has stepped since the last measurement, to its largest learning rate.

    """
    holders = {}
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            rate = rates.get(id(group))
            holder = Holder(rate is not None, nan if rate is None else rate, _decay_turns(optimizer, group))
            holders.update(dict.fromkeys(map(id, group["params"]), holder))
    return holders


def _decay_turns(optimizer: Optimizer, group: Mapping[str, Any]) -> bool:
    names = {base.__name__ for base in type(optimizer).__mro__}
    coupled = not group.get("decoupled_weight_decay") and "AdamW" not in names
    return bool(group.get("weight_decay")) and coupled and bool(names & _ADAPTIVE)


def facts_at_start(layers: NamedLayers, holders: Mapping[int, Holder], looks: Mapping[str, Look]) -> list[LayerFacts]:
    """What is known of each layer before a measurement. The arguments are those of :func:`facts_of`."""
    return [_facts(layer, (nan,) * 4, parameters, holders, looks) for layer, parameters in layers.items()]


def facts_of(observation: Observation, holders: Mapping[int, Holder], looks: Mapping[str, Look]) -> list[LayerFacts]:
    """The facts of each measured layer, in definition order.

    Args:
        observation: the measurement.
        holders: see :func:`holders_of`.
        looks: layer name to its gradient. Layers that have no parameters any more may be left out.

    """
    measurement, layers = observation.measurement, observation.layers
    rotations, growths, shares = (measurement.movements[name].values for name in ("rotation", "radial", "moved"))
    return [
        _facts(layer, (change, rotations[layer], growths[layer], shares[layer]), layers.get(layer, {}), holders, looks)
        for layer, change in measurement.values.items()
    ]


def moves_of(observation: Observation, rates: Numbers) -> Moves:
    """How far each measured layer moved, at these learning rates."""
    movements = observation.measurement.movements
    rotations, growths = (
        np.fromiter(movements[name].values.values(), dtype=np.float64) for name in ("rotation", "radial")
    )
    with np.errstate(all="ignore"):
        # The law of cosines, whatever norm is measured.
        changes = np.sqrt(growths**2 + 4 * (1 + growths) * np.sin(rotations / 2) ** 2)
    changes[np.isinf(growths)] = np.inf  # the layer was zero
    layers = [*observation.measurement.values]
    for number in np.flatnonzero(changes == 0):
        if not any(p.requires_grad for p in observation.layers.get(layers[number], {}).values()):
            changes[number] = nan
    return Moves(changes, rotations, growths, rates, observation.steps)


def _facts(
    layer: str,
    movements: tuple[float, float, float, float],
    parameters: Mapping[str, Parameter],
    holders: Mapping[int, Holder],
    looks: Mapping[str, Look],
) -> LayerFacts:
    trainable = [parameter for parameter in parameters.values() if parameter.requires_grad]
    held = [holders[id(parameter)] for parameter in trainable if id(parameter) in holders]
    return LayerFacts(layer, *movements, trainable, held, looks.get(layer, Look(Gradient.MISSING)))
