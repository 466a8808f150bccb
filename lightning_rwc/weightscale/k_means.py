# SPDX-License-Identifier: Apache-2.0
"""K-means from many starts at once.

The best of a few starts is often not the best that exists, and resampled curves need a k-means each. scikit-learn runs
starts one by one. Here all starts are rows of the same arrays, which is several times as fast for few layers.
"""

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Table: TypeAlias = npt.NDArray[np.float64]
Labels: TypeAlias = npt.NDArray[np.int_]

_MAX_ITERATIONS = 300
# Distances held at once. A few MB fit a processor's cache.
_MOST_DISTANCES = 500_000


def k_means(points: Table, k: int, starts: int, rng: np.random.Generator) -> Labels:
    """Cluster each set of points by k-means (greedy k-means++, Lloyd's iterations), and keep its best start.

    Args:
        points: of shape ``(sets, points, dimensions)``.
        k: the number of clusters. A set has as many clusters as this if it has as many different points.
        starts: the number of starts for each set.
        rng: draws the starts.

    Returns:
        The cluster of each point, of shape ``(sets, points)``. It is the result of the start with the smallest sum of
        squared errors.

    """
    sets_at_once = max(1, _MOST_DISTANCES // (points.shape[1] * k * starts))
    chunks = (points[first : first + sets_at_once] for first in range(0, len(points), sets_at_once))
    return np.concatenate([_best_starts(chunk, k, starts, rng) for chunk in chunks])


def sum_of_squares(points: Table, labels: Labels) -> float:
    """Sum the squared distances of points, of shape ``(points, dimensions)``, to the means of their clusters."""
    clusters = (points[labels == cluster] for cluster in np.unique(labels))
    return float(sum(((cluster - cluster.mean(axis=0)) ** 2).sum() for cluster in clusters))


def _best_starts(points: Table, k: int, starts: int, rng: np.random.Generator) -> Labels:
    repeated = np.repeat(points, starts, axis=0)
    labels, errors = _lloyd(repeated, _plus_plus(repeated, k, rng))
    best = errors.reshape(-1, starts).argmin(axis=1)
    of_sets: Labels = labels.reshape(len(points), starts, -1)[np.arange(len(points)), best]
    return of_sets


def _plus_plus(points: Table, k: int, rng: np.random.Generator) -> Table:
    """Choose points as centroids: a few are drawn by squared distance to those chosen, and the best of them stays."""
    runs, size, _ = points.shape
    trials = 2 + int(np.log(k))
    every, centroids = np.arange(runs), np.empty((runs, k, points.shape[2]))
    nearest = np.ones((runs, size))
    for number in range(k):
        reached = nearest.cumsum(axis=1)
        least = np.full(runs, np.inf)
        after = nearest
        for _ in range(trials if number else 1):
            drawn = (reached <= rng.random((runs, 1)) * reached[:, -1:]).sum(axis=1).clip(max=size - 1)
            candidate = points[every, drawn]
            distances = ((points - candidate[:, None]) ** 2).sum(axis=2)
            closer = np.minimum(nearest, distances) if number else distances
            better = closer.sum(axis=1) < least
            least = np.where(better, closer.sum(axis=1), least)
            centroids[better, number] = candidate[better]
            after = np.where(better[:, None], closer, after)
        nearest = after
    return centroids


def _lloyd(points: Table, centroids: Table) -> tuple[Labels, Table]:
    runs, k, dimensions = centroids.shape
    labels, errors = np.full(points.shape[:2], -1), np.empty(runs)
    moving = np.arange(runs)
    for _ in range(_MAX_ITERATIONS):
        some, centres = points[moving], centroids[moving]
        offsets = some[:, :, None] - centres[:, None]
        distances = np.einsum("rpcd,rpcd->rpc", offsets, offsets)
        found, nearest = distances.argmin(axis=2), distances.min(axis=2)
        errors[moving] = nearest.sum(axis=1)
        changed = (found != labels[moving]).any(axis=1)
        labels[moving] = found
        moving, found, some, nearest = moving[changed], found[changed], some[changed], nearest[changed]
        if not len(moving):
            break
        slots = (found + k * np.arange(len(moving))[:, None]).ravel()
        sizes = np.bincount(slots, minlength=k * len(moving)).reshape(-1, k)
        # An empty cluster goes on from the point that is furthest from its centroid.
        furthest = some[np.arange(len(moving)), nearest.argmax(axis=1)]
        for d in range(dimensions):
            sums = np.bincount(slots, some[:, :, d].ravel(), k * len(moving)).reshape(-1, k)
            centroids[moving, :, d] = np.where(sizes > 0, sums / sizes.clip(min=1), furthest[:, d, None])
    return labels, errors
