# SPDX-License-Identifier: Apache-2.0
"""The architectures, the places in them where faults are built in, and the layers that each fault stops.

All names are written by hand, from the definitions in `networks`. None of them comes from the code under test.
"""

from collections.abc import Callable
from functools import partial
from typing import Literal, NamedTuple

from torch import nn

from tests.faults import networks


class Place(NamedTuple):
    """Where a fault is built in: modules or parameters, and the layers that it stops."""

    names: tuple[str, ...]
    stops: tuple[str, ...]


class Architecture(NamedTuple):
    """A network, and what is known of it. Layers are in definition order."""

    build: Callable[[], nn.Module]
    layers: tuple[str, ...]
    """All that require gradients."""
    block: Place
    """A module that is left out of the optimizer, frozen, or broken. It stops only its own layers."""
    cut: Place
    """A module whose output is detached."""
    unrecorded: Place
    """A module that computes without recording for gradients."""
    dead: Place | None = None
    """Biases that are set so that the units behind them never fire, or are saturated."""
    zero: Place | None = None
    """Parameters that are set to zero: two layers in a row."""
    residual: tuple[str, ...] = ()
    """Weights of the last layer of each residual branch. Good recipes set them to zero."""
    task: Literal["classify", "rebuild", "generate"] = "classify"
    dead_bias: float = -1000
    factor: float = 1
    """Learning rates are so many times those of `optimizers`."""
    own: tuple[str, ...] = ()
    """Faults that only this architecture can have."""


def _place(names, stops):
    return Place(tuple(names.split()), tuple(stops.split()))


_FEEDFORWARD = "feedforward1.branch.fc1 feedforward1.branch.fc2"
_EXPERT = "mixture.experts.0.fc1 mixture.experts.0.fc2"
_BLOCK_OF_RESNET = "block1.branch.conv1 block1.branch.conv2"
_BLOCKS_OF_RESNET = f"{_BLOCK_OF_RESNET} block2.branch.conv1 block2.branch.conv2 block2.skip"
_LSTM1 = "lstm1.weight_ih_l0 lstm1.weight_hh_l0"
_ADAPTERS = "layer1.a layer1.b layer2.a layer2.b layer3.a layer3.b"


def _mlp(activation, dead, bias):
    return Architecture(
        build=partial(networks.mlp, activation),
        layers=("fc1", "fc2", "fc3", "fc4"),
        block=_place("fc2", "fc2"),
        cut=_place("fc2", "fc1 fc2"),
        unrecorded=_place("fc2", "fc1 fc2"),
        dead=_place("fc2.bias", dead),
        zero=_place("fc2.weight fc2.bias fc3.weight", "fc1 fc2 fc3"),
        dead_bias=bias,
    )


