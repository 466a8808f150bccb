# SPDX-License-Identifier: Apache-2.0
"""What this rank holds of a parameter that a strategy spreads over ranks."""

import math

import torch.distributed as dist
from torch import Tensor
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn import Module


def is_sharded(tensor: Tensor) -> bool:
    """Whether ``tensor`` is a DTensor: one rank's part of a tensor, which several ranks hold together."""
    return isinstance(tensor, DTensor)


def local(tensor: Tensor) -> Tensor:
    """The part of ``tensor`` that this rank holds, without communication; a plain tensor is its own part."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def share(tensor: Tensor) -> float:
    """One over the number of ranks that hold each element of ``tensor``.

    Sums over what every rank holds, times this, add up over all ranks to the sums over the tensor: also where
    a layer has sharded and replicated parameters, or shards are replicated over groups of ranks.

    """
    if not (dist.is_available() and dist.is_initialized()):
        return 1.0
    parts = 1
    if isinstance(tensor, DTensor):
        sizes = zip(tensor.placements, tensor.device_mesh.shape, strict=True)
        parts = math.prod(size for placement, size in sizes if not placement.is_replicate())
    return parts / dist.get_world_size()


def gather(tensor: Tensor) -> Tensor:
    """A copy of the whole of ``tensor`` on the CPU; of a DTensor a collective, which all ranks must call."""
    whole = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
    return whole.detach().to("cpu", copy=True)


def place_like(tensor: Tensor, parameter: Tensor) -> Tensor:
    """Put the whole ``tensor`` where ``parameter`` is: on its device, or in its shards, a collective."""
    if isinstance(parameter, DTensor) and not isinstance(tensor, DTensor):
        device = parameter.to_local().device
        return distribute_tensor(tensor.to(device), parameter.device_mesh, parameter.placements)
    return tensor.to(parameter.device)


def reshard(module: Module) -> None:
    """Return every module that ``fully_shard`` wraps to its shards.

    After a forward pass in validation the outermost module still holds whole weights as plain parameters.

    """
    for child in module.modules():
        if isinstance(child, FSDPModule):
            child.reshard()


def add_over_ranks(tensor: Tensor) -> Tensor:
    """The sum of every rank's ``tensor``; a collective."""
    total = tensor.clone()
    dist.all_reduce(total)
    return total
