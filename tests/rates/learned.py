# SPDX-License-Identifier: Apache-2.0
"""The command ``python -m tests.rates.learned``: how well could any rule tell that a learning rate is too high?"""

import pickle
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.model_selection import GroupKFold

from tests.faults.optimizers import OPTIMIZERS
from tests.rates.replay import mark
from tests.rates.runs import CADENCES

# The moments, in optimizer steps, at which the classifier sees the layers.
_STEPS = (10, 20, 40, 80, 150, 250, 400)
_QUARTILES = (0, 25, 50, 75, 100)
# Times the highest healthy learning rate. Below the first one, a training is called neither healthy nor sick.
_SICK, _GROUPS = 4, {"10 times": (5, 15), "30 times": (15, 50)}
_FOLDS = 16


def main(folder: Annotated[Path, typer.Argument(help="the folder of trainings that `tests.rates` recorded")]) -> None:
    """Train a classifier on recorded trainings, and show what it finds in others.

    Gradient-boosted trees see the quartiles over layers of weight change, rotation and growth at seven moments, the
    learning rate and the optimizer. They judge trainings that they have not seen: those of other architectures, or any
    others. The threshold is the highest score of a healthy training, or the one that 1 % of them exceed.
    """
    runs = mark([pickle.loads(path.read_bytes()) for path in sorted(folder.glob("*.pkl"))])
    # The quality of a GAN says little.
    runs = [r for r in runs if r["about"]["healthy"] or (r["about"]["above"] > _SICK and not _is_gan(r))]
    healthy = np.array([run["about"]["healthy"] for run in runs])
    above = np.array([run["about"]["above"] for run in runs])
    folds = {
        "other architectures": np.unique([run["about"]["architecture"] for run in runs], return_inverse=True)[1],
        "others": np.random.default_rng(0).integers(0, _FOLDS, len(runs)),
    }
    for cadence in CADENCES:
        seen = np.stack([features(run, cadence) for run in runs])
        for title, groups in folds.items():
            scores = judged(seen, ~healthy, groups)
            for allowed in (0, 0.01):
                least = np.quantile(scores[healthy], 1 - allowed)
                found = {
                    times: (scores[~healthy & (low < above) & (above < high)] > least).mean()
                    for times, (low, high) in _GROUPS.items()
                }
                shares = ", ".join(f"{share:.2f} at {times}" for times, share in found.items())
                print(f"every {cadence}, {title}, {allowed:.0%} false alarms: {shares}", flush=True)


def features(run, cadence):
    """What the classifier sees of a training."""
    about, table = run["about"], run[cadence].astype(float)[:, :, np.array(run["about"]["trainable"])]
    steps = np.diff(run[f"{cadence} steps"] + 1, prepend=0)
    ends, roots = np.cumsum(steps), np.sqrt(steps)[:, None]
    rates = np.interp(ends, np.arange(len(run["rates"])) + 1, run["rates"])[:, None].clip(min=1e-12)
    with np.errstate(all="ignore"):
        changes, rotations = (np.log10(part / roots).clip(min=-14) for part in table[:2])
        parts = [changes, rotations, np.cumsum(np.log1p(table[2]), axis=0), changes - np.log10(rates), table[3]]
    rows = np.searchsorted(ends, _STEPS).clip(max=len(ends) - 1)
    seen = [_quartiles(part[row]) for part in parts for row in rows]
    known = [np.log10(about["rate"]), len(about["layers"]), steps.sum(), not np.isfinite(table[0]).all()]
    return np.array([*np.concatenate(seen), *known, [*OPTIMIZERS].index(about["optimizer"])], dtype=float)


def judged(seen, sick, groups):
    """The score of each training, by a classifier that has not seen its group."""
    scores = np.zeros(len(seen))
    for known, unknown in GroupKFold(len(set(groups))).split(seen, sick, groups):
        trees = {"max_iter": 150, "learning_rate": 0.07, "max_leaf_nodes": 15, "random_state": 0}
        model = HistGradientBoostingClassifier(**trees, categorical_features=[seen.shape[1] - 1])
        scores[unknown] = model.fit(seen[known], sick[known]).predict_proba(seen[unknown])[:, 1]
    return scores


def _quartiles(values):
    finite = values[np.isfinite(values)]
    return np.percentile(finite, _QUARTILES) if finite.size else np.full(len(_QUARTILES), np.nan)


def _is_gan(run):
    return run["about"]["architecture"] == "GAN"


if __name__ == "__main__":
    typer.run(main)
