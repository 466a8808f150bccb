# SPDX-License-Identifier: Apache-2.0
"""Further numbers a layer beside relative weight change, and how to add one of your own."""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.nn import Parameter
from torchmetrics.utilities import rank_zero_warn

from lightning_rwc.history import RWCHistory
from lightning_rwc.quantity import Quantity

Layers: TypeAlias = Mapping[str, Mapping[str, Parameter]]


class Measure(ABC):
    """One number a layer, from its present weights.

    A measure of your own is a subclass, an instance of which goes into ``RWCCallback(measures=("rwc", ...))``.

    Attributes:
        name: what its tags start with: ``fluctuation/<layer>``.
        quantity: how its pictures are labelled and scaled.

    Example:
        >>> class LargestWeight(Measure):
        ...     name = "largest"
        ...     quantity = Quantity("largest absolute weight")
        ...
        ...     def __call__(self, layers):
        ...         return {layer: max(p.abs().max() for p in group.values()) for layer, group in layers.items()}
        >>> LargestWeight()({"fc": {"fc.weight": Parameter(torch.tensor([[1.0, -3.0]]))}})
        {'fc': tensor(3., grad_fn=<MaxBackward1>)}

    """

    name: str
    quantity: Quantity

    @abstractmethod
    def __call__(self, layers: Layers) -> Mapping[str, Tensor]:
        """Measure.

        Args:
            layers: layer name to parameter name to parameter, in depth order. Called without recording gradients, on
                every rank; where ranks hold shards the parameters are DTensors.

        Returns:
            Layer name to a real 0-dim tensor, on any device. A layer that is left out gets ``nan``.

        """


class _Strengths(Measure):
    def __call__(self, layers: Layers) -> dict[str, Tensor]:
        strengths = node_strengths([parameter for parameters in layers.values() for parameter in parameters.values()])
        parts = iter(strengths)
        return {
            layer: self._summary(torch.cat([next(parts) for _ in parameters])) for layer, parameters in layers.items()
        }

    @staticmethod
    @abstractmethod
    def _summary(strengths: Tensor) -> Tensor: ...


class NodeStrength(_Strengths):
    """The mean over a layer's units of their strength, see :func:`node_strengths`."""

    name = "strength"
    quantity = Quantity("mean node strength", signed=True)

    @staticmethod
    def _summary(strengths: Tensor) -> Tensor:
        return strengths.mean()


class LayerFluctuation(_Strengths):
    """How far the strengths of a layer's units spread, see :func:`node_strengths`: their standard deviation.

    The root of the mean squared deviation from the layer's mean strength, over all units (arXiv 2110.02628).

    """

    name = "fluctuation"
    quantity = Quantity("layer fluctuation", zero="0: all units alike")

    @staticmethod
    def _summary(strengths: Tensor) -> Tensor:
        return strengths.std(correction=0)


def node_strengths(weights: Sequence[Tensor]) -> list[Tensor]:
    r"""The strength of every unit: the sum of its incoming and of its outgoing weights (arXiv 2110.02628).

    A unit is an output of a weight of shape ``(outputs, inputs, ...)``: a neuron of a linear layer, a channel of a
    convolution, whose kernel is summed. Its outgoing weights are those of the next weight in the list, where inputs fit
    outputs: one by one, or many (a linear layer behind flattened channels) or few inputs (a convolution in groups) to
    one output. Where they do not fit, and for the last weight, only incoming weights count. A weight of fewer than two
    dimensions has a unit an element.

    Args:
        weights: tensors or DTensors, in depth order. Strengths of complex ones are ``nan``.

    Returns:
        For each weight a tensor of shape ``(outputs,)``, float64 (float32 where the device has no float64).

    Example:
        >>> [s.tolist() for s in node_strengths([torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([[10.0, 20.0]])])]
        [[13.0, 27.0], [30.0]]

    """
    incoming = [_sum_but(weight, 0) for weight in weights]
    strengths = []
    for units, following in zip_longest(incoming, weights[1:]):
        matrix = following is not None and following.ndim >= 2 and not following.is_complex()
        outgoing = _outgoing(following, len(units)) if matrix else None
        strengths.append(units if outgoing is None else units + outgoing.to(units.device))
    return strengths


