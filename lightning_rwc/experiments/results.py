# SPDX-License-Identifier: Apache-2.0
"""The results in the folder of an experiment, and their statistics over seeds."""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import yaml

from lightning_rwc.depth import depth_correlation
from lightning_rwc.history import RWCHistory
from lightning_rwc.norms import Norm

NORMS: tuple[Norm, ...] = ("l1", "l2", "elementwise")
"""The norms under which claims are judged."""
RECORDED = {
    "l1": "rwc",
    "l2": "rwc_l2",
    "elementwise": "rwc_elementwise",
    "rotation": "rwc_rotation",
    "l1 since the start": "rwc_initial",
    "elementwise, equal samples": "rwc_sample",
}
"""What each run records, and the name of its table. Tables of norms have the prefix of their tags as names."""
LAYERS = "layers.csv"
SETTINGS = "settings.yaml"
FINISHED = "finished.json"

Array = npt.NDArray[np.float64]


def seed_folder(out: Path, seed: int) -> Path:
    """Return the folder of the run with ``seed``."""
    return out / f"seed_{seed}"


def history_file(folder: Path, recording: str) -> Path:
    """Return the file of a run's history of a ``recording``."""
    return folder / f"{RECORDED[recording]}.csv"


class Interval(NamedTuple):
    """A mean over seeds with its 95 % confidence interval by Student's t. With one seed its limits are ``nan``."""

    mean: float
    low: float
    high: float


def interval(samples: npt.ArrayLike) -> Interval:
    """Return the mean of the samples, one per seed, with its 95 % confidence interval.

    Example:
        >>> [round(limit, 3) for limit in interval([1.0, 2.0, 3.0])]
        [2.0, -0.484, 4.484]

    """
    from scipy.stats import t

    values = np.asarray(samples, dtype=np.float64)
    mean = float(values.mean())
    if len(values) < 2 or not np.isfinite(values).all():
        return Interval(mean, math.nan, math.nan)
    reach = float(t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / math.sqrt(len(values)))
    return Interval(mean, mean - reach, mean + reach)


@dataclass(frozen=True)
class Results:
    """The finished runs of one experiment.

    Attributes:
        settings: the settings of model, data and training.
        runs: the final values of each seed: ``seed``, ``test_top1``, ``test_top5``, …
        layers: names of the layers, in definition order.
        curves: norm to an array of shape ``(seeds, epochs, layers)``.

    """

    settings: dict[str, Any]
    runs: list[dict[str, Any]]
    layers: list[str]
    curves: dict[str, Array]

    @property
    def architecture(self) -> str:
        """The model's name."""
        return str(self.settings["model"]["architecture"])

    @property
    def data(self) -> str:
        """The data set's name."""
        return str(self.settings["data"]["name"])

    @property
    def seeds(self) -> list[int]:
        """The seeds, in ascending order."""
        return [run["seed"] for run in self.runs]

    def accuracy(self, name: str = "test_top1") -> Array:
        """Return the test accuracy of each seed."""
        return np.array([run[name] for run in self.runs])

    def means(self, norm: str, layers: list[str]) -> Array:
        """Return each seed's mean relative weight change over epochs and ``layers``."""
        chosen = np.isin(self.layers, layers)
        return np.asarray(self.curves[norm][:, :, chosen].mean(axis=(1, 2)))

    def correlations(self, norm: str) -> Array:
        """Return each seed's Spearman's ρ between a layer's depth and its median relative weight change."""
        return np.array([depth_correlation(medians.tolist()) for medians in np.median(self.curves[norm], axis=1)])


def load_results(out: Path) -> Results:
    """Read the finished runs of an experiment.

    Raises:
        FileNotFoundError: if ``out`` has no finished run.

    """
    folders = [path.parent for path in out.glob(f"seed_*/{FINISHED}")]
    if not folders:
        raise FileNotFoundError(f"{out} has no finished run.")
    ended = {folder: json.loads((folder / FINISHED).read_text(encoding="utf-8")) for folder in folders}
    folders.sort(key=lambda folder: ended[folder]["seed"])
    histories = {norm: [RWCHistory.load(history_file(folder, norm)) for folder in folders] for norm in NORMS}
    return Results(
        yaml.safe_load((out / SETTINGS).read_text(encoding="utf-8")),
        [ended[folder] for folder in folders],
        histories["l1"][0].layers,
        {norm: np.stack([history.values for history in table]) for norm, table in histories.items()},
    )
