# SPDX-License-Identifier: Apache-2.0
"""The paper's claims as data, and a test of each against the results of runs."""

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, NamedTuple

import numpy as np

from lightning_rwc.experiments.groups import paper_groups
from lightning_rwc.experiments.results import Interval, Results, interval
from lightning_rwc.norms import Norm

Verdict = Literal["holds", "does not hold", "undecided"]
# The paper gives no number for "similar". Here it means a ratio from 0.8 to 1.25.
_SIMILAR = math.log(1.25)


class Comparison(NamedTuple):
    """A comparison of the mean relative weight change of two groups of layers.

    With ``other_data``, the right side comes from the same architecture on that data set.
    """

    left: str
    relation: Literal["<", ">", "≈"]
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
"""Architecture and data set to the claim of arXiv 2011.06735."""


class Judgement(NamedTuple):
    """The result of one comparison with one norm."""

    comparison: Comparison
    norm: Norm
    ratio: Interval
    """The ratio of the left side to the right, with its 95 % confidence interval over seeds."""
    verdict: Verdict


def judge(results: Results, norm: Norm, others: dict[str, Results]) -> list[Judgement]:
    """Test the paper's claim about an experiment.

    The test uses the 95 % confidence interval, over seeds, of the ratio of the two sides. The comparison holds if the
    whole interval lies in the claimed range. It does not hold if the whole interval lies outside. Otherwise it is
    undecided; with a single seed it always is. The range of ``≈`` is 0.8 to 1.25. Ratios are averaged as logarithms. If
    the sides come from two data sets, the seeds that both have are compared.

    Args:
        results: the experiment.
        norm: the definition of relative weight change.
        others: data set to experiment, for experiments with the same architecture.

    Returns:
        One judgement per comparison. It is empty if the paper makes no claim about this experiment.

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
    """Decide a relation from the confidence interval of the difference of the logarithms.

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
    """Combine the judgements on a claim: it holds if all hold, and does not hold if one does not."""
    verdicts = {judgement.verdict for judgement in judgements}
    if verdicts == {"holds"}:
        return "holds"
    return "does not hold" if "does not hold" in verdicts else "undecided"


def _side(results: Results, group: str, norm: Norm, seeds: list[int]) -> np.ndarray:
    layers = results.layers if group == "all layers" else paper_groups(results.architecture, results.layers)[group]
    return results.means(norm, layers)[[results.seeds.index(seed) for seed in seeds]]
