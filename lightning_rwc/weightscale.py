# SPDX-License-Identifier: Apache-2.0
"""Layers that learn alike: clusters of relative-weight-change curves (WeightScale, arXiv 2107.07005)."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from lightning_rwc.curve_files import read_curves
from lightning_rwc.extras import needs
from lightning_rwc.history import RWCHistory
from lightning_rwc.layer_kinds import kinds_by_pattern

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

Table: TypeAlias = npt.NDArray[np.float64]
Histories: TypeAlias = RWCHistory | Sequence[RWCHistory] | Mapping[str, RWCHistory]

_MAX_K = 18
_MAX_NAMES = 12
# Okabe and Ito's colours, told apart without colour vision; yellow is left out because it is faint on white. From the
# eighth cluster on they come again with another dash.
_COLOURS = ("#0072b2", "#e69f00", "#009e73", "#d55e00", "#cc79a7", "#56b4e9", "#000000")
_DASHES = ("-", "--", ":")
_MARKERS = "os^DvPX*<>"


@dataclass(frozen=True, eq=False, repr=False)
class LayerClusters:
    """Layers, sorted into clusters by how their relative weight change (RWC) goes.

    Attributes:
        layers: names of the layers, in definition order; ``run/layer`` where several runs were pooled.
        runs: the run of each layer; ``""`` where there is one run.
        procedure: how the curves were prepared, see :func:`cluster_layers`.
        curves: the prepared curves, of shape ``(layers, measurements)``: ratios by ``"reference"``, their
            decimal logarithms by ``"robust"``.
        components: each layer's first two principal components, of shape ``(layers, 2)``, in the unit of ``curves``.
            Their signs are such that a curve that lies higher lies further to the right and to the top.
        explained_variance: the share of the curves' variance that each component holds, of shape ``(2,)``, in [0, 1].
        k: the number of clusters.
        labels: the cluster of each layer, int of shape ``(layers,)``: 0 is the cluster of the first layer, 1 that of
            the first layer outside it, and so on.
        centroids: the middle of each cluster in the plane of ``components``, of shape ``(k, 2)``.
        sse: number of clusters to the sum of squared distances to the nearest centroid, for the scree plot.
        silhouette: number of clusters to mean silhouette, in [−1, 1]; from 2 up, where alone it is defined.

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
        """The clusters as a data frame, a row a layer.

        Args:
            kinds: layer name, with or without its run, to kind, as by
                :func:`~lightning_rwc.layer_kinds.layer_kinds`; others are ``"other"``.

        Returns:
            A frame indexed by ``layer``, with the columns ``cluster``, ``pc1``, ``pc2``, ``mean`` (of the prepared
            curve, as a ratio; the geometric mean by ``"robust"``), and ``kind`` where ``kinds`` are given.

        Raises:
            ValueError: if ``kinds`` knows none of the layers.
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
        """Draw the layers in the plane of the two components, each tied to its cluster's numbered centroid.

        Layers are named where there are at most 12. The axes have a scale each: where the second component holds
        little of the variance, what it separates is less far apart than it looks.

        Args:
            kinds: as for :meth:`to_frame`; each kind gets a marker of its own.

        Raises:
            ValueError: if ``kinds`` knows none of the layers, or the layers are of more than 10 kinds.

        """
        from matplotlib.collections import LineCollection
        from matplotlib.patheffects import withStroke

        from lightning_rwc.row_names import short

        of_layer = np.array([""] * len(self.layers) if kinds is None else self._kinds(kinds))
        names = sorted(set(of_layer))
        if len(names) > len(_MARKERS):
            raise ValueError(f"`kinds` has {len(names)} kinds, but there are {len(_MARKERS)} markers: merge some.")
        markers = dict(zip(names, _MARKERS, strict=False))
        figure, axes = _figure()
        halo = [withStroke(linewidth=2.5, foreground="white")]
        beside: dict[str, Any] = {
            "textcoords": "offset points",
            "ha": "center",
            "path_effects": halo,
            "parse_math": False,
        }
        for cluster, centre in enumerate(self.centroids):
            colour, dash = _style(cluster)
            spokes = [(point, centre) for point in self.components[self.labels == cluster]]
            axes.add_collection(LineCollection(spokes, colors=colour, linestyles=dash, linewidths=0.8, alpha=0.7))
            for kind, marker in markers.items():
                x, y = self.components[(self.labels == cluster) & (of_layer == kind)].T
                axes.scatter(x, y, s=34, marker=marker, color=colour, edgecolors="white", linewidths=0.5, zorder=3)
            axes.scatter(*centre, s=45, marker="+", color="0.15", linewidths=1.2, zorder=4)
            bold = {"color": colour, "fontsize": 11, "fontweight": "bold", "zorder": 6}
            axes.annotate(str(cluster), centre, (0, -14), **bold, **beside)
        for name, point in zip(self.layers if len(self.layers) <= _MAX_NAMES else [], self.components, strict=False):
            axes.annotate(short(name), point, (0, 6), fontsize=7, zorder=5, **beside)
        first, second = self.explained_variance
        axes.set_xlabel(f"principal component 1 ({first:.0%} of the variance)")
        axes.set_ylabel(f"principal component 2 ({second:.0%} of the variance)")
        axes.margins(0.15)
        self._legend(figure, {} if kinds is None else markers, marker="o")
        return figure

    def plot_scree(self) -> "Figure":
        """Draw the sum of squared errors and the silhouette over the number of clusters, the one used marked."""
        figure, axes = _figure(panels=2)
        unit = "decades²" if self.procedure == "robust" else "ratio²"
        for panel, scores, label in (
            (axes[0], self.sse, f"sum of squared errors ({unit})"),
            (axes[1], self.silhouette, "mean silhouette"),
        ):
            panel.axvline(self.k, color="0.6", linestyle="--", linewidth=1, label=f"used: {self.k} clusters")
            panel.plot(list(scores), list(scores.values()), color=_COLOURS[0], marker="o", markersize=4)
            panel.set(xlabel="clusters", ylabel=label, xlim=(0.5, max(self.sse) + 0.5))
            panel.xaxis.get_major_locator().set_params(integer=True)
            panel.legend(frameon=False, fontsize=8, loc="upper right")
        axes[0].set_ylim(bottom=0)
        return figure

    def plot_curves(self) -> "Figure":
        """Draw the prepared curves, thin, and each cluster's mean curve, thick, in the colour of the cluster."""
        robust, width = self.procedure == "robust", 2.2 if self.k <= len(_COLOURS) else 1.6
        figure, axes = _figure()
        x = np.arange(1, self.curves.shape[1] + 1)
        for cluster in range(self.k):
            members = self.curves[self.labels == cluster]
            colour, dash = _style(cluster)
            mean = members.mean(axis=0)
            axes.plot(x, (10**members if robust else members).T, color=colour, linewidth=0.6, alpha=0.35)
            axes.plot(x, 10**mean if robust else mean, color=colour, linestyle=dash, linewidth=width, zorder=3)
        axes.set(xlabel="measurement", ylabel=f"relative weight change (ratio), prepared: {self.procedure}")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.set_yscale("log" if robust else "linear")
        axes.grid(alpha=0.3)
        self._legend(figure, {}, linewidth=width)
        return figure

    def _kinds(self, kinds: Mapping[str, str]) -> list[str]:
        bare = [layer.removeprefix(f"{run}/") for layer, run in zip(self.layers, self.runs, strict=True)]
        found = [kinds.get(layer, kinds.get(name)) for layer, name in zip(self.layers, bare, strict=True)]
        if not any(found):
            known = ", ".join(map(repr, list(kinds)[:3])) or "none"
            raise ValueError(f"`kinds` has none of the layers, which are named as {bare[0]!r}; it knows {known}.")
        return [kind or "other" for kind in found]

    def _legend(self, figure: "Figure", markers: Mapping[str, str], **style: Any) -> None:
        from matplotlib.lines import Line2D

        entries: list[Line2D] = []
        for cluster, size in enumerate(np.bincount(self.labels)):
            colour, dash = _style(cluster)
            label = f"cluster {cluster}: {size} {'layers' if size > 1 else 'layer'}"
            entries.append(Line2D([], [], color=colour, linestyle=dash, label=label, **style))
        for kind, marker in markers.items():
            entries.append(Line2D([], [], color="0.4", marker=marker, linestyle="", label=kind))
        figure.legend(handles=entries, loc="outside right upper", frameon=False, fontsize=8, handlelength=2.6)


