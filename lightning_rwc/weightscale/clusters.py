# SPDX-License-Identifier: Apache-2.0
"""Clusters of layers whose relative weight change (RWC) takes a similar course."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from lightning_rwc.extras import needs
from lightning_rwc.weightscale.preparation import PROCEDURES, Histories, Table, pooled

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

_MAX_K = 18


@dataclass(frozen=True, eq=False, repr=False)
class LayerClusters:
    """Layers in clusters: the layers of one cluster have similar curves of relative weight change (RWC).

    Attributes:
        layers: names of the layers, in definition order. With several runs they are ``run/layer``.
        runs: the run of each layer; ``""`` if there is one run.
        procedure: how the curves were prepared, see :func:`cluster_layers`.
        curves: the prepared curves, of shape ``(layers, measurements)``. By ``"reference"`` they are ratios, by
            ``"robust"`` decimal logarithms.
        components: each layer's first two principal components, of shape ``(layers, 2)``, in the unit of ``curves``.
            The signs are chosen so that a higher curve lies further to the right and to the top.
        explained_variance: the share of the curves' variance that each component explains, of shape ``(2,)``, in
            [0, 1].
        k: the number of clusters.
        labels: the cluster of each layer, int of shape ``(layers,)``. Clusters are numbered in the order of their first
            layers, so the first layer is in cluster 0.
        centroids: the centre of each cluster in the plane of ``components``, of shape ``(k, 2)``.
        sse: number of clusters to sum of squared distances to the nearest centroid, for the scree plot.
        silhouette: number of clusters to mean silhouette, in [−1, 1]. It is defined for 2 clusters or more.

    """

    layers: list[str]
    runs: list[str]
    procedure: str
    curves: Table
    components: Table
    explained_variance: Table
    k: int
    labels: npt.NDArray[np.int_]
    centroids: Table
    sse: dict[int, float]
    silhouette: dict[int, float]

    def __repr__(self) -> str:
        """How many layers each cluster has."""
        sizes = ", ".join(map(str, np.bincount(self.labels)))
        return f"LayerClusters({len(self.layers)} layers, {self.k} clusters of {sizes})"

    def to_frame(self, kinds: Mapping[str, str] | None = None) -> "pd.DataFrame":
        """Return the clusters as a data frame with one row per layer.

        Args:
            kinds: layer name, with or without its run, to kind, see
                :func:`~lightning_rwc.weightscale.layer_kinds.layer_kinds`. Layers that it does not name are
                ``"other"``.

        Returns:
            A frame indexed by ``layer``, with the columns ``cluster``, ``pc1``, ``pc2`` and ``mean``. The latter is
            the mean of the prepared curve as a ratio; by ``"robust"`` it is the geometric mean. With ``kinds`` there
            is also a column ``kind``.

        Raises:
            ValueError: if ``kinds`` names none of the layers.
            ModuleNotFoundError: if pandas is missing.

        """
        with needs("pandas", extra="analysis", what="LayerClusters.to_frame"):
            import pandas as pd
        mean = self.curves.mean(axis=1)
        columns = {
            "cluster": self.labels,
            "pc1": self.components[:, 0],
            "pc2": self.components[:, 1],
            "mean": 10**mean if self.procedure == "robust" else mean,
        }
        frame = pd.DataFrame(columns, index=pd.Index(self.layers, name="layer", dtype=object))
        return frame if kinds is None else frame.assign(kind=self._kinds(kinds))

    def plot_plane(self, kinds: Mapping[str, str] | None = None) -> "Figure":
        """Draw the layers in the plane of the two components, each joined to its cluster's numbered centroid.

        Up to 12 layers are labelled with their names. Each axis has its own scale. If the second component explains
        little of the variance, distances along it look larger than they are.

        Args:
            kinds: as for :meth:`to_frame`. Each kind gets its own marker.

        Raises:
            ValueError: if ``kinds`` names none of the layers, or there are more than 10 kinds.

        """
        from lightning_rwc.weightscale.cluster_pictures import plane

        of_layer = None if kinds is None else self._kinds(kinds)
        return plane(
            self.components, self.explained_variance, self.labels, self.centroids, layers=self.layers, kinds=of_layer
        )

    def plot_scree(self) -> "Figure":
        """Draw the sum of squared errors and the silhouette over the number of clusters, and mark the number used."""
        from lightning_rwc.weightscale.cluster_pictures import scree

        unit = "decades" if self.procedure == "robust" else "ratio"
        return scree(self.sse, self.silhouette, self.k, unit)

    def plot_curves(self) -> "Figure":
        """Draw the prepared curves thin and each cluster's mean curve thick, in the colour of the cluster."""
        from lightning_rwc.weightscale.cluster_pictures import curves

        return curves(self.curves, self.labels, self.procedure)

    def _kinds(self, kinds: Mapping[str, str]) -> list[str]:
        bare = [layer.removeprefix(f"{run}/") for layer, run in zip(self.layers, self.runs, strict=True)]
        found = [kinds.get(layer, kinds.get(name)) for layer, name in zip(self.layers, bare, strict=True)]
        if not any(found):
            given = ", ".join(map(repr, list(kinds)[:3])) or "nothing"
            raise ValueError(
                f"`kinds` names none of the layers. The layers have names like {bare[0]!r}; `kinds` names {given}."
            )
        return [kind or "other" for kind in found]


