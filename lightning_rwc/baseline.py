# SPDX-License-Identifier: Apache-2.0
"""The baseline of a parameter: what this rank keeps of its earlier values."""

from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_rwc.functional import change_sums, common_dtype
from lightning_rwc.sampling import Sample
from lightning_rwc.shards import gather_objects, join_spans, layout, local, rank, ranks, share, span_of_rank

# What PyTorch computes with, on every device that trains.
_ORDINARY_DTYPES = {torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.complex64, torch.complex128}


class Baseline:
    """The earlier values of one parameter, in one dimension.

    Args:
        parameter: the parameter at present.
        part: which of the values that this rank holds are kept: a span of them, or a sample.
        device: where they are kept, or None for the device of the parameter.
        in_rows: whether the values of each row of the first dimension must be neighbours.

    """

    def __init__(
        self, parameter: Tensor, part: slice | Sample, device: torch.device | None, in_rows: bool = False
    ) -> None:
        present = local(parameter.detach())
        self.shape, self.layout = parameter.shape, layout(parameter)
        self.sample = part if isinstance(part, Sample) else None
        self.span = part if isinstance(part, slice) else slice(None)
        self.is_shared = self.span != slice(None)
        self.share = 1.0 if self.is_shared else share(parameter)
        self.local_shape = present.shape
        # From the slowest dimension in memory to the fastest. In that order channels-last weights are a view too.
        self.dimensions = sorted(range(present.ndim), key=present.stride, reverse=True)
        if in_rows:
            self.dimensions.sort(key=bool)  # the first one comes first
        self.values = _keep(self.view(present), device)
        self._require_measurable(present)

    def view(self, present: Tensor) -> Tensor:
        """The elements of ``present``, this rank's weights, whose earlier values are kept."""
        flat = present.permute(self.dimensions).reshape(-1).contiguous()
        return flat[self.span] if self.sample is None else flat[self.sample.indices(flat.device)]

    def rows(self) -> Tensor:
        """The numbers of the rows of the first dimension that :meth:`view` has, wholly or in part."""
        if self.layout is not None:
            return self.layout.rows()
        count = self.local_shape[0] if self.local_shape else 1
        return torch.arange(count)[span_of_rank(count) if self.is_shared else slice(None)]

    def follow(self, present: Tensor, device: torch.device | None) -> None:
        """Move the values to the device of ``present``, and widen them to its precision at least."""
        self._require_measurable(present)
        # A baseline that is narrower than the weights stays wrong by its rounding.
        dtype = common_dtype(self.values.dtype, present.dtype)
        if dtype != self.values.dtype or (device is None and self.values.device != present.device):
            self.values = _keep(self.values.to(device or present.device, dtype), device)

    def _require_measurable(self, present: Tensor) -> None:
        # What PyTorch cannot compute with raises here, where it can be left out, and not during a measurement.
        if not is_ordinary(present):
            # Also if this rank has no element of it, because all ranks must come to the same result.
            one = torch.empty(1, dtype=present.dtype, device=present.device)
            change_sums(one, one)
            change_sums(self.values[:1].to(present.device), self.view(present)[:1])

    def retake(self, present: Tensor) -> None:
        """Take the values from ``present``."""
        self.values.copy_(self.view(present))

    def whole(self) -> Tensor:
        """The whole parameter on the CPU. This is a collective if ranks have a part each."""
        flat = join_spans(self.values, self.span, self.local_shape.numel()) if self.is_shared else self.values
        shape = [self.local_shape[dimension] for dimension in self.dimensions]
        order = sorted(range(len(shape)), key=self.dimensions.__getitem__)
        part = flat.view(shape).permute(order)
        return part.to("cpu", copy=True) if self.layout is None else self.layout.gather(part)

    def fill(self, whole: Tensor) -> None:
        """Take the values from the whole parameter. This is a collective if the parameter is sharded."""
        self.values.copy_(self.view(whole if self.layout is None else self.layout.scatter(whole)))

    def samples(self) -> list[Tensor]:
        """The values of each rank, or of one rank if all have the same. A collective if the parameter is sharded."""
        return gather_objects(self.values) if self.layout is not None else [self.values.to("cpu", copy=True)]

    def fill_samples(self, samples: Sequence[Tensor]) -> bool:
        """Take the values from :meth:`samples`, and return whether there are as many ranks and values as then."""
        mine, count = (0, 1) if self.layout is None else (rank(), ranks())
        fits = len(samples) == count and samples[mine].shape == self.values.shape
        if fits:
            self.values.copy_(samples[mine])
        return fits


def is_ordinary(tensor: Tensor) -> bool:
    """Whether PyTorch can certainly compute with ``tensor``."""
    return type(tensor) is Tensor and tensor.dtype in _ORDINARY_DTYPES


def _keep(values: Tensor, device: torch.device | None) -> Tensor:
    """A copy of ``values`` on ``device``, in memory that a GPU can reach if the values come from a GPU."""
    copy = torch.empty_like(values, device=device or values.device, pin_memory=values.is_cuda and device is not None)
    return copy.copy_(values)
