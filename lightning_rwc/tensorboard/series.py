# SPDX-License-Identifier: Apache-2.0
"""The points of a run's scalars as a table."""

import math
from base64 import b64encode
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np


class Datum(Protocol):
    """A point of a scalar, as TensorBoard's data provider has it."""

    step: int
    value: float


def as_table(curves: Mapping[str, Sequence[Datum]], epochs: Sequence[Datum]) -> dict[str, Any]:
    """Curves as JSON for the tab, with the values as base64.

    Each point of ``epochs`` is a measurement. A point of a layer at any other step is not from the callback.

    Args:
        curves: the points of each layer, in definition order.
        epochs: the points of the scalar :attr:`Tags.epoch <lightning_rwc.tags.Tags.epoch>`.

    Returns:
        ``layers``, ``steps``, ``epochs`` and ``values``: little-endian float32 of shape ``(layers, steps)``, ``nan``
        where a layer has no point.

    """
    # Where a resumed run has measured a step again, the later point counts.
    epoch_at = {datum.step: datum.value for datum in epochs}
    steps = sorted(epoch_at)
    values = np.full((len(curves), len(steps)), np.nan, dtype="<f4")
    for row, points in zip(values, curves.values(), strict=True):
        value_at = {datum.step: datum.value for datum in points}
        with np.errstate(over="ignore"):
            row[:] = [value_at.get(step, math.nan) for step in steps]
    return {
        "layers": [*curves],
        "steps": steps,
        "epochs": [int(epoch_at[step]) if math.isfinite(epoch_at[step]) else None for step in steps],
        "values": b64encode(values.tobytes()).decode("ascii"),
    }
