# SPDX-License-Identifier: Apache-2.0
"""Clusters of layers whose relative weight change (RWC) takes a similar course."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from lightning_rwc.extras import needs
from lightning_rwc.weightscale.cluster_scores import agreement, chosen_number, separation, silhouette
from lightning_rwc.weightscale.k_means import Labels, Table, k_means, one_thread
from lightning_rwc.weightscale.layer_kinds import kinds_in_order
from lightning_rwc.weightscale.preparation import (
    PROCEDURES,
    Histories,
    as_ratios,
    pooled,
    principal_components,
    shapes,
)

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

_MAX_K = 18
_STARTS = 200
_MAX_CHOSEN_K = 10
_RESAMPLES = 50
_STARTS_OF_RESAMPLE = 5
_MIN_LAYERS = 3
_UNSTABLE = 0.5
_OF = {"curves": "curves", "shape": "shapes"}


@dataclass(frozen=True, eq=False, repr=False)
class LayerClusters:
    """Layers in clusters: the layers of one cluster have similar curves of relative weight change (RWC).

    Attributes:
        layers: names of the layers, in definition order. With several runs they are ``run/layer``.
        runs: the run of each layer; ``""`` if there is one run.
        procedure: how the curves were prepared, see :func:`cluster_layers`.
        of: what was clustered, ``"curves"`` or ``"shape"``, see :func:`cluster_layers`.
        levels: the mean of each prepared curve, of shape ``(layers,)``. By ``"reference"`` it is a ratio, by
            ``"robust"`` a decimal logarithm.
        curves: what was clustered, of shape ``(layers, measurements)``: the prepared curves, or their shapes.
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
        separation: number of clusters to mean silhouette without the clusters of one layer, whose layers count 0.
        stability: number of clusters, up to 10 and ``k``, to their agreement with the clusters of resampled
            measurements, see :func:`cluster_layers`. It is 1 if they are always the same, and 0 if they agree by chance
            alone.

    """

    layers: list[str]
    runs: list[str]
    procedure: str
    of: str
    levels: Table
    curves: Table
    components: Table
    explained_variance: Table
    k: int
    labels: Labels
    centroids: Table
    sse: dict[int, float]
    silhouette: dict[int, float]
    separation: dict[int, float]
    stability: dict[int, float]

    def __repr__(self) -> str:
        """How many layers each cluster has, and how stable the clusters are."""
        sizes = ", ".join(map(str, np.bincount(self.labels)))
        stability = f", stability {self.stability[self.k]:.2f}" if self.k in self.stability else ""
        return f"LayerClusters({len(self.layers)} layers, {self.k} clusters of {sizes}{stability})"

    def __str__(self) -> str:
        """Say in a sentence how many layers each cluster has, and how stable the clusters are."""
        sizes = ", ".join(map(str, np.bincount(self.labels)))
        counts = f"{len(self.layers)} layers in {self.k} {'clusters' if self.k > 1 else 'cluster'} of {sizes}"
        if self.k not in self.stability:
            return f"{counts}."
        stability = round(self.stability[self.k], 2)
        warning = "; other measurements would give other clusters" if stability < _UNSTABLE else ""
        return f"{counts}. Stability {stability:.2f} (1: always the same, 0: chance){warning}."

    def to_frame(self, kinds: Mapping[str, str] | None = None) -> "pd.DataFrame":
        """Return the clusters as a data frame with one row per layer.

        Args:
            kinds: layer name, with or without its run, to kind, see
                :func:`~lightning_rwc.weightscale.layer_kinds.layer_kinds`. Layers that it does not name are
                ``"other"``.

        Returns:
            A frame indexed by ``layer``, with the columns ``cluster``, ``pc1``, ``pc2`` and ``mean``. The latter is
            the mean of the prepared curve as a ratio, also if shapes were clustered; by ``"robust"`` it is the
            geometric mean. With ``kinds`` there is also a column ``kind``.

        Raises:
            ValueError: if ``kinds`` names none of the layers.
            ModuleNotFoundError: if pandas is missing.

        """
        with needs("pandas", extra="analysis", what="LayerClusters.to_frame"):
            import pandas as pd
        columns = {
            "cluster": self.labels,
            "pc1": self.components[:, 0],
            "pc2": self.components[:, 1],
            "mean": as_ratios(self.levels, self.procedure),
        }
        frame = pd.DataFrame(columns, index=pd.Index(self.layers, name="layer", dtype=object))
        return frame if kinds is None else frame.assign(kind=kinds_in_order(self.layers, self.runs, kinds))

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

        of_layer = None if kinds is None else kinds_in_order(self.layers, self.runs, kinds)
        return plane(
            self.components, self.explained_variance, self.labels, self.centroids, layers=self.layers, kinds=of_layer
        )

    def plot_scree(self) -> "Figure":
        """Draw the sum of squared errors, the separation and the stability over the number of clusters.

        A line marks the number in use.
        """
        from lightning_rwc.weightscale.cluster_pictures import scree

        unit = "decades" if self.procedure == "robust" else "ratio"
        return scree(self.sse, self.silhouette, self.separation, self.stability, k=self.k, unit=unit)

    def plot_curves(self) -> "Figure":
        """Draw what was clustered thin and each cluster's mean thick, in the colour of the cluster."""
        from lightning_rwc.weightscale.cluster_pictures import curves

        return curves(self.curves, self.labels, self.procedure, self.of)


