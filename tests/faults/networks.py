# SPDX-License-Identifier: Apache-2.0
"""Small networks for images of 8 × 8 pixels. Each maps images to scores of ten classes unless it says otherwise."""

from collections import OrderedDict

import torch
from torch import nn


def stack(**modules):
    """The modules one after the other, by name."""
    return nn.Sequential(OrderedDict(modules))


def tokens(images, side):
    """Square patches of ``images`` as vectors: images × patches × pixels."""
    patches = images.unfold(2, side, side).unfold(3, side, side)
    return patches.reshape(len(images), -1, side * side)


class Rows(nn.Module):
    """The rows of an image as a sequence."""

    def forward(self, images):
        return images.squeeze(1)


class Patches(nn.Module):
    """The patches of an image as a sequence."""

    def forward(self, images):
        return tokens(images, side=2)


class Last(nn.Module):
    """The last output of a recurrent layer."""

    def forward(self, outputs):
        return outputs[0][:, -1]


class Sequences(nn.Module):
    """All outputs of a recurrent layer."""

    def forward(self, outputs):
        return outputs[0]


class Mean(nn.Module):
    """The mean over a sequence."""

    def forward(self, sequence):
        return sequence.mean(1)


class Transposed(nn.Module):
    """A module that works along the sequence instead of along the features."""

    def __init__(self, module):
        super().__init__()
        self.inner = module

    def forward(self, sequence):
        return self.inner(sequence.transpose(1, 2)).transpose(1, 2)


class Residual(nn.Module):
    """A branch that is added to its input."""

    def __init__(self, branch, skip=None):
        super().__init__()
        self.branch = branch
        if skip is not None:
            self.skip = skip

    def forward(self, x):
        return self.branch(x) + (self.skip(x) if hasattr(self, "skip") else x)


