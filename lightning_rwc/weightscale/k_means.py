# SPDX-License-Identifier: Apache-2.0
"""K-means by scikit-learn."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from lightning_rwc.extras import needs

Table: TypeAlias = npt.NDArray[np.float64]
Labels: TypeAlias = npt.NDArray[np.int_]


@contextmanager
def one_thread() -> Iterator[None]:
    """Let scikit-learn cluster in one thread. For a few points, threads take longer to meet than to compute."""
    with needs("scikit-learn", extra="analysis", what="Clustering"):
        import sklearn.cluster  # noqa: F401  # What is not loaded yet is not limited.
        from threadpoolctl import threadpool_limits
    with threadpool_limits(1):
        yield


def k_means(points: Table, k: int, starts: int, rng: np.random.Generator) -> tuple[Labels, float]:
    """Cluster ``points``, of shape ``(points, dimensions)``, and keep the best of some starts, which ``rng`` draws.

    Returns:
        The cluster of each point, and the sum of squared distances to the means of clusters. There are fewer than ``k``
        clusters if there are fewer different points.

    """
    with needs("scikit-learn", extra="analysis", what="Clustering"):
        from sklearn.cluster import KMeans
        from sklearn.exceptions import ConvergenceWarning
    with warnings.catch_warnings():
        # It says that there are fewer different points than clusters.
        warnings.simplefilter("ignore", ConvergenceWarning)
        found = KMeans(k, n_init=starts, random_state=int(rng.integers(2**32))).fit(points)
    return found.labels_.astype(np.int_), float(found.inertia_)