ARCHITECTURES = {
    "CNN": Architecture(
        factor=3,
        build=networks.cnn,
        layers=("conv1", "conv2", "conv3", "fc"),
        block=_place("conv2", "conv2"),
        cut=_place("conv2", "conv1 conv2"),
        unrecorded=_place("conv2", "conv1 conv2"),
        # The layer behind dead units has no input: its weights stand still, its bias learns.
        dead=_place("conv2.bias", "conv1 conv2 conv3"),
        zero=_place("conv2.weight conv2.bias conv3.weight", "conv1 conv2 conv3"),
    ),
    "CNN, batch norm": Architecture(
        build=networks.cnn_with_norm,
        layers=("conv1", "conv2", "conv3", "fc"),
        block=_place("conv2", "conv2"),
        cut=_place("conv2", "conv1 conv2"),
        unrecorded=_place("conv2", "conv1 conv2"),
        dead=_place("bn2.bias", "conv1 conv2 conv3"),
        zero=_place("conv2.weight bn2.bias conv3.weight", "conv1 conv2 conv3"),
    ),
    "ResNet": Architecture(
        build=networks.resnet,
        layers=("stem", *_BLOCKS_OF_RESNET.split(), "fc"),
        block=_place("block1.branch", _BLOCK_OF_RESNET),
        cut=_place("block1.branch.conv1", "block1.branch.conv1"),
        unrecorded=_place("block1.branch", _BLOCK_OF_RESNET),
        dead=_place("block1.branch.bn1.bias", _BLOCK_OF_RESNET),
        zero=_place("block1.branch.conv1.weight block1.branch.bn1.bias block1.branch.conv2.weight", _BLOCK_OF_RESNET),
        residual=("block1.branch.bn2.weight", "block2.branch.bn2.weight"),
    ),
    "VGG": Architecture(
        factor=3,
        build=networks.vgg,
        layers=("conv1a", "conv1b", "conv2a", "conv2b", "fc1", "fc2", "fc3"),
        block=_place("conv2a", "conv2a"),
        cut=_place("conv2a", "conv1a conv1b conv2a"),
        unrecorded=_place("conv2a", "conv1a conv1b conv2a"),
        dead=_place("conv2a.bias", "conv1a conv1b conv2a conv2b"),
        zero=_place("conv2a.weight conv2a.bias conv2b.weight", "conv1a conv1b conv2a conv2b"),
    ),
    # The derivative of a saturated tanh is exactly zero, but its output is not: the layer behind it learns.
    "MLP, tanh": _mlp(nn.Tanh, "fc1 fc2", 1000),
    "MLP, ReLU": _mlp(nn.ReLU, "fc1 fc2 fc3", -1000),
    "transformer": Architecture(
        factor=3,
        build=networks.transformer,
        layers=(
            "embed",
            "position.table",
            *(
                f"{part}{number}.branch.{layer}"
                for number in (1, 2)
                for part, layers in (
                    ("attention", ("attention.qkv", "attention.proj")),
                    ("feedforward", ("fc1", "fc2")),
                )
                for layer in layers
            ),
            "head",
        ),
        block=_place("feedforward1.branch", _FEEDFORWARD),
        cut=_place("attention1.branch.attention.qkv", "attention1.branch.attention.qkv"),
        unrecorded=_place("feedforward1.branch", _FEEDFORWARD),
        dead=_place("feedforward1.branch.fc1.bias", _FEEDFORWARD),
        zero=_place(
            "feedforward1.branch.fc1.weight feedforward1.branch.fc1.bias feedforward1.branch.fc2.weight", _FEEDFORWARD
        ),
        residual=tuple(
            f"{layer}.weight"
            for number in (1, 2)
            for layer in (f"attention{number}.branch.attention.proj", f"feedforward{number}.branch.fc2")
        ),
    ),
    "ViT": Architecture(
        factor=3,
        build=networks.ViT,
        layers=(
            "position",
            "patches",
            *(
                f"blocks.{number}.{layer}"
                for number in (0, 1)
                for layer in ("self_attn", "self_attn.out_proj", "linear1", "linear2")
            ),
            "head",
        ),
        block=_place("blocks.0.self_attn", "blocks.0.self_attn blocks.0.self_attn.out_proj"),
        cut=_place("blocks.0.linear1", "blocks.0.linear1"),
        unrecorded=_place("blocks.0.self_attn", "blocks.0.self_attn blocks.0.self_attn.out_proj"),
        dead=_place("blocks.0.linear1.bias", "blocks.0.linear1 blocks.0.linear2"),
        zero=_place(
            "blocks.0.linear1.weight blocks.0.linear1.bias blocks.0.linear2.weight",
            "blocks.0.linear1 blocks.0.linear2",
        ),
        residual=tuple(
            f"blocks.{number}.{layer}.weight" for number in (0, 1) for layer in ("self_attn.out_proj", "linear2")
        ),
    ),
    "LSTM": Architecture(
        build=networks.lstm,
        layers=(*_LSTM1.split(), "lstm2.weight_ih_l0", "lstm2.weight_hh_l0", "head"),
        block=_place("lstm1", _LSTM1),
        cut=_place("lstm1", _LSTM1),
        unrecorded=_place("lstm1", _LSTM1),
        # The state of the first layer is zero. The second one sees no input, but has a state.
        zero=_place(
            "lstm1.weight_ih_l0 lstm1.weight_hh_l0 lstm1.bias_ih_l0 lstm1.bias_hh_l0 lstm2.weight_ih_l0",
            f"{_LSTM1} lstm2.weight_ih_l0",
        ),
        factor=3,
    ),
    "autoencoder": Architecture(
        build=networks.autoencoder,
        layers=("encoder1", "encoder2", "decoder1", "decoder2"),
        block=_place("encoder2", "encoder2"),
        cut=_place("encoder2", "encoder1 encoder2"),
        unrecorded=_place("encoder2", "encoder1 encoder2"),
        dead=_place("encoder1.bias", "encoder1 encoder2"),
        zero=_place("encoder1.weight encoder1.bias encoder2.weight", "encoder1 encoder2"),
        task="rebuild",
        factor=3,
    ),
    "GAN": Architecture(
        build=networks.gan,
        layers=("generator.fc1", "generator.fc2", "generator.fc3", "discriminator.fc1", "discriminator.fc2"),
        block=_place("generator.fc2", "generator.fc2"),
        cut=_place("generator.fc2", "generator.fc1 generator.fc2"),
        unrecorded=_place("generator.fc2", "generator.fc1 generator.fc2"),
        dead=_place("generator.fc1.bias", "generator.fc1 generator.fc2"),
        zero=_place("generator.fc1.weight generator.fc1.bias generator.fc2.weight", "generator.fc1 generator.fc2"),
        task="generate",
    ),
    "LoRA": Architecture(
        build=networks.lora,
        layers=(*_ADAPTERS.split(), "head"),
        block=_place("layer2", "layer2.a layer2.b"),
        cut=_place("layer2.b", "layer2.a layer2.b"),
        unrecorded=_place("layer2.b", "layer2.a layer2.b"),
        dead=_place("layer2.base.bias", _ADAPTERS),
        zero=_place("layer2.a.weight layer2.b.weight", "layer2.a layer2.b"),
        factor=3,
        own=("LoRA B not in the optimizer", "LoRA B frozen"),
    ),
    "MLP-Mixer": Architecture(
        build=networks.mixer,
        layers=(
            "embed",
            *(
                f"{part}{number}.branch.{layer}"
                for number in (1, 2)
                for part, layers in (("tokens", ("mix.inner.fc1", "mix.inner.fc2")), ("channels", ("fc1", "fc2")))
                for layer in layers
            ),
            "head",
        ),
        block=_place("channels1.branch", "channels1.branch.fc1 channels1.branch.fc2"),
        cut=_place("tokens1.branch.mix.inner.fc1", "tokens1.branch.mix.inner.fc1"),
        unrecorded=_place("channels1.branch", "channels1.branch.fc1 channels1.branch.fc2"),
        dead=_place("channels1.branch.fc1.bias", "channels1.branch.fc1 channels1.branch.fc2"),
        zero=_place(
            "channels1.branch.fc1.weight channels1.branch.fc1.bias channels1.branch.fc2.weight",
            "channels1.branch.fc1 channels1.branch.fc2",
        ),
        residual=tuple(
            f"{part}{number}.branch.{layer}.weight"
            for number in (1, 2)
            for part, layer in (("tokens", "mix.inner.fc2"), ("channels", "fc2"))
        ),
    ),
    "embedding": Architecture(
        build=networks.embedding,
        # 47 of its 64 tokens never occur.
        layers=("embed", "fc1", "fc2", "fc3"),
        block=_place("embed", "embed"),
        cut=_place("embed", "embed"),
        unrecorded=_place("fc1", "embed fc1"),
        dead=_place("fc1.bias", "embed fc1 fc2"),
        zero=_place("fc1.weight fc1.bias fc2.weight", "embed fc1 fc2"),
    ),
    "mixture of experts": Architecture(
        build=partial(networks.mixture, networks.Mixture),
        layers=(
            "fc",
            "mixture.router",
            *(f"mixture.experts.{number}.{layer}" for number in range(4) for layer in ("fc1", "fc2")),
            "head",
        ),
        block=_place("mixture.experts.0", _EXPERT),
        cut=_place("fc", "fc"),
        unrecorded=_place("mixture.experts.0", _EXPERT),
        dead=_place("mixture.experts.0.fc1.bias", _EXPERT),
        zero=_place("mixture.experts.0.fc1.weight mixture.experts.0.fc1.bias mixture.experts.0.fc2.weight", _EXPERT),
        own=("expert never chosen",),
    ),
    "experts in one tensor": Architecture(
        build=partial(networks.mixture, networks.Together),
        layers=("fc", "mixture.experts", "mixture.router", "head"),
        block=_place("fc", "fc"),
        cut=_place("fc", "fc"),
        unrecorded=_place("fc", "fc"),
        own=("expert never chosen, one tensor",),
    ),
}
