# SPDX-License-Identifier: Apache-2.0
"""The points of a run's scalars, or of the units of a layer, as a table."""

import math
from base64 import b64encode
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from lightning_rwc.activity import by_activity, spread
from lightning_rwc.cells import classify
from lightning_rwc.quantity import RELATIVE_WEIGHT_CHANGE, Quantity
from lightning_rwc.scale import spans
from lightning_rwc.tensorboard.contents import POINTS

_MOST_UNITS = 1000


class Datum(Protocol):
    """A point of a scalar, as TensorBoard's data provider has it."""

    step: int
    value: float


class UnitDatum(Protocol):
    """A point of the units of a layer."""

    step: int
    numpy: npt.NDArray[Any]


def as_table(
    curves: Mapping[str, Sequence[Datum]],
    epochs: Sequence[Datum],
    quantity: Quantity = RELATIVE_WEIGHT_CHANGE,
    causes: Mapping[str, Sequence[tuple[int, int]]] = MappingProxyType({}),
) -> dict[str, Any]:
    """Curves as JSON for the tab, with the values as base64.

    Each point of ``epochs`` is a measurement. A point of a layer at any other step is not from the callback.

    Args:
        curves: the points of each layer, in definition order.
        epochs: the points of the scalar :attr:`Tags.epoch <lightning_rwc.tags.Tags.epoch>`.
        quantity: what the values are.
        causes: layer to the steps at which the cause of its standstill changes, and to which cause.

    Returns:
        ``layers``, ``steps``, ``epochs``, ``spans``, the number of optimizer steps of each measurement, ``values``:
        little-endian float32 of shape ``(layers, steps)``, ``nan`` where a layer has no point, and ``cells``: a byte
        for each of them, a number of :class:`~lightning_rwc.cells.Cell`.

    """
    # Where a resumed run has measured a step again, the later point counts.
    epoch_at = {datum.step: datum.value for datum in epochs}
    steps = sorted(epoch_at)
    values = np.full((len(curves), len(steps)), np.nan, dtype="<f4")
    for row, points in zip(values, curves.values(), strict=True):
        value_at = {datum.step: datum.value for datum in points}
        with np.errstate(over="ignore"):
            row[:] = [value_at.get(step, math.nan) for step in steps]
    # A log of an earlier version has no causes.
    known = np.stack([_row(causes.get(layer, ()), steps) for layer in curves], axis=1) if causes and curves else None
    return _encoded([*curves], steps, epoch_at, values, classify(values.T, known, quantity).T)


def as_unit_table(  # noqa: PLR0917
    points: Sequence[UnitDatum],
    shape: tuple[int, int],
    row: int,
    names: Sequence[Any],
    epochs: Sequence[Datum],
    quantity: Quantity = RELATIVE_WEIGHT_CHANGE,
    causes: Sequence[tuple[int, int]] = (),
) -> dict[str, Any]:
    """One quantity of the units of a layer as JSON for the tab, the most active unit first.

    Points of another shape are left out: the layer has grown or shrunk since.

    Args:
        points: the points of the units, which only the callback writes.
        shape: that of a point, ``(quantities, units)``.
        row: which quantity.
        names: the name or number of each unit.
        epochs: as for :func:`as_table`.
        quantity: likewise.
        causes: the steps at which the cause of the layer's standstill changes, and to which cause.

    Returns:
        What :func:`as_table` returns, with ``of``, the number of all units. Of more than 1000 units, 1000 are there,
        evenly spaced in their order.

    """
    value_at = {}
    for point in points:
        if point.numpy.shape == shape and point.numpy.dtype.kind == "f":
            value_at[point.step] = point.numpy[row]
    steps = sorted(value_at)
    values = np.array([value_at[step] for step in steps], dtype="<f4").reshape(len(steps), shape[1] if steps else 0)
    rows = by_activity(values)[spread(values.shape[1], _MOST_UNITS)]
    epoch_at = dict.fromkeys(steps, math.nan) | {datum.step: datum.value for datum in epochs}
    units = [str(names[row]) for row in rows]
    known = np.repeat(_row(causes, steps)[:, None], values.shape[1], axis=1) if causes else None
    cells = classify(values, known, quantity).T[rows]
    return _encoded(units, steps, epoch_at, values.T[rows], cells) | {"of": len(names)}


def _row(changes: Sequence[tuple[int, int]], steps: Sequence[int]) -> npt.NDArray[np.uint8]:
    """The cause at each step."""
    row = np.zeros(len(steps), np.uint8)
    for start, cause in changes:
        row[np.searchsorted(steps, start) :] = cause
    return row


def _encoded(
    layers: list[str],
    steps: list[int],
    epoch_at: Mapping[int, float],
    values: npt.NDArray[np.float32],
    cells: npt.NDArray[np.uint8],
) -> dict[str, Any]:
    reach = spans(steps)
    if len(steps) >= POINTS:
        # TensorBoard may have left out points. Then the steps between others are multiples of what most are.
        reach = np.minimum(reach, np.percentile(reach[1:-1], 10, method="lower"))
    return {
        "layers": layers,
        "steps": steps,
        "epochs": [int(epoch_at[step]) if math.isfinite(epoch_at[step]) else None for step in steps],
        "spans": reach.tolist(),
        "values": b64encode(values.tobytes()).decode("ascii"),
        "cells": b64encode(cells.tobytes()).decode("ascii"),
    }
