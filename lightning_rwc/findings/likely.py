# SPDX-License-Identifier: Apache-2.0
"""Rules that say what is likely wrong, from how fast layers move.

No training that learns well reaches the thresholds, in the trainings of ``python -m tests.rates``.
"""

import math
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from lightning_rwc.findings.finding import listing
from lightning_rwc.findings.kinds import Kinds
from lightning_rwc.findings.trends import STOPPED, WINDOW, Numbers, Trends

Chosen: TypeAlias = npt.NDArray[np.bool_]

# The highest value of :func:`upheaval`, by whether plain SGD trains, and by the norms of the model.
MOST_UPHEAVAL = {
    (True, "none"): 0.8,
    (True, "batch"): 1.5,
    (True, "layer"): -0.7,
    (False, "none"): 2.1,
    (False, "batch"): 3.6,
    (False, "layer"): 1.8,
}
LEAST_GROWTH = 0.5
# The fastest layer moves at least by so much of its size. Training from random weights needs fifty times more, but
# fine-tuning needs less.
LEAST_PATH = 0.01
# So many decades lie between a layer and the range of the others of its kind.
OUT_OF_LINE = 3.0
# So many are enough if it has been behind them since the start. A gate that saturates falls behind later.
BEHIND = 1.5
# So many decades lie between the first third and the last third of the layers of a kind.
FALL = 1.5
# By so many decades a measurement is faster than all before it.
BURST = 1.2
# So many are enough if no other layer rises with it, and it is not a matter of a few steps, which are noisy.
BURST_ALONE = 0.8
# Where only weight decay moves a layer, it turns by less than this share of its change.
TURNING = 0.03
# A layer is compared with so many others, over so many windows or measurements.
LAYERS, WINDOWS, MEASUREMENTS = 4, 3, 10


class LikelyRule(NamedTuple):
    """A kind of finding."""

    kind: str
    applies: Callable[[Trends, Kinds], Chosen]
    """To which layers. It is called for each measurement."""
    message: Callable[[Trends, Kinds, Chosen], str]
    once: bool = True
    """Whether later layers say nothing new."""
    explained_by: frozenset[str] = frozenset()
    """Kinds of findings of which this would only be a consequence."""


def _nowhere(trends: Trends) -> Chosen:
    return np.zeros(len(trends.layers), dtype=bool)


def _slowdown(trends: Trends) -> float:
    """By how many decades layers that still move are slower than at their fastest, in the mean."""
    pairs = ((trends.peak, trends.window_pace), (trends.rotation_peak, trends.rotation_pace))
    means = []
    for peak, pace in pairs:
        slower = (peak - pace)[(pace > STOPPED) & np.isfinite(peak)]
        # A layer that dies by itself says nothing of the others.
        means.append(float(slower.clip(max=3).mean()) if slower.size else 0.0)
    return max(means)


def upheaval(trends: Trends) -> float:
    """How violently weights have moved; ``-inf`` if they have hardly grown.

    A learning rate that is too high makes weights grow within a few steps, or throws them to where gradients are so
    small that layers slow down by decades. Both happen in any training that takes long enough.

    """
    if trends.highest_growth < LEAST_GROWTH:
        return -math.inf
    first, steps = max(trends.first_window, WINDOW), max(trends.steps, WINDOW)
    return _slowdown(trends) + trends.highest_growth + 1.2 * math.log(first / WINDOW) - 2 * math.log(steps / WINDOW)


def _learning_rate_high(trends: Trends, kinds: Kinds) -> Chosen:
    if not trends.ends_window or upheaval(trends) <= MOST_UPHEAVAL[kinds.is_sgd, kinds.norms]:
        return _nowhere(trends)
    return np.isfinite(trends.peak)


def _learning_rate_high_message(trends: Trends, kinds: Kinds, chosen: Chosen) -> str:
    times, slower = math.exp(trends.highest_growth), 10 ** _slowdown(trends)
    slowed = f" and layers now move {slower:,.0f} times less than at their fastest" if slower > 3 else ""
    rates = trends.rate[chosen & np.isfinite(trends.rate)]
    rate = f" ({rates.max():.2g})" if rates.size else ""
    return (
        f"Likely the learning rate{rate} is too high. Within {trends.steps} steps, weights have grown to {times:.1f} "
        f"times their size{slowed}. Divide the learning rate by 3 to 10, warm it up, or clip gradients."
    )


