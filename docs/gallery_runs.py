# SPDX-License-Identifier: Apache-2.0
"""The trainings of the gallery: three networks on scikit-learn's digits, healthy ones and sick ones."""

import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise, product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from lightning.pytorch import LightningModule, Trainer, seed_everything
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from lightning_rwc import Finding, RWCCallback, RWCHistory
from lightning_rwc.demo import demo_images

_DEPTH, _WIDTH = 12, 64


class MLP(nn.Sequential):
    """Twelve linear layers without normalisation."""

    def __init__(self) -> None:
        super().__init__(nn.Flatten())
        for number in range(1, _DEPTH):
            layer = nn.Linear(64, 64)
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            self.add_module(f"fc{number}", layer)
            self.add_module(f"act{number}", nn.ReLU())
        self.add_module(f"fc{_DEPTH}", nn.Linear(64, 10))


class ResNet18(nn.Sequential):
    """The usual 18 layers, an eighth as wide, without early pooling."""

    def __init__(self) -> None:
        from torchvision.models.resnet import BasicBlock

        super().__init__()
        self.conv1 = nn.Conv2d(1, 8, 3, padding=1, bias=False)
        self.bn1, self.relu = nn.BatchNorm2d(8), nn.ReLU()
        for stage, (before, width) in enumerate(pairwise([8, 8, 16, 32, 64]), start=1):
            stride = 1 if stage == 1 else 2
            narrow = nn.Sequential(nn.Conv2d(before, width, 1, stride, bias=False), nn.BatchNorm2d(width))
            first = BasicBlock(before, width, stride, narrow if stride > 1 else None)
            self.add_module(f"layer{stage}", nn.Sequential(first, BasicBlock(width, width)))
        self.avgpool, self.flatten, self.fc = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10)


