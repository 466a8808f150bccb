# SPDX-License-Identifier: Apache-2.0
"""Relative weight change as a torchmetrics metric, for any training loop."""

import math
import sys
import weakref
from collections.abc import Callable, Sequence
from operator import is_
from types import NoneType
from typing import Any, Literal, NamedTuple, cast

import torch
from torch import Tensor
from torch.nn import Module, Parameter
from torchmetrics import Metric

from lightning_rwc.functional import Sums, change_ratio, sums_dtype
from lightning_rwc.layer_order import merged_order
from lightning_rwc.layers import FoundLayers, GroupBy, LayerFilter, Layers, LayerSelection, described
from lightning_rwc.messages import rank_zero_warn
from lightning_rwc.movement import MOVEMENTS, Evidence, check_movements, rotation
from lightning_rwc.norms import Norm, definition
from lightning_rwc.options import (
    RelativeTo,
    check_max_elements,
    check_norm,
    check_relative_to,
    check_snapshot_device,
    check_units_with_samples,
)
from lightning_rwc.replicas import Difference, allowed_to_differ, difference, marks, no_marks
from lightning_rwc.sampling import SampleSums, standard_error, unreliable
from lightning_rwc.shards import add_over_ranks, local, ranks, resharded_parameters, same_on_all_ranks
from lightning_rwc.snapshot import Snapshot
from lightning_rwc.units import UnitColumns, UnitFilter, UnitSelection

_STATE_VERSION = 1


class Readings(NamedTuple):
    """One number for each layer or unit, and how precise it is."""

    values: dict[str, float]
    """Name to value, in definition order."""
    standard_errors: dict[str, float]
    """Name to the standard error of its value, which is 0 if the layer is not sampled."""


class UnitReadings(NamedTuple):
    """Two numbers for each unit of a layer."""

    changes: dict[str, float]
    """Unit to relative weight change."""
    rotations: dict[str, float]
    """Unit to rotation, in radians."""


class Measurement(NamedTuple):
    """One measurement, on the host."""

    values: dict[str, float]
    """Layer name to relative weight change, in definition order."""
    standard_errors: dict[str, float]
    """Layer name to the standard error of its value, which is 0 if the layer is not sampled."""
    unreliable: list[str]
    """Sampled layers whose standard errors mean little."""
    total: float
    """The value of the whole model, measured as one layer."""
    movements: dict[str, Readings]
    """Name of each movement that was asked for, to what it is for each layer."""
    units: dict[str, UnitReadings]
    """Layer name to its units, for layers that the argument ``units`` names."""
    spans_ranks: bool = False
    """Whether each rank measured a part only."""
    difference: Difference | None = None
    """Which layers are not the same on all ranks, if that was looked at and some are not."""


