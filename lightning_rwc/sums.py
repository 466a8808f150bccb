# SPDX-License-Identifier: Apache-2.0
"""Sums over all layers of a model, one pass over its weights, nothing copied to the host."""

from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_rwc.functional import Norm, change_sums

# Temporaries of this many elements stay in a CPU's cache; a GPU wants fewer, larger launches.
_CPU_CHUNK = 2**16
_DEVICE_CHUNK = 2**24


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
        A tensor of shape ``(3, layers)`` on the device of the first tensor, in the form of
        :func:`~lightning_rwc.functional.change_sums`. A layer without tensors has sums of zero.

    """
    device = next((tensor.device for tensors in current for tensor in tensors), torch.device("cpu"))
    columns = []
    for layer, (before, after) in enumerate(zip(previous, current, strict=True)):
        pairs = zip(before, after, strict=True)
        parts = [_tensor_sums(p, c, norm).to(device, non_blocking=True) for p, c in pairs]
        if shares is not None:
            parts = [part * share for part, share in zip(parts, shares[layer], strict=True)]
        columns.append(torch.stack(parts).sum(0) if parts else None)
    zero = next((torch.zeros_like(column) for column in columns if column is not None), torch.zeros(3))
    return torch.stack([zero if column is None else column for column in columns], dim=1)


def _tensor_sums(previous: Tensor, current: Tensor, norm: Norm) -> Tensor:
    chunk = _CPU_CHUNK if current.device.type == "cpu" else _DEVICE_CHUNK
    pairs = zip(previous.reshape(-1).split(chunk), current.reshape(-1).split(chunk), strict=True)
    return torch.stack([change_sums(p, c, norm) for p, c in pairs]).sum(0)