def _outgoing(weight: Tensor, units: int) -> Tensor | None:
    outputs, inputs = weight.shape[:2]
    if units and inputs and inputs % units == 0:
        return _sum_but(weight, 1).view(units, -1).sum(1)
    if inputs and units % inputs == 0 and outputs % (units // inputs) == 0:
        groups = units // inputs
        return _sum_but(weight, 0, 1).view(groups, -1, inputs).sum(1).flatten()
    return None


def _sum_but(weight: Tensor, *kept: int) -> Tensor:
    if weight.is_complex():
        weight = weight.real * math.nan
    dtype = torch.float64 if weight.device.type in ("cpu", "cuda") else torch.float32
    others = [dim for dim in range(weight.ndim) if dim not in kept]
    summed = weight.detach().sum(others, dtype=dtype) if others else weight.detach().to(dtype, copy=True)
    return (summed.full_tensor() if isinstance(summed, DTensor) else summed).reshape(
        [weight.shape[dim] for dim in kept if dim < weight.ndim] or [1]
    )


MEASURES: dict[str, type[Measure]] = {measure.name: measure for measure in (NodeStrength, LayerFluctuation)}
"""Those that ``measures=`` takes by name, beside ``"rwc"``."""


class MeasureTables:
    """Measures, each with the table of what it has measured.

    Args:
        measures: names or instances, among them ``"rwc"``.

    Raises:
        TypeError: if something else is among them.
        ValueError: if a name is unknown, there twice or not a string that can start a tag, or ``"rwc"`` is missing.

    """

    def __init__(self, measures: Sequence[str | Measure]) -> None:
        if isinstance(measures, str) or not all(isinstance(measure, str | Measure) for measure in measures):
            raise TypeError(
                f"`measures` must be a sequence of names and instances of Measure, such as ('rwc', 'fluctuation'), "
                f"but got {measures!r}."
            )
        known = ["rwc", *MEASURES]
        if unknown := [measure for measure in measures if isinstance(measure, str) and measure not in known]:
            raise ValueError(f"`measures` has {unknown[0]!r}, but must have names of {known}, or instances of Measure.")
        if "rwc" not in measures:
            raise ValueError(f"`measures={measures!r}` must contain 'rwc', relative weight change itself.")
        further = [MEASURES[m]() if isinstance(m, str) else m for m in measures if m != "rwc"]
        names = ["rwc", *(measure.name for measure in further)]
        if len(set(names)) < len(measures) or not all(isinstance(name, str) and name.strip() for name in names):
            raise ValueError(f"`measures` must have names that differ and are not blank, but they are {names}.")
        self._measures = further
        self.clear()

    def __iter__(self) -> Iterator[tuple[Measure, RWCHistory]]:
        """Each measure with its table."""
        return zip(self._measures, self.tables.values(), strict=True)

    def clear(self) -> None:
        """Begin new tables."""
        self.tables = {measure.name: RWCHistory() for measure in self._measures}
        self._failed: set[str] = set()

    def record(self, layers: Layers, epoch: int, step: int) -> None:
        """Measure ``layers`` and append a row to each table; one of a measure that fails is ``nan``."""
        for measure, table in self:
            row: dict[str, float] = dict.fromkeys(layers, math.nan)
            try:
                with torch.no_grad():
                    values = measure(layers)
                    device = next(iter(values.values())).device
                    row |= dict(zip(values, torch.stack([v.to(device) for v in values.values()]).tolist(), strict=True))
            except Exception as error:
                if measure.name not in self._failed:
                    self._failed.add(measure.name)
                    rank_zero_warn(
                        f"The measure {measure.name!r} failed with {type(error).__name__}: {error}. Training goes on; "
                        "its values are nan where it fails, of which this is the only warning."
                    )
            table.record(epoch, step, row)

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint needs."""
        return {name: table.state_dict() for name, table in self.tables.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a checkpoint; a measure that it lacks begins with an empty table."""
        self.tables |= {name: RWCHistory.from_state_dict(state[name]) for name in self.tables if name in state}
