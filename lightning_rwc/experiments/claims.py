# SPDX-License-Identifier: Apache-2.0
"""The paper's claims as data, and a test of each against the results of runs."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, NamedTuple

import numpy as np

from lightning_rwc.depth import depth_correlation
from lightning_rwc.experiments.groups import paper_groups
from lightning_rwc.experiments.results import SUMMARIES, Array, Results, Summary
from lightning_rwc.experiments.statistics import (
    LEVEL,
    Interval,
    correlation_interval,
    geometric_interval,
    holm,
    p_greater,
    p_less,
)
from lightning_rwc.norms import Norm

Relation = Literal["<", ">", "≈"]
Verdict = Literal["holds", "does not hold", "undecided", "too early"]
ACCURACY_SHARE = 0.95
"""Below this share of the paper's accuracy there is no verdict.

The claims are about networks that have learned their task, and early in training the order of layers can be the reverse
of the later one. 0.95 leaves room for differences between seeds and machines, and none for a training that has hardly
begun.
"""
# The paper gives no number for "similar". Here it means a ratio from 0.8 to 1.25.
_SIMILAR = math.log(1.25)


class Comparison(NamedTuple):
    """A comparison of the mean relative weight change of two groups of layers.

    With ``other_data``, the right side comes from the same architecture on that data set.
    """

    left: str
    relation: Relation
    right: str
    other_data: str | None = None

    def __str__(self) -> str:
        """The comparison as text, for example ``block 1 < block 2``."""
        return f"{self.left} {self.relation} {self.right}" + (f" on {self.other_data}" if self.other_data else "")


@dataclass(frozen=True)
class Claim:
    """The paper's claim about one architecture on one data set.

    Attributes:
        comparisons: the claim holds if all of them hold.
        accuracy: the accuracy on the test set that the paper reports.

    """

    comparisons: tuple[Comparison, ...]
    accuracy: float


def _all(chain: str, *more: Comparison) -> tuple[Comparison, ...]:
    """Turn ``"a < b < c"`` into comparisons of neighbours."""
    names = chain.split(" < ")
    return (*(Comparison(left, "<", right) for left, right in pairwise(names)), *more)


_LOWER = Comparison("all layers", "<", "all layers", "fashion-mnist")
_EARLY_AND_LATER_BELOW = (Comparison("early", "<", "middle"), Comparison("later", "<", "middle"))
_LATER_LOWEST = (Comparison("early", "<", "middle"), Comparison("later", "<", "early"))
_RISING = _all("early < middle < later")
_BLOCK_4_LOWER = Comparison("block 4", "<", "block 3")

CLAIMS: dict[tuple[str, str], Claim] = {
    ("resnet18", "cifar10"): Claim(
        _all("block 1 < block 2 < block 3", Comparison("block 4", "≈", "block 3")), accuracy=0.91
    ),
    ("resnet18", "cifar100"): Claim(_all("block 1 < block 2 < block 3 < block 4"), accuracy=0.64),
    ("resnet18", "mnist"): Claim(_all("block 1 < block 2 < block 3", _BLOCK_4_LOWER, _LOWER), accuracy=0.99),
    ("resnet18", "fashion-mnist"): Claim(
        (Comparison("block 1", "<", "block 3"), Comparison("block 2", "<", "block 3"), _BLOCK_4_LOWER), accuracy=0.92
    ),
    ("vgg19_bn", "cifar10"): Claim((*_EARLY_AND_LATER_BELOW, Comparison("early", "<", "later")), accuracy=0.905),
    ("vgg19_bn", "cifar100"): Claim(
        (
            Comparison("early", "<", "middle"),
            Comparison("early", "<", "later"),
            Comparison("all layers", ">", "all layers", "cifar10"),
        ),
        accuracy=0.636,
    ),
    ("vgg19_bn", "mnist"): Claim((*_LATER_LOWEST, _LOWER), accuracy=0.985),
    ("vgg19_bn", "fashion-mnist"): Claim(_LATER_LOWEST, accuracy=0.916),
    ("alexnet", "cifar10"): Claim(_EARLY_AND_LATER_BELOW, accuracy=0.81),
    ("alexnet", "cifar100"): Claim(_RISING, accuracy=0.53),
    ("alexnet", "mnist"): Claim(_RISING, accuracy=0.985),
    ("alexnet", "fashion-mnist"): Claim(_RISING, accuracy=0.895),
}
"""Architecture and data set to the claim of arXiv 2011.06735."""


class Judgement(NamedTuple):
    """The result of one comparison with one norm and one summary over epochs."""

    comparison: Comparison
    norm: Norm
    summary: Summary
    ratio: Interval
    """The ratio of the left side to the right, with its 95 % confidence interval over seeds."""
    share: float
    """The share of epochs in which the relation holds, averaged over seeds."""
    verdict: Verdict


class Trend(NamedTuple):
    """The result of the paper's overall claim with one norm and one summary over epochs."""

    norm: Norm
    summary: Summary
    correlation: Interval
    """Spearman's ρ of depth and relative weight change, with its 95 % confidence interval over seeds."""
    verdict: Verdict


