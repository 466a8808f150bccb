# SPDX-License-Identifier: Apache-2.0
"""Networks of torchvision and timm, adapted to images of 32×32 pixels in the way that is usual for CIFAR."""

from torch import nn


def resnet18(channels: int, classes: int) -> nn.Module:
    """Build torchvision's ResNet-18 with a 3×3 stem of stride 1 and no early pooling."""
    from torchvision.models import resnet18 as build

    return _small_resnet(build(num_classes=classes), channels)


def resnet50(channels: int, classes: int) -> nn.Module:
    """Build torchvision's ResNet-50 with a 3×3 stem of stride 1 and no early pooling."""
    from torchvision.models import resnet50 as build

    return _small_resnet(build(num_classes=classes), channels)


def vgg19_bn(channels: int, classes: int) -> nn.Module:
    """Build torchvision's VGG-19 with batch norm. Five poolings leave one pixel, which one linear layer classifies."""
    from torchvision.models import vgg19_bn as build

    model: nn.Module = build(num_classes=classes)
    model.set_submodule("features.0", nn.Conv2d(channels, 64, 3, padding=1))
    model.avgpool = nn.Identity()
    model.classifier = nn.Linear(512, classes)
    return model


def alexnet(channels: int, classes: int) -> nn.Module:
    """Build torchvision's AlexNet. Poolings of 2×2 leave one pixel, which one linear layer classifies."""
    from torchvision.models import alexnet as build

    model: nn.Module = build(num_classes=classes)
    model.set_submodule("features.0", nn.Conv2d(channels, 64, 11, stride=4, padding=5))
    for position in (2, 5, 12):
        model.set_submodule(f"features.{position}", nn.MaxPool2d(2))
    model.avgpool = nn.Identity()
    model.classifier = nn.Linear(256, classes)
    return model


def xception(channels: int, classes: int) -> nn.Module:
    """Build timm's Xception (``legacy_xception``) with a stem of stride 1."""
    from timm import create_model

    model: nn.Module = create_model("legacy_xception", num_classes=classes, in_chans=channels)
    model.conv1 = nn.Conv2d(channels, 32, 3, padding=1, bias=False)
    return model


def efficientnet_b4(channels: int, classes: int) -> nn.Module:
    """Build timm's EfficientNet-B4 with a stem of stride 1. WeightScale sorts its layers by timm's names."""
    from timm import create_model

    model: nn.Module = create_model("efficientnet_b4", num_classes=classes, in_chans=channels)
    model.conv_stem = nn.Conv2d(channels, 48, 3, padding=1, bias=False)
    return model


def _small_resnet(model: nn.Module, channels: int) -> nn.Module:
    model.conv1 = nn.Conv2d(channels, 64, 3, padding=1, bias=False)
    model.maxpool = nn.Identity()
    return model
