# SPDX-License-Identifier: Apache-2.0
"""Folders of experiments that were never trained, with curves whose truth is known."""

import json
import math

import numpy as np
import pandas as pd
import yaml

from lightning_rwc import RWCHistory
from lightning_rwc.experiments.results import NORMS, RECORDED

ALEXNET = ["features.0", "features.3", "features.6", "features.8", "features.10", "classifier"]
EARLY, MIDDLE, LATER = [0], [1, 2], [3, 4]
SIZES = [576, 110_592, 663_552, 884_736, 589_824, 2_560]


def settings(data="fashion-mnist", epochs=4):
    return {
        "model": {"architecture": "alexnet", "like": "authors", "learning_rate": 0.1, "channels": 1, "classes": 10},
        "data": {"name": data, "subset": 100, "batch_size": 128},
        "trainer": {"precision": "bf16-mixed"},
        "epochs": epochs,
        "processes": 1,
    }


def curves(levels, seed, recording, epochs=4, spread=0.02):
    """The levels of layers with log-normal noise of ``spread``."""
    rng = np.random.default_rng([seed, list(RECORDED).index(recording)])
    return np.array(levels) * np.exp(spread * rng.normal(size=(epochs, len(levels))))


def store(out, levels, *, seeds=(0, 1, 2), accuracy=0.88, spread=0.02, sizes=SIZES, recordings=NORMS, **known):
    """Store finished runs of AlexNet whose layers have these mean levels, and return the tables by recording.

    ``levels`` may also be a function of a seed and a recording to a table.
    """
    known = known or settings()
    out.mkdir(parents=True)
    (out / "settings.yaml").write_text(yaml.safe_dump(known))
    if sizes is not None:
        pd.DataFrame({"layer": ALEXNET, "size": sizes}).to_csv(out / "layers.csv", index=False)
    tables = {recording: [] for recording in recordings}
    for seed in seeds:
        folder = out / f"seed_{seed}"
        folder.mkdir()
        for recording in recordings:
            made = levels(seed, recording) if callable(levels) else curves(levels, seed, recording, spread=spread)
            tables[recording].append(made)
            history = RWCHistory(ALEXNET, range(len(made)), range(len(made)), made)
            history.save(folder / f"{RECORDED[recording]}.csv")
        ended = {"seed": seed, "test_top1": accuracy + math.sin(seed) / 1000, "test_top5": 0.99}
        (folder / "finished.json").write_text(json.dumps(ended))
    (out / "seed_99").mkdir()  # begun, not finished
    return {recording: np.stack(table) for recording, table in tables.items() if table}