def cluster_layers(
    history: Histories,
    *,
    procedure: str = "robust",
    k: int | None = None,
    drop_ends: bool = False,
    seed: int = 0,
) -> LayerClusters:
    """Cluster layers by their curves of relative weight change.

    The curves are prepared, brought to two principal components, and clustered there by k-means (k-means++, the best
    of 10 starts) for every k from 1 to 18, or to the number of layers that differ, if smaller.

    - ``procedure="reference"`` prepares as WeightScale (arXiv 2107.07005) does: values that are not finite become the
      mean of the layer's finite ones; then those further than 2 standard deviations (of the population) from the
      layer's mean become that mean.
    - ``procedure="robust"`` takes decimal logarithms, fills what is not finite with the layer's median, and brings
      what lies further than 3 × 1.4826 × MAD (median absolute deviation; 3 standard deviations, were they normal) from
      the median back to that limit. A layer of which more than half the values are alike, so that its MAD is 0, is
      left as it is. Exact zeros have no logarithm: they count as a tenth of the smallest value above 0 of all layers,
      so that a frozen layer stands apart but not infinitely far.

    Why robust: RWC spans decades, and by differences of ratios the few layers with the largest values make both
    components and all clusters, while a layer that halved is as good as still; by logarithms a factor counts the same
    everywhere. One burst moves the mean and widens the deviation that is to find it (among 5 values or fewer none can
    be 2 deviations off); median and MAD stand until half the values are bursts. And a value brought to the limit
    remains high, while one that the mean replaces jumps to the middle as it crosses the limit.

    Args:
        history: one run; or several, as a sequence (named ``run0``, ``run1``, …) or by name, whose layers are pooled.
        procedure: how curves are prepared: ``"robust"`` or ``"reference"``.
        k: the number of clusters; by default that of the largest mean silhouette.
        drop_ends: leave out the first and the last layer of each run.
        seed: of the starts of k-means; one seed gives one result.

    Raises:
        ValueError: if runs differ in length; layers are fewer than 3, measurements fewer than 2, or all curves alike;
            a layer has no finite value, or a negative one; ``procedure`` is unknown; ``k`` or ``seed`` out of range.
        TypeError: if an argument is of the wrong type.
        ModuleNotFoundError: if scikit-learn is missing.

    Example:
        >>> falls, rises = [0.4, 0.2, 0.1], [0.01, 0.02, 0.05]
        >>> values = list(zip(falls, falls, rises, rises))
        >>> history = RWCHistory(["stem", "block", "neck", "head"], [0, 1, 2], [9, 19, 29], values)
        >>> clusters = cluster_layers(history)
        >>> clusters
        LayerClusters(4 layers, 2 clusters of 2, 2)
        >>> clusters.to_frame()["cluster"].to_dict()
        {'stem': 0, 'block': 0, 'neck': 1, 'head': 1}

    """
    if procedure not in _PREPARE:
        raise ValueError(f"`procedure` must be one of {', '.join(map(repr, _PREPARE))}, but got {procedure!r}.")
    for argument, value in (("k", 1 if k is None else k), ("seed", seed)):
        if isinstance(value, bool) or not isinstance(value, int | np.integer):
            raise TypeError(f"`{argument}` must be an int, but got {value!r}.")
    if not 0 <= seed < 2**32:
        raise ValueError(f"`seed` must be from 0 to 2³² − 1, but got {seed}.")
    layers, runs, table = _pooled(history, drop_ends)
    curves = _PREPARE[procedure](table)
    if not np.ptp(curves, axis=0).any():
        raise ValueError("All curves are alike once prepared: there is nothing to cluster.")

    KMeans, PCA, silhouette_score = _sklearn()  # noqa: N806
    pca = PCA(2, svd_solver="full")
    components = pca.fit_transform(curves) * np.where(pca.components_.sum(axis=1) < 0, -1, 1)
    # Rounded: curves that are alike come out of the decomposition with different last bits.
    distinct = len(np.unique(np.round(components / np.abs(components).max(), 9), axis=0))
    most = min(distinct, _MAX_K)
    if k is not None and not 1 <= k <= most:
        raise ValueError(f"`k` must be from 1 to {most} for these {len(layers)} layers, but got {k}.")
    fits = {n: KMeans(n, init="k-means++", n_init=10, random_state=seed).fit(components) for n in range(1, most + 1)}
    # Undefined for one cluster, and for clusters of one layer each.
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


