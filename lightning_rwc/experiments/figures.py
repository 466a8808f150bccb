# SPDX-License-Identifier: Apache-2.0
"""Pictures of an experiment: means over seeds, each with a band from the lowest to the highest seed."""

from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from lightning_rwc.drawing import log_ticks
from lightning_rwc.experiments.groups import paper_groups
from lightning_rwc.experiments.results import NORMS, Array, Results
from lightning_rwc.norms import Norm

_CMAP = colormaps["viridis"]


def group_curves(results: Results) -> Figure:
    """Draw the mean relative weight change of each group of layers over epochs, with a panel for each norm."""
    groups = paper_groups(results.architecture, results.layers)
    figure = Figure(figsize=(11, 3.4), layout="constrained")
    panels = figure.subplots(1, len(NORMS))
    for axes, norm in zip(panels, NORMS, strict=True):
        for colour, (group, layers) in zip(_CMAP(np.linspace(0, 0.9, len(groups))), groups.items(), strict=True):
            curves = results.group_curves(norm, layers)
            _band(axes, np.arange(curves.shape[1]), curves, colour, group)
        _finish(axes, norm, "epoch")
    panels[0].set_ylabel("relative weight change (log scale)")
    panels[-1].legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def layer_curves(results: Results, norm: Norm) -> Figure:
    """Draw each layer's curve, with a panel for each group and one for the layers in no group."""
    groups = paper_groups(results.architecture, results.layers)
    grouped = {layer for layers in groups.values() for layer in layers}
    groups["in no group"] = [layer for layer in results.layers if layer not in grouped]
    groups = {group: layers for group, layers in groups.items() if layers}
    figure = Figure(figsize=(3.6 * len(groups), 4.2), layout="constrained")
    panels = figure.subplots(1, len(groups), sharey=True, squeeze=False)[0]
    for axes, (group, layers) in zip(panels, groups.items(), strict=True):
        for colour, layer in zip(_CMAP(np.linspace(0, 0.9, len(layers))), layers, strict=True):
            curves = results.curves[norm][:, :, results.layers.index(layer)]
            _band(axes, np.arange(curves.shape[1]), curves, colour, layer)
        _finish(axes, group, "epoch")
        if len(layers) <= 12:
            axes.legend(frameon=False, fontsize=7, loc="upper right")
    panels[0].set_ylabel(f"relative weight change ({norm}, log scale)")
    return figure


def depth_profile(results: Results) -> Figure:
    """Draw each layer's mean over epochs, in definition order, with a panel for each norm."""
    figure = Figure(figsize=(11, 3.6), layout="constrained")
    panels = figure.subplots(1, len(NORMS))
    for axes, norm in zip(panels, NORMS, strict=True):
        means = results.curves[norm].mean(axis=1)
        _band(axes, np.arange(means.shape[1]), means, _CMAP(0.3), "mean over epochs")
        _finish(axes, norm, "layer, in definition order")
        if len(results.layers) <= 25:
            axes.set_xticks(range(len(results.layers)), results.layers, rotation=90, fontsize=7)
    panels[0].set_ylabel("relative weight change (log scale)")
    return figure


def size_profile(results: Results) -> Figure:
    """Draw each layer's median over epochs against its size, coloured by depth, with a panel for each recording."""
    recordings = [name for name in ("l1", "elementwise", "elementwise, equal samples") if name in results.curves]
    figure = Figure(figsize=(11, 3.6), layout="constrained")
    panels = figure.subplots(1, len(recordings))
    colours = _CMAP(np.linspace(0, 0.9, len(results.layers)))
    for axes, recording in zip(panels, recordings, strict=True):
        medians = results.by_layer(recording, "median")
        medians = np.where(medians > 0, medians, np.nan)
        axes.vlines(results.sizes, medians.min(axis=0), medians.max(axis=0), colors=colours)
        axes.scatter(results.sizes, np.exp(np.log(medians).mean(axis=0)), c=colours, zorder=2)
        _finish(axes, recording, "weights of the layer (log scale)")
        if np.isfinite(axes.dataLim.minposx):
            axes.set_xscale("log")
    panels[0].set_ylabel("relative weight change (log scale)")
    depths = ScalarMappable(Normalize(0, len(results.layers) - 1), ListedColormap(colours))
    bar = figure.colorbar(depths, ax=panels, ticks=[0, len(results.layers) - 1])
    bar.ax.set_yticklabels(["first layer", "last layer"])
    return figure


def _finish(axes: Axes, title: str, x_label: str) -> None:
    axes.set(title=title, xlabel=x_label)
    axes.grid(alpha=0.3)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    # After a run that diverged nothing may be left to draw, and no logarithmic axis can be empty.
    if np.isfinite(axes.dataLim.minposy):
        axes.set_yscale("log")
        log_ticks(axes.yaxis, *axes.get_ylim())


def _band(axes: Axes, x: npt.NDArray[Any], curves: Array, colour: Any, label: str) -> None:
    # A logarithmic axis cannot show zeros.
    curves = np.where(curves > 0, curves, np.nan)
    axes.plot(x, curves.mean(axis=0), color=colour, label=label, marker="." if len(x) <= 30 else None)
    axes.fill_between(x, curves.min(axis=0), curves.max(axis=0), color=colour, alpha=0.2, linewidth=0)
