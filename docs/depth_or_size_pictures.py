# SPDX-License-Identifier: Apache-2.0
"""The pictures of ``docs/depth_or_size.md``."""

from collections.abc import Mapping
from io import BytesIO
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from docs.depth_or_size_arrays import Recorded, definition, simulated_definition
from docs.depth_or_size_curves import DEPTHS, Curves
from docs.depth_or_size_runs import STARTS, Run
from lightning_rwc.drawing import log_ticks

_MEASURES = ("l1", "elementwise", "elementwise, equal samples", "rotation")
_COLOURS = {"growing": "#0072B2", "equal": "#666666", "shrinking": "#D55E00"}
_ADAM = {"Adam, falling scale": "#009E73", "Adam, rising scale": "#CC79A7"}
_KINDS = {
    "depth-wise": "#D55E00",
    "squeeze-excite, reduce": "#E69F00",
    "point-wise-linear": "#009E73",
    "squeeze-excite, expand": "#56B4E9",
    "point-wise": "#0072B2",
    "other": "#666666",
}


def networks(curves: Curves) -> Figure:
    """Each layer's value against its depth, with a row for each start and a column for each measure."""
    rows = {
        start: {network: (Run(network, start, 0), _COLOURS[network]) for network in about.networks}
        for start, about in STARTS.items()
        if start not in _ADAM
    }
    rows["Adam, equal sizes"] = {
        start.removeprefix("Adam, "): (Run("equal", start, 0), colour) for start, colour in _ADAM.items()
    }
    figure = Figure(figsize=(9.5, 1.9 * len(rows)), layout="constrained")
    grid = figure.subplots(len(rows), len(_MEASURES), sharex=True)
    for panels, (title, runs) in zip(grid, rows.items(), strict=True):
        for axes, measure in zip(panels, _MEASURES, strict=True):
            for label, (run, colour) in runs.items():
                values = curves.medians(run, measure)
                axes.plot(DEPTHS, np.exp(np.log(values).mean(0)), "o-", color=colour, label=label, markersize=3)
                axes.fill_between(DEPTHS, values.min(0), values.max(0), color=colour, alpha=0.2, linewidth=0)
            axes.set(yscale="log", xticks=DEPTHS)
            log_ticks(axes.yaxis, *axes.get_ylim())
            axes.tick_params(which="both", labelsize=7)
            axes.grid(alpha=0.3)
        panels[0].set_ylabel(title, fontsize=9)
        panels[0].legend(frameon=False, fontsize=7)
    for axes, measure in zip(grid[0], _MEASURES, strict=True):
        axes.set_title(measure, fontsize=10)
    figure.supxlabel("convolution, from first to last", fontsize=9)
    return figure


def of_definition(change: float = 0.3, draws: int = 100) -> Figure:
    """The elementwise mean of Gaussian layers of different sizes that all have the same l1 change."""
    rng, sizes = np.random.default_rng(0), [10**power for power in (2, 3, 4, 5, 6)]
    drawn = [simulated_definition(size, draws, change, rng) for size in sizes]
    figure = Figure(figsize=(4.8, 3), layout="constrained")
    axes = figure.subplots()
    for values, colour, label in zip(
        zip(*drawn, strict=True), ("#666666", "#0072B2"), ("l1", "elementwise"), strict=True
    ):
        low, middle, high = np.quantile(values, [0.1, 0.5, 0.9], axis=1)
        axes.errorbar(sizes, middle, [middle - low, high - middle], fmt="o", color=colour, label=label, capsize=3)
    axes.plot(
        sizes, [change * definition(size) for size in sizes], "--", color="#0072B2", label="elementwise, in theory"
    )
    axes.set(xscale="log", yscale="log", xlabel="weights of the layer", ylabel="relative weight change")
    axes.grid(alpha=0.3)
    log_ticks(axes.yaxis, *axes.get_ylim())
    axes.legend(frameon=False, fontsize=8)
    return figure


def recorded(networks: Mapping[str, Recorded]) -> Figure:
    """The change of each layer of an EfficientNet against depth, size and the scale of its initial weights."""
    figure = Figure(figsize=(9.5, 2.7 * len(networks)), layout="constrained")
    grid = figure.subplots(len(networks), 3, squeeze=False, sharey="row", sharex="col")
    for panels, (data, one) in zip(grid, networks.items(), strict=True):
        table = one.layers.assign(depth=np.arange(1, len(one.layers) + 1), scale=1 / one.layers["deviation"])
        for axes, variable in zip(panels, ("depth", "size", "scale"), strict=True):
            for kind, colour in _KINDS.items():
                chosen = table[table["kind"] == kind]
                axes.scatter(chosen[variable], chosen["change"], s=9, color=colour, label=kind)
            axes.set(yscale="log", xscale="linear" if variable == "depth" else "log")
            axes.grid(alpha=0.3)
            log_ticks(axes.yaxis, *axes.get_ylim())
            if variable == "scale":
                log_ticks(axes.xaxis, *axes.get_xlim())
        panels[0].set_ylabel(f"{data}: change", fontsize=9)
    labels = ("depth", "number of weights", "1 / deviation of the initial weights")
    for axes, label in zip(grid[-1], labels, strict=True):
        axes.set_xlabel(label, fontsize=9)
    key = grid[0, 0].get_legend_handles_labels()
    figure.legend(*key, loc="outside upper center", ncols=len(_KINDS), frameon=False, fontsize=8)
    return figure


def save(figure: Figure, path: Path, colours: int = 200) -> None:
    """Write a small PNG."""
    picture = BytesIO()
    figure.savefig(picture, dpi=100)
    Image.open(picture).convert("RGB").quantize(colours, dither=Image.Dither.NONE).save(path, optimize=True)
