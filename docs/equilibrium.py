# SPDX-License-Identifier: Apache-2.0
"""Compares the rotation of layers with the prediction: ``python docs/equilibrium.py`` prints a table.

Two networks train, one with batch normalisation and one without. A copy of the first one's weights is moved by the same
gradients with random signs. ``docs/equilibrium.md`` explains the table. The script needs the packages of ``pip install
-e ".[demo]"`` and about two minutes on one CPU core. ``--quick`` takes fewer steps and images.
"""

import argparse
import math
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import SGD, AdamW, Optimizer

from lightning_rwc.equilibrium import EquilibriumForecast
from lightning_rwc.experiments.data import load_images

BATCH, LABEL_NOISE, SHIFT = 16, 0.3, 1
STEPS = (1, 10, 100)
LAYERS = ("conv1", "conv2", "conv3", "conv4", "fc")
# Both forget a gradient after about 1,000 steps: 1 / (lr · wd), and (1 − momentum) / (lr · wd).
OPTIMIZERS = {
    "AdamW": lambda groups: AdamW(groups, lr=5e-3, weight_decay=0.2),
    "SGD": lambda groups: SGD(groups, lr=0.05, momentum=0.9, weight_decay=2e-3),
}


class Images(NamedTuple):
    """A training set."""

    pixels: Tensor
    labels: Tensor

    def batches(self, count: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Draw images at random, so that no batch knows of another. Shift them, and replace some labels."""
        for _ in range(count):
            chosen = torch.randint(len(self.labels), (BATCH,))
            wrong = torch.rand(BATCH) < LABEL_NOISE
            labels = torch.where(wrong, torch.randint(10, (BATCH,)), self.labels[chosen])
            shifts = torch.randint(-SHIFT, SHIFT + 1, (2,)).tolist()
            yield torch.roll(self.pixels[chosen], shifts, (2, 3)), labels


class Copies:
    """Copies of weights, moved by the gradients of the originals with one random sign a step.

    So the mean of the gradients is zero. As for a normalised layer, they are orthogonal to the copy, and the smaller
    the longer it is.
    """

    def __init__(self, originals: list[nn.Parameter], optimizer: str) -> None:
        self.originals = originals
        self.weights = [nn.Parameter(weight.detach().clone()) for weight in originals]
        self.optimizer: Optimizer = OPTIMIZERS[optimizer](self.weights)

    @torch.no_grad()
    def step(self) -> None:
        """Follow one step of the originals, after their gradients have been computed and before they move."""
        sign = 1 if torch.rand(()) < 0.5 else -1
        for original, copy in zip(self.originals, self.weights, strict=True):
            gradient, square = original.grad, (copy * copy).sum()
            assert gradient is not None
            along = (gradient * copy).sum() / square * copy
            copy.grad = sign * (gradient - along) * (original.norm() / square.sqrt())
        self.optimizer.step()


def main() -> None:
    """Train, and print the ratios of measured and predicted rotation."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer steps, and digits only")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)

    print_row("data", "optimizer", "layers", "steps", "predicted", *LAYERS)
    print_row(*["---"] * (5 + len(LAYERS)))
    for data in ("digits",) if arguments.quick else ("digits", "fashion-mnist"):
        images = load(data)
        for optimizer in OPTIMIZERS:
            for normalised in (True, False):
                torch.manual_seed(arguments.seed)
                train(data, images, optimizer, normalised, length=1200 if arguments.quick else 3000)


def load(name: str) -> Images:
    """Load at most 10,000 images of 8×8 or 14×14 pixels."""
    images, labels = (tensor[:10_000] for tensor in load_images(name, Path("data"))[0].tensors)
    pixels = images.float()
    if name == "fashion-mnist":
        pixels = functional.avg_pool2d(pixels, 2)
    return Images((pixels - pixels.mean()) / pixels.std(), labels)


def network(normalised: bool) -> nn.Sequential:
    """Four convolutions, each followed by batch normalisation or not, and a linear layer."""

    def block(inputs: int, outputs: int) -> list[nn.Module]:
        norm = [nn.BatchNorm2d(outputs)] if normalised else []
        conv = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        if not normalised:  # PyTorch's default weights are too small for it
            nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
        return [conv, *norm, nn.ReLU()]

    features = [*block(1, 16), *block(16, 16), nn.MaxPool2d(2), *block(16, 32), *block(32, 32)]
    return nn.Sequential(*features, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10))


def train(data: str, images: Images, optimizer: str, normalised: bool, length: int) -> None:
    """Train one network, and print the mean ratios of the last third of training."""
    model = network(normalised)
    weights = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    others = [parameter for parameter in model.parameters() if parameter.ndim == 1]
    trained = OPTIMIZERS[optimizer]([{"params": weights}, {"params": others, "weight_decay": 0}])
    copies = Copies(weights, optimizer)
    rows = {("normalised" if normalised else "not normalised"): (weights, trained)}
    if normalised:
        rows["random signs"] = copies.weights, copies.optimizer
    paths = {row: deque(maxlen=max(STEPS) + 1) for row in rows}
    angles = {(row, k): [] for row in rows for k in STEPS}
    shares = []

    for number, (pixels, labels) in enumerate(images.batches(length), start=1):
        loss = functional.cross_entropy(model(pixels), labels)
        trained.zero_grad()
        loss.backward()
        if number > length * 2 // 3:
            shares.append([outward(trained, weight) for weight in weights])
        if normalised:
            copies.step()
        trained.step()
        for row, (parameters, _) in rows.items():
            paths[row].append([parameter.detach().clone() for parameter in parameters])
        if number > length * 2 // 3 and number % 20 == 0:
            for (row, k), measured in angles.items():
                measured.append([angle(*states) for states in zip(paths[row][-1 - k], paths[row][-1], strict=True)])

    for (row, k), measured in angles.items():
        parameters, mover = rows[row]
        forecast = EquilibriumForecast([mover])
        for _ in range(k):
            forecast.note(mover)
        predicted = forecast.of(parameters)
        ratios = torch.tensor(measured).mean(0) / predicted
        print_row(data, optimizer, row, str(k), f"{predicted:.3f}", *(f"{ratio:.2f}" for ratio in ratios))
    balance = (1 - torch.tensor(shares).mean(0)).clamp(min=0).sqrt()
    print_row(data, optimizer, "√(1 − R)", "", "", *(f"{ratio:.2f}" for ratio in balance))


def print_row(*cells: str) -> None:
    """Print a row of the table."""
    print("|", " | ".join(cells), "|", flush=True)  # noqa: T201


@torch.no_grad()
def outward(optimizer: Optimizer, weight: nn.Parameter) -> float:
    """The part of weight decay's pull that the update by the present gradient alone undoes."""
    group, state, update = optimizer.param_groups[0], optimizer.state[weight], weight.grad
    assert update is not None
    if "exp_avg_sq" in state:
        update = update / (state["exp_avg_sq"] / (1 - group["betas"][1] ** state["step"])).sqrt()
    return float(-(weight * update).sum() / (group["weight_decay"] * (weight * weight).sum()))


def angle(before: Tensor, after: Tensor) -> float:
    """The angle between two vectors, also if it is tiny."""
    before, after = before.double() / before.double().norm(), after.double() / after.double().norm()
    return 2 * math.atan2(float((before - after).norm()), float((before + after).norm()))


if __name__ == "__main__":
    main()
