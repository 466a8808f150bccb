# SPDX-License-Identifier: Apache-2.0
"""Further numbers a layer beside relative weight change, and how to add one of your own."""

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn import Module, Parameter
from torch.nn.modules.conv import _ConvNd
from torchmetrics.utilities import rank_zero_warn

from lightning_rwc.functional import sums_dtype
from lightning_rwc.history import RWCHistory
from lightning_rwc.layers import FoundLayers
from lightning_rwc.quantity import Quantity

Layers: TypeAlias = Mapping[str, Mapping[str, Parameter]]

# Projections that take one input side by side, so that the next one does not take what this one gives.
_SIDE_BY_SIDE = re.compile(r"(^|\.)((to_)?([qkv]|query|key|value)(_proj|_lin)?|lora_\w+|base_layer)\.")


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
            layers: layer name to parameter name to parameter, in definition order. Called without recording gradients,
                on every rank; where ranks hold shards the parameters are DTensors. While a Trainer trains it is a
                :class:`~lightning_rwc.layers.FoundLayers`, which knows the modules too.

        Returns:
            Layer name to a real 0-dim tensor, on any device. A layer that is left out gets ``nan``.

        """


class _Strengths(Measure):
    def __call__(self, layers: Layers) -> dict[str, Tensor]:
        named = [item for parameters in layers.values() for item in parameters.items()]
        modules = None
        if isinstance(layers, FoundLayers):
            modules = [None if _SIDE_BY_SIDE.search(name) else layers.modules.get(name) for name, _ in named]
        parts = iter(node_strengths([parameter for _, parameter in named], modules))
        return {
            layer: self._summary(torch.cat([next(parts) for _ in parameters])) for layer, parameters in layers.items()
        }

    @staticmethod
    @abstractmethod
    def _summary(strengths: Tensor) -> Tensor: ...


class NodeStrength(_Strengths):
    """The mean over a layer's units of their strength, see :func:`node_strengths`.

    ``nan`` where that is undefined for a unit, and for attention's separate projections (modules named ``query``,
    ``k_proj``, ``to_v`` and the like) and LoRA's matrices, which are defined one after the other but work side by side.
    """

    name = "strength"
    quantity = Quantity("mean node strength", signed=True)

    @staticmethod
    def _summary(strengths: Tensor) -> Tensor:
        return strengths.mean()


class LayerFluctuation(_Strengths):
    """How far the strengths of a layer's units spread, see :func:`node_strengths`: their standard deviation.

    The root of the mean squared deviation from the layer's mean strength, over all units (arXiv 2110.02628). ``nan``
    where :class:`NodeStrength` is.

    """

    name = "fluctuation"
    quantity = Quantity("layer fluctuation", zero="0: all units alike")

    @staticmethod
    def _summary(strengths: Tensor) -> Tensor:
        return strengths.std(correction=0)


def node_strengths(weights: Sequence[Tensor], modules: Sequence[Module | None] | None = None) -> list[Tensor]:
    r"""The strength of every unit: the sum of its incoming and of its outgoing weights (arXiv 2110.02628).

    A unit is an output of a weight: a neuron of a linear layer, a channel of a convolution, whose kernel is summed, a
    dimension of an embedding. Weights are taken for a chain, in which each takes what the one before gives: a unit's
    outgoing weights are those of the next weight in the list, and those of the last one have none. The next weight
    must have an input for each unit; behind a convolution a linear layer may have several, of the flattened channel. A
    weight of fewer than two dimensions has a unit an element, whose strength is the element, and is not in the chain.

    Strengths are ``nan`` where they are undefined or unknown: where the next weight has other inputs, as behind fused
    queries, keys and values or before a concatenation; for complex weights; and, if ``modules`` are given, for a weight
    whose module is not a linear layer, convolution or embedding, and for the one before it. A recurrent layer and
    ``nn.MultiheadAttention``'s input projection are such; so are bare, pruned and parametrised weights. What branches
    but fits by its sizes, as a residual connection does, is not seen: it counts as a chain.

    Args:
        weights: tensors or DTensors, in the order of the chain.
        modules: the module of each weight, or None where it is of no module. They tell which way a weight lies and in
            how many groups: transposed convolutions, embeddings and the ``Conv1D`` of Hugging Face's transformers have
            inputs first. Without ``modules``, all weights are taken for ``(outputs, inputs, ...)``, those of three or
            more dimensions for kernels of convolutions, in groups where that makes them fit.

    Returns:
        For each weight a tensor of shape ``(units,)``, float64 (float32 where the device has no float64).

    Example:
        >>> [s.tolist() for s in node_strengths([torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([[10.0, 20.0]])])]
        [[13.0, 27.0], [30.0]]

    """
    kinds = [_by_shape(weight) for weight in weights] if modules is None else [*map(_by_module, modules)]
    followers = dict(pairwise(index for index, weight in enumerate(weights) if weight.ndim >= 2))
    strengths = []
    for index, (weight, kind) in enumerate(zip(weights, kinds, strict=True)):
        if weight.ndim < 2:
            strengths.append(_sum_but(weight, 0))
            continue
        units = _undefined(weight) if kind is None else _sums(weight, kind, of_inputs=False)
        if kind is not None and (follower := followers.get(index)) is not None:
            outgoing = _outgoing(weights[follower], kinds[follower], len(units), flattened=kind.convolution)
            units = units + (math.nan if outgoing is None else outgoing.to(units.device))
        strengths.append(units)
    return strengths


class _Kind(NamedTuple):
    """How a weight lies."""

    inputs_first: bool = False
    convolution: bool = False
    groups: int | None = 1
    """None where only the layer before can tell."""
    takes_units: bool = True


def _by_shape(weight: Tensor) -> _Kind:
    return _Kind(convolution=True, groups=None) if weight.ndim > 2 else _Kind()


def _by_module(module: Module | None) -> _Kind | None:
    if isinstance(module, _ConvNd):
        return _Kind(module.transposed, True, module.groups)
    if isinstance(module, nn.Linear):
        return _Kind()
    if isinstance(module, nn.Embedding | nn.EmbeddingBag):
        return _Kind(inputs_first=True, takes_units=False)
    if any(cls.__name__ == "Conv1D" and cls.__module__.startswith("transformers.") for cls in type(module).__mro__):
        return _Kind(inputs_first=True)
    return None


def _outgoing(weight: Tensor, kind: _Kind | None, units: int, flattened: bool) -> Tensor | None:
    if kind is None or not kind.takes_units:
        return None
    if kind.groups is None:
        groups = units // max(weight.shape[1], 1)
        kind = kind._replace(groups=groups if groups and weight.shape[0] % groups == 0 else 1)
    inputs = weight.shape[0] if kind.inputs_first else weight.shape[1] * (kind.groups or 1)
    each = inputs // units if units and flattened and not kind.convolution else 1
    if inputs != units * each or not each:
        return None
    return _sums(weight, kind, of_inputs=True).view(units, each).sum(1)


def _sums(weight: Tensor, kind: _Kind, of_inputs: bool) -> Tensor:
    """The sum of the weights of each input or output."""
    if of_inputs == kind.inputs_first:
        return _sum_but(weight, 0)
    groups = kind.groups or 1
    if groups == 1:
        return _sum_but(weight, 1)
    # The second dimension counts within a group; the first one goes through all groups.
    return _sum_but(weight, 0, 1).view(groups, -1, weight.shape[1]).sum(1).flatten()


def _undefined(weight: Tensor) -> Tensor:
    return torch.full(weight.shape[:1], math.nan, dtype=sums_dtype(weight.device), device=weight.device)


def _sum_but(weight: Tensor, *kept: int) -> Tensor:
    if weight.is_complex():
        weight = weight.real * math.nan
    others = [dim for dim in range(weight.ndim) if dim not in kept]
    dtype = sums_dtype(weight.device)
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

    def rows(self, find_layers: Callable[[], Layers]) -> dict[str, dict[str, float]]:
        """Measure what ``find_layers`` gives: measure name to layer name to value; ``nan`` where a measure fails."""
        rows = {}
        for measure in self._measures:
            row: dict[str, float] = {}
            try:
                with torch.no_grad():
                    layers = find_layers()
                    row = dict.fromkeys(layers, math.nan)
                    values = measure(layers)
                    tensors = [*values.values()]
                    numbers = torch.stack([tensor.to(tensors[0].device) for tensor in tensors]) if tensors else tensors
                    row |= dict(zip(values, map(float, torch.as_tensor(numbers).tolist()), strict=True))
            except Exception as error:
                if measure.name not in self._failed:
                    self._failed.add(measure.name)
                    rank_zero_warn(
                        f"The measure {measure.name!r} failed with {type(error).__name__}: {error}. Training goes on; "
                        "its values are nan where it fails, of which this is the only warning."
                    )
            rows[measure.name] = row
        return rows

    def record(self, rows: Mapping[str, Mapping[str, float]], epoch: int, step: int) -> None:
        """Append to each table its row of ``rows``, which :meth:`rows` gave."""
        for name, table in self.tables.items():
            table.record(epoch, step, rows.get(name, {}))

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint needs."""
        return {name: table.state_dict() for name, table in self.tables.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a checkpoint; a measure that it lacks begins with an empty table."""
        self.tables |= {name: RWCHistory.from_state_dict(state[name]) for name in self.tables if name in state}