def judge(results: Results, norm: Norm, others: dict[str, Results], summary: Summary = "mean") -> list[Judgement]:
    """Test the paper's claim about an experiment.

    Each comparison is tested over seeds by Student's one-sided t-tests of the logarithm of the ratio of its sides. The
    level is 2.5 %, so the tests agree with the 95 % interval of the ratio. The range of ``≈`` is 0.8 to 1.25.

    A comparison holds if the whole interval lies in the claimed range. The claim holds if all its comparisons hold.
    This needs no correction for their number: if one of them is false, the chance that all hold is at most the chance
    that this one does. It is different for "does not hold", since the claim already fails if any one of its
    comparisons does, and each is a further chance of an error. So a comparison does not hold only if its p-value by
    Holm's method, over all comparisons of the claim, is below the level. All else is undecided, and so is a single
    seed.

    It is too early for a verdict if the accuracy of either side is below :data:`ACCURACY_SHARE` of the paper's. If the
    sides come from two data sets, the seeds that both have are compared.

    Args:
        results: the experiment.
        norm: the definition of relative weight change.
        others: data set to experiment, for experiments with the same settings.
        summary: how each group's curve, its mean over layers, is summarised over epochs. The paper takes the mean.

    Returns:
        One judgement per comparison. It is empty if the paper makes no claim about this experiment.

    """
    claim = CLAIMS.get((results.architecture, results.data))
    comparisons = claim.comparisons if claim else ()
    sides = [_sides(results, comparison, norm, others) for comparison in comparisons]
    logarithms = [_log_ratios(left, right, summary) for left, right in sides]
    tested = [*zip(comparisons, logarithms, strict=True)]
    holds = [_p_holds(ratios, comparison.relation) for comparison, ratios in tested]
    fails = holm([_p_fails(ratios, comparison.relation) for comparison, ratios in tested])
    return [
        Judgement(
            comparison,
            norm,
            summary,
            geometric_interval(np.exp(ratios)) if len(ratios) else Interval(math.nan, math.nan, math.nan),
            _share(left, right, comparison.relation),
            "too early" if _any_too_early(results, comparison, others) else _verdict(p_holds, p_fails),
        )
        for (comparison, ratios), (left, right), p_holds, p_fails in zip(tested, sides, holds, fails, strict=True)
    ]


def together(judgements: list[Judgement]) -> Verdict:
    """Combine the judgements on a claim: it holds if all hold, and does not hold if one does not."""
    verdicts = {judgement.verdict for judgement in judgements}
    if verdicts == {"holds"}:
        return "holds"
    decisive: tuple[Verdict, ...] = ("does not hold", "too early")
    return next((verdict for verdict in decisive if verdict in verdicts), "undecided")


