# SPDX-License-Identifier: Apache-2.0
"""The strengths of units (arXiv 2110.02628)."""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn import Module
from torch.nn.modules.conv import _ConvNd

from lightning_rwc.functional import sums_dtype


def node_strengths(weights: Sequence[Tensor], modules: Sequence[Module | None] | None = None) -> list[Tensor]:
    r"""The strength of every unit: the sum of its incoming and its outgoing weights (arXiv 2110.02628).

    A unit is an output of a weight: a neuron of a linear layer, a channel of a convolution, or a dimension of an
    embedding. The weights form a chain, in which each weight takes the outputs of the one before. The outgoing weights
    of a unit are those of the next weight in the list. The units of the last weight have none. The next weight must
    have one input for each unit. After a convolution, a linear layer may have several inputs for each channel, because
    the channel was flattened. A weight of fewer than two dimensions is not in the chain: each of its elements is a
    unit, and the strength of the unit is the element.

    Strengths are ``nan`` if they are undefined or unknown:

    - The next weight has another number of inputs, as after fused queries, keys and values or before a concatenation.
    - The weight is complex.
    - ``modules`` are given, and the weight or the one after it belongs to no linear layer, convolution or embedding.
      Examples are recurrent layers, the input projection of ``nn.MultiheadAttention``, and bare, pruned and
      parametrised weights.

    A branch whose sizes fit, such as a residual connection, is not noticed and counts as a chain.

    Args:
        weights: tensors or DTensors, in the order of the chain.
        modules: the module of each weight, or None if it belongs to no module. The module tells the order of the
            dimensions and the number of groups. Transposed convolutions, embeddings and the ``Conv1D`` of Hugging
            Face's transformers have their inputs first. Without ``modules``, every weight has the shape
            ``(outputs, inputs, ...)``, and weights of three or more dimensions are kernels of convolutions, with groups
            if that makes them fit.

    Returns:
        For each weight a tensor of shape ``(units,)``, float64 (float32 on devices that have no float64).

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
        units = _undefined(weight) if kind is None else _totals(weight, kind, of_inputs=False)
        if kind is not None and (follower := followers.get(index)) is not None:
            outgoing = _outgoing(weights[follower], kinds[follower], len(units), flattened=kind.convolution)
            units = units + (math.nan if outgoing is None else outgoing.to(units.device))
        strengths.append(units)
    return strengths


class _Dimensions(NamedTuple):
    """The meaning of a weight's dimensions."""

    inputs_first: bool = False
    convolution: bool = False
    groups: int | None = 1
    """None if only the layer before can tell."""
    takes_units: bool = True


def _by_shape(weight: Tensor) -> _Dimensions:
    return _Dimensions(convolution=True, groups=None) if weight.ndim > 2 else _Dimensions()


def _by_module(module: Module | None) -> _Dimensions | None:
    if isinstance(module, _ConvNd):
        return _Dimensions(module.transposed, True, module.groups)
    if isinstance(module, nn.Linear):
        return _Dimensions()
    if isinstance(module, nn.Embedding | nn.EmbeddingBag):
        return _Dimensions(inputs_first=True, takes_units=False)
    if any(cls.__name__ == "Conv1D" and cls.__module__.startswith("transformers.") for cls in type(module).__mro__):
        return _Dimensions(inputs_first=True)
    return None


def _outgoing(weight: Tensor, kind: _Dimensions | None, units: int, flattened: bool) -> Tensor | None:
    if kind is None or not kind.takes_units:
        return None
    if kind.groups is None:
        groups = units // max(weight.shape[1], 1)
        kind = kind._replace(groups=groups if groups and weight.shape[0] % groups == 0 else 1)
    inputs = weight.shape[0] if kind.inputs_first else weight.shape[1] * (kind.groups or 1)
    each = inputs // units if units and flattened and not kind.convolution else 1
    if inputs != units * each or not each:
        return None
    return _totals(weight, kind, of_inputs=True).view(units, each).sum(1)


def _totals(weight: Tensor, kind: _Dimensions, of_inputs: bool) -> Tensor:
    """The sum of the weights of each input or output."""
    if of_inputs == kind.inputs_first:
        return _sum_but(weight, 0)
    groups = kind.groups or 1
    if groups == 1:
        return _sum_but(weight, 1)
    # The second dimension counts within a group. The first one goes through all groups.
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
