# SPDX-License-Identifier: Apache-2.0
"""Relative weight change as a torchmetrics metric, for any training loop."""

import math
from collections.abc import Callable
from operator import is_
from typing import Any, Literal, TypeAlias, get_args

import torch
from torch import Tensor
from torch.nn import Module, Parameter
from torchmetrics import Metric
from torchmetrics.utilities import rank_zero_warn

from lightning_rwc.functional import Norm, change_ratio, check_norm, sums_dtype
from lightning_rwc.layer_order import merged_order
from lightning_rwc.layers import GroupBy, LayerFilter, Layers, LayerSelection
from lightning_rwc.sampling import ROWS, standard_error, unreliable
from lightning_rwc.shards import add_over_ranks, local, resharded_parameters, same_on_all_ranks
from lightning_rwc.snapshot import Snapshot

RelativeTo: TypeAlias = Literal["previous", "initial"]


def check_relative_to(relative_to: str) -> None:
    """Raise ``ValueError`` unless ``relative_to`` is one of the two baselines."""
    if relative_to not in get_args(RelativeTo):
        raise ValueError(
            f"`relative_to` must be one of {', '.join(map(repr, get_args(RelativeTo)))}, but got {relative_to!r}."
        )


def check_max_elements(max_elements: int | None, norm: Norm) -> None:
    """Raise unless ``max_elements`` is None, or a number of elements that an estimate of ``norm`` can come from."""
    if max_elements is None:
        return
    if isinstance(max_elements, bool) or not isinstance(max_elements, int):
        raise TypeError(f"`max_elements` must be None or an int, but got {max_elements!r}.")
    if max_elements < 256:
        raise ValueError(
            f"`max_elements` must be at least 256, but got {max_elements}: an estimate from fewer tells little. "
            "65536 gives a standard error of about half a percent."
        )
    if norm == "elementwise":
        raise ValueError(
            f"`max_elements={max_elements}` cannot go with `norm='elementwise'`, a mean that a few weights near zero "
            "carry, which a sample misses: take 'l1' or 'l2', or leave `max_elements` out."
        )


def check_snapshot_device(snapshot_device: str | None) -> None:
    """Raise ``ValueError`` unless ``snapshot_device`` is None or the CPU."""
    if snapshot_device not in (None, "cpu"):
        raise ValueError(
            f"`snapshot_device` must be None, for the device of the model, or 'cpu', but got {snapshot_device!r}."
        )


