# SPDX-License-Identifier: Apache-2.0
"""The units of layers: rows of the first dimension of each parameter, or blocks of such rows."""

import re
from collections.abc import Container, Mapping, Sequence
from itertools import accumulate
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

from lightning_rwc.options import check_count

UnitFilter: TypeAlias = str | Sequence[str] | Mapping[str, int] | None


class UnitSelection:
    """Which layers are measured unit by unit, and how many rows form a unit.

    Args:
        units: a regular expression that is searched in the names of layers, several of them, or a mapping from regular
            expressions to the number of consecutive rows of a unit. With a list, a unit is one row. The first
            expression that fits a layer counts. ``None`` selects no layer.
        everything: whether the units of all other layers are measured too, each of one row.

    Raises:
        TypeError: if ``units`` is of another type, or a number of rows is not an int.
        ValueError: if an expression is invalid, or a number of rows is below 1.

    """

    def __init__(self, units: UnitFilter, everything: bool = False) -> None:
        self.everything = everything
        """Whether every layer is measured unit by unit."""
        self._rows = [*_rows(units).items()]

    def __bool__(self) -> bool:
        """Whether any layer can be selected."""
        return self.everything or bool(self._rows)

    @property
    def rows_of_patterns(self) -> dict[str, int]:
        """Each expression, and how many rows form a unit where it fits."""
        return {pattern.pattern: rows for pattern, rows in self._rows}

    def names(self, layer: str) -> bool:
        """Whether one of the expressions fits ``layer``."""
        return any(pattern.search(layer) for pattern, _ in self._rows)

    def rows(self, layer: str) -> int:
        """How many rows form a unit of ``layer``; 0 if it is not measured unit by unit."""
        return next((rows for pattern, rows in self._rows if pattern.search(layer)), int(self.everything))

    def require(self, layers: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Raise ``ValueError`` unless each expression fits one of ``layers``, whose rows form whole units."""
        for pattern, _ in self._rows:
            if not any(pattern.search(layer) for layer in layers):
                raise ValueError(
                    f"`units` has {pattern.pattern!r}, which fits no layer. The layers are {', '.join(layers)}."
                )
        for layer, parameters in layers.items():
            for name, parameter in parameters.items():
                if self.rows(layer) and row_count(parameter) % self.rows(layer):
                    raise ValueError(
                        f"`units` asks for units of {self.rows(layer)} rows in {layer!r}, but {name!r} has "
                        f"{row_count(parameter)} rows, which is not a multiple. Its shape is {tuple(parameter.shape)}."
                    )


class Units(NamedTuple):
    """The units of one layer."""

    names: list[str]
    """The number of each unit; if the layer has several parameters, after the name of its parameter."""
    columns: slice
    """Where they are among the units of all layers."""
    turning: Tensor
    """Whether each has more than one element, so that it can turn."""
    counts: dict[str, int]
    """Parameter name to how many units it has."""

    def of(self, parameters: Container[str]) -> Tensor:
        """Whether each unit is of one of ``parameters``."""
        chosen = torch.tensor([name in parameters for name in self.counts])
        return chosen.repeat_interleave(torch.tensor([*self.counts.values()]))


class ParameterUnits(NamedTuple):
    """The units of one parameter."""

    first: int
    """The position of its first unit among the units of all layers."""
    rows: int
    """How many rows form a unit."""


class UnitColumns:
    """The position of each unit of a model. It is the same on all ranks.

    Args:
        layers: the present parameters, whole or sharded.
        selection: which of the layers are measured unit by unit.

    """

    def __init__(self, layers: Mapping[str, Mapping[str, Tensor]], selection: UnitSelection) -> None:
        self.layers: dict[str, Units] = {}
        """Layer name to its units, for layers that are measured unit by unit."""
        self.parameters: dict[str, ParameterUnits] = {}
        """Parameter name to its units."""
        self.count = 0
        """How many units there are."""
        self._row_counts = _row_counts(layers, selection)
        for layer, parameters in layers.items():
            if not (rows := selection.rows(layer)):
                continue
            counts = [-(-row_count(parameter) // rows) for parameter in parameters.values()]
            firsts = accumulate(counts[:-1], initial=self.count)
            self.parameters |= {
                name: ParameterUnits(first, rows) for name, first in zip(parameters, firsts, strict=True)
            }
            names = [
                str(unit) if len(counts) == 1 else f"{name}:{unit}"
                for name, count in zip(parameters, counts, strict=True)
                for unit in range(count)
            ]
            turning = torch.tensor([can_turn(parameter, rows) for parameter in parameters.values()])
            self.layers[layer] = Units(
                names,
                slice(self.count, self.count + len(names)),
                turning.repeat_interleave(torch.tensor(counts)),
                dict(zip(parameters, counts, strict=True)),
            )
            self.count += len(names)

    def fits(self, layers: Mapping[str, Mapping[str, Tensor]], selection: UnitSelection) -> bool:
        """Whether ``layers`` have as many rows as those at construction."""
        return self._row_counts == _row_counts(layers, selection)


def _row_counts(layers: Mapping[str, Mapping[str, Tensor]], selection: UnitSelection) -> list[int]:
    chosen = [parameters for layer, parameters in layers.items() if selection.rows(layer)] if selection else []
    return [row_count(parameter) for parameters in chosen for parameter in parameters.values()]


def row_count(parameter: Tensor) -> int:
    """The rows of ``parameter``: its first dimension, or 1 if it has none."""
    return parameter.shape[0] if parameter.ndim else 1


def can_turn(parameter: Tensor, rows: int = 1) -> bool:
    """Whether units of so many rows of ``parameter`` have more than one element. A single number cannot turn."""
    return parameter.numel() * rows > row_count(parameter)


def _rows(units: UnitFilter) -> dict[re.Pattern[str], int]:
    if units is None:
        return {}
    patterns = [units] if isinstance(units, str) else units
    rows = dict(patterns) if isinstance(patterns, Mapping) else dict.fromkeys(_texts(patterns, units), 1)
    for pattern, count in rows.items():
        check_count(f"units[{pattern!r}]", count)
    return {_compiled(pattern): count for pattern, count in zip(_texts([*rows], units), rows.values(), strict=True)}


def _texts(patterns: Sequence[str], units: object) -> Sequence[str]:
    if not isinstance(patterns, Sequence) or not all(isinstance(pattern, str) for pattern in patterns):
        raise TypeError(
            "`units` must be None, a regular expression, a list of them, or a mapping from them to numbers of rows, "
            f"but got {units!r}."
        )
    return patterns


def _compiled(pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except re.error as error:
        raise ValueError(f"`units` has an invalid regular expression {pattern!r}: {error}.") from error