class Attention(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x):
        q, k, v = self.qkv(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return self.proj(nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Position(nn.Module):
    """Adds a learnt vector to each token."""

    def __init__(self, length, width):
        super().__init__()
        self.table = nn.Parameter(0.1 * torch.randn(length, width))

    def forward(self, x):
        return x + self.table


class ViT(nn.Module):
    """A vision transformer with a class token, of PyTorch's own encoder layers."""

    def __init__(self, width=32):
        super().__init__()
        self.patches = nn.Conv2d(1, width, 2, stride=2)
        self.token = nn.Parameter(torch.zeros(1, 1, width))
        self.position = nn.Parameter(0.1 * torch.randn(1, 17, width))
        self.blocks = nn.Sequential(
            *(
                nn.TransformerEncoderLayer(width, 4, 64, 0.1, "gelu", batch_first=True, norm_first=True)
                for _ in range(2)
            )
        )
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 10)

    def forward(self, images):
        x = self.patches(images).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.position
        return self.head(self.norm(self.blocks(x))[:, 0])


class Adapted(nn.Module):
    """A frozen linear layer beside a trainable product of two small ones, the second of which starts at zero."""

    def __init__(self, inputs, outputs, rank=4):
        super().__init__()
        self.base = nn.Linear(inputs, outputs).requires_grad_(False)
        self.a = nn.Linear(inputs, rank, bias=False)
        self.b = nn.Linear(rank, outputs, bias=False)
        nn.init.zeros_(self.b.weight)

    def forward(self, x):
        return self.base(x) + self.b(self.a(x))


class Pixels(nn.Module):
    """The grey levels of an image, 0 to 16, as tokens."""

    def forward(self, images):
        return (images * 16).round().long().flatten(1)


class Mixture(nn.Module):
    """Sends each input to one of several experts, by chance. The router learns from the weight of that expert."""

    def __init__(self, width, experts):
        super().__init__()
        self.router = nn.Linear(width, experts)
        self.register_buffer("bias", torch.zeros(experts))
        self.experts = nn.ModuleList(
            stack(fc1=nn.Linear(width, width), act=nn.ReLU(), fc2=nn.Linear(width, width)) for _ in range(experts)
        )

    def forward(self, x):
        weight, expert = _choose(self.router(x), self.bias)
        y = torch.zeros_like(x)
        for number, module in enumerate(self.experts):
            if (chosen := expert == number).any():
                y[chosen] = (weight[chosen, None] * module(x[chosen])).to(y.dtype)
        return x + y


class Together(nn.Module):
    """The same with the weights of all experts in one tensor."""

    def __init__(self, width, experts):
        super().__init__()
        self.router = nn.Linear(width, experts)
        self.register_buffer("bias", torch.zeros(experts))
        self.experts = nn.Parameter(torch.randn(experts, width, width) / width**0.5)

    def forward(self, x):
        weight, expert = _choose(self.router(x), self.bias)
        return x + weight[:, None] * torch.einsum("ni,nio->no", x, self.experts[expert]).relu()


def cnn():
    return stack(
        conv1=nn.Conv2d(1, 8, 3, padding=1),
        relu1=nn.ReLU(),
        conv2=nn.Conv2d(8, 8, 3, padding=1),
        relu2=nn.ReLU(),
        pool=nn.MaxPool2d(2),
        conv3=nn.Conv2d(8, 16, 3, padding=1),
        relu3=nn.ReLU(),
        flatten=nn.Flatten(),
        fc=nn.Linear(256, 10),
    )


def cnn_with_norm():
    return stack(
        conv1=nn.Conv2d(1, 8, 3, padding=1, bias=False),
        bn1=_norm(8),
        relu1=nn.ReLU(),
        conv2=nn.Conv2d(8, 8, 3, padding=1, bias=False),
        bn2=_norm(8),
        relu2=nn.ReLU(),
        pool=nn.MaxPool2d(2),
        conv3=nn.Conv2d(8, 16, 3, padding=1, bias=False),
        bn3=_norm(16),
        relu3=nn.ReLU(),
        flatten=nn.Flatten(),
        fc=nn.Linear(256, 10),
    )


def resnet():
    return stack(
        stem=nn.Conv2d(1, 8, 3, padding=1, bias=False),
        bn=nn.BatchNorm2d(8),
        relu=nn.ReLU(),
        block1=Residual(_basic(8, 8)),
        relu1=nn.ReLU(),
        block2=Residual(_basic(8, 16, stride=2), nn.Conv2d(8, 16, 1, stride=2, bias=False)),
        relu2=nn.ReLU(),
        pool=nn.AdaptiveAvgPool2d(1),
        flatten=nn.Flatten(),
        fc=nn.Linear(16, 10),
    )


def vgg():
    return stack(
        conv1a=nn.Conv2d(1, 8, 3, padding=1),
        relu1a=nn.ReLU(),
        conv1b=nn.Conv2d(8, 8, 3, padding=1),
        relu1b=nn.ReLU(),
        pool1=nn.MaxPool2d(2),
        conv2a=nn.Conv2d(8, 16, 3, padding=1),
        relu2a=nn.ReLU(),
        conv2b=nn.Conv2d(16, 16, 3, padding=1),
        relu2b=nn.ReLU(),
        pool2=nn.MaxPool2d(2),
        flatten=nn.Flatten(),
        fc1=nn.Linear(64, 64),
        relu3=nn.ReLU(),
        dropout=nn.Dropout(0.5),
        fc2=nn.Linear(64, 32),
        relu4=nn.ReLU(),
        fc3=nn.Linear(32, 10),
    )


def mlp(activation):
    return stack(
        flatten=nn.Flatten(),
        fc1=nn.Linear(64, 48),
        act1=activation(),
        fc2=nn.Linear(48, 48),
        act2=activation(),
        fc3=nn.Linear(48, 48),
        act3=activation(),
        fc4=nn.Linear(48, 10),
    )


def deep(depth, activation, has_norm, width=32):
    """A stack of ``depth`` linear layers as PyTorch initialises them, with or without batch norm."""
    layers = OrderedDict(flatten=nn.Flatten())
    for number in range(1, depth):
        layers[f"fc{number}"] = nn.Linear(64 if number == 1 else width, width)
        layers |= {f"norm{number}": nn.BatchNorm1d(width)} if has_norm else {}
        layers[f"act{number}"] = activation()
    return nn.Sequential(layers | {f"fc{depth}": nn.Linear(width, 10)})


def transformer(width=32):
    return stack(
        patches=Patches(),
        embed=nn.Linear(4, width),
        position=Position(16, width),
        attention1=Residual(stack(norm=nn.LayerNorm(width), attention=Attention(width, 4))),
        feedforward1=Residual(_feedforward(width, nn.ReLU)),
        attention2=Residual(stack(norm=nn.LayerNorm(width), attention=Attention(width, 4))),
        feedforward2=Residual(_feedforward(width, nn.ReLU)),
        norm=nn.LayerNorm(width),
        mean=Mean(),
        head=nn.Linear(width, 10),
    )


def lstm():
    return stack(
        rows=Rows(),
        lstm1=nn.LSTM(8, 24, batch_first=True),
        sequences=Sequences(),
        lstm2=nn.LSTM(24, 24, batch_first=True),
        last=Last(),
        head=nn.Linear(24, 10),
    )


def autoencoder():
    """Maps images to images, as vectors."""
    return stack(
        flatten=nn.Flatten(),
        encoder1=nn.Linear(64, 32),
        act1=nn.ReLU(),
        encoder2=nn.Linear(32, 8),
        decoder1=nn.Linear(8, 32),
        act2=nn.ReLU(),
        decoder2=nn.Linear(32, 64),
    )


def gan():
    """The generator maps 16 random numbers to an image as a vector, the discriminator an image to one score."""
    return nn.ModuleDict(
        {
            "generator": stack(
                fc1=nn.Linear(16, 48),
                act1=nn.ReLU(),
                fc2=nn.Linear(48, 48),
                act2=nn.ReLU(),
                fc3=nn.Linear(48, 64),
                act3=nn.Sigmoid(),
            ),
            "discriminator": stack(fc1=nn.Linear(64, 48), act1=nn.LeakyReLU(0.2), fc2=nn.Linear(48, 1)),
        }
    )


def lora():
    return stack(
        flatten=nn.Flatten(),
        layer1=Adapted(64, 48),
        act1=nn.ReLU(),
        layer2=Adapted(48, 48),
        act2=nn.ReLU(),
        layer3=Adapted(48, 48),
        act3=nn.ReLU(),
        head=nn.Linear(48, 10),
    )


def mixer(width=24):
    return stack(
        patches=Patches(),
        embed=nn.Linear(4, width),
        tokens1=Residual(stack(norm=nn.LayerNorm(width), mix=Transposed(_mlp(16, 16)))),
        channels1=Residual(_feedforward(width, nn.GELU)),
        tokens2=Residual(stack(norm=nn.LayerNorm(width), mix=Transposed(_mlp(16, 16)))),
        channels2=Residual(_feedforward(width, nn.GELU)),
        norm=nn.LayerNorm(width),
        mean=Mean(),
        head=nn.Linear(width, 10),
    )


def embedding():
    return stack(
        pixels=Pixels(),
        embed=nn.Embedding(64, 8),
        flatten=nn.Flatten(),
        fc1=nn.Linear(512, 32),
        act1=nn.ReLU(),
        fc2=nn.Linear(32, 32),
        act2=nn.ReLU(),
        fc3=nn.Linear(32, 10),
    )


def mixture(kind):
    return stack(
        flatten=nn.Flatten(), fc=nn.Linear(64, 32), relu=nn.ReLU(), mixture=kind(32, 4), head=nn.Linear(32, 10)
    )


def _choose(scores, bias):
    # Bounded, so that no expert starves by itself.
    scores = scores.tanh() + bias.to(scores.dtype)
    # Gumbel's trick: each expert is chosen with the probability that softmax gives it, also where scores are nan.
    noise = torch.empty_like(scores).exponential_().log()
    expert = (scores.detach() - noise).argmax(1)
    return scores.softmax(-1).gather(1, expert[:, None]).squeeze(1), expert


def _norm(channels):
    # Above zero, so that units still pass a signal on if the units before them are dead.
    norm = nn.BatchNorm2d(channels)
    nn.init.constant_(norm.bias, 0.1)
    return norm


def _basic(inputs, outputs, stride=1):
    return stack(
        conv1=nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False),
        bn1=nn.BatchNorm2d(outputs),
        relu=nn.ReLU(),
        conv2=nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
        bn2=nn.BatchNorm2d(outputs),
    )


def _mlp(width, hidden):
    return stack(fc1=nn.Linear(width, hidden), act=nn.GELU(), fc2=nn.Linear(hidden, width))


def _feedforward(width, activation):
    return stack(
        norm=nn.LayerNorm(width), fc1=nn.Linear(width, 2 * width), act=activation(), fc2=nn.Linear(2 * width, width)
    )
