# SPDX-License-Identifier: Apache-2.0
"""Which of a run's scalars are curves of layers, and how they form a table."""

import math
import re
from base64 import b64encode
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from lightning_rwc.natural import natural_key
from lightning_rwc.tags import Tags

_TOTAL = "_summary/total"


class Datum(Protocol):
    """A point of a scalar, as TensorBoard's data provider has it."""

    step: int
    wall_time: float
    value: float


def find_layers(tags: Iterable[str]) -> dict[str, list[str]]:
    """The layers of each measure in a log, by what its tags start with.

    Where ``{prefix}_summary/total`` is, the tags under ``{prefix}/`` are relative weight changes. What else starts tags
    of layers of these names, and no others, or of most layers, is another measure. Names are in natural order.

    Example:
        >>> find_layers(["rwc_summary/total", "rwc/conv", "rwc/fc", "strength/conv", "loss/train", "epoch"])
        {'rwc': ['conv', 'fc'], 'strength': ['conv']}

    """
    tags = set(tags)
    found: dict[str, set[str]] = {}
    own: set[str] = set()
    layer_behind: dict[str, str] = {}
    for prefix in sorted(tag.removesuffix(_TOTAL) for tag in tags if tag.endswith(_TOTAL)):
        mine = Tags(prefix)
        if layers := {tag: layer for tag in tags if (layer := mine.layer_of(tag)) is not None}:
            found[prefix] = set(layers.values())
            own.update(mine.roots)
            layer_behind |= {tag[len(prefix) :]: layer for tag, layer in layers.items()}
    others: dict[str, set[str]] = defaultdict(set)
    strangers: set[str] = set()
    for tag in tags:
        roots = [tag[: slash.start()] for slash in re.finditer("/", tag)]
        if own.isdisjoint(roots):
            root = next((root for root in roots if tag[len(root) :] in layer_behind), None)
            if root is None:
                strangers.update(roots)
            else:
                others[root].add(layer_behind[tag[len(root) :]])
    for root in sorted(others):
        most = any(len(layers & others[root]) > max(len(layers) / 2, 1) for layers in found.values())
        if most or root not in strangers:
            found[root] = others[root]
    return {prefix: sorted(layers, key=natural_key) for prefix, layers in found.items()}


def written_by_callback(curves: Mapping[str, Sequence[Datum]], total: Sequence[Datum]) -> dict[str, Sequence[Datum]]:
    """Those of ``curves`` that are layers' own, and not somebody else's under the same prefix.

    A measurement writes its layers and then their total. What a module logs has more points, points at other steps, or
    points that are written after the total. Other steps alone prove nothing: TensorBoard keeps a sample of long curves.

    Args:
        curves: the points of each candidate.
        total: the points of the total of the same run and prefix; where it has none, all are taken.

    """
    written = {datum.step: datum.wall_time for datum in total}
    if not written:
        return dict(curves)
    newest = max(written)  # while a log grows, layers may be read before their total
    kept = {}
    for name, points in curves.items():
        known = [datum for datum in points if datum.step <= newest]
        if len(known) <= len(total) and any(d.wall_time <= written.get(d.step, -math.inf) for d in known):
            kept[name] = points
    return kept


def find_epochs(tags: Iterable[str], prefix: str) -> str | None:
    """The tag of Lightning's scalar ``epoch``, before which a logger's own prefix stands as before ``prefix``.

    Example:
        >>> find_epochs(["my-rwc/fc", "my-epoch", "your-epoch"], "my-rwc")
        'my-epoch'

    """
    heads = [tag.removesuffix("epoch") for tag in tags if re.search("(^|-)epoch$", tag)]
    mine = [head for head in heads if prefix.startswith(head)]
    return f"{max(mine, key=len)}epoch" if mine else None


def as_table(curves: Mapping[str, Sequence[Datum]], epochs: Sequence[Datum]) -> dict[str, Any]:
    """Curves as what the tab reads: JSON, with the values as base64.

    Layers come in the order in which they were logged, which is definition order: scalars of one step have the wall
    times of their writing. Logs do not keep the order otherwise.

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
