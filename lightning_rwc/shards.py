# SPDX-License-Identifier: Apache-2.0
"""What this rank holds of a parameter that a strategy spreads over ranks."""

import math
import time
from typing import NamedTuple
from zlib import crc32

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.distributed.tensor.placement_types import Placement
from torch.nn import Module, Parameter

# Asked first: `isinstance` takes a microsecond where tensors are concerned.
_PLAIN = {Tensor, Parameter}


class Layout(NamedTuple):
    """How the ranks hold a DTensor together."""

    mesh: DeviceMesh
    placements: tuple[Placement, ...]
    shape: torch.Size
    stride: tuple[int, ...]

    def gather(self, part: Tensor) -> Tensor:
        """Join every rank's ``part`` to the whole tensor, on the CPU; a collective."""
        part = part.to(self.mesh.device_type)
        whole = DTensor.from_local(
            part, self.mesh, self.placements, run_check=False, shape=self.shape, stride=self.stride
        )
        return whole.full_tensor().cpu()

    def scatter(self, whole: Tensor) -> Tensor:
        """This rank's part of ``whole``; a collective."""
        return distribute_tensor(whole.to(self.mesh.device_type), self.mesh, self.placements).to_local()


def layout(tensor: Tensor) -> Layout | None:
    """How the ranks hold ``tensor`` together, or None for a plain tensor."""
    if type(tensor) in _PLAIN or not isinstance(tensor, DTensor):
        return None
    return Layout(tensor.device_mesh, tuple(tensor.placements), tensor.shape, tensor.stride())


def local(tensor: Tensor) -> Tensor:
    """The part of ``tensor`` that this rank holds, without communication; a plain tensor is its own part."""
    return tensor.to_local() if type(tensor) not in _PLAIN and isinstance(tensor, DTensor) else tensor


def share(tensor: Tensor) -> float:
    """One over the number of ranks that hold each element of ``tensor``.

    Sums over what every rank holds, times this, add up over all ranks to the sums over the tensor: also where
    a layer has sharded and replicated parameters, or shards are replicated over groups of ranks.

    """
    parts = 1
    if isinstance(tensor, DTensor):
        sizes = zip(tensor.placements, tensor.device_mesh.shape, strict=True)
        parts = math.prod(size for placement, size in sizes if not placement.is_replicate())
    return parts / ranks()


def ranks() -> int:
    """The number of ranks, 1 outside of distributed training."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def span_of_rank(numel: int) -> slice:
    """Which of ``numel`` elements are this rank's, where ranks divide them evenly."""
    rank, count = dist.get_rank(), dist.get_world_size()
    return slice(numel * rank // count, numel * (rank + 1) // count)


def join_spans(span: Tensor, numel: int) -> Tensor:
    """All elements of which every rank has its ``span``; a collective."""
    # As bytes, which every backend can add: one rank's bits and the others' zeros.
    device = torch.device("cuda") if "nccl" in dist.get_backend() else span.device
    joined = torch.zeros(numel, dtype=span.dtype, device=device)
    joined[span_of_rank(numel)] = span
    return add_over_ranks(joined.view(torch.uint8)).view(span.dtype)


def gather_objects(tensor: Tensor) -> list[Tensor]:
    """Every rank's ``tensor``, of whatever size, on the CPU; a collective."""
    gathered: list[Tensor] = [tensor] * ranks()
    dist.all_gather_object(gathered, tensor.cpu())
    return gathered


def resharded_parameters(module: Module) -> list[Parameter | None]:
    """What every module inside of ``module`` has for parameters, when those that ``fully_shard`` wraps hold shards.

    After a forward pass in validation the outermost one still holds whole weights as plain parameters.

    """
    parameters: list[Parameter | None] = []
    for child in module.modules():
        if isinstance(child, FSDPModule):
            child.reshard()
        # One walk, where `parameters()` would be another: in deep models that is most of a measurement.
        parameters += child._parameters.values()
    return parameters


def add_over_ranks(tensor: Tensor) -> Tensor:
    """The sum of every rank's ``tensor``; a collective."""
    return _reduced(tensor, dist.ReduceOp.SUM)


def same_on_all_ranks(text: str) -> bool:
    """Whether every rank gives the same ``text``; a collective of a fixed size, so that it ends whatever they give."""
    number = crc32(text.encode())
    extremes = torch.tensor([number, -number], device="cuda" if "nccl" in dist.get_backend() else "cpu")
    largest, smallest = _reduced(extremes, dist.ReduceOp.MAX).tolist()
    return bool(largest == -smallest)


def _reduced(tensor: Tensor, operation: dist.ReduceOp.RedOpType) -> Tensor:
    result = tensor.clone()
    work = dist.all_reduce(result, operation, async_op=True)
    # `wait` does not return to Python before the other ranks answer, so Ctrl-C could not end the wait for a dead one.
    while not work.is_completed():
        time.sleep(1e-4)
    work.wait()
    return result
