# SPDX-License-Identifier: Apache-2.0
"""The plan of a measurement: what is worked out once, and holds while all parameters stay where they are."""

from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from lightning_rwc.baseline import Baseline
from lightning_rwc.functional import Sums
from lightning_rwc.layers import Layers
from lightning_rwc.norms import Norm
from lightning_rwc.sampling import SampleSums
from lightning_rwc.shards import local
from lightning_rwc.sums import PreparedSums, prepare_sums
from lightning_rwc.units import UnitColumns


class Plan:
    """How to measure layers.

    Args:
        layers: the present parameters.
        locations: where they are, see :func:`location`.
        order: the names of all layers that have a column.
        baselines: parameter name to baseline; parameters without one are not measured.
        units: the units of layers. Their sums follow those of the layers.
        sampled: whether sums have the rows of :class:`~lightning_rwc.sampling.SampleSums`.
        spans_ranks: whether the sums of all ranks will be added up.

    """

    def __init__(
        self,
        layers: Layers,
        locations: list[Any],
        order: Sequence[str],
        baselines: Mapping[str, Baseline],
        *,
        units: UnitColumns,
        sampled: bool,
        spans_ranks: bool,
    ) -> None:
        self._layers, self._locations = layers, locations
        measured = [{n: p for n, p in layers.get(layer, {}).items() if n in baselines} for layer in order]
        pairs = [(baselines[n], local(p.detach())) for parameters in measured for n, p in parameters.items()]
        self.elements = {
            layer: sum(parameter.numel() for parameter in parameters.values())
            for layer, parameters in zip(order, measured, strict=True)
            if parameters
        }
        """How many elements each measured layer has."""
        self.is_complete = len(pairs) == len(locations)
        """Whether all parameters have a baseline."""
        named = [name for parameters in measured for name in parameters]
        rows = {n: b.rows() for n, (b, _) in zip(named, pairs, strict=True) if n in units.parameters}
        self.measured = {*named}
        """The names of the measured parameters."""
        self._pieces = [len(rows[name]) if name in rows else 1 for name in named]
        self._units = _UnitSums(units, named, self._pieces, rows) if units.count else None
        pieces = iter(self._pieces)
        self._counts = [sum(next(pieces) for _ in parameters) for parameters in measured]
        self._rows = len(SampleSums._fields if sampled else Sums._fields)
        self._exact = [(baseline, part) for baseline, part in pairs if baseline.sample is None]
        self._sampled = [(baseline, baseline.sample, part) for baseline, part in pairs if baseline.sample is not None]
        order_of_sums = sorted(range(len(pairs)), key=lambda index: pairs[index][0].sample is not None)
        self._order = torch.tensor(order_of_sums).argsort() if self._sampled else None
        repeated = zip(pairs, self._pieces, strict=True)
        shares = [share for (baseline, _), count in repeated for share in [baseline.share] * count * spans_ranks]
        self._shares = torch.tensor(shares, dtype=torch.float64) if set(shares) - {1.0} else None
        views = [baseline.view(part) for baseline, part in self._exact]
        # Weights with gaps in memory have no view in one dimension. They are copied for the time of each measurement.
        seen_in_place = all(_shares_memory(view, part) for view, (_, part) in zip(views, self._exact, strict=True))
        self._prepared = self._prepare(views) if views and seen_in_place else None

    def fits(self, layers: Layers, locations: list[Any]) -> bool:
        """Whether the plan is for these parameters, and they are still where they were."""
        return self._layers is layers and self._locations == locations

    def run(self, norm: Norm, advance: bool) -> Tensor:
        """This rank's sums of every layer and then of every unit, of shape ``(rows, layers + units)``."""
        sums = self._sums_of_pieces(norm, advance)
        layers = sums
        if any(count != 1 for count in self._counts):
            layers = torch.stack([columns.sum(1) for columns in sums.split(self._counts, dim=1)], dim=1)
        return layers if self._units is None else torch.cat((layers, self._units.of(sums)), dim=1)

    def _sums_of_pieces(self, norm: Norm, advance: bool) -> Tensor:
        columns = []
        if self._exact:
            prepared = self._prepared or self._prepare([baseline.view(part) for baseline, part in self._exact])
            sums = prepared(norm, advance)
            if missing := self._rows - len(sums):
                sums = torch.cat((sums, sums.new_zeros(missing, sums.shape[1])))
            columns.append(sums)
        for baseline, sample, part in self._sampled:
            now = baseline.view(part)
            sums = sample.estimate(baseline.values.to(now.device), now, norm)[:, None]
            columns.append(sums.to(columns[0].device) if columns else sums)
            if advance:
                baseline.values.copy_(now)
        if not columns:
            return torch.zeros(self._rows, 0)
        joined = torch.cat(columns, dim=1) if len(columns) > 1 else columns[0]
        if self._order is not None:
            self._order = self._order.to(joined.device)
            joined = joined[:, self._order]
        if self._shares is not None:
            self._shares = self._shares.to(joined)
            joined = joined * self._shares
        return joined

    def _prepare(self, views: Sequence[Tensor]) -> PreparedSums:
        values = [baseline.values for baseline, _ in self._exact]
        # What is sampled has no units.
        return prepare_sums(values, views, self._pieces) if self._units else prepare_sums(values, views)


class _UnitSums:
    """How the sums of rows become sums of units.

    Args:
        units: the units of all parameters.
        named: the names of the measured parameters.
        pieces: how many sums each of them has.
        rows: the numbers of the rows that these sums are for.

    """

    def __init__(
        self, units: UnitColumns, named: Sequence[str], pieces: Sequence[int], rows: Mapping[str, Tensor]
    ) -> None:
        self._count = units.count
        # For rows that are units, and for rows that several form a unit: their columns, and the positions of the units.
        alone: list[Tensor] = [torch.empty(2, 0, dtype=torch.int64)]
        together = [*alone]
        for name, count, start in zip(named, pieces, accumulate(pieces, initial=0), strict=False):
            if name in rows:
                first, size = units.parameters[name]
                pair = torch.stack((torch.arange(start, start + count), first + rows[name] // size))
                (alone if size == 1 else together).append(pair)
        self._alone = torch.cat(alone, dim=1)
        self._columns, positions = torch.cat(together, dim=1)
        # Neighbouring rows form a unit.
        self._positions, lengths = positions.unique_consecutive(return_counts=True)
        self._lengths: list[int] = lengths.tolist()

    def of(self, sums: Tensor) -> Tensor:
        """The sums of all units. They are zero for units that this rank has no part of."""
        units = sums.new_zeros(len(sums), self._count)
        self._alone = self._alone.to(sums.device)
        columns, positions = self._alone
        units[:, positions] = sums[:, columns]
        if self._lengths:
            self._columns, self._positions = self._columns.to(sums.device), self._positions.to(sums.device)
            # Unlike `index_add`, this adds in the same order every time.
            parts = sums[:, self._columns].split(self._lengths, dim=1)
            units[:, self._positions] = torch.stack([part.sum(1) for part in parts], dim=1)
        return units


def location(parameter: Tensor) -> Any:
    """Where this rank's part of ``parameter`` is in memory. A plan holds as long as all locations stay equal."""
    if type(parameter) is not Parameter:
        parameter = local(parameter)
        if type(parameter) is not Tensor:
            return object()  # equal to no other location
    # Addresses differ between devices.
    return parameter.data_ptr(), parameter.dtype, parameter.shape, parameter.is_contiguous()


def _shares_memory(view: Tensor, tensor: Tensor) -> bool:
    return type(tensor) is Tensor and view.untyped_storage().data_ptr() == tensor.untyped_storage().data_ptr()
