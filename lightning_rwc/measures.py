# SPDX-License-Identifier: Apache-2.0
"""Further quantities for each layer, and how to add one of your own."""

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TypeAlias

import torch
from torch import Tensor
from torch.nn import Parameter

from lightning_rwc.layers import FoundLayers
from lightning_rwc.node_strengths import node_strengths
from lightning_rwc.quantity import Quantity

Layers: TypeAlias = Mapping[str, Mapping[str, Parameter]]

# Projections that work side by side, so that none takes the output of another.
_SIDE_BY_SIDE = re.compile(r"(^|\.)((to_)?([qkv]|query|key|value)(_proj|_lin)?|lora_\w+|base_layer)\.")


class Measure(ABC):
    """One number for each layer, computed from its present weights.

    To add your own, write a subclass and pass an instance of it: ``RWCCallback(measures=[LargestWeight()])``.

    Attributes:
        name: the name of its table, and a part of its tags: ``rwc_fluctuation/conv1``.
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
            layers: layer name to parameter name to parameter, in definition order. If ranks hold shards, the parameters
                are DTensors. The callback passes a :class:`~lightning_rwc.layers.FoundLayers`, which also knows the
                modules. It calls the measure on every rank, without recording gradients.

        Returns:
            Layer name to a real 0-dim tensor, on any device. Layers that are left out get ``nan``.

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
    """The mean :func:`strength <lightning_rwc.node_strengths.node_strengths>` of a layer's units.

    It is ``nan`` if the strength of a unit is undefined. It is also ``nan`` for attention's separate projections
    (modules named ``query``, ``k_proj``, ``to_v`` and the like) and for LoRA's matrices, because these are defined one
    after the other but work side by side.

    """

    name = "strength"
    quantity = Quantity("mean node strength", signed=True)

    @staticmethod
    def _summary(strengths: Tensor) -> Tensor:
        return strengths.mean()


class LayerFluctuation(_Strengths):
    """The standard deviation of the :func:`strengths <lightning_rwc.node_strengths.node_strengths>` of a layer's units.

    This is the root of the mean squared deviation from the layer's mean strength, over all units (arXiv 2110.02628). It
    is ``nan`` wherever :class:`NodeStrength` is.

    """

    name = "fluctuation"
    quantity = Quantity("layer fluctuation", zero="0: all units alike")

    @staticmethod
    def _summary(strengths: Tensor) -> Tensor:
        return strengths.std(correction=0)


MEASURES: dict[str, type[Measure]] = {measure.name: measure for measure in (NodeStrength, LayerFluctuation)}
"""The measures that ``measures=`` takes by name."""