class Transformer(nn.Module):
    """Six blocks on 16 patches of 2 × 2 pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, 48, 2, stride=2)
        self.position = nn.Parameter(0.1 * torch.randn(16, 48))
        block = partial(nn.TransformerEncoderLayer, 48, 4, 96, dropout=0.0, batch_first=True, norm_first=True)
        self.blocks = nn.Sequential(*(block() for _ in range(6)))
        self.norm = nn.LayerNorm(48)
        self.head = nn.Linear(48, 10)

    def forward(self, images: Tensor) -> Tensor:
        """Class scores."""
        x = self.patches(images).flatten(2).transpose(1, 2) + self.position
        return self.head(self.norm(self.blocks(x)).mean(1))


class Recipe(NamedTuple):
    """A network, and how it is trained well."""

    build: Callable[[], nn.Module]
    optimizer: Callable[..., Optimizer]
    rate: float
    """A good learning rate, see ``--rates``."""


RECIPES = {
    "MLP": Recipe(MLP, Adam, 5e-3),
    "ResNet-18": Recipe(ResNet18, partial(SGD, momentum=0.9, weight_decay=5e-4), 0.03),
    "transformer": Recipe(Transformer, AdamW, 1e-3),
}
ADAMW = Recipe(ResNet18, AdamW, 2e-3)
"""Another good recipe."""


class Training(LightningModule):
    """Trains a network, well unless one of the attributes is changed.

    Attributes:
        optimizer: makes an optimizer of parameter groups and a learning rate.
        rate: the learning rate.
        rates: the beginning of a parameter's name to what its learning rate is multiplied by.
        left_out: beginnings of the names of parameters that the optimizer does not get.
        growth: the learning rate is multiplied by it after each epoch.
        overflow: a parameter that gets an infinite gradient, and the step at which it does.

    """

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        self.net = recipe.build()
        self.optimizer, self.rate = recipe.optimizer, recipe.rate
        self.rates: Mapping[str, float] = {}
        self.left_out: tuple[str, ...] = ()
        self.growth = 1.0
        self.overflow = ("", -1)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Cross-entropy."""
        return nn.functional.cross_entropy(self.net(batch[0]).float(), batch[1])

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Let a number overflow in one gradient."""
        name, step = self.overflow
        if self.global_step == step:
            self.net.get_parameter(name).grad.view(-1)[0] = torch.inf

    def configure_optimizers(self) -> Any:
        """One parameter group for each learning rate."""
        groups: dict[float, list[nn.Parameter]] = {}
        for name, parameter in self.net.named_parameters():
            if not name.startswith(self.left_out or ("-",)):
                times = next((times for start, times in self.rates.items() if name.startswith(start)), 1)
                groups.setdefault(times, []).append(parameter)
        parts = [{"params": parameters, "lr": self.rate * times} for times, parameters in groups.items()]
        optimizer = self.optimizer(parts, lr=self.rate)
        return [optimizer], [torch.optim.lr_scheduler.ExponentialLR(optimizer, self.growth)]


class Batches:
    """The digits in batches, in a new order in each epoch."""

    def __init__(self, size: int) -> None:
        self.images, self.labels = demo_images("digits", Path("data"))[0].tensors
        self.size = size

    def __len__(self) -> int:
        return len(self.images) // self.size

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for chosen in torch.randperm(len(self.images))[: len(self) * self.size].split(self.size):
            yield self.images[chosen], self.labels[chosen]


@dataclass(frozen=True)
class Case:
    """One training of the gallery, and what is true of it."""

    name: str
    network: str
    sickness: str = "healthy"
    setting: str = ""
    """What is different from its twin, if it is not sick."""
    layers: tuple[str, ...] = ()
    """The layers that are sick; empty if all are, or none."""
    cause: str = ""
    twin: str = ""
    """The name of its healthy twin."""
    times: float = 1
    """The learning rate is so many times that of the recipe."""
    recipe: Recipe | None = None
    """Another one than the network's own."""
    batch: int = 64
    epochs: int = 12
    every_n_epochs: int = 1
    every_n_train_steps: int | None = None
    precision: str = "32-true"
    measures: tuple[str, ...] = ()
    """Further measures that show it."""
    change: Callable[[Training], None] = lambda training: None
    seed: int = 0


class Record(NamedTuple):
    """What is kept of a training."""

    histories: dict[str, RWCHistory]
    findings: list[Finding]
    causes: npt.NDArray[np.uint8]
    accuracy: float
    """Of images that it has not seen."""


