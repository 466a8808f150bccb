# SPDX-License-Identifier: Apache-2.0
"""Which of a run's scalars are curves of layers, and how they form a table."""

import math
from base64 import b64encode
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from lightning_rwc.natural import natural_key

_TOTAL = "_summary/total"


class Datum(Protocol):
    """A point of a scalar, as TensorBoard's data provider has it."""

    step: int
    wall_time: float
    value: float


def find_layers(tags: Iterable[str]) -> dict[str, list[str]]:
    """The layers of each measure in a log, by what its tags start with.

    Where ``{prefix}_summary/total`` is, the tags under ``{prefix}/`` are relative weight changes. What else starts all
    its tags alike and has layers of these names is another measure. Names are in natural order.

    Example:
        >>> find_layers(["rwc_summary/total", "rwc/conv", "rwc/fc", "strength/conv", "loss/train", "epoch"])
        {'rwc': ['conv', 'fc'], 'strength': ['conv']}

    """
    tags = set(tags)
    found: dict[str, list[str]] = {}
    for prefix in sorted(tag.removesuffix(_TOTAL) for tag in tags if tag.endswith(_TOTAL)):
        if layers := [tag[len(prefix) + 1 :] for tag in tags if tag.startswith(f"{prefix}/")]:
            found[prefix] = layers
    known = {layer for layers in found.values() for layer in layers}
    others: dict[str, list[str]] = defaultdict(list)
    strangers = set()
    for tag in tags:
        prefix, _, layer = tag.partition("/")
        if layer in known and prefix not in found:
            others[prefix].append(layer)
        else:
            strangers.add(prefix)
    found |= {prefix: others[prefix] for prefix in sorted(others) if prefix not in strangers}
    return {prefix: sorted(layers, key=natural_key) for prefix, layers in found.items()}


def as_table(curves: Mapping[str, Sequence[Datum]], epochs: Sequence[Datum]) -> dict[str, Any]:
    """Curves as what the tab reads: JSON, with the values as base64.

    Layers come in the order in which they were logged, which is their depth: scalars of one step have the wall times of
    their writing. Logs do not keep the order otherwise.

    Args:
        curves: the points of each layer.
        epochs: those of Lightning's scalar ``epoch``.

    Returns:
        ``layers``, ``steps``, ``epochs`` (``None`` where the log has none) and ``values``, little-endian float32 of
        shape ``(layers, steps)``, ``nan`` where a layer has no point.

    """
    layers = _in_depth_order(curves)
    steps = np.unique(np.fromiter((datum.step for points in curves.values() for datum in points), dtype=np.int64))
    values = np.full((len(layers), len(steps)), np.nan, dtype="<f4")
    for row, layer in zip(values, layers, strict=True):
        points = curves[layer]
        at = np.searchsorted(steps, np.fromiter((datum.step for datum in points), dtype=np.int64, count=len(points)))
        with np.errstate(over="ignore"):
            row[at] = np.fromiter((datum.value for datum in points), dtype=np.float64, count=len(points))
    return {
        "layers": layers,
        "steps": steps.tolist(),
        "epochs": _epochs(steps.tolist(), epochs),
        "values": b64encode(values.tobytes()).decode("ascii"),
    }


def _in_depth_order(curves: Mapping[str, Sequence[Datum]]) -> list[str]:
    at_step: dict[int, dict[str, float]] = defaultdict(dict)
    for layer, points in curves.items():
        for datum in (points[0], points[-1]) if points else ():
            at_step[datum.step][layer] = datum.wall_time
    written = max(at_step.items(), key=lambda item: (len(item[1]), item[0]), default=(0, {}))[1]
    return sorted(curves, key=lambda layer: (written.get(layer, math.inf), natural_key(layer)))


def _epochs(steps: Sequence[int], epochs: Sequence[Datum]) -> list[int | None]:
    if not epochs:
        return [None] * len(steps)
    # Between two points of the scalar the epoch is that of the later one: it is logged at the end.
    at = np.searchsorted([datum.step for datum in epochs], steps)
    return [int(epochs[min(index, len(epochs) - 1)].value) for index in at.tolist()]
