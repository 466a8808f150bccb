# SPDX-License-Identifier: Apache-2.0
"""What the likely rules say of a recorded training, and which trainings count as healthy."""

from functools import lru_cache

import numpy as np

from lightning_rwc.findings.kinds import kinds_of
from lightning_rwc.findings.likely import LIKELY
from lightning_rwc.findings.trends import Moves, Trends
from lightning_rwc.layers import LayerSelection
from tests.faults.architectures import ARCHITECTURES
from tests.faults.training import Training

HEALTHY = 0.95


def mark(groups):
    """Say of each run how good it is, and how far its learning rate is above the highest one that is healthy.

    A run is healthy if it reaches 95 % of the best accuracy in its group. For tasks without an accuracy, that is 95 %
    of the way from the start to the best. Groups in which no learning rate reaches 80 % of what other groups reach with
    the same architecture and data are left out.
    """
    best = {}
    for runs in groups:
        about, top = runs[0]["about"], max(run["about"]["quality"] for run in runs)
        key = about["architecture"], about["data"]
        best[key] = max(best.get(key, top), top)
    kept = []
    for runs in groups:
        about, top = runs[0]["about"], max(run["about"]["quality"] for run in runs)
        accurate = ARCHITECTURES[about["architecture"]].task == "classify"
        if accurate and top < 0.8 * best[about["architecture"], about["data"]]:
            continue
        for run in runs:
            quality, start = run["about"]["quality"], run["about"]["start"]
            relative = quality / top if accurate else (quality - start) / max(top - start, 1e-9)
            run["about"]["healthy"] = top > start and relative >= HEALTHY
        healthy = [run["about"]["factor"] for run in runs if run["about"]["healthy"]]
        finest = max(runs, key=lambda run: run["about"]["quality"])["about"]["factor"]
        for run in runs:
            run["about"]["above"] = run["about"]["factor"] / max(healthy, default=np.inf)
            run["about"]["below"] = min(healthy, default=0) / run["about"]["factor"]
            run["about"]["times_best"] = run["about"]["factor"] / finest
        kept += runs
    return kept


def replay(run, cadence):
    """The likely kinds that are told of a run that was measured at this cadence."""
    about, table = run["about"], run[cadence].astype(float)
    steps = np.diff(run[f"{cadence} steps"] + 1, prepend=0)
    trainable = np.array(about["trainable"])
    changes, rotations, growths, _ = table
    with np.errstate(all="ignore"):
        moved = np.sqrt(growths**2 + 4 * (1 + growths) * np.sin(rotations / 2) ** 2)
    moved[np.isinf(growths)] = np.inf
    trends, kinds, told = Trends(), _kinds(about["architecture"], about["optimizer"]), {}
    trends.follow(about["layers"])
    trends.planned_steps = float(steps.sum())
    ends = np.cumsum(steps) // about["per"]
    for row, end in enumerate(ends):
        if np.isnan(changes[row]).any():
            break
        first = ends[row - 1] if row else 0
        rate = run["rates"][min(first, len(run["rates"]) - 1) : max(end, first + 1)].max(initial=0)
        rates = np.full(len(trainable), float(rate))
        trends.add(Moves(np.where(trainable, moved[row], np.nan), rotations[row], growths[row], rates, int(steps[row])))
        for rule in LIKELY:
            if rule.kind not in told and rule.explained_by.isdisjoint(told) and rule.applies(trends, kinds).any():
                told[rule.kind] = trends.steps
    return told


@lru_cache
def _kinds(name, optimizer):
    training = Training(ARCHITECTURES[name], optimizer)
    optimizers = training.configure_optimizers()
    return kinds_of(training, LayerSelection().find(training), optimizers)
