# SPDX-License-Identifier: Apache-2.0
"""Scores of clusterings: how far clusters lie apart, how stable they are, and the number of clusters to choose."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lightning_rwc.extras import needs
from lightning_rwc.weightscale.k_means import Labels, Table

_NEARLY_AS_STABLE = 0.9


def silhouette(points: Table, labels: Labels) -> float:
    """Compute the mean silhouette. The silhouette of a point that is a cluster of its own is 0."""
    return float(_sklearn_metrics().silhouette_score(points, labels))


def separation(points: Table, labels: Labels) -> float:
    """Compute the mean silhouette as if clusters of one point were not there; their points count 0.

    One far point on its own makes the usual silhouette large, because all other points are much nearer to one another
    than to it. That says nothing about clusters among these others.
    """
    shared = np.bincount(labels)[labels] > 1
    if len(np.unique(labels[shared])) < 2:
        return 0.0
    return float(_sklearn_metrics().silhouette_samples(points[shared], labels[shared]).sum() / len(labels))


def agreement(labels: Labels, others: Sequence[Labels]) -> float:
    """Compute the mean adjusted Rand index of one clustering with several others of the same points.

    It is 1 if all clusterings are the same and 0 on average if they agree by chance alone.
    """
    index = _sklearn_metrics().adjusted_rand_score
    return float(np.mean([index(labels, other) for other in others]))


def chosen_number(
    separation: Mapping[int, float], silhouette: Mapping[int, float], stability: Mapping[int, float]
) -> int:
    """Choose the number of clusters that lie furthest apart, among the numbers whose clusters are nearly most stable.

    All arguments map a number of clusters to a score. A number is considered if its stability is at least 0.9 of the
    largest. The largest separation decides. The silhouette decides among equal separations, as if none is defined.
    """
    least = _NEARLY_AS_STABLE * max(stability.values())
    # If all are below 0, which is what chance gives, stability does not choose.
    stable = [n for n in stability if stability[n] >= least] or list(stability)
    return max(stable, key=lambda n: (separation[n], silhouette[n]))


def _sklearn_metrics() -> Any:
    with needs("scikit-learn", extra="analysis", what="Clustering"):
        from sklearn import metrics
    return metrics
