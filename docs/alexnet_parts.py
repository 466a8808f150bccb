# SPDX-License-Identifier: Apache-2.0
"""Which part of the authors' AlexNet makes its first layer change less than the next ones?

    python -m docs.alexnet_parts

Each training starts from the authors' AlexNet and takes over one part of the modern one. The rule was fixed beforehand:
all 60,000 images of Fashion-MNIST, ten epochs, seed 0, learning rate and decay of the paper's table 1, bfloat16. Tables
of finished trainings are in `docs/experiments/alexnet_parts` and are not trained again. The variant with two parts was
added when those with one part were known.
"""

import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from lightning.pytorch import Trainer, seed_everything
from torch import nn

from lightning_rwc import RWCCallback, RWCHistory
from lightning_rwc.experiments import authors
from lightning_rwc.experiments.classifier import Classifier, layer_name
from lightning_rwc.experiments.data import Images
from lightning_rwc.experiments.groups import paper_groups
from lightning_rwc.norms import Norm

CURVES = Path(__file__).parent / "experiments" / "alexnet_parts"
EPOCHS, SEED = 10, 0
LIKE_AUTHORS: dict[str, Any] = {"shuffle": False, "fit": "resize", "augment": "flip", "normalise": "none"}
NORMS: tuple[Norm, ...] = ("l1", "elementwise")


class Parts(NamedTuple):
    """Which parts are those of the modern AlexNet."""

    stem: bool = False
    second: bool = False
    head: bool = False
    no_dropout: bool = False
    images: bool = False
    small_stem: bool = False
    """Not of the modern one: initial weights of the first convolution as small as those of the second."""


VARIANTS = {
    "authors": Parts(),
    "first convolution 11×11 of stride 4": Parts(stem=True),
    "second convolution 5×5": Parts(second=True),
    "head of one layer": Parts(head=True),
    "no dropout": Parts(no_dropout=True),
    "images of the modern version": Parts(images=True),
    "first convolution starts at an eighth": Parts(small_stem=True),
    "first convolution and images of the modern version": Parts(stem=True, images=True),
    "modern with the head of the authors": Parts(stem=True, second=True, images=True),
    "modern": Parts(stem=True, second=True, head=True, images=True),
}


def alexnet(parts: Parts, classes: int = 10) -> nn.Module:
    """Build AlexNet for grey images of 32×32 pixels from some parts of the modern network, the others the authors'."""
    model = authors.alexnet(1, classes)
    features = 256 if parts.stem else 1024
    if parts.stem:
        model.set_submodule("features.0", nn.Conv2d(1, 64, 11, stride=4, padding=5))
        model.set_submodule("classifier.1", nn.Linear(features, 4096))
    if parts.second:
        model.set_submodule("features.3", nn.Conv2d(64, 192, 5, padding=2))
    if parts.no_dropout:
        for position in (0, 3):
            model.set_submodule(f"classifier.{position}", nn.Identity())
    if parts.head:
        model.classifier = nn.Linear(features, classes)
    if parts.small_stem:
        # PyTorch's default scale is one over the root of the number of inputs: 9 here, and 64·9 in the second.
        nn.init.uniform_(model.get_parameter("features.0.weight"), -1 / 24, 1 / 24)
    return model


def train(name: str, data_dir: str) -> None:
    """Train one variant, and keep its tables and its accuracy."""
    parts, folder = VARIANTS[name], _folder(name)
    if (folder / "finished.json").exists():
        return
    seed_everything(SEED)
    model = Classifier(architecture="alexnet", learning_rate=0.1, weight_decay=1e-4)
    model.network = alexnet(parts)
    images = Images(name="fashion-mnist", data_dir=data_dir, seed=SEED, **({} if parts.images else LIKE_AUTHORS))
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
