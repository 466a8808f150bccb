# SPDX-License-Identifier: Apache-2.0
"""Relative weight change as a torchmetrics metric, for any training loop."""

import math
from collections.abc import Callable
from typing import Any, Literal, TypeAlias, get_args

import torch
from torch import Tensor
from torch.nn import Module
from torchmetrics import Metric

from lightning_rwc.functional import Norm, change_ratio, check_norm
from lightning_rwc.layers import GroupBy, LayerFilter, Layers, LayerSelection
from lightning_rwc.shards import add_over_ranks, gather, is_sharded, local, place_like, reshard, share
from lightning_rwc.sums import layer_sums

RelativeTo: TypeAlias = Literal["previous", "initial"]


def check_relative_to(relative_to: str) -> None:
    """Raise ``ValueError`` unless ``relative_to`` is one of the two baselines."""
    if relative_to not in get_args(RelativeTo):
        raise ValueError(
            f"`relative_to` must be one of {', '.join(map(repr, get_args(RelativeTo)))}, but got {relative_to!r}."
        )


class RelativeWeightChange(Metric):
    r"""Relative weight change of every layer of a module.

    Construction takes a snapshot of the tracked parameters. Each ``update(module)`` measures how far they have moved
    from it; ``compute()`` gives the latest measurement. Unlike most metrics this one does not accumulate: an
    ``update`` replaces the one before. ``reset()`` forgets the measurement and keeps the snapshot.

    Where ranks hold shards of the weights (DTensors, as ``fully_shard`` and tensor parallelism make them), each rank
    measures its own and ``compute()`` adds them up: one small collective, to be called on all ranks. Where every
    rank has all weights, as in DDP, there is none. ``state_dict()`` holds the snapshot; with shards it is a collective.

    Args:
        module: the module to be measured. It is not kept, and may be wrapped or compiled later.
        norm: the definition, see :func:`~lightning_rwc.functional.relative_weight_change`.
        relative_to: the snapshot to measure from: ``"previous"`` moves it to the present weights at each ``update``,
            ``"initial"`` leaves it at those of construction.
        layers: which parameters are tracked, see :class:`~lightning_rwc.layers.LayerSelection`.
        group_by: how parameters form layers, see :class:`~lightning_rwc.layers.LayerSelection`.
        kwargs: as for :class:`torchmetrics.Metric`.

    Attributes:
        layers: names of the layers, in depth order. A layer that appears during training is added at the end and
            measured from its second ``update`` on; one that disappears is no longer measured.
        total: 0-dim tensor, the whole model measured as one layer, as of the last ``compute()``.

    Raises:
        ValueError: if ``norm`` or ``relative_to`` is unknown, or the selection of layers finds nothing.
        TypeError: if ``layers`` or ``group_by`` is of the wrong type.

    Example:
        >>> import torch
        >>> from lightning_rwc import RelativeWeightChange
        >>> model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.ReLU(), torch.nn.Linear(2, 1))
        >>> metric = RelativeWeightChange(model)
        >>> with torch.no_grad():
        ...     _ = model[2].weight.mul_(1.1)
        >>> metric.update(model)
        >>> {layer: round(value.item(), 4) for layer, value in metric.compute().items()}
        {'0': 0.0, '2': 0.1}

    """

    full_state_update = False
    is_differentiable = False
    higher_is_better = None
    sums: Tensor

    def __init__(
        self,
        module: Module,
        *,
        norm: Norm = "l1",
        relative_to: RelativeTo = "previous",
        layers: LayerFilter = None,
        group_by: GroupBy = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**{"dist_sync_fn": self._add_shards} | kwargs)
        check_norm(norm)
        check_relative_to(relative_to)
        self.norm: Norm = norm
        self.relative_to: RelativeTo = relative_to
        self._selection = LayerSelection(layers, group_by)
        reshard(module)
        found = self._selection.require(module)
        self.layers = list(found)
        self._snapshot: dict[str, Tensor] = {}
        self._add_baselines(found)
        self._has_shards = False
        self._elements: dict[str, int] = {}
        self._kept = torch.zeros(0)
        self.total = torch.full((), math.nan, dtype=torch.float64, device="cpu")
        self.add_state("sums", default=torch.zeros(3, len(self.layers)), dist_reduce_fx="sum")

    def update(self, module: Module, advance: bool = True) -> None:
        """Measure ``module`` against the snapshot.

        Args:
            module: the module of construction, or one with the same parameter names.
            advance: then call :meth:`advance`, unless ``relative_to="initial"``.

        """
        reshard(module)
        found = self._selection.find(module)
        self.layers += [layer for layer in found if layer not in self.layers]
        pairs = [self._pairs(found.get(layer, {})) for layer in self.layers]
        self._elements = {
            layer: sum(current.numel() for _, current in tensors)
            for layer, tensors in zip(self.layers, pairs, strict=True)
            if tensors
        }
        self._has_shards = any(is_sharded(current) for tensors in pairs for _, current in tensors)
        self.sums = layer_sums(
            [[local(previous) for previous, _ in tensors] for tensors in pairs],
            [[local(current) for _, current in tensors] for tensors in pairs],
            self.norm,
            shares=[[share(current) for _, current in tensors] for tensors in pairs] if self._has_shards else None,
        )
        self._add_baselines(found)
        if advance and self.relative_to == "previous":
            self.advance(module)

    def advance(self, module: Module) -> None:
        """Make the present weights of ``module`` the snapshot."""
        for parameters in self._selection.find(module).values():
            for previous, current in self._pairs(parameters):
                local(previous).copy_(local(current))

    def compute(self) -> dict[str, Tensor]:
        """The latest measurement.

        Returns:
            For each measured layer, in depth order, a 0-dim tensor on the device of the model.

        """
        if self._elements:
            self.total = change_ratio(self.sums.sum(1), self.norm)
        self._kept = self.sums[1]
        ratios = zip(self.layers, change_ratio(self.sums, self.norm).unbind(), strict=False)
        return {layer: ratio for layer, ratio in ratios if layer in self._elements}

    @property
    def left_out(self) -> dict[str, int]:
        """With ``norm="elementwise"``, how many elements of each layer were exactly zero and left out."""
        if self.norm != "elementwise":
            return dict.fromkeys(self._elements, 0)
        kept = zip(self.layers, self._kept.tolist(), strict=False)
        return {layer: self._elements[layer] - round(count) for layer, count in kept if layer in self._elements}

    def reset(self) -> None:
        """Forget the measurement; the snapshot stays, so that the next ``update`` measures from the last one."""
        super().reset()
        self._elements = {}
        self.total = torch.full_like(self.total, math.nan)

    def forward(self, module: Module) -> dict[str, Tensor]:
        """Call ``update(module)`` and return ``compute()``: nothing accumulates, so a step's value is the value."""
        self.update(module)
        return self.compute()

    def _apply(self, fn: Callable[[Tensor], Tensor], *args: Any, **kwargs: Any) -> Module:
        super()._apply(fn, *args, **kwargs)
        # Shards stay on the devices of their mesh.
        self._snapshot = {name: t if is_sharded(t) else fn(t) for name, t in self._snapshot.items()}
        return self

    def get_extra_state(self) -> dict[str, Any]:
        """What ``state_dict()`` stores: the snapshot, as whole tensors on the CPU, and the order of the layers."""
        return {"layers": list(self.layers), "snapshot": {name: gather(t) for name, t in self._snapshot.items()}}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Go on from the snapshot that :meth:`get_extra_state` gave; what it lacks keeps its own."""
        self.layers = [*state["layers"], *(layer for layer in self.layers if layer not in state["layers"])]
        for name, whole in state["snapshot"].items():
            present = self._snapshot.get(name)
            if present is not None and present.shape == whole.shape:
                local(present).copy_(local(place_like(whole, present)))

    def _add_shards(self, sums: Tensor, group: Any = None) -> list[Tensor]:
        return [add_over_ranks(sums) if self._has_shards else sums]

    def _pairs(self, parameters: dict[str, Any]) -> list[tuple[Tensor, Tensor]]:
        pairs = []
        for name, parameter in parameters.items():
            previous = self._snapshot.get(name)
            if previous is not None and previous.shape == parameter.shape:
                if previous.device != parameter.device or is_sharded(previous) != is_sharded(parameter):
                    previous = self._snapshot[name] = place_like(previous, parameter)
                if previous.dtype != parameter.dtype:
                    # A baseline narrower than the weights would be wrong by its rounding, for ever.
                    wide = torch.promote_types(previous.dtype, parameter.dtype)
                    previous = self._snapshot[name] = previous.to(wide)
                pairs.append((previous, parameter.detach()))
        return pairs

    def _add_baselines(self, found: Layers) -> None:
        for parameters in found.values():
            for name, parameter in parameters.items():
                previous = self._snapshot.get(name)
                if previous is None or previous.shape != parameter.shape:
                    self._snapshot[name] = parameter.detach().clone()