def cluster_layers(
    history: Histories,
    *,
    procedure: str = "robust",
    k: int | None = None,
    drop_ends: bool = False,
    seed: int = 0,
) -> LayerClusters:
    """Cluster layers by their curves of relative weight change.

    The curves are prepared and reduced to two principal components. K-means (k-means++, best of 10 starts) clusters
    the layers in that plane, for every k from 1 to 18, or to the number of layers that differ if that is smaller.

    - ``procedure="reference"`` prepares as WeightScale (arXiv 2107.07005) does. It replaces values that are not finite
      by the mean of the layer's finite values. It then replaces values more than 2 (population) standard deviations
      from that mean by the mean.
    - ``procedure="robust"`` takes decimal logarithms and replaces values that are not finite by the layer's median. It
      then clips values to the median ± 3 × 1.4826 × MAD (median absolute deviation), which are 3 standard deviations
      of a normal distribution. It does not clip a layer whose MAD is 0, because more than half of its values are equal.
      An exact zero has no logarithm. It counts as a tenth of the smallest positive value of all layers, so a frozen
      layer is far from the others, but not infinitely far.

    Why robust: RWC spans decades. With ratios, the few layers with the largest values determine both components and all
    clusters, and a layer that halved looks the same as one that stood still. With logarithms, a factor of two counts
    the same everywhere. A burst shifts the mean and widens the very deviation that should detect it; among 5 values or
    fewer, none can be 2 deviations off. Median and MAD stay put until half of the values are bursts. A clipped value
    stays high, while a value that the mean replaces jumps to the middle.

    Args:
        history: one run or several, whose layers are pooled. Pass several as a sequence (their names are ``run0``,
            ``run1``, …) or as a mapping from name to run.
        procedure: how curves are prepared: ``"robust"`` or ``"reference"``.
        k: the number of clusters. By default it is the one with the largest mean silhouette.
        drop_ends: leave out the first and the last layer of each run.
        seed: seeds the starts of k-means. The same seed gives the same result.

    Raises:
        ValueError: if the runs differ in length; if there are fewer than 3 layers or 2 measurements; if all curves are
            equal; if a layer has no finite value or a negative one; if ``procedure`` is unknown; if ``k`` or ``seed``
            is out of range.
        TypeError: if an argument has the wrong type.
        ModuleNotFoundError: if scikit-learn is missing.

    Example:
        >>> from lightning_rwc import RWCHistory
        >>> falls, rises = [0.4, 0.2, 0.1], [0.01, 0.02, 0.05]
        >>> values = list(zip(falls, falls, rises, rises))
        >>> history = RWCHistory(["stem", "block", "neck", "head"], [0, 1, 2], [9, 19, 29], values)
        >>> clusters = cluster_layers(history)
        >>> clusters
        LayerClusters(4 layers, 2 clusters of 2, 2)
        >>> clusters.to_frame()["cluster"].to_dict()
        {'stem': 0, 'block': 0, 'neck': 1, 'head': 1}

    """
    if procedure not in PROCEDURES:
        raise ValueError(f"`procedure` must be one of {', '.join(map(repr, PROCEDURES))}, but got {procedure!r}.")
    for argument, value in (("k", 1 if k is None else k), ("seed", seed)):
        if isinstance(value, bool) or not isinstance(value, int | np.integer):
            raise TypeError(f"`{argument}` must be an int, but got {value!r}.")
    if not 0 <= seed < 2**32:
        raise ValueError(f"`seed` must be from 0 to 2³² − 1, but got {seed}.")
    layers, runs, table = pooled(history, drop_ends)
    curves = PROCEDURES[procedure](table)
    if not np.ptp(curves, axis=0).any():
        raise ValueError("`history` cannot be clustered: after preparation, all of its curves are equal.")

    KMeans, PCA, silhouette_score = _sklearn()  # noqa: N806
    pca = PCA(2, svd_solver="full")
    components = pca.fit_transform(curves) * np.where(pca.components_.sum(axis=1) < 0, -1, 1)
    # Rounded, because equal curves leave the decomposition with different last bits.
    distinct = len(np.unique(np.round(components / np.abs(components).max(), 9), axis=0))
    most = min(distinct, _MAX_K)
    if k is not None and not 1 <= k <= most:
        raise ValueError(f"`k` must be from 1 to {most} for these {len(layers)} layers, but got {k}.")
    fits = {n: KMeans(n, init="k-means++", n_init=10, random_state=seed).fit(components) for n in range(1, most + 1)}
    # The silhouette is undefined for one cluster, and for clusters of one layer each.
    scores = {n: float(silhouette_score(components, fits[n].labels_)) for n in fits if 1 < n < len(layers)}
    k = max(scores, key=lambda n: scores[n]) if k is None else int(k)
    _, firsts = np.unique(fits[k].labels_, return_index=True)
    order = np.argsort(firsts)
    return LayerClusters(
        layers=layers,
        runs=runs,
        procedure=procedure,
        curves=curves,
        components=components,
        explained_variance=pca.explained_variance_ratio_,
        k=k,
        labels=np.argsort(order)[fits[k].labels_],
        centroids=fits[k].cluster_centers_[order],
        sse={n: float(fit.inertia_) for n, fit in fits.items()},
        silhouette=scores,
    )


def _sklearn() -> tuple[Any, Any, Any]:
    with needs("scikit-learn", extra="analysis", what="Clustering"):
        from sklearn.cluster import KMeans
        from sklearn.decomposition import PCA
        from sklearn.metrics import silhouette_score
    return KMeans, PCA, silhouette_score
