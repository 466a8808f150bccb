# SPDX-License-Identifier: Apache-2.0
"""What the curves of ``docs/depth_or_size.py`` say: the part of depth, and that of what was made to rise and fall."""

import math
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.stats import rankdata

from docs.depth_or_size_runs import LAYERS, SEEDS, STARTS, Run
from lightning_rwc.depth import depth_correlation
from lightning_rwc.experiments.statistics import (
    Interval,
    correlation_interval,
    geometric_interval,
    partial_spearman,
    spearman,
)

Array = npt.NDArray[np.float64]
DEPTHS = np.arange(1, len(LAYERS) + 1)

MIRRORED = [start for start, about in STARTS.items() if {"growing", "shrinking"} <= set(about.networks)]
SCALED = "Adam, scale"
PAIRS = {start: (Run("growing", start, 0), Run("shrinking", start, 0)) for start in MIRRORED}
PAIRS[SCALED] = Run("equal", "Adam, falling scale", 0), Run("equal", "Adam, rising scale", 0)
"""Two networks that are mirror images of each other: what rises with depth in the first falls in the second."""


class Curves:
    """The medians over epochs of each layer, for each measure and seed.

    Args:
        folder: the folder of the runs.

    """

    def __init__(self, folder: Path) -> None:
        finished = pd.read_csv(folder / "finished.csv", index_col="run")
        self.accuracies, self.cpu_seconds = finished["test_accuracy"], float(finished["cpu_seconds"].sum())
        self._medians: dict[str, pd.DataFrame] = {}
        for name in finished.index:
            self._medians[name] = pd.read_csv(folder / f"{name}.csv").groupby("measure")[LAYERS].median()

    def medians(self, run: Run, measure: str) -> Array:
        """One row for each seed, and one column for each layer."""
        return np.array([self._medians[run._replace(seed=seed).name].loc[measure] for seed in SEEDS])

    def accuracy(self, run: Run) -> Array:
        """The test accuracy of each seed."""
        return np.array([self.accuracies[run._replace(seed=seed).name] for seed in SEEDS])

    def depth_correlations(self, run: Run, measure: str) -> Interval:
        """Spearman's ρ of depth and value in one network, over seeds."""
        samples = [depth_correlation(values.tolist()) for values in self.medians(run, measure)]
        return correlation_interval(samples, len(LAYERS))

    def parts(self, pair: tuple[Run, Run], measure: str) -> dict[str, Interval]:
        """What goes with depth, and what goes with that which rises in one network and falls in the other."""
        both = [*zip(*(self.medians(run, measure) for run in pair), strict=True)]
        correlations = pd.DataFrame([pair_correlations(*values) for values in both])
        ratios = pd.DataFrame([pair_ratios(*values) for values in both])
        of_correlations = {name: correlation_interval(samples, len(LAYERS)) for name, samples in correlations.items()}
        return of_correlations | {name: geometric_interval(samples) for name, samples in ratios.items()}


def pair_correlations(rises: Array, falls: Array) -> dict[str, float]:
    """Rank correlations of value with depth, and with what rises in the first network and falls in the second.

    Values are ranked within each network, because networks differ in how far all their layers move. Depth and the other
    variable are not correlated over both networks. So ρ with depth is the mean of the networks' ρ, and the other one is
    half of their difference.
    """
    ranks = np.concatenate([rankdata(values) for values in (rises, falls)])
    depths, other = np.tile(DEPTHS, 2), np.concatenate([DEPTHS, DEPTHS[::-1]])
    return {
        "depth": spearman(depths, ranks),
        "other": spearman(other, ranks),
        "depth given other": partial_spearman(depths, ranks, other),
        "other given depth": partial_spearman(other, ranks, depths),
    }


def pair_ratios(rises: Array, falls: Array) -> dict[str, float]:
    """By which factor values grow from the first layer to the last, and from the least of the other to the most."""
    first, second = rises[-1] / rises[0], falls[-1] / falls[0]
    return {"last ÷ first": math.sqrt(first * second), "most ÷ least": math.sqrt(first / second)}
