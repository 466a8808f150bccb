# SPDX-License-Identifier: Apache-2.0
"""How a training is spoilt so that one likely kind should be told, and which layers it should name."""

from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Literal, NamedTuple

import torch
from torch import nn

from tests.faults import networks
from tests.faults.architectures import ARCHITECTURES, Architecture, Place

# Eleven batches an epoch.
EPOCHS, BATCH, IMAGES = 15, 64, 704
# What happens once happens at this optimizer step, in the thirteenth epoch.
EVENT = 137
SGD = ("SGD", "SGD, momentum, decay")
OPTIMIZERS = (*SGD, "Adam", "AdamW")
# They have five layers of a kind.
WIDE = ("ResNet", "transformer", "LSTM", "MLP-Mixer", "mixture of experts")
SOME = ("CNN", "CNN, batch norm", "MLP, tanh", "ResNet", "transformer", "LSTM")
DEPTHS = (10, 15, 20)


class Spoil(NamedTuple):
    """A way to spoil a training."""

    kind: str
    """What should be told."""
    change: Callable
    """Takes the training, and the weight and all parameters of one layer."""
    names: Literal["one", "most", "first"]
    """The right layers: the one that was spoilt, most of all layers, or the first third of a stack and others, but not
    its last layer."""
    architectures: tuple[str, ...]
    optimizers: tuple[str, ...] = OPTIMIZERS
    since: int = 0
    """The step from which the training is spoilt."""


@torch.no_grad()
def _scale(factor, training, weight, parameters):
    weight.mul_(factor)


def _scale_gradient(factor, training, weight, parameters):
    weight.register_hook(lambda gradient: gradient * factor)


def _own_rate(factor, training, weight, parameters):
    training.still, training.still_rate = parameters, training.rate * factor


def _perturb(share, training, weight, parameters):
    @torch.no_grad()
    def perturb(training, step):
        if step == EVENT:
            noise = torch.randn(weight.shape, generator=torch.Generator().manual_seed(0))
            weight.add_(noise * (share * weight.norm() / noise.norm()))

    training.after_step.append(perturb)


def _bad_batch(factor, training, weight, parameters):
    def spoil(module, inputs):
        return (inputs[0] * factor,) if training.steps == EVENT and module.training else None

    training.net.register_forward_pre_hook(spoil)


def _rate_once(factor, training, weight, parameters):
    training.schedule = (lambda step: factor if step == EVENT else 1, "step")


def _nothing(training, weight, parameters):
    """The architecture itself is spoilt."""


def _deep(depth, activation, has_norm=False):
    layers = tuple(f"fc{number}" for number in range(1, depth + 1))
    place = Place(layers[1:2], layers[1:2])
    build = partial(networks.deep, depth, activation, has_norm)
    return Architecture(build, layers, block=place, cut=place, unrecorded=place)


DEEP = {
    f"{depth} layers of {name}": _deep(depth, activation)
    for name, activation in (("sigmoid", nn.Sigmoid), ("tanh", nn.Tanh), ("ReLU", nn.ReLU))
    for depth in DEPTHS
}
HEALTHY_DEEP = {f"{depth} layers with batch norm": _deep(depth, nn.ReLU, has_norm=True) for depth in DEPTHS}
ALL = ARCHITECTURES | DEEP | HEALTHY_DEEP

SPOILS = {
    **{
        f"weights × {factor:,g} at the start": Spoil("out_of_line", partial(_scale, factor), "one", WIDE)
        for factor in (30, 100, 1000)
    },
    **{
        f"weights ÷ {factor:,g} at the start": Spoil("out_of_line", partial(_scale, 1 / factor), "one", WIDE)
        for factor in (100, 1000)
    },
    **{
        f"gradient × {factor:g}": Spoil("out_of_line", partial(_scale_gradient, factor), "one", WIDE, SGD)
        for factor in (1e-2, 1e-3)
    },
    "own learning rate, × 100": Spoil("out_of_line", partial(_own_rate, 100), "one", WIDE),
    "own learning rate, ÷ 1,000": Spoil("out_of_line", partial(_own_rate, 1e-3), "one", WIDE),
    **{
        f"deep stack of {name}": Spoil(
            "vanishing", _nothing, "first", tuple(one for one in DEEP if one.endswith(name)), SGD
        )
        for name in ("sigmoid", "tanh", "ReLU")
    },
    **{
        f"weights perturbed once by {share:.0%}": Spoil("burst", partial(_perturb, share), "one", SOME, since=EVENT)
        for share in (0.3, 1.0)
    },
    "one batch × 1,000": Spoil("burst", partial(_bad_batch, 1e3), "most", SOME, since=EVENT),
    "learning rate × 100 in one step": Spoil("burst", partial(_rate_once, 100), "most", SOME, since=EVENT),
}


def twin(name):
    """The architecture of the healthy twin."""
    return f"{name.split()[0]} layers with batch norm" if name in DEEP else name


def candidates(layers):
    """Of layer to parameters, those that have more than four like them, and whose weights are not zero."""
    weights = {name: weight_of(parameters) for name, parameters in layers.items()}
    dimensions = Counter(weight.ndim for weight in weights.values())
    most = max(dimensions, key=dimensions.__getitem__)
    return [name for name, weight in weights.items() if weight.ndim == most and weight.requires_grad and weight.any()]


def weight_of(parameters):
    """The weight among the parameters of a layer: the largest."""
    return max(parameters.values(), key=torch.Tensor.numel)