def train(case: Case) -> Record:
    """Train once. The same case gives the same record."""
    recipe = case.recipe or RECIPES[case.network]
    seed_everything(case.seed, verbose=False)
    training = Training(recipe._replace(rate=recipe.rate * case.times))
    case.change(training)
    cadence = {"every_n_epochs": case.every_n_epochs, "every_n_train_steps": case.every_n_train_steps}
    callback = RWCCallback(heatmap=False, measures=("rotation", "still"), **cadence)
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = Trainer(
        max_epochs=case.epochs,
        accelerator="cpu",
        precision=case.precision,
        callbacks=[callback],
        enable_model_summary=False,
        **quiet,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.fit(training, Batches(case.batch))
    return Record(callback.histories, callback.findings, callback.causes, _accuracy(training.net))


@torch.no_grad()
def _accuracy(net: nn.Module) -> float:
    images, labels = demo_images("digits", Path("data"))[1].tensors
    scores = net.eval()(images.to(next(net.parameters()).dtype))
    return float((scores.argmax(1) == labels).float().mean())


# What makes a training sick -----------------------------------------------------------------------------------------


@torch.no_grad()
def _dead(training: Training, biases: tuple[str, ...], share: float = 1.0) -> None:
    """Push biases so far down that this share of the units never fires."""
    for name in biases:
        bias = training.net.get_parameter(name)
        bias[: round(share * len(bias))] = -100.0


def _three_causes(training: Training, frozen: str, left_out: str, dead: str) -> None:
    training.net.get_submodule(frozen).requires_grad_(False)
    training.left_out = (f"{left_out}.",)
    _dead(training, (dead,))


def _rates(training: Training, rates: Mapping[str, float]) -> None:
    training.rates = rates


def _overflow(training: Training, name: str, step: int) -> None:
    training.overflow = (name, step)


def _growth(training: Training, growth: float) -> None:
    training.growth = growth


# The runs -----------------------------------------------------------------------------------------------------------

HEALTHY = {network: Case(f"{network.lower()}-healthy", network) for network in RECIPES}
"""The healthy twins by network."""
TIMES = (1 / 30, 1 / 10, 1 / 3, 1, 3, 10, 30)
"""The learning rates of ``--rates``."""


def at_rate(network: str, times: float, **changes: Any) -> Case:
    """The training of a network at a learning rate that is so many times the good one."""
    size, word = (f"x{times:g}", "high") if times > 1 else (f"{round(1 / times)}th", "low")
    factor = times if times > 1 else round(1 / times)
    twin = HEALTHY[network]
    return replace(
        twin,
        name=f"{network.lower()}-rate-{size}",
        twin=twin.name,
        times=times,
        sickness=f"learning rate {factor:g} times too {word}",
        cause=f"the learning rate of all layers is {factor:g} times too {word}",
        **changes,
    )


def _sick(twin: Case, name: str, sickness: str, layers: str, cause: str, **changes: Any) -> Case:
    return replace(
        twin,
        name=f"{twin.network.lower()}-{name}",
        twin=twin.name,
        sickness=sickness,
        layers=tuple(f"net.{layer}" for layer in layers.split()),
        cause=cause,
        **changes,
    )


def _cases() -> Iterator[Case]:
    mlp, resnet, transformer = HEALTHY.values()
    yield from HEALTHY.values()
    for twin, name, setting, changes in (
        (mlp, "small-batches", "batches of 16", {"batch": 16, "epochs": 6}),
        (mlp, "every-5-steps", "measured every 5 steps", {"every_n_train_steps": 5}),
        (resnet, "large-batches", "batches of 256", {"batch": 256, "epochs": 20}),
        (resnet, "every-10-steps", "measured every 10 steps", {"every_n_train_steps": 10}),
        (transformer, "small-batches", "batches of 32", {"batch": 32, "epochs": 6}),
        (resnet, "adamw", "trained by AdamW", {"recipe": ADAMW}),
        (transformer, "every-2-epochs", "measured every 2 epochs", {"epochs": 16, "every_n_epochs": 2}),
    ):
        yield replace(twin, name=f"{twin.name}-{name}", twin=twin.name, setting=setting, **changes)
    # A ResNet takes three times as much without harm.
    for network, times in (*product(("MLP", "transformer"), (3, 10)), ("ResNet-18", 10), ("ResNet-18", 30)):
        yield at_rate(network, times)
    for network, times in product(("MLP", "transformer"), (1 / 10, 1 / 30)):
        yield at_rate(network, times)
    yield from _single_layers(mlp, resnet, transformer)
    yield from _dead_units(mlp, transformer)
    yield from _stopped(mlp, resnet, transformer)
    yield from _not_finite(mlp, resnet, transformer)


def _single_layers(mlp: Case, resnet: Case, transformer: Case) -> Iterator[Case]:
    for twin, layer, times in (
        (mlp, "fc5", 10),
        (mlp, "fc5", 1 / 30),
        (resnet, "layer3.0.conv2", 10),
        (transformer, "blocks.3.linear1", 1 / 30),
    ):
        size, word = ("10 times", "high") if times > 1 else ("30 times", "low")
        sickness = f"one layer has a learning rate {size} too {word}"
        cause = f"a parameter group of its own, whose learning rate is {size} too {word}"
        change = partial(_rates, rates={f"{layer}.": times})
        yield _sick(twin, f"one-layer-{word}", sickness, layer, cause, change=change)


def _dead_units(mlp: Case, transformer: Case) -> Iterator[Case]:
    feedforward = [f"blocks.{number}.linear1" for number in range(6)]
    for twin, share, layers, behind in (
        (mlp, 0.3, ["fc4", "fc5", "fc6"], "fc7"),
        (mlp, 0.6, ["fc4", "fc5", "fc6"], "fc7"),
        (transformer, 0.6, feedforward, " ".join(layer.replace("1", "2") for layer in feedforward)),
    ):
        percent = f"{share:.0%}".replace("%", " %")
        change = partial(_dead, biases=tuple(f"{layer}.bias" for layer in layers), share=share)
        cause = f"{percent} of the units never fire, because their biases are far too low"
        sickness = f"{percent} of the units are dead in some layers"
        names = " ".join([*layers, behind])
        yield _sick(
            twin, f"dead-units-{round(100 * share)}", sickness, names, cause, change=change, measures=("still",)
        )


def _stopped(mlp: Case, resnet: Case, transformer: Case) -> Iterator[Case]:
    sickness = "three blocks do not learn, each for a reason of its own"
    for twin, frozen, left_out, dead, bias in (
        (replace(resnet, name=f"{resnet.name}-adamw", recipe=ADAMW), "layer2.1", "layer3.0", "layer3.1", "bn1.bias"),
        (transformer, "blocks.4", "blocks.2", "blocks.3", "linear1.bias"),
    ):
        names = [name for name, p in RECIPES[twin.network].build().named_parameters() if p.ndim > 1]
        of = {block: [_layer(name) for name in names if name.startswith(f"{block}.")] for block in (frozen, left_out)}
        stopped = [f"{dead}.linear1", f"{dead}.linear2"] if "blocks" in dead else [f"{dead}.conv1", f"{dead}.conv2"]
        cause = (
            f"{', '.join(of[frozen])}: frozen. {', '.join(of[left_out])}: not in the optimizer. {', '.join(stopped)}: "
            "no gradient, because no unit fires; AdamW's weight decay still moves them"
        )
        change = partial(_three_causes, frozen=frozen, left_out=left_out, dead=f"{dead}.{bias}")
        layers = " ".join([*of[frozen], *of[left_out], *stopped])
        yield _sick(twin, "three-causes", sickness, layers, cause, change=change)
    for twin, times in ((mlp, 1 / 50), (transformer, 1 / 30)):
        sickness = "most weight updates are rounded away"
        cause = "weights in bfloat16, whose last digit is larger than the updates at a small learning rate"
        yield _sick(twin, "rounded-away", sickness, "", cause, precision="bf16-true", times=times)


def _layer(parameter: str) -> str:
    return parameter.removesuffix(".weight").removesuffix(".in_proj_weight")


def _not_finite(mlp: Case, resnet: Case, transformer: Case) -> Iterator[Case]:
    for twin, layer, step in ((resnet, "layer2.1.conv2", 30), (transformer, "blocks.3.linear2", 25)):
        sickness = "an infinity that starts in one layer"
        cause = f"an overflow in the gradient of this layer at step {step}. All other layers follow one step later"
        change = partial(_overflow, name=f"{layer}.weight", step=step)
        yield _sick(twin, "infinity", sickness, layer, cause, change=change, epochs=2, every_n_train_steps=1)
    sickness = "weights explode and become nan"
    plain = Recipe(MLP, partial(SGD, momentum=0.9), 0.01)
    cause = "the learning rate doubles after each epoch"
    change = partial(_growth, growth=2.0)
    yield _sick(mlp, "explodes-later", sickness, "", cause, change=change, recipe=plain)
    cause = "the learning rate is a thousand times too high: all weights are nan before the first measurement"
    yield _sick(mlp, "explodes-at-once", sickness, "", cause, recipe=plain, times=1000)


CASES = {case.name: case for case in _cases()}
"""All trainings by name."""
