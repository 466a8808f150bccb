# SPDX-License-Identifier: Apache-2.0
"""Parameters sharded over ranks: the part that this rank holds, and collectives over all parts."""

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
from torch.distributed.tensor.placement_types import Placement, Replicate
from torch.nn import Module, Parameter

# Checked first, because `isinstance` takes a microsecond for tensors.
_PLAIN = {Tensor, Parameter}


class Layout(NamedTuple):
    """How a DTensor is spread over ranks."""

    mesh: DeviceMesh
    placements: tuple[Placement, ...]
    shape: torch.Size
    stride: tuple[int, ...]

    def gather(self, part: Tensor) -> Tensor:
        """Join the parts of all ranks to the whole tensor, on the CPU. This is a collective."""
        part = part.to(self.mesh.device_type)
        whole = DTensor.from_local(
            part, self.mesh, self.placements, run_check=False, shape=self.shape, stride=self.stride
        )
        return whole.full_tensor().cpu()

    def scatter(self, whole: Tensor) -> Tensor:
        """This rank's part of ``whole``. This is a collective."""
        return distribute_tensor(whole.to(self.mesh.device_type), self.mesh, self.placements).to_local()

    def rows(self) -> Tensor:
        """The numbers of the rows of the first dimension that this rank holds, wholly or in part."""
        if not self.shape:
            return torch.arange(1)
        # Not every kind of shard is a `Shard`, but all have a `dim`.
        dims = [getattr(placement, "dim", None) for placement in self.placements]
        placements = [
            placement if dim is not None and dim % len(self.shape) == 0 else Replicate()
            for placement, dim in zip(self.placements, dims, strict=True)
        ]
        everything = torch.arange(self.shape[0], device=self.mesh.device_type)
        # Without a source rank there is no communication.
        return distribute_tensor(everything, self.mesh, placements, src_data_rank=None).to_local().cpu()


def is_plain(tensor: Tensor) -> bool:
    """Whether ``tensor`` is neither sharded nor wrapped."""
    return type(tensor) in _PLAIN


def layout(tensor: Tensor) -> Layout | None:
    """How ``tensor`` is spread over ranks, or ``None`` for a plain tensor."""
    if is_plain(tensor) or not isinstance(tensor, DTensor):
        return None
    return Layout(tensor.device_mesh, tuple(tensor.placements), tensor.shape, tensor.stride())


def local(tensor: Tensor) -> Tensor:
    """The part of ``tensor`` that this rank holds, without communication. A plain tensor is returned as it is."""
    return tensor.to_local() if not is_plain(tensor) and isinstance(tensor, DTensor) else tensor


def share(tensor: Tensor) -> float:
    """One over the number of ranks that hold each element of ``tensor``.

    Multiply each rank's sums by its share, and they add up over all ranks to the sums over the tensor. This also holds
    for a layer that has sharded and replicated parameters, and for shards replicated over groups of ranks.

    """
    parts = 1
    if isinstance(tensor, DTensor):
        sizes = zip(tensor.placements, tensor.device_mesh.shape, strict=True)
        parts = math.prod(size for placement, size in sizes if not placement.is_replicate())
    return parts / ranks()


def ranks() -> int:
    """The number of ranks, or 1 without distributed training."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """The rank of this process, 0 outside of distributed training."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def span_of_rank(numel: int, row: int = 1) -> slice:
    """This rank's elements when ``numel`` elements, in whole rows, are divided evenly between ranks."""
    rows = numel // row
    return slice(row * (rows * rank() // ranks()), row * (rows * (rank() + 1) // ranks()))


def join_spans(values: Tensor, span: slice, numel: int) -> Tensor:
    """Join the values of all ranks to ``numel`` elements, of which this rank has ``span``. This is a collective."""
    # Every backend can add bytes, and each byte is zero on all ranks except one.
    device = torch.device("cuda") if "nccl" in dist.get_backend() else values.device
    joined = torch.zeros(numel, dtype=values.dtype, device=device)
    joined[span] = values
    return add_over_ranks(joined.view(torch.uint8)).view(values.dtype)


def gather_objects(tensor: Tensor) -> list[Tensor]:
    """The tensors of all ranks, of any sizes, on the CPU. This is a collective."""
    gathered: list[Tensor] = [tensor] * ranks()
    dist.all_gather_object(gathered, tensor.cpu())
    return gathered


def resharded_parameters(module: Module) -> list[Parameter | None]:
    """Reshard the modules that ``fully_shard`` wraps, and list the parameters of all modules.

    Without this, the outermost wrapped module still holds whole weights as plain parameters after a forward pass in
    validation. The list has ``None`` for a parameter that is registered as ``None``, and repeats tied parameters.

    """
    parameters: list[Parameter | None] = []
    for child in module.modules():
        if isinstance(child, FSDPModule):
            child.reshard()
        # `parameters()` would walk the modules again, which in deep models takes most of a measurement.
        parameters += child._parameters.values()
    return parameters


def add_over_ranks(tensor: Tensor) -> Tensor:
    """The sum of the tensors of all ranks. This is a collective."""
    return _reduced(tensor, dist.ReduceOp.SUM)


def same_on_all_ranks(text: str) -> bool:
    """Whether ``text`` is the same on every rank. This is a collective of fixed size, so it ends for any texts."""
    if ranks() == 1:
        return True
    number = crc32(text.encode())
    extremes = torch.tensor([number, -number], device="cuda" if "nccl" in dist.get_backend() else "cpu")
    largest, smallest = _reduced(extremes, dist.ReduceOp.MAX).tolist()
    return bool(largest == -smallest)


def _reduced(tensor: Tensor, operation: dist.ReduceOp.RedOpType) -> Tensor:
    result = tensor.clone()
    work = dist.all_reduce(result, operation, async_op=True)
    # `wait` returns to Python only when the other ranks answer. If one is dead, Ctrl-C could not interrupt it.
    while not work.is_completed():
        time.sleep(1e-4)
    work.wait()
    return result