def save_clusters(
    paths: str | PathLike[str] | Sequence[str | PathLike[str]],
    out: str | PathLike[str],
    *,
    patterns: Mapping[str, str] | None = None,
    **options: Any,
) -> list[Path]:
    """Read curves, cluster their layers, and write a table and pictures.

    Args:
        paths: one or more files, see :func:`~lightning_rwc.curve_files.read_curves`; runs are named by what their paths
            differ in.
        out: the folder for ``clusters.csv``, ``plane.png``, ``scree.png`` and ``curves.png``; made where missing.
        patterns: regular expression to kind of layer, see
            :func:`~lightning_rwc.layer_kinds.kinds_by_pattern`, for the table and the plane.
        options: of :func:`cluster_layers`.

    Returns:
        The files written.

    Raises:
        ValueError: if two paths are of one file, or a pattern matches no layer's name; also where
            :func:`cluster_layers` or :func:`~lightning_rwc.curve_files.read_curves` raises it.

    """
    files = [Path(paths)] if isinstance(paths, str | PathLike) else [Path(path) for path in paths]
    if len(set(files)) < len(files):
        raise ValueError(f"`paths` must be different files, but got {[str(file) for file in files]}.")
    histories = [read_curves(file) for file in files]
    clusters = cluster_layers(dict(zip(_run_names(files), histories, strict=True)), **options)
    kinds = None if patterns is None else kinds_by_pattern(clusters.layers, patterns)
    for pattern in patterns or ():
        if not any(re.search(pattern, layer) for layer in clusters.layers):
            shown = ", ".join(map(repr, clusters.layers[:_MAX_NAMES]))
            more = len(clusters.layers) - _MAX_NAMES
            raise ValueError(
                f"`patterns` (of the command: `--kind`) has {pattern!r}, which no layer's name matches. The layers are "
                f"{shown}{f' and {more} more' if more > 0 else ''}."
            )
    pictures = {"plane": clusters.plot_plane(kinds), "scree": clusters.plot_scree(), "curves": clusters.plot_curves()}
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    clusters.to_frame(kinds).to_csv(folder / "clusters.csv", encoding="utf-8")
    for name, figure in pictures.items():
        figure.savefig(folder / f"{name}.png", dpi=150)
    return [folder / "clusters.csv", *(folder / f"{name}.png" for name in pictures)]