def cluster_layers(
    history: Histories,
    *,
    procedure: str = "robust",
    of: str = "curves",
    k: int | None = None,
    drop_ends: bool = False,
    seed: int = 0,
) -> LayerClusters:
    """Cluster layers by their curves of relative weight change.

    The curves are prepared and reduced to two principal components. K-means (greedy k-means++, best of 200 starts)
    clusters the layers in that plane, for every k from 1 to 18, or to the number of layers that differ if that is
    smaller.

    - ``procedure="reference"`` prepares much as WeightScale (arXiv 2107.07005) does. It replaces values that are not
      finite by the mean of the layer's finite values. It then replaces values more than 2 (population) standard
      deviations from the layer's mean by the mean. The authors' published code fills an ``inf`` differently: it divides
      the sum of the finite values by the number of all values, so a gap gets less than the mean. Their code also leaves
      ``nan`` in place, drops the first and the last layer (here ``drop_ends=True``), and clusters the curves a second
      time, without reducing them, for its pictures of curves.
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

    What is clustered: layers differ far more in the level of their curves than in the course. In six recorded runs of
    WeightScale's authors, the first component of prepared curves ranks layers as their mean level does (ρ ≥ 0.99 by
    ``"robust"``). So ``of="curves"`` sorts layers by how much they change. ``of="shape"`` takes each curve relative to
    its own mean, and sorts layers by when they change.

    How stable clusters are: measurements are drawn with replacement, 50 times. Each time, the curves are prepared,
    reduced and clustered anew. ``stability`` is the mean adjusted Rand index between these clusters and those of all
    measurements. Below about 0.5, other epochs of the same run would have led to other clusters. Clusters of shape are
    often that unstable. A neighbouring measurement is alike, but counts as another one, so a further run may differ
    more than this tells.

    How k is chosen: the mean silhouette prefers one far layer against all others, which says nothing about these
    others. So clusters of one layer are left out of it, and their layers count 0 (``separation``). Among the k up
    to 10 whose stability is at least 0.9 of the largest, the largest separation decides.

    Args:
        history: one run or several, whose layers are pooled. Pass several as a sequence (their names are ``run0``,
            ``run1``, …) or as a mapping from name to run.
        procedure: how curves are prepared: ``"robust"`` or ``"reference"``.
        of: ``"curves"`` clusters prepared curves, by level and shape. ``"shape"`` clusters shapes alone: by
            ``"robust"``, the logarithms minus their mean; by ``"reference"``, the ratios divided by their mean.
        k: the number of clusters. By default it is chosen as described above.
        drop_ends: leave out the first and the last layer of each run.
        seed: seeds the starts of k-means and the resampling. The same seed gives the same result.

    Raises:
        ValueError: if the runs differ in length; if there are fewer than 3 layers or 2 measurements; if all curves are
            equal; if a layer has no finite value or a negative one; if ``procedure`` or ``of`` is unknown; if ``k`` or
            ``seed`` is out of range.
        TypeError: if an argument has the wrong type.
        ModuleNotFoundError: if scikit-learn is missing.

    Example:
        >>> from lightning_rwc import RWCHistory
        >>> falls, rises = [0.4, 0.2, 0.1], [0.01, 0.02, 0.05]
        >>> values = list(zip(falls, falls, rises, rises))
        >>> history = RWCHistory(["stem", "block", "neck", "head"], [0, 1, 2], [9, 19, 29], values)
        >>> clusters = cluster_layers(history)
        >>> clusters
        LayerClusters(4 layers, 2 clusters of 2, 2, stability 1.00)
        >>> clusters.to_frame()["cluster"].to_dict()
        {'stem': 0, 'block': 0, 'neck': 1, 'head': 1}

    """
    _check(procedure, of, k, seed)
    return _clustered(*pooled(history, drop_ends), procedure=procedure, of=of, k=k, seed=seed)


