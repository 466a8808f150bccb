# SPDX-License-Identifier: Apache-2.0
"""The snapshot: what this rank keeps of earlier weights, and how far present ones have moved from it."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from zlib import crc32

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import Parameter

from lightning_rwc.functional import Norm, change_sums, common_dtype
from lightning_rwc.layers import Layers
from lightning_rwc.sampling import ROWS, Sample, sample_sizes
from lightning_rwc.shards import gather_objects, join_spans, layout, local, ranks, share, span_of_rank
from lightning_rwc.sums import Sums, prepare_sums

# What PyTorch computes with, on every device that trains.
_ORDINARY = {torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.complex64, torch.complex128}


class Snapshot:
    """Earlier values of parameters.

    Args:
        shared: whether every rank has the same weights, so that each need keep and measure only its part of them.
        max_elements: of a layer with more elements than this, so many are sampled.
        device: where the values are kept; None for the device of each parameter.

    """

    def __init__(self, shared: bool, max_elements: int | None, device: torch.device | None) -> None:
        self.shared = shared and max_elements is None and ranks() > 1
        self.max_elements = max_elements
        self._device = device
        self.unmeasurable: dict[str, str] = {}
        """Parameters that are left out, and why: what PyTorch can hold but not compute with."""
        self._baselines: dict[str, _Baseline] = {}
        self._plan: _Plan | None = None

    @property
    def spans_ranks(self) -> bool:
        """Whether the sums of a measurement must be added up over ranks."""
        return self.shared or any(baseline.layout is not None for baseline in self._baselines.values())

    def take(self, layers: Layers) -> None:
        """Keep the present values of every parameter that there is nothing of, or nothing of the same shape."""
        for name, parameter, size in self._sized(layers):
            if not self._has(name, parameter) and name not in self.unmeasurable:
                self._plan = None
                with self._leaving_out(name, parameter):
                    self._baselines[name] = self._new(name, parameter, size)

    def retake(self, layers: Layers) -> None:
        """Keep the present values of every parameter, whatever was kept before."""
        for name, parameter, _ in self._sized(layers):
            if self._has(name, parameter):
                with self._leaving_out(name, parameter):
                    self._baselines[name].retake(local(parameter.detach()))

    def sums(self, layers: Layers, order: Sequence[str], norm: Norm, advance: bool) -> tuple[Tensor, dict[str, int]]:
        """Sum how far layers have moved, on this rank, and take what there are no earlier values of.

        Args:
            layers: the present parameters.
            order: the names of all layers that there may be; one that there is nothing to say of has sums of zero.
            norm: the definition, see :func:`~lightning_rwc.functional.relative_weight_change`.
            advance: in the same pass, make the present values the snapshot.

        Returns:
            A tensor of shape ``(3, layers)``, or with ``max_elements`` ``(9, layers)``, in the form of
            :meth:`~lightning_rwc.sampling.Sample.sums`; and the number of elements of each layer that was measured.

        """
        measurable = (item for parameters in layers.values() for item in parameters.items())
        places = [_place(parameter) for name, parameter in measurable if name not in self.unmeasurable]
        if self._plan is None or self._plan.layers is not layers or self._plan.places != places:
            self._plan = self._new_plan(layers, places, order)
        plan = self._plan
        sums = plan.run(norm, advance)
        if any(count != 1 for count in plan.counts):
            sums = torch.stack([columns.sum(1) for columns in sums.split(plan.counts, dim=1)], dim=1)
        if not plan.complete:
            self.take(layers)
        return sums, plan.elements

    def _new_plan(self, layers: Layers, places: list[Any], order: Sequence[str]) -> "_Plan":
        for name, parameter, size in self._sized(layers):
            # Sharded since the snapshot, or no longer.
            if self._has(name, parameter) and self._baselines[name].layout != layout(parameter):
                old, self._baselines[name] = self._baselines[name], self._new(name, parameter, size)
                if old.sample is None:
                    self._baselines[name].fill(old.whole())
        for name, parameter, _ in self._sized(layers):
            if self._has(name, parameter):
                with self._leaving_out(name, parameter):
                    self._baselines[name].follow(local(parameter.detach()), self._device)
        measured = [
            {name: parameter for name, parameter in layers.get(layer, {}).items() if self._has(name, parameter)}
            for layer in order
        ]
        parts = [local(parameter.detach()) for parameters in measured for parameter in parameters.values()]
        baselines = [self._baselines[name] for parameters in measured for name in parameters]
        plan = _Plan(baselines, parts, self.spans_ranks, rows=3 if self.max_elements is None else ROWS)
        plan.layers, plan.places = layers, places
        plan.complete = len(parts) == len(places)
        plan.counts = [len(parameters) for parameters in measured]
        plan.elements = {
            layer: sum(parameter.numel() for parameter in parameters.values())
            for layer, parameters in zip(order, measured, strict=True)
            if parameters
        }
        return plan

    def apply(self, function: Callable[[Tensor], Tensor]) -> None:
        """Replace the values by ``function`` of them, as :meth:`torch.nn.Module.to` does, and let go of parameters."""
        self._plan = None
        for baseline in self._baselines.values():
            if self._device is None:
                baseline.values = function(baseline.values)

    def state_dict(self) -> dict[str, Any]:
        """Whole tensors on the CPU, and samples of each rank; a collective where ranks are spanned."""
        baselines = self._baselines.items()
        return {
            "whole": {name: baseline.whole() for name, baseline in baselines if baseline.sample is None},
            "samples": {name: baseline.samples() for name, baseline in baselines if baseline.sample is not None},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> list[str]:
        """Go on from :meth:`state_dict`; returns the names of those that have changed in a way that forbids it."""
        self._plan, unfit = None, []
        for name, baseline in self._baselines.items():
            whole, samples = state["whole"].get(name), state["samples"].get(name)
            if whole is not None and whole.shape == baseline.shape:
                baseline.fill(whole)
            elif samples is not None and not baseline.fill_samples(samples):
                unfit.append(name)
        return unfit

    @contextmanager
    def _leaving_out(self, name: str, parameter: Tensor) -> Iterator[None]:
        """Leave a parameter out if PyTorch cannot compute with its values."""
        try:
            yield
        except (MemoryError, torch.OutOfMemoryError):
            raise
        except Exception as error:
            part = local(parameter.detach())
            if type(part) is Tensor and part.dtype in _ORDINARY:
                raise
            self._baselines.pop(name, None)
            self.unmeasurable[name] = f"{type(error).__name__}: {error}"

    def _has(self, name: str, parameter: Tensor) -> bool:
        return name in self._baselines and self._baselines[name].shape == parameter.shape

    def _sized(self, layers: Layers) -> Iterator[tuple[str, Tensor, int]]:
        for parameters in layers.values():
            sizes = sample_sizes([parameter.numel() for parameter in parameters.values()], self.max_elements)
            yield from zip(parameters, parameters.values(), sizes, strict=True)

    def _new(self, name: str, parameter: Tensor, size: int) -> "_Baseline":
        numel = local(parameter).numel()
        part: slice | Sample = slice(None)
        if size < parameter.numel():
            # The ranks' samples together have the size of the layer's.
            part = Sample(numel, max(2, round(size * numel / parameter.numel())), crc32(name.encode()))
        elif self.shared:
            part = span_of_rank(numel)
        return _Baseline(parameter, part, self._device)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_plan": None}


class _Baseline:
    """Earlier values of one parameter, in one dimension: all that this rank has of it, a span of that, or a sample."""

    def __init__(self, parameter: Tensor, part: slice | Sample, device: torch.device | None) -> None:
        present = local(parameter.detach())
        self.shape, self.layout = parameter.shape, layout(parameter)
        self.sample = part if isinstance(part, Sample) else None
        self.span = part if isinstance(part, slice) else slice(None)
        self.is_shared = self.span != slice(None)
        self.share = 1.0 if self.is_shared else share(parameter)
        self.local_shape = present.shape
        # The dimensions from the slowest in memory to the fastest: in that order channels-last weights are a view too.
        self.dimensions = sorted(range(present.ndim), key=present.stride, reverse=True)
        self.values = _keep(self.view(present), device)
        self._try(present)

    def view(self, present: Tensor) -> Tensor:
        """What stands in ``present``, this rank's weights, at the places of the values."""
        flat = present.permute(self.dimensions).reshape(-1).contiguous()
        return flat[self.span] if self.sample is None else flat[self.sample.indices(flat.device)]

    def follow(self, present: Tensor, device: torch.device | None) -> None:
        """Go where ``present`` is, and to no less than its precision."""
        self._try(present)
        # A baseline narrower than the weights would be wrong by its rounding, for ever.
        dtype = common_dtype(self.values.dtype, present.dtype)
        if dtype != self.values.dtype or (device is None and self.values.device != present.device):
            self.values = _keep(self.values.to(device or present.device, dtype), device)

    def _try(self, present: Tensor) -> None:
        # What cannot be computed with raises now, where it can be left out, and not in a measurement.
        if type(present) is not Tensor or present.dtype not in _ORDINARY:
            # Also where this rank has none of its elements: ranks must come to the same result.
            one = torch.empty(1, dtype=present.dtype, device=present.device)
            change_sums(one, one)
            change_sums(self.values[:1].to(present.device), self.view(present)[:1])

    def retake(self, present: Tensor) -> None:
        """Take the values from ``present``."""
        self.values.copy_(self.view(present))

    def whole(self) -> Tensor:
        """The whole parameter on the CPU; a collective where ranks are spanned."""
        flat = join_spans(self.values, self.local_shape.numel()) if self.is_shared else self.values
        shape = [self.local_shape[dimension] for dimension in self.dimensions]
        order = sorted(range(len(shape)), key=self.dimensions.__getitem__)
        part = flat.view(shape).permute(order)
        return part.to("cpu", copy=True) if self.layout is None else self.layout.gather(part)

    def fill(self, whole: Tensor) -> None:
        """Take the values from the whole parameter; a collective for a sharded one."""
        self.values.copy_(self.view(whole if self.layout is None else self.layout.scatter(whole)))

    def samples(self) -> list[Tensor]:
        """The values of each rank, or of one if all have the same; a collective for a sharded parameter."""
        return gather_objects(self.values) if self.layout is not None else [self.values.to("cpu", copy=True)]

    def fill_samples(self, samples: Sequence[Tensor]) -> bool:
        """Take the values from :meth:`samples`, if ranks and sizes are the same."""
        rank = 0 if self.layout is None else dist.get_rank()
        fits = len(samples) == (1 if self.layout is None else ranks()) and samples[rank].shape == self.values.shape
        if fits:
            self.values.copy_(samples[rank])
        return fits


