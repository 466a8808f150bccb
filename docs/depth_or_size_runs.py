# SPDX-License-Identifier: Apache-2.0
"""The trainings of ``docs/depth_or_size.py``: networks whose layers grow with depth, shrink, or stay equal."""

import time
from collections import OrderedDict
from itertools import pairwise, product
from pathlib import Path
from typing import Literal, NamedTuple

import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional

from lightning_rwc import RelativeWeightChange, relative_weight_change
from lightning_rwc.experiments.data import load_images

# Fixed before any curve of these runs was looked at. A run ends after EPOCHS epochs, and every run counts, whatever its
# accuracy. The value of a layer is its median over epochs. An effect is one whose 95 % interval over SEEDS leaves out
# 0. Short trainings with another seed chose the learning rates: at 0.05, the shrinking network without normalisation
# stayed at 10 % accuracy. The starts with Adam were added when the authors' arrays had been analysed.
SEEDS = range(3)
EPOCHS, IMAGES, BATCH = 6, 20_000, 128
SAMPLE = 500

GROWING = (8, 8, 12, 16, 20, 24, 32, 40, 48)
NETWORKS = {"equal": (24,) * len(GROWING), "growing": GROWING, "shrinking": GROWING[::-1]}
"""Network to the channels before the first of its convolutions and after each of them."""


class Start(NamedTuple):
    """How networks start and learn."""

    weights: Literal["default", "kaiming"] | tuple[float, float]
    """Initial weights: by name, or their deviation in the first and in the last convolution."""
    normalised: bool = True
    """Whether batch normalisation follows each convolution."""
    adam: bool = False
    learning_rate: float = 0.05
    networks: tuple[str, ...] = tuple(NETWORKS)


STARTS = {
    "default, batch norm": Start("default"),
    "Kaiming, batch norm": Start("kaiming"),
    "Kaiming, no norm": Start("kaiming", normalised=False, learning_rate=0.02),
    "Adam, same scale": Start((0.04, 0.04), adam=True, learning_rate=0.001, networks=("growing", "shrinking")),
    "Adam, falling scale": Start((0.08, 0.02), adam=True, learning_rate=0.001, networks=("equal",)),
    "Adam, rising scale": Start((0.02, 0.08), adam=True, learning_rate=0.001, networks=("equal",)),
}
"""With PyTorch's default and no normalisation, eight layers leave too little of a signal, so that start is missing."""
LAYERS = [f"conv{number}" for number in range(1, len(GROWING))]
MEASURES = ("l1", "l1, equal samples", "elementwise", "elementwise, equal samples", "rotation", "l1 since the start")


class Run(NamedTuple):
    """One training."""

    network: str
    start: str
    seed: int

    @property
    def name(self) -> str:
        """The name of its file of curves."""
        return f"{self.network}-{self.start.replace(', ', '-').replace(' ', '-').lower()}-{self.seed}"


RUNS = [Run(network, start, seed) for seed, start in product(SEEDS, STARTS) for network in STARTS[start].networks]


def sizes(network: str) -> list[int]:
    """The number of weights of each of the eight convolutions."""
    channels = NETWORKS[network]
    return [9 * before * after for before, after in pairwise(channels)]


def build(network: str, start: Start) -> nn.Sequential:
    """A stem to 7×7 pixels, eight convolutions that all see 7×7 pixels, and a linear layer."""
    channels = NETWORKS[network]
    convs = [nn.Conv2d(1, channels[0], 7, stride=4, padding=3, bias=False)]
    convs += [nn.Conv2d(*pair, 3, padding=1, bias=False) for pair in pairwise(channels)]
    modules: OrderedDict[str, nn.Module] = OrderedDict()
    for name, conv in zip(["stem", *LAYERS], convs, strict=True):
        if start.weights == "kaiming":
            nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
        elif name != "stem" and start.weights != "default":
            share = LAYERS.index(name) / (len(LAYERS) - 1)
            first, last = start.weights
            nn.init.normal_(conv.weight, std=first ** (1 - share) * last**share)
        modules[name] = conv
        if start.normalised:
            modules[f"{name}_norm"] = nn.BatchNorm2d(conv.out_channels)
        modules[f"{name}_relu"] = nn.ReLU()
    modules |= {"pool": nn.AdaptiveAvgPool2d(1), "flat": nn.Flatten(), "head": nn.Linear(channels[-1], 10)}
    return nn.Sequential(modules)