def _run_names(files: Sequence[Path]) -> list[str]:
    paths = [list(file.with_suffix("").parts) for file in files]
    for end in (0, -1):
        while all(len(path) > 1 for path in paths) and len({path[end] for path in paths}) == 1:
            for path in paths:
                path.pop(end)
    names = ["/".join(path) for path in paths]
    return names if len(set(names)) == len(files) else [fspath(file) for file in files]


def _pooled(history: Histories, drop_ends: bool) -> tuple[list[str], list[str], Table]:
    if isinstance(history, RWCHistory) or not isinstance(history, Mapping | Sequence):
        history = [history]
    named = history if isinstance(history, Mapping) else {f"run{i}": one for i, one in enumerate(history)}
    for one in named.values():
        if not isinstance(one, RWCHistory):
            raise TypeError(f"`history` must be an RWCHistory or several, but has {one!r}.")
    if len({len(one) for one in named.values()}) > 1:
        lengths = ", ".join(f"{len(one)} ({name})" for name, one in named.items())
        raise ValueError(f"`history` must have curves of one length, but has measurements: {lengths}. Cut the longer.")
    kept = slice(1, -1) if drop_ends else slice(None)
    runs = [name if len(named) > 1 else "" for name, one in named.items() for _ in one.layers[kept]]
    bare = [layer for one in named.values() for layer in one.layers[kept]]
    layers = [f"{run}/{layer}" if run else layer for run, layer in zip(runs, bare, strict=True)]
    if len(layers) < 3:
        raise ValueError(f"`history` must have at least 3 layers to cluster, but has {len(layers)}.")
    table = np.concatenate([one.values.T[kept] for one in named.values()])
    if table.shape[1] < 2:
        raise ValueError(f"`history` must have at least 2 measurements, but has {table.shape[1]}: train for longer.")
    for layer, curve in zip(layers, table, strict=True):
        if not np.isfinite(curve).any():
            raise ValueError(f"`history` has the layer {layer!r} without one finite value: leave it out.")
        if (curve < 0).any():
            raise ValueError(
                f"`history` has negative values in the layer {layer!r}, which no relative weight change is."
            )
    return layers, runs, table


def _reference(table: Table) -> Table:
    finite = np.where(np.isfinite(table), table, np.nan)
    mean = np.nanmean(finite, axis=1, keepdims=True)
    filled = np.where(np.isnan(finite), mean, finite)
    return np.where(np.abs(filled - mean) > 2 * filled.std(axis=1, keepdims=True), mean, filled)


def _robust(table: Table) -> Table:
    positive = np.isfinite(table) & (table > 0)
    logs = np.log10(table, out=np.full_like(table, np.nan), where=positive)
    logs[table == 0] = (logs[positive].min() if positive.any() else 0.0) - 1
    median = np.nanmedian(logs, axis=1, keepdims=True)
    limit = 3 * 1.4826 * np.nanmedian(np.abs(logs - median), axis=1, keepdims=True)
    limit[limit == 0] = np.inf
    return np.clip(np.where(np.isnan(logs), median, logs), median - limit, median + limit)


_PREPARE = {"robust": _robust, "reference": _reference}


def _sklearn() -> tuple[Any, Any, Any]:
    with needs("scikit-learn", extra="analysis", what="Clustering"):
        from sklearn.cluster import KMeans
        from sklearn.decomposition import PCA
        from sklearn.metrics import silhouette_score
    return KMeans, PCA, silhouette_score


def _figure(panels: int = 1) -> tuple["Figure", Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.6, 4.4) if panels == 1 else (7.6, 3.2), layout="constrained")
    return figure, figure.subplots(1, panels)


def _style(cluster: int) -> tuple[str, Any]:
    return _COLOURS[cluster % len(_COLOURS)], _DASHES[cluster // len(_COLOURS) % len(_DASHES)]
