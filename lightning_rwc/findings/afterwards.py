# SPDX-License-Identifier: Apache-2.0
"""What a table or saved weights tell after a run, when nothing is known of optimizers, gradients and modules."""

from collections.abc import Mapping, Sequence
from itertools import compress
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from lightning_rwc.findings.certain import FINITE_REMEDY, GRADIENT_REMEDY, PATIENCE
from lightning_rwc.findings.finding import Finding, listing, one_or_more
from lightning_rwc.findings.kinds import Kinds
from lightning_rwc.findings.likely import BURST, LEAST_PATH, LIKELY, WINDOWS
from lightning_rwc.findings.suspicions import Suspicions
from lightning_rwc.findings.trends import WINDOW, Moves, Numbers, Trends
from lightning_rwc.movement import ROUNDING

Booleans: TypeAlias = npt.NDArray[np.bool_]
Times: TypeAlias = Sequence[tuple[int, int]]


def findings_of_table(layers: Sequence[str], times: Times, changes: Numbers, standard_errors: Numbers) -> list[Finding]:
    """What is wrong, as far as relative weight changes tell.

    Args:
        layers: the names of the columns.
        times: epoch and step of each row.
        changes: relative weight changes, of shape ``(rows, layers)``; ``nan`` if a layer was not measured.
        standard_errors: their standard errors, of the same shape.

    """
    if not times or not layers:
        return []
    steps = _steps_of_rows([step for _, step in times])
    known = ~np.isnan(changes)
    # A sample may have missed the elements that moved.
    moved = known & ((changes != 0) | (standard_errors != 0))
    found = []
    lost = known.any(0) & ~known[-1]
    if lost.any():
        rows = len(times) - known[::-1].argmax(0)
        first = int(rows[lost].min())
        names = tuple(compress(layers, lost & (rows == first)))
        message = _lost_message(names, goes_on=bool(moved[first:].any()))
        found.append(Finding("non_finite", names, *times[first], message))
    still = known[-1] & ~moved.any(0) & ((steps[:, None] * known).sum(0) >= PATIENCE)
    if still.any():
        message = _unchanged_message(
            tuple(compress(layers, still)), f"in {int(steps.sum())} steps", anything_moved=bool(moved.any())
        )
        found.append(Finding("unchanged", tuple(compress(layers, still)), *times[-1], message))
    if not lost.any():
        found += _learning_rate_low(layers, times, steps, changes)
    return sorted(found, key=_time)


class LayerMove(NamedTuple):
    """How a layer moved between two saved states. All numbers but the last are ``nan`` if it is not finite."""

    change: float
    """‖c − p‖₂ / ‖p‖₂: 0 only if it stood still, ``inf`` if it was zero."""
    rotation: float
    growth: float
    """The movements of :mod:`lightning_rwc.movement`."""
    can_turn: float
    """1 if it has several elements, otherwise 0."""


# Decay is so many times larger than what rounding explains. Below that, small gradients look like it.
_CLEARLY = 10
_NOT_COMPARED = LayerMove(*[np.nan] * 4)


def findings_of_moves(
    layers: Sequence[str],
    start: tuple[int, int],
    times: Times,
    rows: Sequence[Mapping[str, LayerMove]],
    *,
    has_steps: bool,
    since_start: bool,
) -> list[Finding]:
    """What is wrong, as far as saved weights tell.

    Args:
        layers: the names of all layers.
        start: epoch and step of the first state.
        times: epoch and step of each state after it.
        rows: for each of these states, how layers moved. Layers that were not compared are left out.
        has_steps: whether ``times`` are known; otherwise they are positions.
        since_start: whether each state was compared with the first one instead of the one before.

    """
    table = np.array([[row.get(layer, _NOT_COMPARED) for layer in layers] for row in rows], dtype=np.float64)
    changes, rotations, growths, can_turn = np.moveaxis(table, 2, 0)
    compared = ~np.isnan(can_turn)
    broken = compared & np.isnan(changes)
    steps = np.diff([step for _, step in (start, *times)])
    has_steps = has_steps and bool((steps > 0).all())
    bounds = np.maximum(np.cumsum(steps) if since_start else steps, 1)[:, None] * ROUNDING
    found: list[Finding] = []
    if broken.any():
        first = int(broken.any(1).argmax())
        names = tuple(compress(layers, broken[first]))
        found.append(Finding("non_finite", names, *times[first], _broken_message(names)))

    moved = compared & (changes != 0)
    turned = (rotations > bounds) | np.isinf(changes)
    shrank = moved & (can_turn == 1) & (rotations <= bounds) & (growths <= bounds)
    stays = compared[-1] & (((steps[:, None] * compared).sum(0) >= PATIENCE) | (not has_steps))
    still = stays & ~moved.any(0)
    shrinkage = -np.where(shrank, growths, 0.0).sum(0)
    decays = stays & (shrank | ~moved).all(0) & (shrinkage > _CLEARLY * bounds.sum())
    if still.any():
        files = f"over {len(times) + 1} files"
        message = _unchanged_message(tuple(compress(layers, still)), files, anything_moved=bool(moved.any()))
        found.append(Finding("unchanged", tuple(compress(layers, still)), *times[-1], message))
    if decays.any() and turned.any():
        names = tuple(compress(layers, decays))
        found.append(Finding("no_gradient", names, *times[-1], _decays_message(names)))
    if has_steps and not since_start and not broken.any():
        found += _learning_rate_low(layers, times, steps, changes)
        learning = np.where(still | decays, np.nan, changes)
        unknown = np.full(len(layers), np.nan)
        moves = [
            Moves(change, rotation, growth, unknown, int(count))
            for change, rotation, growth, count in zip(learning, rotations, growths, steps, strict=True)
        ]
        found += _likely(layers, times, moves)
    return sorted(found, key=_time)


