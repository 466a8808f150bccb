# SPDX-License-Identifier: Apache-2.0
"""The results in the folder of an experiment, and their summaries over epochs."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import pandas as pd
import yaml

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
FAILED_SHARE = 0.5
"""A run has failed if its accuracy is below this share of the best run's."""
LAYERS = "layers.csv"
SETTINGS = "settings.yaml"
FINISHED = "finished.json"

Array: TypeAlias = npt.NDArray[np.float64]
Summary: TypeAlias = Literal["mean", "geometric mean", "median"]


def _geometric_mean(curves: Array) -> Array:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.exp(np.log(curves).mean(axis=1)))


SUMMARIES: dict[Summary, Callable[[Array], Array]] = {
    "mean": lambda curves: np.asarray(curves.mean(axis=1)),
    "geometric mean": _geometric_mean,
    "median": lambda curves: np.asarray(np.median(curves, axis=1)),
}
"""Summaries over epochs, the second axis. The paper takes the mean, which a single epoch can decide."""


def seed_folder(out: Path, seed: int) -> Path:
    """Return the folder of the run with ``seed``."""
    return out / f"seed_{seed}"


def history_file(folder: Path, recording: str) -> Path:
    """Return the file of a run's history of a ``recording``."""
    return folder / f"{RECORDED[recording]}.csv"


@dataclass(frozen=True)
class Results:
    """The finished runs of one experiment.

    Runs that have failed are left out of all attributes but ``failed``. A network that has not learned says nothing of
    how layers learn.

    Attributes:
        settings: the settings of model, data and training.
        runs: the final values of each seed: ``seed``, ``test_top1``, ``test_top5``, …
        failed: the same for the runs that are left out, see :data:`FAILED_SHARE`.
        layers: names of the layers, in definition order.
        sizes: the number of weights of each layer, or ``nan`` if the folder does not say.
        curves: recording to an array of shape ``(seeds, epochs, layers)``. It has every norm, and each further
            recording that all seeds have.

    """

    settings: dict[str, Any]
    runs: list[dict[str, Any]]
    failed: list[dict[str, Any]]
    layers: list[str]
    sizes: Array
    curves: dict[str, Array]

    @property
    def architecture(self) -> str:
        """The model's name."""
        return str(self.settings["model"]["architecture"])

    @property
    def like(self) -> str | None:
        """Whose network this is, or ``None`` in folders that do not say."""
        like: str | None = self.settings["model"].get("like")
        return like

    @property
    def data(self) -> str:
        """The data set's name."""
        return str(self.settings["data"]["name"])

    @property
    def precision(self) -> str:
        """The Trainer's precision."""
        # Older folders have it beside the other settings.
        return str(self.settings.get("trainer", self.settings).get("precision", "32-true"))

    @property
    def seeds(self) -> list[int]:
        """The seeds, in ascending order."""
        return [run["seed"] for run in self.runs]

    def accuracy(self, name: str = "test_top1") -> Array:
        """Return the test accuracy of each seed."""
        return np.array([run[name] for run in self.runs])

    def group_curves(self, recording: str, layers: list[str]) -> Array:
        """Return the mean over ``layers`` in each epoch, of shape ``(seeds, epochs)``."""
        return np.asarray(self.curves[recording][:, :, np.isin(self.layers, layers)].mean(axis=2))

    def by_layer(self, recording: str, summary: Summary) -> Array:
        """Return the summary over epochs of each layer, of shape ``(seeds, layers)``."""
        return SUMMARIES[summary](self.curves[recording])


def load_results(out: Path) -> Results:
    """Read the finished runs of an experiment.

    Raises:
        FileNotFoundError: if ``out`` has no finished run.
        ValueError: if the runs have different numbers of epochs.

    """
    folders = [path.parent for path in out.glob(f"seed_*/{FINISHED}")]
    if not folders:
        raise FileNotFoundError(f"{out} has no finished run.")
    ended = {folder: json.loads((folder / FINISHED).read_text(encoding="utf-8")) for folder in folders}
    folders.sort(key=lambda folder: ended[folder]["seed"])
    least = FAILED_SHARE * max(run["test_top1"] for run in ended.values())
    failed = [ended[folder] for folder in folders if ended[folder]["test_top1"] < least]
    folders = [folder for folder in folders if ended[folder] not in failed]
    histories = {
        name: [RWCHistory.load(history_file(folder, name)) for folder in folders]
        for name in RECORDED
        if name in NORMS or _all_have(folders, name)
    }
    if len({len(history) for history in histories["l1"]}) > 1:
        lengths = ", ".join(
            f"{len(history)} ({folder.name})" for folder, history in zip(folders, histories["l1"], strict=True)
        )
        raise ValueError(
            f"The runs in {out} have different numbers of epochs: {lengths}. Remove the shorter ones, and train them "
            "again without a callback or a flag that ends them early."
        )
    layers = histories["l1"][0].layers
    return Results(
        yaml.safe_load((out / SETTINGS).read_text(encoding="utf-8")),
        [ended[folder] for folder in folders],
        failed,
        layers,
        _sizes(out / LAYERS, layers),
        {name: np.stack([one.reordered(layers).values for one in runs]) for name, runs in histories.items()},
    )


def _all_have(folders: list[Path], recording: str) -> bool:
    return all(history_file(folder, recording).exists() for folder in folders)


def _sizes(file: Path, layers: list[str]) -> Array:
    if not file.exists():
        return np.full(len(layers), np.nan)
    table = pd.read_csv(file, index_col="layer", dtype={"layer": str}, keep_default_na=False)
    return table["size"].reindex(layers).to_numpy(np.float64)