def _learning_rate_low(trends: Trends, kinds: Kinds) -> Chosen:
    if not trends.ends_window or trends.windows < WINDOWS or trends.steps < trends.planned_steps / 5:
        return _nowhere(trends)
    return (trends.path > 0) & (0 < _expected_path(trends) < LEAST_PATH)


def _expected_path(trends: Trends) -> float:
    """How far the fastest layer will have moved at the end of the run, in parts of its size."""
    rest = max(trends.planned_steps - trends.steps, 0)
    # A warm-up begins slowly, and a schedule ends slowly.
    steady = trends.path * (1 + rest / max(trends.steps, 1))
    return float(np.maximum(steady, trends.path + trends.recent * rest).max(initial=0.0))


def _learning_rate_low_message(trends: Trends, kinds: Kinds, chosen: Chosen) -> str:
    return (
        f"Likely the learning rate is too low. At this rate no layer will have moved by more than "
        f"{_expected_path(trends):.1g} of its size at the end of the run. Raise the learning rate 10 times. "
        "If this continues a training that was nearly finished, it may be meant."
    )


def _only_decay(trends: Trends, kinds: Kinds) -> Chosen:
    known = np.isfinite(trends.turning)
    if not trends.ends_window or not known.any():
        return _nowhere(trends)
    alone = ((trends.turning < TURNING) & (trends.shrinking > 0))[known].all()
    trends.windows_decaying = trends.windows_decaying + 1 if alone else 0
    # A training that ends long after it has fitted its data comes to this too.
    return known & (trends.windows_decaying >= max(WINDOWS, trends.windows / 2))


def _only_decay_message(trends: Trends, kinds: Kinds, chosen: Chosen) -> str:
    return (
        f"Likely the network has died: for half of the {trends.steps:,} steps or more, hardly anything but weight "
        "decay has moved the layers. They shrink and do not turn, so gradients are close to 0. Look at the loss. If it "
        "does not fall, divide the learning rate by 3 to 10, warm it up, or clip gradients. If it is close to 0, the "
        "data are fitted, and training can stop."
    )


def _members(trends: Trends, kinds: Kinds) -> list[npt.NDArray[np.intp]]:
    """The layers of each kind that has enough of them, without those that stand still or began at zero."""
    moving = (trends.learning_pace > STOPPED) & np.isfinite(trends.path)
    members = [np.flatnonzero(moving & (kinds.numbers == kind)) for kind in np.unique(kinds.numbers[moving])]
    return [numbers for numbers in members if len(numbers) > LAYERS]


def _vanishing(trends: Trends, kinds: Kinds) -> Chosen:
    chosen = _nowhere(trends)
    if not trends.ends_window:
        return chosen
    for numbers in _members(trends, kinds):
        paces = trends.learning_pace[numbers]
        third = len(numbers) // 3
        last = paces[-third:].mean()
        far_behind = paces < last - FALL / 2
        # A single layer is no third: a new head may move much more than the rest. If the first layer is fast, gradients
        # do reach the input.
        if third > 1 and far_behind[0] and last - paces[:third].mean() > FALL and _is_rising(paces):
            slow = numbers[far_behind]
            chosen[slow] = True
            # Rounding stops those that would move even less.
            alike = (kinds.numbers == kinds.numbers[slow[0]]) & (trends.rate == trends.rate[slow[0]])
            chosen[: slow[0]] |= (alike & (trends.learning_pace == STOPPED))[: slow[0]]
    trends.windows_behind = trends.windows_behind + 1 if chosen.any() else 0
    return chosen if trends.windows_behind >= WINDOWS else _nowhere(trends)


def _is_rising(paces: Numbers) -> bool:
    ranks = paces.argsort().argsort()
    return bool(np.corrcoef(ranks, np.arange(len(ranks)))[0, 1] > 0.7)


def _vanishing_message(trends: Trends, kinds: Kinds, chosen: Chosen) -> str:
    paces = trends.learning_pace[chosen]
    slow, fast = paces[paces > STOPPED].min(), np.nanmax(trends.learning_pace)
    return (
        f"Likely gradients vanish towards the input: layer by layer, {listing(trends.names(chosen))} move ever less, "
        f"down to {10 ** (slow - fast):.1g} of the fastest layer. Add normalisation or residual connections, use ReLU "
        "or GELU instead of saturating activations, or initialise weights for the activation."
    )