def _steps_of_rows(steps: Sequence[int]) -> npt.NDArray[np.int64]:
    """The optimizer steps from row to row."""
    after = np.array(steps) + 1
    gaps = np.diff(after, prepend=0)
    # Steps that go back begin a run anew. A table that begins late does not tell what its first row is compared with.
    gaps = np.where(gaps > 0, gaps, after)
    gaps[0] = gaps[:2].min()
    return gaps


def _learning_rate_low(
    layers: Sequence[str], times: Times, steps: npt.NDArray[np.int64], changes: Numbers
) -> list[Finding]:
    # Layers are slow too when a schedule ends, or after far too high a learning rate has thrown them somewhere.
    begins_late = times[-1][1] + 1 - steps.sum() > WINDOW
    paths = np.nansum(changes, axis=0)
    if steps.sum() < WINDOWS * WINDOW or begins_late or not 0 < paths.max(initial=0) < LEAST_PATH:
        return []
    message = (
        f"Likely the learning rate is too low. In {steps.sum()} steps no layer has moved by more than "
        f"{paths.max():.1g} of its size. Raise the learning rate 10 times. If this continued a training that was "
        "nearly finished, it may be meant."
    )
    return [Finding("learning_rate_low", tuple(compress(layers, paths > 0)), *times[-1], message)]


def _alone(trends: Trends, kinds: Kinds) -> Booleans:
    """Bursts that other layers have no part in, as they would in a jump of the learning rate."""
    known = trends.rise[np.isfinite(trends.rise)]
    common = max(float(np.median(known)), 0.0) if known.size else 0.0
    return _RULES["burst"].applies(trends, kinds) & (trends.rise - common > BURST)


_RULES = {rule.kind: rule for rule in LIKELY}
# Of the others, learning rates of their own and kinds of layers make false alarms.
_WITHOUT_RATES = (_RULES["learning_rate_high"], _RULES["burst"]._replace(applies=_alone))
# The one with the most lenient thresholds.
_UNKNOWN = Kinds(norms="batch")


def _likely(layers: Sequence[str], times: Times, moves: Sequence[Moves]) -> list[Finding]:
    suspicions = Suspicions(_UNKNOWN)
    found: list[Finding] = []
    told: dict[str, set[str]] = {}
    for time, one in zip(times, moves, strict=True):
        suspicions.add(layers, one)
        for kind, names, message in suspicions.found(told, _WITHOUT_RATES):
            told.setdefault(kind, set()).update(names)
            found.append(Finding(kind, tuple(names), *time, message))
    return found


def _lost_message(names: Sequence[str], *, goes_on: bool) -> str:
    other = (
        f" As other layers move on, {one_or_more(names, 'it', 'they')} may have been removed instead. A table cannot "
        "tell which."
        if goes_on
        else ""
    )
    return (
        f"{listing(names)} {one_or_more(names, 'has', 'have')} no finite value from here on: a weight is nan, "
        f"infinite or too large to sum.{other} {FINITE_REMEDY}"
    )


def _broken_message(names: Sequence[str]) -> str:
    return (
        f"{listing(names)} {one_or_more(names, 'has', 'have')} a weight that is nan, infinite or too large to sum, in "
        f"this file or in the one that it is compared with. {FINITE_REMEDY}"
    )


def _unchanged_message(names: Sequence[str], where: str, *, anything_moved: bool) -> str:
    others = ", while other layers have" if anything_moved else ""
    it, them, gets = ("it is", "its", "it gets") if len(names) == 1 else ("they are", "their", "they get")
    return (
        f"{listing(names)} {one_or_more(names, 'has', 'have')} not changed {where}{others}. If {it} frozen, this is "
        f"meant. Otherwise look whether the optimizer has {them} parameters, and whether {gets} a gradient."
    )


def _decays_message(names: Sequence[str]) -> str:
    return (
        f"{listing(names)} {one_or_more(names, 'has', 'have')} changed only by weight decay, while other layers "
        f"learn. {GRADIENT_REMEDY}"
    )


def _time(finding: Finding) -> tuple[int, int]:
    return finding.epoch, finding.step