class RelativeWeightChange(Metric):
    r"""Relative weight change of every layer of a module.

    Construction takes a snapshot of the tracked parameters. Each ``update(module)`` measures how far they have moved
    from it; ``compute()`` gives the latest measurement. Unlike most metrics this one does not accumulate: an
    ``update`` replaces the one before. ``reset()`` forgets the measurement and keeps the snapshot.

    Where ranks hold shards of the weights (DTensors, as ``fully_shard`` and tensor parallelism make them), each rank
    measures its own and ``update()`` adds them up: one small collective, to be called on all ranks. With
    ``share_ranks=True`` ranks that have the same weights divide the work likewise; otherwise there is no
    communication. ``state_dict()`` holds the snapshot; it is a collective where ``update()`` is.

    Args:
        module: the module to be measured. It is not kept, and may be wrapped or compiled later.
        norm: the definition, see :func:`~lightning_rwc.functional.relative_weight_change`.
        relative_to: the snapshot to measure from: ``"previous"`` moves it to the present weights at each ``update``,
            ``"initial"`` leaves it at those of construction.
        layers: which parameters are tracked, see :class:`~lightning_rwc.layers.LayerSelection`.
        group_by: how parameters form layers, see :class:`~lightning_rwc.layers.LayerSelection`.
        max_elements: of each layer with more elements, measure a fixed sample of about so many: the snapshot is that
            much smaller, and values are estimates, see ``standard_errors``. What few elements do alone, as rows of an
            embedding, a sample may miss. Takes the place of ``share_ranks``.
        snapshot_device: where the snapshot is kept: None for the device of the model, or ``"cpu"``, which costs a copy
            of the weights in both directions at every measurement.
        share_ranks: whether all ranks of the process group hold the same weights, as in DDP: then each keeps and
            measures one part of every layer.
        kwargs: as for :class:`torchmetrics.Metric`.

    Attributes:
        layers: names of the layers, in definition order. A layer that appears during training takes its place there and
            is measured from its second ``update`` on; one that disappears is no longer measured.
        total: 0-dim tensor, the whole model measured as one layer, as of the last ``compute()``.
        standard_errors: for each measured layer a 0-dim tensor, as of the last ``compute()``: the standard error of
            its value; 0 for a layer that is not sampled, and a bound where no sampled element moved.

    Raises:
        ValueError: if ``norm``, ``relative_to`` or ``snapshot_device`` is unknown, ``max_elements`` is below 256 or
            goes with ``norm="elementwise"``, or the selection of layers finds nothing.
        TypeError: if ``layers``, ``group_by`` or ``max_elements`` is of the wrong type.

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
        share_ranks: bool = False,
        **kwargs: Any,
    ) -> None:
        # `update` has added up over ranks what there is to add.
        super().__init__(**{"sync_on_compute": False} | kwargs)
        check_norm(norm)
        check_relative_to(relative_to)
        check_max_elements(max_elements, norm)
        check_snapshot_device(snapshot_device)
        self.norm: Norm = norm
        self.relative_to: RelativeTo = relative_to
        self._selection = LayerSelection(layers, group_by)
        resharded_parameters(module)
        found = self._selection.require(module)
        self.layers = list(found)
        self._snapshot = Snapshot(share_ranks, max_elements, torch.device(snapshot_device) if snapshot_device else None)
        self._snapshot.take(found)
        self._told: set[str] = set()
        self._tell_unmeasurable()
        self._error: Exception | None = None
        self._agreed = True
        self._astray = False
        self._seen: list[Parameter | None] = []
        self._found: Layers = {}
        self._elements: dict[str, int] = {}
        self.standard_errors: dict[str, Tensor] = {}
        self.total = torch.full((), math.nan, dtype=torch.float64, device="cpu")
        rows = 3 if max_elements is None else ROWS
        self.add_state("sums", default=torch.zeros(rows, len(self.layers)), dist_reduce_fx="sum")

    @property
    def spans_ranks(self) -> bool:
        """Whether ranks measure a part each, so that :meth:`update` is a collective."""
        return self._snapshot.spans_ranks

    def update(self, module: Module) -> None:
        """Measure ``module`` against the snapshot, and make its weights the snapshot if that is to be the previous.

        Args:
            module: the module of construction, or one with the same parameter names.

        """
        self.measure(module)
        self.reduce()

    def measure(self, module: Module) -> None:
        """The first half of :meth:`update`: the snapshot is moved, the sums are this rank's.

        There is no communication, unless parameters have been sharded since the snapshot. It does not raise: other
        ranks wait for this one in :meth:`reduce`, which raises instead.

        Args:
            module: as for :meth:`update`.

        """
        self._error = None
        try:
            found = self.tracked(module)
            self.layers = merged_order([*found], self.layers)
            if self._astray:
                raise RuntimeError("after the last failure, the snapshot could not be taken anew until now")
            # Whoever stops on the way does not know how far the snapshot has been moved.
            self._astray = self.relative_to == "previous"
            self.sums, self._elements = self._snapshot.sums(found, self.layers, self.norm, advance=self._astray)
            self._astray = False
        except Exception as error:
            self._error = error
            self._return_from_astray()
            device = next(local(parameter).device for parameter in module.parameters())
            shape = len(self.sums), len(self.layers)
            self.sums = torch.full(shape, math.nan, dtype=sums_dtype(device), device=device)
            self._elements = dict.fromkeys(self.layers, 0)

    def reduce(self) -> None:
        """The second half of :meth:`update`: add up the sums of all ranks, where they measure a part each.

        Raises:
            RuntimeError: on all ranks, if they track different layers.
            Exception: whatever :meth:`measure` met with on this rank. On the others all layers are ``nan`` then.

        """
        if self.spans_ranks and not self._agreed:
            names = {layer: [*parameters] for layer, parameters in self._found.items()}
            self._agreed = same_on_all_ranks(repr(self._error or (self.layers, names)))
        if self.spans_ranks and self._agreed:
            self.sums = add_over_ranks(self.sums)
        self._tell_unmeasurable()
        if self._error is not None:
            raise self._error
        if self.spans_ranks and not self._agreed:
            raise RuntimeError(
                "The ranks do not track the same layers, or one of them failed. `layers` and `group_by` must give the "
                "same answer on every rank."
            )

    def latest(self) -> tuple[list[str], Tensor]:
        """The latest measurement as one tensor, for whoever wants it on the host at once.

        Returns:
            The names of the measured layers, in definition order; and a tensor of shape ``(3, layers + 1)``: relative
            weight changes; their standard errors, which are 0 where nothing was sampled; and 1 where the standard error
            of a sampled layer means little, else 0. The last column is the whole model, measured as one layer.

        """
        measured = [index for index, layer in enumerate(self.layers) if layer in self._elements]
        sums = self.sums if len(measured) == self.sums.shape[1] else self.sums[:, measured]
        sums = torch.cat((sums, sums.sum(1, keepdim=True)), dim=1)
        ratios = change_ratio(sums[:3], self.norm)
        rows = (ratios, standard_error(sums, self.norm), unreliable(sums).to(ratios))
        return [self.layers[index] for index in measured], torch.stack(rows)

    def compute(self) -> dict[str, Tensor]:
        """The latest measurement.

        Returns:
            For each measured layer, in definition order, a 0-dim tensor on the device of the model.

        """
        names, (ratios, errors, _) = self.latest()
        if names:
            self.total = ratios[-1]
        self.standard_errors = dict(zip(names, errors.unbind(), strict=False))
        return dict(zip(names, ratios.unbind(), strict=False))

    def tracked(self, module: Module) -> Layers:
        """The parameters of each layer that ``module`` has now: layer name to parameter name to parameter."""
        # Names and groups are worked out again only when there are other parameters than the last time.
        present = resharded_parameters(module)
        if len(present) != len(self._seen) or not all(map(is_, present, self._seen)):
            # Other ranks see this too: they ask one another in `reduce`, also where this rank's selection fails.
            self._agreed = False
            self._found = self._selection.find(module)
            self._seen = present
        return self._found

    @property
    def left_out(self) -> dict[str, int]:
        """With ``norm="elementwise"``, how many elements of each layer were exactly zero and left out."""
        if self.norm != "elementwise":
            return dict.fromkeys(self._elements, 0)
        kept = zip(self.layers, self.sums[1].tolist(), strict=False)
        return {layer: self._elements[layer] - round(count) for layer, count in kept if layer in self._elements}

    def reset(self) -> None:
        """Forget the measurement; the snapshot stays, so that the next ``update`` measures from the last one."""
        super().reset()
        self._elements = {}
        self.standard_errors = {}
        self.total = torch.full_like(self.total, math.nan)

    def forward(self, module: Module) -> dict[str, Tensor]:
        """Call ``update(module)`` and return ``compute()``: nothing accumulates, so a step's value is the value."""
        self.update(module)
        return self.compute()

    def _apply(self, fn: Callable[[Tensor], Tensor], *args: Any, **kwargs: Any) -> Module:
        super()._apply(fn, *args, **kwargs)
        self._snapshot.apply(fn)
        self._seen, self._found = [], {}
        return self

    def get_extra_state(self) -> dict[str, Any]:
        """What ``state_dict()`` stores: the snapshot, as whole tensors on the CPU, and the order of the layers."""
        return {"layers": list(self.layers), "snapshot": self._snapshot.state_dict()}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Go on from the snapshot that :meth:`get_extra_state` gave; what it lacks keeps its own."""
        self.layers = merged_order(self.layers, state["layers"])
        if unfit := self._snapshot.load_state_dict(state["snapshot"]):
            rank_zero_warn(
                f"Samples of {', '.join(unfit)} were taken by another number of ranks, or of another `max_elements`, "
                "than there is now: their next relative weight change is measured from the present weights."
            )

    def _return_from_astray(self) -> None:
        """Let the next measurement start from here, if that can be done."""
        try:
            if self._astray:
                self._snapshot.retake(self._found)
                self._astray = False
        except Exception as error:
            self._error = error

    def _tell_unmeasurable(self) -> None:
        reasons = {name: why for name, why in self._snapshot.unmeasurable.items() if name not in self._told}
        if reasons:
            self._told |= {*reasons}
            rank_zero_warn(
                f"PyTorch cannot compute with the weights of {', '.join(map(repr, reasons))}, so their relative weight "
                f"change is not measured ({next(iter(reasons.values()))})."
            )

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"_seen": [], "_found": {}}