def _out_of_line(trends: Trends, kinds: Kinds) -> Chosen:
    if not trends.ends_window:
        return _nowhere(trends)
    outside, behind = _nowhere(trends), _nowhere(trends)
    for numbers in _members(trends, kinds):
        order = numbers[trends.learning_pace[numbers].argsort()]
        paces = trends.learning_pace[order]
        outside[order[0]] = paces[1] - paces[0] > OUT_OF_LINE
        outside[order[-1]] = paces[-1] - paces[-2] > OUT_OF_LINE
        behind[order[0]] = paces[1] - paces[0] > BEHIND
    trends.out_of_line = np.where(outside, trends.out_of_line + 1, 0.0)
    trends.behind = np.where(behind, trends.behind + 1, -np.inf)
    return (trends.out_of_line >= WINDOWS) | (trends.behind >= WINDOWS)


def _out_of_line_message(trends: Trends, kinds: Kinds, chosen: Chosen) -> str:
    numbers, moving = kinds.numbers, trends.learning_pace > STOPPED
    parts = []
    for number in np.flatnonzero(chosen):
        others = trends.learning_pace[moving & (numbers == numbers[number]) & (np.arange(len(numbers)) != number)]
        pace = trends.learning_pace[number]
        times, than = (
            (10 ** (pace - others.max()), "more than the fastest")
            if pace > others.max()
            else (10 ** (others.min() - pace), "less than the slowest")
        )
        parts.append(f"{trends.layers[number]!r} moves {times:,.0f} times {than} of the {len(others)} layers like it")
    return (
        f"Likely out of line: {', and '.join(parts)}. Look at how it is initialised, whether something scales its "
        "output or its gradient, and whether it has its own learning rate."
    )


def _burst(trends: Trends, kinds: Kinds) -> Chosen:
    known = (trends.times_moved > MEASUREMENTS) & np.isfinite(trends.path)
    return known & ((trends.rise > BURST) | _rises_alone(trends))


def _rises_alone(trends: Trends) -> Chosen:
    """The one layer that moves more than before while no other does, over ten steps or more."""
    alone, moving = _nowhere(trends), np.flatnonzero(np.isfinite(trends.rise))
    if trends.last_steps >= WINDOW and len(moving) >= LAYERS:
        *_, second, first = moving[trends.rise[moving].argsort()]
        alone[first] = trends.rise[first] - max(trends.rise[second], 0) > BURST_ALONE
    return alone


def _burst_message(trends: Trends, kinds: Kinds, chosen: Chosen) -> str:
    times = 10 ** float(trends.rise[chosen].max())
    names = trends.names(chosen)
    together = len(names) > 1 and 2 * len(names) > int((trends.pace > STOPPED).sum())
    who = "Most layers have" if together else f"{listing(names)} {'has' if len(names) == 1 else 'have'}"
    cause = (
        "A batch with extreme values or a jump of the learning rate does this to all layers."
        if together
        else "Look for a batch with extreme values, or for weights that something other than the optimizer changes."
    )
    return f"Likely a burst: {who} moved up to {times:,.0f} times more than at any measurement before. {cause}"


_UPHEAVALS = frozenset({"non_finite", "learning_rate_high"})
_STUCK = frozenset({"nothing_moves", "rounded_away", "no_gradient", "non_finite"})
LIKELY = (
    LikelyRule("learning_rate_high", _learning_rate_high, _learning_rate_high_message, explained_by=_UPHEAVALS),
    LikelyRule("learning_rate_low", _learning_rate_low, _learning_rate_low_message, explained_by=_STUCK),
    LikelyRule("only_decay", _only_decay, _only_decay_message, explained_by=_UPHEAVALS | _STUCK),
    LikelyRule("vanishing", _vanishing, _vanishing_message, explained_by=_UPHEAVALS),
    LikelyRule("out_of_line", _out_of_line, _out_of_line_message, once=False, explained_by=_UPHEAVALS),
    LikelyRule("burst", _burst, _burst_message, once=False, explained_by=_UPHEAVALS),
)