class Recorder:
    """Measures the eight convolutions at the end of each epoch."""

    def __init__(self, net: nn.Module) -> None:
        layers = r"^conv\d\.weight$"
        self.net = net
        self._whole = RelativeWeightChange(net, layers=layers, movements=("rotation",))
        self._metrics = {
            "l1": self._whole,
            "l1, equal samples": RelativeWeightChange(net, layers=layers, max_elements=SAMPLE),
            "elementwise": RelativeWeightChange(net, layers=layers, norm="elementwise"),
            "l1 since the start": RelativeWeightChange(net, layers=layers, relative_to="initial"),
        }
        draws = torch.Generator().manual_seed(0)
        self._weights = {name: net.get_parameter(f"{name}.weight") for name in LAYERS}
        self._chosen = {
            name: torch.randperm(weight.numel(), generator=draws)[:SAMPLE] for name, weight in self._weights.items()
        }
        self._before = self._samples()
        self.rows: list[dict[str, str | int | float]] = []

    def measure(self, epoch: int) -> None:
        """Add a row for each measure."""
        values: dict[str, dict[str, Tensor]] = {}
        for name, metric in self._metrics.items():
            metric.update(self.net)
            values[name] = metric.compute()
        values["rotation"] = self._whole.movement("rotation")
        samples = self._samples()
        values["elementwise, equal samples"] = {
            name: relative_weight_change(self._before[name], sample, norm="elementwise")
            for name, sample in samples.items()
        }
        self._before = samples
        for name in MEASURES:
            self.rows.append({"measure": name, "epoch": epoch, **{key: float(x) for key, x in values[name].items()}})

    def _samples(self) -> dict[str, Tensor]:
        return {name: weight.detach().flatten()[self._chosen[name]] for name, weight in self._weights.items()}


def train(run: Run, epochs: int = EPOCHS, images: int = IMAGES) -> tuple[pd.DataFrame, float]:
    """Train, and return the curves and the test accuracy."""
    (pixels, labels), test = load(images)
    torch.manual_seed(run.seed)
    start = STARTS[run.start]
    net = build(run.network, start)
    optimizer: torch.optim.Optimizer = torch.optim.SGD(net.parameters(), lr=start.learning_rate, momentum=0.9)
    if start.adam:
        optimizer = torch.optim.Adam(net.parameters(), lr=start.learning_rate)
    recorder = Recorder(net)
    for epoch in range(epochs):
        for chosen in torch.randperm(len(labels)).split(BATCH):
            optimizer.zero_grad()
            functional.cross_entropy(net(pixels[chosen]), labels[chosen]).backward()
            optimizer.step()
        recorder.measure(epoch)
    net.eval()
    with torch.no_grad():
        hits = [(net(x).argmax(1) == y).sum() for x, y in zip(*(part.split(1000) for part in test), strict=True)]
    return pd.DataFrame(recorder.rows), float(sum(hits)) / len(test[1])


def load(count: int) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """The first images of the training set and all of the test set, with their labels.

    Pixels have mean 0 and deviation 1 over the training images.
    """
    training, test = (data.tensors for data in load_images("fashion-mnist", Path("data")))
    pixels, labels = training[0][:count].float(), training[1][:count]
    mean, deviation = pixels.mean(), pixels.std()
    return ((pixels - mean) / deviation, labels), ((test[0].float() - mean) / deviation, test[1])


def train_missing(folder: Path) -> None:
    """Train the runs that ``folder`` lacks, and write their curves to it."""
    folder.mkdir(parents=True, exist_ok=True)
    finished = folder / "finished.csv"
    if not finished.exists():
        finished.write_text("run,test_accuracy,cpu_seconds\n", encoding="utf-8")
    for run in RUNS:
        if run.name in pd.read_csv(finished)["run"].tolist():
            continue
        start = time.process_time()
        curves, accuracy = train(run)
        curves.to_csv(folder / f"{run.name}.csv", index=False, float_format="%.6g")
        line = f"{run.name},{accuracy:.4f},{time.process_time() - start:.0f}"
        with finished.open("a", encoding="utf-8") as file:
            file.write(f"{line}\n")
        print(line, flush=True)  # noqa: T201