class _Plan:
    """How to measure tensors for as long as they stay where they are."""

    layers: Layers
    """The parameters that it is for,"""
    places: list[Any]
    """and where they were."""
    counts: list[int]
    """How many tensors each layer has."""
    elements: dict[str, int]
    """How many elements each layer with tensors has."""
    complete: bool
    """Whether all parameters are measured."""

    def __init__(self, baselines: Sequence[_Baseline], parts: Sequence[Tensor], spans_ranks: bool, rows: int) -> None:
        self._rows = rows
        shares = [baseline.share for baseline in baselines] if spans_ranks else []
        self._weights = torch.tensor(shares, dtype=torch.float64) if set(shares) - {1.0} else None
        self._exact = [(b, part) for b, part in zip(baselines, parts, strict=True) if b.sample is None]
        self._sampled = [(b, b.sample, part) for b, part in zip(baselines, parts, strict=True) if b.sample is not None]
        order = sorted(range(len(baselines)), key=lambda index: baselines[index].sample is not None)
        self._order = torch.tensor(order).argsort() if self._sampled else None
        views = [baseline.view(part) for baseline, part in self._exact]
        # Weights with gaps, which cannot be seen in one dimension, are copied for the time of each measurement.
        self._sums = self._prepare(views) if all(map(_shares_memory, views, (p for _, p in self._exact))) else None

    def run(self, norm: Norm, advance: bool) -> Tensor:
        """The sums of every tensor, of shape ``(rows, tensors)``, in the order of construction."""
        columns = []
        if self._exact:
            prepared = self._sums or self._prepare([baseline.view(part) for baseline, part in self._exact])
            sums = prepared(norm, advance)
            columns.append(torch.cat((sums, sums.new_zeros(self._rows - len(sums), sums.shape[1]))))
        for baseline, sample, part in self._sampled:
            now = baseline.view(part)
            sums = sample.sums(baseline.values.to(now.device), now, norm)[:, None]
            columns.append(sums.to(columns[0].device) if columns else sums)
            if advance:
                baseline.values.copy_(now)
        if not columns:
            return torch.zeros(self._rows, 0)
        joined = torch.cat(columns, dim=1)
        if self._order is not None:
            self._order = self._order.to(joined.device)
            joined = joined[:, self._order]
        if self._weights is not None:
            self._weights = self._weights.to(joined)
            joined = joined * self._weights
        return joined

    def _prepare(self, views: Sequence[Tensor]) -> Sums:
        return prepare_sums([baseline.values for baseline, _ in self._exact], views)


def _shares_memory(view: Tensor, tensor: Tensor) -> bool:
    return type(tensor) is Tensor and view.untyped_storage().data_ptr() == tensor.untyped_storage().data_ptr()


def _place(parameter: Tensor) -> Any:
    if type(parameter) is not Parameter:
        parameter = local(parameter)
        if type(parameter) is not Tensor:
            return object()  # a place that cannot be known again
    # The device goes without saying: its memory has addresses of its own.
    return parameter.data_ptr(), parameter.dtype, parameter.shape, parameter.is_contiguous()


def _keep(values: Tensor, device: torch.device | None) -> Tensor:
    """A copy of ``values`` on ``device``, in memory that a GPU can reach if they come from one."""
    copy = torch.empty_like(values, device=device or values.device, pin_memory=values.is_cuda and device is not None)
    return copy.copy_(values)