def cluster_within_kinds(
    history: Histories,
    kinds: Mapping[str, str],
    *,
    procedure: str = "robust",
    of: str = "curves",
    k: int | None = None,
    drop_ends: bool = False,
    seed: int = 0,
) -> dict[str, LayerClusters]:
    """Cluster the layers of each kind alone, as WeightScale's figures of EfficientNet do.

    Args:
        history: as for :func:`cluster_layers`.
        kinds: layer name, with or without its run, to kind, see
            :func:`~lightning_rwc.weightscale.layer_kinds.layer_kinds`. Layers that it does not name are ``"other"``. A
            kind of fewer than 3 layers is left out with a warning.
        procedure: as for :func:`cluster_layers`, as are all further arguments.
        of: see above.
        k: see above. By default each kind has its own number of clusters.
        drop_ends: see above.
        seed: see above.

    Returns:
        Kind to clusters, in the order of the kinds' first layers.

    Raises:
        ValueError: if ``kinds`` names none of the layers, or no kind has 3 layers; also as :func:`cluster_layers`.
        TypeError: if an argument has the wrong type.
        ModuleNotFoundError: if scikit-learn is missing.

    Example:
        >>> from lightning_rwc import RWCHistory
        >>> high, low = [0.4, 0.2], [0.01, 0.02]
        >>> history = RWCHistory(list("abcdef"), [0, 1], [9, 19], list(zip(high, high, low, high, low, low)))
        >>> kinds = dict.fromkeys("abc", "convolution") | dict.fromkeys("def", "linear")
        >>> for kind, clusters in cluster_within_kinds(history, kinds, k=2).items():
        ...     print(kind, clusters.to_frame()["cluster"].to_dict())
        convolution {'a': 0, 'b': 0, 'c': 1}
        linear {'d': 0, 'e': 1, 'f': 1}

    """
    _check(procedure, of, k, seed)
    layers, runs, table = pooled(history, drop_ends)
    rows: dict[str, list[int]] = {}
    for row, kind in enumerate(kinds_in_order(layers, runs, kinds)):
        rows.setdefault(kind, []).append(row)
    if small := [f"{kind!r} ({len(of_kind)})" for kind, of_kind in rows.items() if len(of_kind) < _MIN_LAYERS]:
        if len(small) == len(rows):
            raise ValueError(f"`kinds` has no kind with at least 3 layers to cluster: {', '.join(small)}.")
        warnings.warn(f"These kinds have too few layers to cluster: {', '.join(small)}.", stacklevel=2)
    clusters = {}
    for kind, of_kind in rows.items():
        if len(of_kind) >= _MIN_LAYERS:
            names, its_runs = [layers[row] for row in of_kind], [runs[row] for row in of_kind]
            try:
                clusters[kind] = _clustered(names, its_runs, table[of_kind], procedure=procedure, of=of, k=k, seed=seed)
            except ValueError as error:
                raise ValueError(f"Kind {kind!r}: {error}") from error
    return clusters


