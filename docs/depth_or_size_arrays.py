# SPDX-License-Identifier: Apache-2.0
"""What ``docs/depth_or_size.py`` knows of the curves that the paper's authors recorded, and of their measure."""

import math
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
import timm
import torch
from scipy.stats import levy_stable
from torch import nn
from torchvision.models import resnet34

from lightning_rwc.experiments.statistics import depth_and_size, partial_spearman, spearman
from lightning_rwc.weightscale.layer_kinds import layer_kinds

Array = npt.NDArray[np.float64]

NETWORKS = {"resnet": "ResNet", "efficientnet": "EfficientNet"}
DATA = {"cifar10": ("CIFAR-10", 10), "cifar100": ("CIFAR-100", 100), "svhn": ("SVHN", 10)}
"""Name in the names of files to the name and the number of classes."""
_TIMM = "efficientnet_b4"
_TORCHVISION = {"shortcut": "downsample", "linear": "fc"}
_OUTER = r"^conv1$|^conv_stem$|downsample|^fc$|^classifier$"


class Recorded(NamedTuple):
    """One recorded network: a row for each layer, from the first to the last."""

    layers: pd.DataFrame
    """Columns ``change`` (the median over epochs), ``size``, ``deviation`` (of the initial weights) and ``kind``."""

    def inner(self) -> "Recorded":
        """Without stem, classifier and shortcuts."""
        return Recorded(self.layers[~self.layers.index.str.contains(_OUTER)])

    def correlations(self) -> dict[str, float]:
        """Rank correlations of change with depth, size and the inverse of the initial deviation."""
        change, size, deviation = (self.layers[name].to_numpy() for name in ("change", "size", "deviation"))
        return depth_and_size(change, size) | {
            "1/scale": spearman(1 / deviation, change),
            "1/scale given size": partial_spearman(1 / deviation, change, size),
            "size given 1/scale": partial_spearman(size, change, 1 / deviation),
            "depth given 1/scale": partial_spearman(np.arange(len(size)), change, 1 / deviation),
        }

    def thirds(self) -> tuple[float, float]:
        """Median change of the largest third of layers over that of the smallest, and what the definition gives."""
        ordered = self.layers.sort_values("size", kind="stable")
        count = len(ordered) // 3
        small, large = ordered[:count].median(numeric_only=True), ordered[-count:].median(numeric_only=True)
        return large["change"] / small["change"], definition(large["size"]) / definition(small["size"])


def load_recorded(folder: Path, network: str, data: str) -> Recorded:
    """Read ``{anything}-{network}-{data}.csv``: a row for each layer, and a column for each epoch."""
    (path,) = folder.glob(f"*{network}-{data}.csv")
    table = pd.read_csv(path, index_col=0)
    names = [name.removesuffix(".weight") for name in table.index]
    for theirs, ours in _TORCHVISION.items():
        names = [name.replace(theirs, ours) for name in names]
    layers = known_layers(network, DATA[data][1]).loc[names]
    return Recorded(layers.assign(change=np.median(table.to_numpy(), axis=1)))


@cache
def known_layers(network: str, classes: int) -> pd.DataFrame:
    """Size, initial deviation and kind of each layer."""
    is_resnet = network == "resnet"
    with torch.device("meta"):
        module = resnet34(num_classes=classes) if is_resnet else timm.create_model(_TIMM, num_classes=classes)
    kinds = layer_kinds(module)
    rows = {}
    for name, layer in module.named_modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            kind = kinds.get(name, "other")
            if kind == "squeeze-excite":
                kind += f", {name.rpartition('_')[2]}"
            deviation = default_deviation(layer) if is_resnet else timm_deviation(layer)
            rows[name] = {"size": layer.weight.numel(), "deviation": deviation, "kind": kind}
    return pd.DataFrame.from_dict(rows, orient="index")


def default_deviation(layer: nn.Conv2d | nn.Linear) -> float:
    """The deviation of the weights with which PyTorch starts a layer: uniform in ±1/√(number of inputs)."""
    return 1 / math.sqrt(3 * layer.weight[0].numel())


def timm_deviation(layer: nn.Conv2d | nn.Linear) -> float:
    """The deviation of the weights with which timm starts a layer of an EfficientNet: by its number of outputs."""
    if isinstance(layer, nn.Linear):
        return 1 / math.sqrt(3 * layer.out_features)
    return math.sqrt(2 * layer.groups / (layer.out_channels * math.prod(layer.kernel_size)))


def definition(size: float) -> float:
    """The median of the elementwise mean over layers of ``size`` weights that all have an l1 change of 1.

    Weights and their changes are Gaussian and independent. Each ratio of the two is then half of a Cauchy variable, so
    that the mean has no expectation. Shifted by (2/π)(ln size + 1 − γ), it tends to a stable law with α = β = 1.
    """
    return 2 / math.pi * (math.log(size) + 1 - np.euler_gamma) + _stable_median()


@cache
def _stable_median() -> float:
    return float(levy_stable.ppf(0.5, 1, 1))


def simulated_definition(size: int, draws: int, change: float, rng: np.random.Generator) -> tuple[Array, Array]:
    """Draw layers whose weights all change alike, and return the l1 change and the elementwise mean of each."""
    l1, elementwise = [], []
    for _ in range(draws):
        weights, changes = rng.standard_normal(size), change * rng.standard_normal(size)
        l1.append(np.abs(changes).sum() / np.abs(weights).sum())
        elementwise.append(np.mean(np.abs(changes) / np.abs(weights)))
    return np.array(l1), np.array(elementwise)