def later_layers_change_more(
    results: Results, norm: Norm, summary: Summary = "mean", layers: Sequence[str] | None = None
) -> Trend:
    """Test the paper's overall claim, that later layers change more than earlier ones.

    The claim holds if the 95 % interval over seeds of Spearman's ρ, between the depth of a layer and its relative
    weight change, lies above 0. It does not hold if the interval lies below 0. It is undecided otherwise, and it is too
    early for a verdict if the accuracy is below :data:`ACCURACY_SHARE` of the paper's.

    Args:
        results: the experiment.
        norm: the definition of relative weight change.
        summary: how each layer is summarised over epochs.
        layers: only these layers; by default all, the classifier included.

    """
    chosen = np.isin(results.layers, results.layers if layers is None else layers)
    samples = [depth_correlation(changes[chosen].tolist()) for changes in results.by_layer(norm, summary)]
    correlation = correlation_interval(samples, int(chosen.sum()))
    verdict: Verdict = "undecided"
    if too_early(results):
        verdict = "too early"
    elif correlation.low > 0:
        verdict = "holds"
    elif correlation.high < 0:
        verdict = "does not hold"
    return Trend(norm, summary, correlation, verdict)


def too_early(results: Results) -> bool:
    """Return whether the mean accuracy of the runs is below :data:`ACCURACY_SHARE` of the paper's.

    Without an accuracy of the paper it is never too early.
    """
    claim = CLAIMS.get((results.architecture, results.data))
    return claim is not None and bool(results.accuracy().mean() < ACCURACY_SHARE * claim.accuracy)


def _any_too_early(results: Results, comparison: Comparison, others: dict[str, Results]) -> bool:
    other = others.get(comparison.other_data) if comparison.other_data else None
    return too_early(results) or (other is not None and too_early(other))


def _sides(results: Results, comparison: Comparison, norm: Norm, others: dict[str, Results]) -> tuple[Array, Array]:
    """The curves of both sides, of shape ``(seeds, epochs)``. There are no seeds if there is no run to compare with."""
    other = others.get(comparison.other_data) if comparison.other_data else results
    shared = [seed for seed in results.seeds if other is not None and seed in other.seeds]
    left = _side(results, comparison.left, norm, shared)
    return left, left[:0] if other is None else _side(other, comparison.right, norm, shared)


def _side(results: Results, group: str, norm: Norm, seeds: list[int]) -> Array:
    layers = results.layers if group == "all layers" else paper_groups(results.architecture, results.layers)[group]
    return results.group_curves(norm, layers)[[results.seeds.index(seed) for seed in seeds]]


def _log_ratios(left: Array, right: Array, summary: Summary) -> Array:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.log(SUMMARIES[summary](left)) - np.log(SUMMARIES[summary](right)))


def _share(left: Array, right: Array, relation: Relation) -> float:
    if not len(left):
        return math.nan
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = np.log(left) - np.log(right)
    holding = {"<": ratios < 0, ">": ratios > 0, "≈": abs(ratios) <= _SIMILAR}[relation]
    return float(holding.mean(axis=1).mean())


def _p_holds(log_ratios: Array, relation: Relation) -> float:
    if relation == "≈":
        return max(p_greater(log_ratios, -_SIMILAR), p_less(log_ratios, _SIMILAR))
    return p_less(log_ratios) if relation == "<" else p_greater(log_ratios)


def _p_fails(log_ratios: Array, relation: Relation) -> float:
    if relation == "≈":
        # Twice, because it can fail at either end.
        return min(1.0, 2 * min(p_less(log_ratios, -_SIMILAR), p_greater(log_ratios, _SIMILAR)))
    return p_greater(log_ratios) if relation == "<" else p_less(log_ratios)


def _verdict(p_holds: float, p_fails: float) -> Verdict:
    if p_holds <= LEVEL:
        return "holds"
    return "does not hold" if p_fails <= LEVEL else "undecided"
