# SPDX-License-Identifier: Apache-2.0
"""Further quantities for each layer, and how to add one of your own."""

import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.nn import Parameter
from typing_extensions import override

from lightning_rwc.functional import is_measurable, sums_dtype
from lightning_rwc.layers import FoundLayers
from lightning_rwc.node_strengths import node_strengths
from lightning_rwc.quantity import Quantity

Layers: TypeAlias = Mapping[str, Mapping[str, Parameter]]

# Projections that work side by side, so that none takes the output of another.
_SIDE_BY_SIDE = re.compile(r"(^|\.)((to_)?([qkv]|query|key|value)(_proj|_lin)?|lora_\w+|base_layer)\.")

_CHUNK = 2**22


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


class AdapterChange(Measure):
    r"""How much LoRA adapters of PEFT add to the matrix that they adapt, relative to its size.

    This is :math:`\|\sum_i s_i B_i A_i\|_2 / \|W\|_2` over the active adapters, where :math:`s_i` is the scale of an
    adapter and :math:`W` the weight of the base layer. The norm is Frobenius's, which follows from
    :math:`B^\top B` and :math:`A A^\top`, so that the product itself is never computed. The base layer has the value if
    it is tracked, otherwise the adapter's matrix that comes first. If a layer has several such matrices, their squares
    are added. Other layers have none. It is ``nan`` for DoRA, AdaLoRA, grouped convolutions and a quantised base, and
    while adapters are merged or disabled.

    """

    name = "adapter"
    quantity = Quantity("what adapters add (ratio, l2)", zero="0: nothing", scale="measurement")

    @override
    def __call__(self, layers: Layers) -> dict[str, Tensor]:
        root = layers.root() if isinstance(layers, FoundLayers) else None
        names = {id(p): layer for layer, parameters in layers.items() for p in parameters.values()}
        squares: dict[str, Tensor] = {}
        for module in root.modules() if root is not None else ():
            for layer, added, size in self._squares(module, names):
                squares[layer] = torch.stack([added, size]) + squares.get(layer, 0)
        return {layer: (added / size).sqrt() for layer, (added, size) in squares.items()}

    @staticmethod
    def _squares(module: Any, names: Mapping[int, str]) -> Iterator[tuple[str, Tensor, Tensor]]:
        """The layer of a module that PEFT has wrapped, and the squared norms of what is added and of the base."""
        if not all(hasattr(module, name) for name in ("get_base_layer", "lora_A", "lora_B", "scaling")):
            return
        base = module.get_base_layer()
        weight = getattr(base, "weight", None)
        active = [name for name in module.scaling if name in module.active_adapters]
        # AdaLoRA puts a diagonal matrix between A and B.
        other = hasattr(module, "lora_E") or any(name in module.lora_magnitude_vector for name in active)
        apart = module.merged or module.disable_adapters or getattr(base, "groups", 1) > 1
        if not active or other or apart or weight is None or not is_measurable(weight):
            return
        pairs = [
            (module.lora_A[name].weight, module.lora_B[name].weight)
            if name in module.lora_A
            else (module.lora_embedding_A[name], module.lora_embedding_B[name])
            for name in active
        ]
        tracked = [names[id(p)] for p in (weight, *(p for pair in pairs for p in pair)) if id(p) in names]
        if not tracked:
            return
        dtype = sums_dtype(weight.device)
        scales = [module.scaling[name] for name in active]
        left = torch.cat([s * _whole(b).flatten(1).to(dtype) for s, (_, b) in zip(scales, pairs, strict=True)], dim=1)
        right = torch.cat([_whole(a).flatten(1).to(dtype) for a, _ in pairs])
        # Rounding may make a sum of squares that is zero negative.
        added = ((left.T @ left) * (right @ right.T)).sum().clamp(min=0)
        yield tracked[0], added, _norm(weight, dtype) ** 2


def _norm(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """Frobenius's norm, without a copy of all of ``weight`` in ``dtype``."""
    if isinstance(weight, DTensor):
        return _whole(torch.linalg.vector_norm(weight)).to(dtype)
    parts = [torch.linalg.vector_norm(part, dtype=dtype) for part in weight.flatten().split(_CHUNK)]
    norm: Tensor = torch.linalg.vector_norm(torch.stack(parts))
    return norm


def _whole(tensor: Tensor) -> Tensor:
    """All of a tensor, of which this rank may hold a shard."""
    whole: Tensor = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
    return whole


MEASURES: dict[str, type[Measure]] = {
    measure.name: measure for measure in (NodeStrength, LayerFluctuation, AdapterChange)
}
"""The measures that ``measures=`` takes by name."""