class RelativeWeightChange(Metric):
    r"""Relative weight change of every layer of a module.

    Construction takes a snapshot of the tracked parameters. Each ``update(module)`` measures how far they have moved
    from it. ``compute()`` returns the latest measurement. Unlike most metrics this one does not accumulate: an
    ``update`` replaces the one before. ``reset()`` forgets the measurement and keeps the snapshot.

    If ranks hold shards of the weights (DTensors, from ``fully_shard`` or tensor parallelism), each rank measures its
    own shards, and ``update()`` adds the sums with one small all-reduce. Call it on all ranks then. With
    ``share_ranks=True``, ranks that have the same weights divide the work in the same way. Otherwise there is no
    communication. ``state_dict()`` holds the snapshot. It is a collective if ``update()`` is one.

    Args:
        module: the module to measure. The metric does not keep it alive. You may wrap or compile it later.
        norm: the definition, see :func:`~lightning_rwc.functional.relative_weight_change`.
        relative_to: ``"previous"`` measures from the last ``update``, ``"initial"`` from the weights at construction.
        layers: which parameters are tracked, see :class:`~lightning_rwc.layers.LayerSelection`.
        group_by: how parameters form layers, see :class:`~lightning_rwc.layers.LayerSelection`.
        max_elements: measure a fixed sample of about this many elements of each larger layer. The snapshot is smaller
            by the same factor, and values are estimates, see ``standard_errors``. A sample may miss what only few
            elements do, such as some rows of an embedding. ``share_ranks`` has no effect then.
        snapshot_device: where the snapshot is kept: None for the device of the model, or ``"cpu"``, which costs a copy
            of the weights in both directions at every measurement.
        units: layers that are also measured unit by unit, see :class:`~lightning_rwc.units.UnitSelection`. It does not
            go with ``max_elements``.
        movements: names of quantities that :meth:`movement` can return: ``"rotation"``, ``"radial"``, ``"moved"`` and
            ``"still"``. Only the last one has a cost, and must be given here: every layer is measured unit by unit for
            it, so it does not go with ``max_elements``.
        share_ranks: whether all ranks of the process group hold the same weights, as in DDP. Then each rank keeps and
            measures one part of every layer.
        kwargs: as for :class:`torchmetrics.Metric`.

    Attributes:
        layers: names of the layers, in definition order. A layer that appears during training takes its position there
            and is measured from its second ``update`` on. A layer that disappears is no longer measured.
        total: 0-dim tensor, the whole model measured as one layer, as of the last ``compute()``.
        standard_errors: layer name to 0-dim tensor, the standard error of its value as of the last ``compute()``. It
            is 0 if the layer is not sampled, and a bound if no sampled element moved.

    Raises:
        ValueError: if ``norm``, ``relative_to``, ``snapshot_device`` or a movement is unknown, ``max_elements`` is
            below 256 or given with ``norm="elementwise"`` or with units, no layer is selected, or ``units`` does not
            fit the layers.
        TypeError: if ``layers``, ``group_by``, ``max_elements`` or ``units`` is of the wrong type.

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
        max_elements: int | None = None,
        snapshot_device: Literal["cpu"] | None = None,
        units: UnitFilter = None,
        movements: Sequence[str] = (),
        share_ranks: bool = False,
        **kwargs: Any,
    ) -> None:
        # `update` already adds up over ranks.
        super().__init__(**{"sync_on_compute": False} | kwargs)
        check_norm(norm)
        check_relative_to(relative_to)
        check_max_elements(max_elements, norm)
        check_snapshot_device(snapshot_device)
        self._units = UnitSelection(units, everything=check_movements(movements))
        check_units_with_samples(max_elements, units, movements)
        self.norm: Norm = norm
        self.relative_to: RelativeTo = relative_to
        self._selection = LayerSelection(layers, group_by)
        resharded_parameters(module)
        found = self._selection.require(module)
        self._units.require(found)
        self.layers = list(found)
        device = torch.device(snapshot_device) if snapshot_device else None
        self._has_replicas = share_ranks and ranks() > 1
        self._snapshot = Snapshot(share_ranks, max_elements, device, self._units)
        self._snapshot.take(found)
        self._warned: set[str] = set()
        self._warn_of_unmeasurable()
        self._error: Exception | None = None
        self._agreed = True
        self._half_moved = False
        self._module: weakref.ref[Module] | None = None
        self._owner: weakref.ref[Module] | None = None
        self._seen: list[Callable[[], Parameter | None]] = []
        self._found: Layers | None = None
        self._names = ""
        self._elements: dict[str, int] = {}
        self._measured: set[str] = set()
        self._columns = UnitColumns({}, self._units)
        self._steps = 1
        self._marks: Tensor | None = None
        self._pending = 0
        """Steps before the latest measurement that the next one includes, because the latest one failed."""
        self.standard_errors: dict[str, Tensor] = {}
        self.total = torch.full((), math.nan, dtype=torch.float64, device="cpu")
        rows = Sums if max_elements is None else SampleSums
        self.add_state("sums", default=torch.zeros(len(rows._fields), len(self.layers)), dist_reduce_fx="sum")

    @property
    def spans_ranks(self) -> bool:
        """Whether each rank measures a part only, so that :meth:`update` is a collective."""
        return self._snapshot.spans_ranks

    def update(self, module: Module, steps: int = 1) -> None:
        """Measure ``module`` against the snapshot. With ``relative_to="previous"``, its weights become the snapshot.

        Args:
            module: the module given at construction, or another one with the same parameter names.
            steps: how many optimizer steps were taken since the snapshot. Only the movement ``"still"`` needs it, to
                know how much rotation rounding can explain.

        """
        self.measure(module, steps)
        self.reduce()

    def measure(self, module: Module, steps: int = 1, compare: bool = False) -> None:
        """The first half of :meth:`update`: take this rank's sums and move its snapshot.

        There is no communication, unless parameters have been sharded since the snapshot. An error is raised later, by
        :meth:`reduce`, because other ranks wait for this one there.

        Args:
            module: as for :meth:`update`.
            steps: as for :meth:`update`.
            compare: whether to find out if all ranks have the same weights. All ranks must want to.

        """
        self._error, self._marks = None, None
        device = next(local(parameter).device for parameter in module.parameters())
        # Only float64 adds up marks exactly.
        compare = compare and self._has_replicas and sums_dtype(device) is torch.float64
        self._steps = steps + (self._pending if self.relative_to == "previous" else 0)
        self._pending = self._steps
        try:
            found = self.tracked(module)
            self.layers = merged_order([*found], self.layers)
            if not self._columns.fits(found, self._units):
                self._agreed, self._columns = False, UnitColumns(found, self._units)
            if self._half_moved:
                raise RuntimeError("the snapshot could not be taken again after the last failure")
            # If this stops on the way, nobody knows how far the snapshot has been moved.
            self._half_moved = self.relative_to == "previous"
            self.sums, plan = self._snapshot.measure(
                found, self.layers, self.norm, advance=self._half_moved, units=self._columns
            )
            self._elements, self._measured = plan.elements, plan.measured
            self._half_moved, self._pending = False, 0
            if compare:
                self._marks = marks(found, self.layers, allowed_to_differ(module)).to(self.sums.device)
        except Exception as error:
            self._error = error
            self._retake_snapshot()
            shape = len(self.sums), len(self.layers) + self._columns.count
            self.sums = torch.full(shape, math.nan, dtype=sums_dtype(device), device=device)
            self._elements = dict.fromkeys(self.layers, 0)
            self._marks = no_marks(len(self.layers)).to(device) if compare else None

    @property
    def needs_all_ranks(self) -> bool:
        """Whether :meth:`reduce` is a collective after the latest measurement."""
        return self.spans_ranks or self._marks is not None

    @property
    def steps(self) -> int:
        """How many optimizer steps lie between the snapshot and the latest measurement."""
        return self._steps

    @property
    def is_sampled(self) -> bool:
        """Whether values are estimates."""
        return self._snapshot.max_elements is not None

    @property
    def has_advanced(self) -> bool:
        """Whether the next measurement starts from the last one, and not from an earlier one because it failed."""
        return self._pending == 0

    def reduce(self) -> None:
        """The second half of :meth:`update`: add up the sums of all ranks, if each measures a part only.

        Raises:
            RuntimeError: on all ranks, if they track different layers.
            Exception: the error that :meth:`measure` met on this rank. On the other ranks all layers are ``nan`` then.

        """
        if self.needs_all_ranks and not self._agreed:
            self._agreed = same_on_all_ranks(repr(self._error or (self.layers, self._names, self._columns.count)))
        if self.needs_all_ranks and self._agreed:
            self._add_over_ranks()
        self._warn_of_unmeasurable()
        if self._error is not None:
            raise self._error
        if self.needs_all_ranks and not self._agreed:
            raise RuntimeError(
                "The ranks do not track the same layers, or one of them failed. `layers` and `group_by` must choose "
                "the same layers on every rank."
            )

    def _add_over_ranks(self) -> None:
        # In one collective with the marks, sums would be added in another order, with another last digit.
        if self.spans_ranks:
            self.sums = add_over_ranks(self.sums)
        if self._marks is not None:
            self._marks = add_over_ranks(self._marks)

    def fetch(self, movements: Sequence[str] = ()) -> Measurement:
        """The latest measurement on the host, in one copy from the device.

        Args:
            movements: the names of the movements to work out.

        """
        here = self.sums.cpu().double()
        layers, sums = self._of_layers(here)
        *values, total = change_ratio(_with_total(sums), self.norm).tolist()
        errors, doubts = dict.fromkeys(layers, 0.0), list[str]()
        if self.is_sampled:
            errors = dict(zip(layers, standard_error(sums, self.norm).tolist(), strict=True))
            doubts = [layer for layer, doubt in zip(layers, unreliable(sums).tolist(), strict=True) if doubt]
        return Measurement(
            dict(zip(layers, values, strict=True)),
            errors,
            doubts,
            total,
            self._fetch_movements(here, movements),
            self._fetch_units(here, layers),
            self.spans_ranks,
            self._fetch_difference({layer for layer, value in zip(layers, values, strict=True) if math.isnan(value)}),
        )

    def _fetch_difference(self, not_finite: set[str]) -> Difference | None:
        return None if self._marks is None else difference(self._marks, self.layers, not_finite)

    def _fetch_movements(self, sums: Tensor, names: Sequence[str]) -> dict[str, Readings]:
        if not names:
            return {}
        layers, evidence = self._evidence(sums)
        found = {}
        for name in names:
            values, errors = MOVEMENTS[name].value(evidence), MOVEMENTS[name].standard_error(evidence)
            errors = torch.where(values.isnan(), values, errors)
            found[name] = Readings(*(dict(zip(layers, one.tolist(), strict=True)) for one in (values, errors)))
        return found

    def _fetch_units(self, sums: Tensor, layers: Sequence[str]) -> dict[str, UnitReadings]:
        found = {}
        for layer, units in self._columns.layers.items():
            if self._units.names(layer) and layer in layers:
                here = sums[:, len(self.layers) :][:, units.columns]
                # A parameter that has no baseline yet is not measured.
                known = units.of(self._measured)
                changes, rotations = (
                    torch.where(known, values, math.nan).tolist()
                    for values in (change_ratio(here, self.norm), rotation(here))
                )
                pairs = (dict(zip(units.names, values, strict=True)) for values in (changes, rotations))
                found[layer] = UnitReadings(*pairs)
        return found

    def compute(self) -> dict[str, Tensor]:
        """The latest measurement.

        Returns:
            Layer name to a 0-dim tensor on the device of the model, in definition order.

        """
        layers, sums = self._of_layers(self.sums)
        *values, total = change_ratio(_with_total(sums), self.norm).unbind()
        if layers:
            self.total = total
        self.standard_errors = dict(zip(layers, standard_error(sums, self.norm).unbind(), strict=True))
        return dict(zip(layers, values, strict=True))

    def movement(self, name: str) -> dict[str, Tensor]:
        """Where the layers moved, as of the latest measurement.

        Args:
            name: ``"rotation"``, ``"radial"``, ``"moved"`` or ``"still"``, see :mod:`lightning_rwc.movement`.

        Returns:
            Layer name to a 0-dim tensor on the device of the model, in definition order.

        Raises:
            ValueError: if ``name`` is unknown, or ``"still"`` was not given at construction.

        """
        if check_movements([name]) and not self._units.everything:
            raise ValueError(f"`movement({name!r})` needs `movements=[{name!r}]` at construction.")
        layers, evidence = self._evidence(self.sums)
        return dict(zip(layers, MOVEMENTS[name].value(evidence).unbind(), strict=True))

    def _of_layers(self, sums: Tensor) -> tuple[list[str], Tensor]:
        """The names of the measured layers, and their sums."""
        layers, sums = self.layers, sums[:, : len(self.layers)]
        if len(self._elements) < len(layers):
            measured = [index for index, layer in enumerate(layers) if layer in self._elements]
            layers, sums = [layers[index] for index in measured], sums[:, measured]
        return layers, sums

    def _evidence(self, sums: Tensor) -> tuple[list[str], Evidence]:
        """The names of the measured layers, and what is known of them."""
        layers, of_layers = self._of_layers(sums)
        elements = torch.tensor([self._elements[layer] for layer in layers], dtype=sums.dtype, device=sums.device)
        units = [self._turning_units(sums, layer) for layer in layers] if self._units.everything else []
        return layers, Evidence(of_layers, elements, units, self._steps)

    def _turning_units(self, sums: Tensor, layer: str) -> Tensor:
        """The sums of the measured units of ``layer`` that have more than one element."""
        units = self._columns.layers.get(layer)
        if units is None:  # the layer has gone
            return sums[:, :0]
        chosen = units.turning & units.of(self._measured)
        return sums[:, len(self.layers) :][:, units.columns][:, chosen.to(sums.device)]

    def tracked(self, module: Module) -> Layers:
        """The parameters of each layer that ``module`` has now: layer name to parameter name to parameter."""
        # Names and groups are worked out again only if the parameters are not those of the last time.
        present = resharded_parameters(module)
        seen = [reference() for reference in self._seen]
        if len(present) != len(seen) or not all(map(is_, present, seen)):
            # Other ranks see this too. They compare their layers in `reduce`, also if this rank's selection fails.
            self._agreed, self._found = False, None
            # `NoneType` stands for a parameter that is None. Like a weak reference, it returns that when it is called.
            self._seen = [NoneType if parameter is None else weakref.ref(parameter) for parameter in present]
        if self._found is None:
            found = self._selection.find(module)
            self._names = repr({layer: [*parameters] for layer, parameters in found.items()})
            self._columns = UnitColumns(found, self._units)
            self._forget_with(_owner(module, found))
            self._found = found
        if not self.is_of(module):
            self._module = weakref.ref(module)
        return self._found

    def described(self, module: Module) -> dict[str, str]:
        """What each layer is: layer name to classes and shapes."""
        return described(cast(FoundLayers, self.tracked(module)))

    def is_of(self, module: Module) -> bool:
        """Whether ``module`` is the module that was measured last."""
        return self._module is not None and self._module() is module

    def _forget_with(self, owner: Module) -> None:
        """Let go of the parameters when ``owner`` is gone."""
        forget = weakref.WeakMethod(self._forget_parameters)
        ends = sys.is_finalizing  # at the end of Python, the modules that `method` needs may have gone
        self._owner = weakref.ref(owner, lambda _: not ends() and (method := forget()) and method())

    def _forget_parameters(self) -> None:
        self._found = None
        self._snapshot.forget_parameters()

    @property
    def left_out(self) -> dict[str, int]:
        """How many elements of each layer ``norm="elementwise"`` left out because they were exactly zero."""
        if not definition(self.norm).is_mean:
            return dict.fromkeys(self._elements, 0)
        kept = zip(self.layers, self.sums[1].tolist(), strict=False)
        return {layer: self._elements[layer] - round(count) for layer, count in kept if layer in self._elements}

    def reset(self) -> None:
        """Forget the measurement. The snapshot stays, so the next ``update`` measures from the last one."""
        super().reset()
        self._elements = {}
        self.standard_errors = {}
        self.total = torch.full_like(self.total, math.nan)

    def forward(self, module: Module, steps: int = 1) -> dict[str, Tensor]:
        """Call ``update(module, steps)`` and return ``compute()``."""
        self.update(module, steps)
        return self.compute()

    def _apply(self, fn: Callable[[Tensor], Tensor], *args: Any, **kwargs: Any) -> Module:
        super()._apply(fn, *args, **kwargs)
        self._snapshot.apply(fn)
        self._forget_parameters()
        return self

    def get_extra_state(self) -> dict[str, Any]:
        """What ``state_dict()`` stores: the snapshot, as whole tensors on the CPU, and the order of the layers."""
        return {"version": _STATE_VERSION, "layers": list(self.layers), "snapshot": self._snapshot.state_dict()}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Resume from the snapshot of :meth:`get_extra_state`. Parameters that it lacks keep theirs."""
        if state.get("version") != _STATE_VERSION:
            rank_zero_warn(
                f"The saved snapshot has version {state.get('version')!r}, but this version of lightning-rwc reads "
                f"version {_STATE_VERSION}. The metric keeps its own snapshot."
            )
            return
        self.layers = merged_order(self.layers, state["layers"])
        if unfit := self._snapshot.load_state_dict(state["snapshot"]):
            rank_zero_warn(
                f"Samples of {', '.join(unfit)} were taken with another number of ranks or another `max_elements`. "
                "Their next relative weight change is measured from the present weights."
            )

    def _retake_snapshot(self) -> None:
        """Let the next measurement start from here, if possible."""
        try:
            if self._half_moved and self._found is not None:
                self._snapshot.retake(self._found)
                self._half_moved, self._pending = False, 0
        except Exception as error:
            self._error = error

    def _warn_of_unmeasurable(self) -> None:
        reasons = {name: why for name, why in self._snapshot.unmeasurable.items() if name not in self._warned}
        if reasons:
            self._warned |= {*reasons}
            rank_zero_warn(
                f"PyTorch cannot compute with the weights of {', '.join(map(repr, reasons))}, so their relative weight "
                f"change is not measured ({next(iter(reasons.values()))})."
            )

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"_module": None, "_owner": None, "_seen": [], "_found": None}


def _with_total(sums: Tensor) -> Tensor:
    """The sums of layers, and last those of the whole model."""
    return torch.cat((sums, sums.sum(1, keepdim=True)), dim=1)


def _owner(module: Module, found: Layers) -> Module:
    """The module inside of ``module`` that has the first parameter. It outlives wrappers, but not the model."""
    first = next((parameter for parameters in found.values() for parameter in parameters.values()), None)
    owners = (child for child in module.modules() if any(p is first for p in child._parameters.values()))
    return next(owners, module)
