# SPDX-License-Identifier: Apache-2.0
"""Sums over all layers of a model, in chunks, nothing copied to the host."""

from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_rwc.functional import Norm, change_sums

# Temporaries of this many elements stay in a CPU's cache; a GPU wants fewer, larger launches, but may be nearly full.
_CPU_CHUNK = 2**16
_DEVICE_CHUNK = 2**21


def layer_sums(
    previous: Sequence[Sequence[Tensor]],
    current: Sequence[Sequence[Tensor]],
    norm: Norm,
    shares: Sequence[Sequence[float]] | None = None,
) -> Tensor:
    """Sum the change of every layer.

    Args:
        previous: for each layer the earlier states of its tensors.
        current: for each layer the present states of its tensors, of the same shapes and on the same devices.
        norm: the definition, see :func:`~lightning_rwc.functional.relative_weight_change`.
        shares: for each tensor a factor of its sums; by default 1.

    Returns:
        A tensor of shape ``(3, layers)``, on the CPU only if all tensors are, in the form of
        :func:`~lightning_rwc.functional.change_sums`. A layer without tensors has sums of zero.

    """
    parts: dict[torch.device, dict[tuple[int, int], Tensor]] = {}
    for layer, (before, after) in enumerate(zip(previous, current, strict=True)):
        for index, (p, c) in enumerate(zip(before, after, strict=True)):
            part = _tensor_sums(p, c, norm)
            parts.setdefault(c.device, {})[layer, index] = part if shares is None else part * shares[layer][index]
    device = next((device for device in parts if device.type != "cpu"), torch.device("cpu"))
    # One small copy for each device beside the first.
    rows: dict[tuple[int, int], Tensor] = {}
    for there in parts.values():
        rows |= zip(there, torch.stack(list(there.values())).to(device).unbind(), strict=True)
    empty = next((torch.zeros_like(row) for row in rows.values()), torch.zeros(3))
    layers = ([rows[layer, index] for index in range(len(tensors))] for layer, tensors in enumerate(current))
    return torch.stack([torch.stack(tensors).sum(0) if tensors else empty for tensors in layers], dim=1)


def _tensor_sums(previous: Tensor, current: Tensor, norm: Norm) -> Tensor:
    chunk = _CPU_CHUNK if current.device.type == "cpu" else _DEVICE_CHUNK
    pairs = zip(previous.reshape(-1).split(chunk), current.reshape(-1).split(chunk), strict=True)
    return torch.stack([change_sums(p, c, norm) for p, c in pairs]).sum(0)
