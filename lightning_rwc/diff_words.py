# SPDX-License-Identifier: Apache-2.0
"""What changed from one saved model to another, in words."""

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator

from lightning_rwc.diff_result import LayerDiff, WeightDiff

_MOST_NAMES = 5


def statements(diff: WeightDiff) -> list[str]:
    """What to know before one reads the numbers, a sentence or two each."""
    return [*_moved(diff), *_dtypes(diff), *diff.notes, *_not_measured(diff)]


def percent(share: float) -> str:
    """A share with three digits, as in ``12.3 %``.

    Example:
        >>> percent(0.000123), percent(1), percent(0.9999999)
        ('0.0123 %', '100 %', '99.99999 %')

    """
    # What is not all must not look like all.
    exact = f"{100 * share:.3g}"
    return f"{100 * share:.9g} %" if exact == "100" and share < 1 else f"{exact} %"


def _moved(diff: WeightDiff) -> Iterator[str]:
    finite, lost = _by_finite(diff.layers)
    count = _count(len(diff.layers), "layer")
    without = " that both have" if diff.only_base or diff.only_tuned else ""
    if diff.identical:
        yield f"BASE and TUNED are bit-identical: {_count(diff.pairs, 'tensor')}{without}, and no bit differs."
        return
    if all(one.identical for one in diff.layers):
        yield f"No layer moved: {count} {_are(diff.layers)} bit-identical."
        if diff.others:
            yield f"Other tensors differ: {_listing(diff.others)}. `--all` measures them too."
        return
    total = diff.total
    if finite:
        yield (
            f"{percent(total.moved)} of {total.elements:,} elements in {_count(len(finite), 'layer')} moved. Measured "
            f"as one layer, {'these' if lost else 'all layers'} have an l1 of {total.l1:.3g} and a rotation of "
            f"{total.rotation:.3g}."
        )
    if still := [one.layer for one in diff.layers if one.moved == 0]:
        kind = "bit-identical" if all(one.identical for one in diff.layers if one.moved == 0) else "equal"
        yield f"{_count(len(still), 'layer')} did not move and {_are(still)} {kind}: {_listing(still)}."
    if lost:
        casts = dict.fromkeys(one.dtypes[1] for one in lost if one.dtypes[0] != one.dtypes[1])
        cast = f", or after the cast to {', '.join(casts)}" if casts else ""
        names = _listing(one.layer for one in lost)
        yield f"{_count(len(lost), 'layer')} {_are(lost)} not finite in BASE or TUNED{cast}: {names}."


def _dtypes(diff: WeightDiff) -> Iterator[str]:
    groups: defaultdict[tuple[str, str], list[LayerDiff]] = defaultdict(list)
    for one in diff.layers:
        groups[one.dtypes].append(one)
    for (before, after), layers in groups.items():
        if before == after:
            continue
        elements = sum(one.elements for one in layers) or 1
        rounded = sum(one.rounded * one.elements for one in layers) / elements
        finite, lost = _by_finite(layers)
        moved = sum(one.moved * one.elements for one in finite) / (sum(one.elements for one in finite) or 1)
        rest = f", and {percent(moved)} differ after it" if moved else ", and nothing differs after it"
        if lost:
            rest = f"{rest} where all are finite" if finite else ""
        elif not moved:
            rest += ": nothing was trained"
        yield (
            f"{_count(len(layers), 'layer')} {_are(layers)} {before} in BASE and {after} in TUNED. The cast to {after} "
            f"alone changes {percent(rounded)} of the elements{rest}. All numbers are those after the cast."
        )


def _by_finite(layers: Iterable[LayerDiff]) -> tuple[list[LayerDiff], list[LayerDiff]]:
    """The layers that are finite, and the others."""
    layers = [*layers]
    return [one for one in layers if not math.isnan(one.l1)], [one for one in layers if math.isnan(one.l1)]


def _not_measured(diff: WeightDiff) -> Iterator[str]:
    for side, names in (("BASE", diff.only_base), ("TUNED", diff.only_tuned)):
        if names:
            yield f"Only {side} has {_count(len(names), 'tensor')}: {_listing(names)}."
    if diff.reshaped:
        shapes = [f"{name} {_shape(old)} → {_shape(new)}" for name, (old, new) in diff.reshaped.items()]
        yield f"{_count(len(shapes), 'tensor')} changed shape, and {_are(shapes)} not measured: {_listing(shapes)}."
    if diff.left_out:
        reasons = [f"{name} ({reason})" for name, reason in diff.left_out.items()]
        yield f"{_count(len(reasons), 'layer')} cannot be measured: {_listing(reasons)}."


def _listing(names: Iterable[str]) -> str:
    names = [*names]
    more = len(names) - _MOST_NAMES
    return ", ".join(names[:_MOST_NAMES]) + (f" and {more:,} more" if more > 0 else "")


def _count(count: int, what: str) -> str:
    return f"{count:,} {what}{'s' if count != 1 else ''}"


def _are(things: list[str] | list[LayerDiff]) -> str:
    return "are" if len(things) != 1 else "is"


def _shape(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape)) or "()"
