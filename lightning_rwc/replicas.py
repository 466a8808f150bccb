# SPDX-License-Identifier: Apache-2.0
"""Replicas: whether all ranks have the same weights, bit for bit, as they should under DDP."""

from collections import Counter
from collections.abc import Container, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import Module

from lightning_rwc.shards import is_plain, rank, ranks

_INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
# Elements of a chunk. `sum` would otherwise widen a copy of all bits at once.
_CPU_CHUNK = 2**17
_DEVICE_CHUNK = 2**22
# The sums of the squares of so short numbers are exact in float64 for 8,192 ranks.
_BITS = 20
# 2^64 over the golden ratio, as a signed number. The upper bits of a product with it depend on all lower ones.
_GOLDEN = 0x9E3779B97F4A7C15 - 2**64


class Difference(NamedTuple):
    """Layers whose weights are not the same on all ranks."""

    layers: tuple[str, ...]
    """Their names, in definition order."""
    ranks: tuple[int, ...]
    """The ranks whose weights are not those of the majority. Empty if there is no majority, or it is unknown."""
    world_size: int
    """How many ranks there are."""


def fingerprint(tensor: Tensor) -> Tensor:
    """A number for the bits of ``tensor``: the same if they are, and another if one element differs.

    It is the sum of y(2y + 1) over the elements. An element's bits are an integer x, and y is x whose lower half is
    combined with its upper half by exclusive or. Integer sums are exact, so their order does not matter. No two x have
    the same y, and modulo any power of two, no two y have the same y(2y + 1). Two changes that would cancel in the sum
    of x, such as one digit up and one down, or two signs, do not cancel in this one.

    Args:
        tensor: a dense tensor of real or complex numbers. 0.0 and -0.0 have different bits.

    Returns:
        A 0-dim int64 tensor on the device of ``tensor``.

    """
    real = torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor
    # From the slowest dimension in memory to the fastest, so that channels-last weights are a view too.
    order = sorted(range(real.ndim), key=real.stride, reverse=True)
    bits = real.resolve_neg().permute(order).reshape(-1).view(_INTEGERS[real.element_size()])
    half = 4 * real.element_size()
    total = torch.zeros((), dtype=torch.int64, device=tensor.device)
    for chunk in bits.split(_CPU_CHUNK if tensor.device.type == "cpu" else _DEVICE_CHUNK):
        mixed = (chunk >> half).bitwise_and_(2**half - 1).bitwise_xor_(chunk)
        total += mixed.addcmul_(mixed, mixed, value=2).sum(dtype=torch.int64)
    return total


def allowed_to_differ(module: Module) -> set[int]:
    """The ids of the parameters of ``module`` that DDP is told to leave alone."""
    # DDP asks for the parameters of the outermost module under a name that starts with a point, but once without.
    names = {name.removeprefix(".") for name in getattr(module, "_ddp_params_and_buffers_to_ignore", ())}
    return {id(p) for name, p in module.named_parameters(remove_duplicate=False) if name in names} if names else set()


def marks(layers: Mapping[str, Mapping[str, Tensor]], order: Sequence[str], left_out: Container[int]) -> Tensor:
    """What this rank knows of its weights. Add it up over all ranks for :func:`difference`.

    Args:
        layers: layer name to parameter name to parameter.
        order: the names of the layers, the same on all ranks.
        left_out: the ids of parameters that may differ. Those that are sharded, or hold no plain numbers, are left out
            too.

    Returns:
        A float64 tensor of two numbers for each layer and one for each rank, on the device of the parameters.

    """
    compared = [
        [p.detach() for p in layers.get(layer, {}).values() if id(p) not in left_out and is_plain(p)] for layer in order
    ]
    home = next((p.device for parameters in compared for p in parameters), torch.device("cpu"))
    zero = torch.zeros((), dtype=torch.int64, device=home)
    bits = torch.stack([sum((fingerprint(p).to(home) for p in parameters), zero) for parameters in compared])
    numbers = _shortened(bits).double()
    mine = torch.zeros(ranks(), dtype=torch.float64, device=home)
    mine[rank()] = 1 + _shortened(bits.sum())
    return torch.cat((numbers, numbers.square(), mine))


def no_marks(layers: int) -> Tensor:
    """What a rank sends in place of :func:`marks` if it cannot look at its weights."""
    return torch.zeros(2 * layers + ranks(), dtype=torch.float64)


def difference(added: Tensor, order: Sequence[str], not_finite: Container[str]) -> Difference | None:
    """Which layers differ between ranks.

    Args:
        added: the marks of all ranks, added up.
        order: the names of the layers, as for :func:`marks`.
        not_finite: layers that are not finite on all ranks. They are left out, because the bits of a ``nan`` mean
            nothing: the sum of two of them may be either.

    Returns:
        The layers, or None if all are the same or a rank could not look at its weights.

    """
    numbers = [round(number) for number in added.tolist()]
    sums, squares, wholes = numbers[: len(order)], numbers[len(order) : 2 * len(order)], numbers[2 * len(order) :]
    if 0 in wholes:
        return None
    # By the inequality of Cauchy and Schwarz, both sides are equal only if all ranks sent the same number.
    unequal = [
        layer
        for layer, once, squared in zip(order, sums, squares, strict=True)
        if layer not in not_finite and len(wholes) * squared != once**2
    ]
    if not unequal:
        return None
    [(usual, votes)] = Counter(wholes).most_common(1)
    known = 2 * votes > len(wholes) and not any(layer in not_finite for layer in order)
    others = [number for number, whole in enumerate(wholes) if whole != usual]
    return Difference(tuple(unequal), tuple(others if known else ()), len(wholes))


def _shortened(bits: Tensor) -> Tensor:
    return bits.mul(_GOLDEN).bitwise_right_shift(64 - _BITS).bitwise_and(2**_BITS - 1)
