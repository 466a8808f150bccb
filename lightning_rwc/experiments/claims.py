# SPDX-License-Identifier: Apache-2.0
"""What the paper found, as data, and whether runs bear it out."""

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, NamedTuple

import numpy as np

from lightning_rwc.experiments.groups import paper_groups
from lightning_rwc.experiments.results import Interval, Results, interval
from lightning_rwc.functional import Norm

Verdict = Literal["holds", "does not hold", "undecided"]
# "similar" has no number in the paper: within a quarter of one another.
_SIMILAR = math.log(1.25)


class Comparison(NamedTuple):
    """Mean relative weight change of one group of layers against another's.

    With ``other_data`` the right side is the same architecture's on that data set.
    """

    left: str
    relation: Literal["<", ">", "≈"]
    right: str
    other_data: str | None = None

    def __str__(self) -> str:
        """As a person writes it."""
        return f"{self.left} {self.relation} {self.right}" + (f" on {self.other_data}" if self.other_data else "")


@dataclass(frozen=True)
class Claim:
    """What the paper says of one architecture on one data set.

    Attributes:
        comparisons: what must hold together.
        accuracy: of the test set, as the paper reports it.
    """

    comparisons: tuple[Comparison, ...]
    accuracy: float


def _all(chain: str, *more: Comparison) -> tuple[Comparison, ...]:
    """``"a < b < c"`` as comparisons of neighbours."""
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
    ("vgg19_bn", "cifar10"): Claim(_EARLY_AND_LATER_BELOW, accuracy=0.905),
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
"""Architecture and data set to what arXiv 2011.06735 reports."""


class Judgement(NamedTuple):
    """One comparison by one definition of relative weight change."""

    comparison: Comparison
    norm: Norm
    ratio: Interval
    """Of the left side to the right, with its 95 % confidence interval over seeds."""
    verdict: Verdict


def judge(results: Results, norm: Norm, others: dict[str, Results]) -> list[Judgement]:
    """Judge the paper's claim on an experiment; nothing, where the paper makes none.

    A comparison holds where the 95 % confidence interval of the ratio of its sides, over seeds, lies wholly on the side
    claimed; it does not hold where the interval lies wholly outside; else it is undecided, as with a single seed.
    ``≈`` is claimed of ratios from 0.8 to 1.25. Ratios are averaged as logarithms. Sides on one data set are compared
    seed by seed; sides on two by the seeds that both have.

    Args:
        results: the experiment.
        norm: the definition of relative weight change.
        others: experiments with the same architecture, by data set.

    """
    claim = CLAIMS.get((results.architecture, results.data))
    judgements = []
    for comparison in claim.comparisons if claim else ():
        other = others.get(comparison.other_data) if comparison.other_data else results
        shared = [] if other is None else [seed for seed in results.seeds if seed in other.seeds]
        if not shared or other is None:
            judgements.append(Judgement(comparison, norm, Interval(math.nan, math.nan, math.nan), "undecided"))
            continue
        left, right = _side(results, comparison.left, norm, shared), _side(other, comparison.right, norm, shared)
        with np.errstate(divide="ignore", invalid="ignore"):
            difference = interval(np.log(left) - np.log(right))
        ratio = Interval(*np.exp(difference).tolist())
        judgements.append(Judgement(comparison, norm, ratio, verdict(difference, comparison.relation)))
    return judgements


def verdict(difference: Interval, relation: Literal["<", ">", "≈"]) -> Verdict:
    """What the interval of a difference of logarithms says of a relation.

    Example:
        >>> verdict(Interval(-0.2, -0.3, -0.1), "<")
        'holds'
        >>> verdict(Interval(-0.2, -0.5, 0.1), "<")
        'undecided'

    """
    low, high = {"<": (-math.inf, 0.0), ">": (0.0, math.inf), "≈": (-_SIMILAR, _SIMILAR)}[relation]
    if low <= difference.low and difference.high <= high:
        return "holds"
    return "does not hold" if difference.low >= high or difference.high <= low else "undecided"


def together(judgements: list[Judgement]) -> Verdict:
    """The verdict on a claim: that all its comparisons hold, or that one does not."""
    verdicts = {judgement.verdict for judgement in judgements}
    if verdicts == {"holds"}:
        return "holds"
    return "does not hold" if "does not hold" in verdicts else "undecided"


def _side(results: Results, group: str, norm: Norm, seeds: list[int]) -> np.ndarray:
    layers = results.layers if group == "all layers" else paper_groups(results.architecture, results.layers)[group]
    return results.means(norm, layers)[[results.seeds.index(seed) for seed in seeds]]
