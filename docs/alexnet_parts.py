# SPDX-License-Identifier: Apache-2.0
"""Which part of the authors' AlexNet makes its first layer change less than the next ones?

    python -m docs.alexnet_parts

Each training starts from the modern AlexNet and takes over one part of the authors'. The rule was fixed beforehand: all
60,000 images of Fashion-MNIST, ten epochs, seed 0, learning rate and decay of the paper's table 1, bfloat16. Tables of
finished trainings are in `docs/experiments/alexnet_parts` and are not trained again.
"""

import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from lightning.pytorch import Trainer, seed_everything
from torch import nn

from lightning_rwc import RWCCallback, RWCHistory
from lightning_rwc.experiments.classifier import Classifier, layer_name
from lightning_rwc.experiments.data import Images
from lightning_rwc.experiments.groups import paper_groups
from lightning_rwc.norms import Norm

CURVES = Path(__file__).parent / "experiments" / "alexnet_parts"
EPOCHS, SEED = 10, 0
NORMS: tuple[Norm, ...] = ("l1", "elementwise")


class Parts(NamedTuple):
    """Which parts are those of the authors."""

    stem: bool = False
    second: bool = False
    head: bool = False
    dropout: bool = False
    pixels: bool = False


VARIANTS = {
    "modern": Parts(),
    "second convolution 3×3": Parts(second=True),
    "head of three layers": Parts(head=True),
    "head of three layers with dropout": Parts(head=True, dropout=True),
    "pixels from 0 to 1": Parts(pixels=True),
    "stem 3×3 of stride 2": Parts(stem=True),
}


def alexnet(parts: Parts, classes: int = 10) -> nn.Module:
    """Build AlexNet for grey images of 32×32 pixels from some parts of the authors' network, the others modern."""
    stem = nn.Conv2d(1, 64, 3, stride=2, padding=1) if parts.stem else nn.Conv2d(1, 64, 11, stride=4, padding=5)
    second = nn.Conv2d(64, 192, 3, padding=1) if parts.second else nn.Conv2d(64, 192, 5, padding=2)
    features = 1024 if parts.stem else 256
    dropout = nn.Dropout() if parts.dropout else nn.Identity()
    hidden = (dropout, nn.Linear(features, 4096), nn.ReLU(), dropout, nn.Linear(4096, 1024), nn.ReLU())
    model = nn.Sequential()
    model.features = nn.Sequential(
        *(stem, nn.ReLU(), nn.MaxPool2d(2), second, nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(192, 384, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(384, 256, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(256, 256, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
    )
    model.flatten = nn.Flatten()
    model.classifier = nn.Sequential(*hidden, nn.Linear(1024, classes)) if parts.head else nn.Linear(features, classes)
    return model


def train(name: str, data_dir: str) -> None:
    """Train one variant, and keep its tables and its accuracy."""
    parts, folder = VARIANTS[name], _folder(name)
    if (folder / "finished.json").exists():
        return
    seed_everything(SEED)
    model = Classifier(architecture="alexnet", like="modern", learning_rate=0.1, weight_decay=1e-4)
    model.network = alexnet(parts)
    images = Images(name="fashion-mnist", data_dir=data_dir, normalise="none" if parts.pixels else "data", seed=SEED)
    callbacks: list[Any] = [RWCCallback(norm=norm, group_by=layer_name, prefix=f"rwc_{norm}") for norm in NORMS]
    quiet = {"logger": False, "enable_checkpointing": False, "enable_model_summary": False}
    trainer = Trainer(max_epochs=EPOCHS, devices=1, precision="bf16-mixed", callbacks=[*callbacks], **quiet)
    trainer.fit(model, images)
    (accuracies,) = trainer.test(model, images, verbose=False)
    folder.mkdir(parents=True, exist_ok=True)
    for norm, callback in zip(NORMS, callbacks, strict=True):
        callback.history.save(folder / f"{norm}.csv")
    (folder / "finished.json").write_text(json.dumps({"variant": name, "accuracy": accuracies["test_top1"]}))


class Record(NamedTuple):
    """What a training has shown."""

    accuracy: float
    ratios: dict[str, tuple[float, float]]
    """Norm to the ratio of early to middle layers, a geometric mean over epochs, and the share of epochs below 1."""


def finished() -> list[str]:
    """Return the variants whose tables exist."""
    return [name for name in VARIANTS if (_folder(name) / "finished.json").exists()]


def load(name: str) -> Record:
    """Read the tables of a variant."""
    ratios = {}
    for norm in NORMS:
        history = RWCHistory.load(_folder(name) / f"{norm}.csv")
        groups = paper_groups("alexnet", history.layers)
        early, middle = (
            history.values[:, np.isin(history.layers, groups[part])].mean(1) for part in ("early", "middle")
        )
        ratios[norm] = float(np.exp(np.log(early / middle).mean())), float((early < middle).mean())
    return Record(json.loads((_folder(name) / "finished.json").read_text())["accuracy"], ratios)


def _folder(name: str) -> Path:
    return CURVES / name.replace(" ", "_").replace("×", "x")


def main() -> None:
    """Train what is missing."""
    for name in VARIANTS:
        train(name, sys.argv[1] if len(sys.argv) > 1 else "data")


if __name__ == "__main__":
    main()
