# SPDX-License-Identifier: Apache-2.0
"""Pictures of clusters: the plane of the components, the scree plot, and the curves."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke

from lightning_rwc.names import shortened
from lightning_rwc.weightscale.preparation import as_ratios

Table: TypeAlias = npt.NDArray[np.float64]
Labels: TypeAlias = npt.NDArray[np.int_]

_MAX_NAMES = 12
# Okabe and Ito's colours, which differ for colour-blind readers too. Yellow is left out because it is faint on white.
# From the eighth cluster on the colours repeat with another dash.
_COLOURS = ("#0072b2", "#e69f00", "#009e73", "#d55e00", "#cc79a7", "#56b4e9", "#000000")
_DASHES = ("-", "--", ":")
_MARKERS = "os^DvPX*<>"


def plane(
    components: Table,
    explained_variance: Table,
    labels: Labels,
    centroids: Table,
    *,
    layers: Sequence[str],
    kinds: Sequence[str] | None,
) -> Figure:
    """Draw the layers in the plane of two principal components, each joined to its cluster's numbered centroid.

    Args:
        components: of shape ``(layers, 2)``.
        explained_variance: the share of the variance that each component explains.
        labels: the cluster of each layer.
        centroids: the centre of each cluster, of shape ``(clusters, 2)``.
        layers: the name of each layer. At most 12 layers are named in the picture.
        kinds: the kind of each layer. Each kind gets its own marker.

    Raises:
        ValueError: if there are more than 10 kinds.

    """
    of_layer = np.array([""] * len(layers) if kinds is None else kinds)
    names = sorted(set(of_layer))
    if len(names) > len(_MARKERS):
        raise ValueError(f"`kinds` has {len(names)} kinds, but there are {len(_MARKERS)} markers. Merge some kinds.")
    markers = dict(zip(names, _MARKERS, strict=False))
    figure, axes = _figure()
    halo = [withStroke(linewidth=2.5, foreground="white")]
    offset: dict[str, Any] = {"textcoords": "offset points", "ha": "center", "path_effects": halo, "parse_math": False}
    for cluster, centre in enumerate(centroids):
        colour, dash = _style(cluster)
        spokes = [(point, centre) for point in components[labels == cluster]]
        axes.add_collection(LineCollection(spokes, colors=colour, linestyles=dash, linewidths=0.8, alpha=0.7))
        for kind, marker in markers.items():
            x, y = components[(labels == cluster) & (of_layer == kind)].T
            axes.scatter(x, y, s=34, marker=marker, color=colour, edgecolors="white", linewidths=0.5, zorder=3)
        axes.scatter(*centre, s=45, marker="+", color="0.15", linewidths=1.2, zorder=4)
        bold = {"color": colour, "fontsize": 11, "fontweight": "bold", "zorder": 6}
        axes.annotate(str(cluster), centre, (0, -14), **bold, **offset)
    for name, point in zip(layers if len(layers) <= _MAX_NAMES else [], components, strict=False):
        axes.annotate(shortened(name), point, (0, 6), fontsize=7, zorder=5, **offset)
    first, second = explained_variance
    axes.set_xlabel(f"principal component 1 ({first:.0%} of the variance)")
    axes.set_ylabel(f"principal component 2 ({second:.0%} of the variance)")
    axes.margins(0.15)
    _legend(figure, labels, {} if kinds is None else markers, marker="o")
    return figure


def scree(
    sse: Mapping[int, float],
    silhouette: Mapping[int, float],
    separation: Mapping[int, float],
    stability: Mapping[int, float],
    *,
    k: int,
    unit: str,
) -> Figure:
    """Draw the scores over the number of clusters, with a mark at the number in use.

    Args:
        sse: number of clusters to sum of squared errors.
        silhouette: number of clusters to mean silhouette.
        separation: number of clusters to mean silhouette without clusters of one layer.
        stability: number of clusters to agreement with the clusters of resampled measurements.
        k: the number of clusters in use.
        unit: of the curves, to label the squared errors.

    """
    figure, axes = _figure(panels=3)
    titles = (f"sum of squared errors ({unit}²)", "mean silhouette", "stability (adjusted Rand index)")
    for panel, scores, title in zip(axes, (sse, separation, stability), titles, strict=True):
        panel.axvline(k, color="0.6", linestyle="--", linewidth=1, label=f"used: {k} clusters")
        panel.plot(list(scores), list(scores.values()), color=_COLOURS[0], marker="o", markersize=4)
        panel.set(xlabel="clusters", ylabel=title, xlim=(0.5, max(sse) + 0.5))
        panel.xaxis.get_major_locator().set_params(integer=True)
    used, without = axes[0].lines[0], axes[1].lines[1]
    (every,) = axes[1].plot(list(silhouette), list(silhouette.values()), color="0.5", linestyle=":", linewidth=1.2)
    axes[0].set_ylim(bottom=0)
    axes[2].set_ylim(min(0, *stability.values()), 1.05)
    lines = {used.get_label(): used, "without clusters of one layer": without, "silhouette of all": every}
    figure.legend(
        lines.values(), lines.keys(), loc="outside upper center", frameon=False, fontsize=8, ncols=3, handlelength=2.6
    )
    return figure


def curves(prepared: Table, labels: Labels, procedure: str, of: str) -> Figure:
    """Draw each layer's prepared curve thin and each cluster's mean curve thick, in the colour of the cluster.

    Args:
        prepared: the curves, of shape ``(layers, measurements)``: decimal logarithms by ``"robust"``.
        labels: the cluster of each layer.
        procedure: how the curves were prepared.
        of: ``"shape"`` if the curves are relative to their own means.

    """
    clusters = int(labels.max()) + 1
    width = 2.2 if clusters <= len(_COLOURS) else 1.6
    figure, axes = _figure()
    x = np.arange(1, prepared.shape[1] + 1)
    for cluster in range(clusters):
        members = prepared[labels == cluster]
        colour, dash = _style(cluster)
        mean = members.mean(axis=0)
        axes.plot(x, as_ratios(members, procedure).T, color=colour, linewidth=0.6, alpha=0.35)
        axes.plot(x, as_ratios(mean, procedure), color=colour, linestyle=dash, linewidth=width, zorder=3)
    quantity = "relative weight change (ratio)" if of == "curves" else "relative weight change ÷ the layer's mean"
    axes.set(xlabel="measurement", ylabel=f"{quantity}, prepared: {procedure}")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set_yscale("log" if procedure == "robust" else "linear")
    axes.grid(alpha=0.3)
    _legend(figure, labels, {}, linewidth=width)
    return figure


def _figure(panels: int = 1) -> tuple[Figure, Any]:
    figure = Figure(figsize=(7.6, 4.4) if panels == 1 else (9.2, 3.2), layout="constrained")
    return figure, figure.subplots(1, panels)


def _style(cluster: int) -> tuple[str, Any]:
    return _COLOURS[cluster % len(_COLOURS)], _DASHES[cluster // len(_COLOURS) % len(_DASHES)]


def _legend(figure: Figure, labels: Labels, markers: Mapping[str, str], **style: Any) -> None:
    entries: list[Line2D] = []
    for cluster, size in enumerate(np.bincount(labels)):
        colour, dash = _style(cluster)
        label = f"cluster {cluster}: {size} {'layers' if size > 1 else 'layer'}"
        entries.append(Line2D([], [], color=colour, linestyle=dash, label=label, **style))
    for kind, marker in markers.items():
        entries.append(Line2D([], [], color="0.4", marker=marker, linestyle="", label=kind))
    figure.legend(handles=entries, loc="outside right upper", frameon=False, fontsize=8, handlelength=2.6)
