# SPDX-License-Identifier: Apache-2.0
"""The snapshot: the earlier weights, and how far the present ones have moved from them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple
from zlib import crc32

import torch
from torch import Tensor

from lightning_rwc.baseline import Baseline, is_ordinary
from lightning_rwc.layers import Layers
from lightning_rwc.norms import Norm
from lightning_rwc.plan import Plan, location
from lightning_rwc.sampling import Sample, sample_sizes
from lightning_rwc.shards import layout, local, ranks, span_of_rank
from lightning_rwc.units import UnitColumns, UnitSelection, row_count


class _Kept(NamedTuple):
    """What is kept of a parameter."""

    elements: int
    in_rows: bool
    """Whether in the order of its rows, whatever its order in memory."""


class Snapshot:
    """The baselines of all tracked parameters.

    Args:
        shared: whether every rank has the same weights. Then each rank keeps and measures only its part of them.
        max_elements: larger layers are sampled, with about this many elements.
        device: where the values are kept, or None for the device of each parameter.
        units: which layers are measured unit by unit.

    """

    def __init__(
        self, shared: bool, max_elements: int | None, device: torch.device | None, units: UnitSelection
    ) -> None:
        self.shared = shared and max_elements is None and ranks() > 1
        self.max_elements = max_elements
        self._device = device
        self._units = units
        self.unmeasurable: dict[str, str] = {}
        """Parameters that are left out because PyTorch can hold them but not compute with them, and the reason."""
        self._baselines: dict[str, Baseline] = {}
        self._plan: Plan | None = None

    @property
    def spans_ranks(self) -> bool:
        """Whether the sums of a measurement must be added up over ranks."""
        return self.shared or any(baseline.layout is not None for baseline in self._baselines.values())

    def take(self, layers: Layers) -> None:
        """Take a baseline of every parameter that has none, or one of another shape."""
        for name, parameter, kept in self._sized(layers):
            if not self._has(name, parameter) and name not in self.unmeasurable:
                self._plan = None
                with self._leaving_out(name, parameter):
                    self._baselines[name] = self._new(name, parameter, kept)

    def retake(self, layers: Layers) -> None:
        """Set every baseline to the present weights."""
        for name, parameter, _ in self._sized(layers):
            if self._has(name, parameter):
                with self._leaving_out(name, parameter):
                    self._baselines[name].retake(local(parameter.detach()))

    def measure(
        self, layers: Layers, order: Sequence[str], norm: Norm, advance: bool, units: UnitColumns
    ) -> tuple[Tensor, Plan]:
        """Sum how far layers have moved on this rank, and take a baseline of parameters that have none.

        Args:
            layers: the present parameters.
            order: the names of all layers that have a column. A layer that is not measured has sums of zero.
            norm: see :func:`~lightning_rwc.functional.relative_weight_change`.
            advance: whether to make the present weights the snapshot in the same pass.
            units: the units of ``layers``.

        Returns:
            The sums of each layer and then of each unit, of shape ``(rows, layers + units)``. The rows are those of
            :class:`~lightning_rwc.functional.Sums`, or with ``max_elements`` those of
            :class:`~lightning_rwc.sampling.SampleSums`. And the plan, which knows what was measured.

        """
        everything = (item for parameters in layers.values() for item in parameters.items())
        locations = [location(parameter) for name, parameter in everything if name not in self.unmeasurable]
        if self._plan is None or not self._plan.fits(layers, locations):
            self._follow(layers)
            known = [name for name, parameter, _ in self._sized(layers) if self._has(name, parameter)]
            self._plan = Plan(
                layers,
                locations,
                order,
                {name: self._baselines[name] for name in known},
                units=units,
                sampled=self.max_elements is not None,
                spans_ranks=self.spans_ranks,
            )
        plan = self._plan
        sums = plan.run(norm, advance)
        if not plan.is_complete:
            self.take(layers)
        return sums, plan

    def _follow(self, layers: Layers) -> None:
        """Bring baselines to where parameters are now."""
        for name, parameter, kept in self._sized(layers):
            # Sharded since the snapshot, or no longer sharded.
            if self._has(name, parameter) and self._baselines[name].layout != layout(parameter):
                old, self._baselines[name] = self._baselines[name], self._new(name, parameter, kept)
                if old.sample is None:
                    self._baselines[name].fill(old.whole())
        for name, parameter, _ in self._sized(layers):
            if self._has(name, parameter):
                with self._leaving_out(name, parameter):
                    self._baselines[name].follow(local(parameter.detach()), self._device)

    def forget_parameters(self) -> None:
        """Let go of the parameters of the last measurement. The baselines stay."""
        self._plan = None

    def apply(self, function: Callable[[Tensor], Tensor]) -> None:
        """Replace the values by ``function`` of them, as :meth:`torch.nn.Module.to` does."""
        self.forget_parameters()
        for baseline in self._baselines.values():
            if self._device is None:
                baseline.values = function(baseline.values)

    def state_dict(self) -> dict[str, Any]:
        """Whole tensors on the CPU, and the samples of each rank. A collective if :attr:`spans_ranks`."""
        baselines = self._baselines.items()
        if self._device is not None and torch.cuda.is_initialized():
            # The device may still be writing to a snapshot in main memory.
            torch.cuda.synchronize()
        return {
            "whole": {name: baseline.whole() for name, baseline in baselines if baseline.sample is None},
            "samples": {name: baseline.samples() for name, baseline in baselines if baseline.sample is not None},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> list[str]:
        """Resume from :meth:`state_dict`. Returns the names of parameters whose samples do not fit any more."""
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
            if is_ordinary(local(parameter.detach())):
                raise
            self._baselines.pop(name, None)
            self.unmeasurable[name] = f"{type(error).__name__}: {error}"

    def _has(self, name: str, parameter: Tensor) -> bool:
        return name in self._baselines and self._baselines[name].shape == parameter.shape

    def _sized(self, layers: Layers) -> Iterator[tuple[str, Tensor, _Kept]]:
        """Each parameter, and what is kept of it."""
        for layer, parameters in layers.items():
            in_rows = self._units.rows(layer) > 0
            sizes = sample_sizes([parameter.numel() for parameter in parameters.values()], self.max_elements)
            for (name, parameter), size in zip(parameters.items(), sizes, strict=True):
                yield name, parameter, _Kept(size, in_rows)

    def _new(self, name: str, parameter: Tensor, kept: _Kept) -> Baseline:
        numel = local(parameter).numel()
        part: slice | Sample = slice(None)
        if kept.elements < parameter.numel():
            # The samples of all ranks together have this size.
            part = Sample(numel, max(2, round(kept.elements * numel / parameter.numel())), crc32(name.encode()))
        elif self.shared:
            row = numel // max(row_count(parameter), 1) if kept.in_rows else 1
            part = span_of_rank(numel, max(row, 1))
        return Baseline(parameter, part, self._device, kept.in_rows)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_plan": None}