def _check(procedure: str, of: str, k: int | None, seed: int) -> None:
    for argument, choice, choices in (("procedure", procedure, PROCEDURES), ("of", of, _OF)):
        if choice not in choices:
            raise ValueError(f"`{argument}` must be one of {', '.join(map(repr, choices))}, but got {choice!r}.")
    for argument, value in (("k", 1 if k is None else k), ("seed", seed)):
        if isinstance(value, bool) or not isinstance(value, int | np.integer):
            raise TypeError(f"`{argument}` must be an int, but got {value!r}.")
    if not 0 <= seed < 2**32:
        raise ValueError(f"`seed` must be from 0 to 2³² − 1, but got {seed}.")


@one_thread()
def _clustered(
    layers: list[str], runs: list[str], table: Table, *, procedure: str, of: str, k: int | None, seed: int
) -> LayerClusters:
    prepared = PROCEDURES[procedure](table)
    curves = prepared if of == "curves" else shapes(prepared, procedure)
    # Rounded, because equal shapes of different curves have different last bits.
    if not np.ptp(np.round(curves / np.abs(curves).max().clip(min=1e-300), 12), axis=0).any():
        raise ValueError(f"`history` cannot be clustered: after preparation, all of its {_OF[of]} are equal.")
    components, shares = principal_components(curves)
    # Rounded, because equal curves leave the decomposition with different last bits.
    distinct = len(np.unique(np.round(components / np.abs(components).max(), 9), axis=0))
    most = min(distinct, _MAX_K)
    if k is not None and not 1 <= k <= most:
        raise ValueError(f"`k` must be from 1 to {most} for these {len(layers)} layers, but got {k}.")

    rng = np.random.default_rng(seed)
    found = {n: k_means(components, n, _STARTS, rng) for n in range(1, most + 1)}
    labels = {n: _numbered(of_layer) for n, (of_layer, _) in found.items()}
    # The silhouette is undefined for one cluster, and for clusters of one layer each.
    compared = [n for n in labels if 1 < n < len(layers)]
    silhouettes = {n: silhouette(components, labels[n]) for n in compared}
    separations = {n: separation(components, labels[n]) for n in compared}
    filled = np.where(np.isfinite(table), table, as_ratios(prepared, procedure))
    planes = _resampled_planes(filled, procedure, of, rng)
    stability = {
        n: agreement(labels[n], [k_means(plane, n, _STARTS_OF_RESAMPLE, rng)[0] for plane in planes])
        for n in compared
        if n <= _MAX_CHOSEN_K or n == k
    }
    k = chosen_number(separations, silhouettes, stability) if k is None else int(k)
    return LayerClusters(
        layers=layers,
        runs=runs,
        procedure=procedure,
        of=of,
        levels=prepared.mean(axis=1),
        curves=curves,
        components=components,
        explained_variance=shares,
        k=k,
        labels=labels[k],
        centroids=np.stack([components[labels[k] == cluster].mean(axis=0) for cluster in range(k)]),
        sse={n: sse for n, (_, sse) in found.items()},
        silhouette=silhouettes,
        separation=separations,
        stability=stability,
    )


def _resampled_planes(table: Table, procedure: str, of: str, rng: np.random.Generator) -> Table:
    """Draw measurements with replacement, and reduce the layers' curves of these measurements to two components."""
    measurements = table.shape[1]
    curves = [PROCEDURES[procedure](table[:, rng.integers(0, measurements, measurements)]) for _ in range(_RESAMPLES)]
    if of == "shape":
        curves = [shapes(one, procedure) for one in curves]
    return principal_components(np.stack(curves))[0]


def _numbered(labels: Labels) -> Labels:
    """Number clusters in the order of their first layers."""
    _, firsts, found = np.unique(labels, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(firsts))[found]
