# SPDX-License-Identifier: Apache-2.0
"""The architectures by name, as the paper's authors built them and as they are usually built."""

from collections.abc import Callable
from typing import Literal, TypeAlias, get_args

from torch import nn

from lightning_rwc.experiments import authors, modern

Like: TypeAlias = Literal["authors", "modern"]
Build: TypeAlias = Callable[[int, int], nn.Module]

ARCHITECTURES: dict[str, dict[Like, Build]] = {
    "alexnet": {"authors": authors.alexnet, "modern": modern.alexnet},
    "efficientnet_b4": {"modern": modern.efficientnet_b4},
    "resnet18": {"authors": authors.resnet18, "modern": modern.resnet18},
    "resnet50": {"modern": modern.resnet50},
    "vgg19_bn": {"authors": authors.vgg19_bn, "modern": modern.vgg19_bn},
    "xception": {"modern": modern.xception},
}
"""Name to the versions that exist. Each is a function of the numbers of input channels and classes."""


def build(architecture: str, channels: int, classes: int, like: Like) -> nn.Module:
    """Build a network from images of shape ``(batch, channels, 32, 32)`` to scores of shape ``(batch, classes)``.

    Args:
        architecture: a key of ``ARCHITECTURES``.
        channels: number of channels of the images.
        classes: number of classes.
        like: ``"authors"`` for the network of the paper's authors, ``"modern"`` for the one of torchvision or timm.

    Raises:
        ValueError: if ``architecture`` is unknown, or has no version ``like`` this.

    """
    return _versions(architecture)[check_like(architecture, like)](channels, classes)


def check_like(architecture: str, like: str | None) -> Like:
    """Return the version of the architecture that is meant. By default it is the authors' if they have one.

    Raises:
        ValueError: if ``architecture`` is unknown, or has no version ``like`` this.

    """
    versions = _versions(architecture)
    if like is None:
        return next(iter(versions))
    for version in versions:
        if version == like:
            return version
    if like in get_args(Like):
        raise ValueError(f"`like={like!r}` is not known for {architecture}. Choose `like={next(iter(versions))!r}`.")
    raise ValueError(f"`like` must be one of {', '.join(map(repr, get_args(Like)))}, but got {like!r}.")


def _versions(architecture: str) -> dict[Like, Build]:
    if architecture not in ARCHITECTURES:
        raise ValueError(f"`architecture` must be one of {', '.join(ARCHITECTURES)}, but got {architecture!r}.")
    return ARCHITECTURES[architecture]
