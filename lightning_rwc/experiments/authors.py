# SPDX-License-Identifier: Apache-2.0
"""Networks as the paper's authors built them, written from the facts of their code.

Source of the facts: https://github.com/ManifoldRG/Relative-Weight-Change at commit 02d3db2, which is from the time of
the paper. Modules have torchvision's names.

"""

import math

from torch import nn

from lightning_rwc.experiments import modern

UNKNOWN = (
    "Which weights the authors' seeds give: another version of PyTorch draws other numbers.",
    "The accuracies at which the authors stopped: their runs end after 150 epochs or at a test accuracy, and the "
    "supplement shows 20 epochs for MNIST and Fashion-MNIST. Runs here end after a number of epochs.",
    "Whether the authors' curves come from this code as it stands: it was published beside the paper, without the "
    "curves of the paper's figures.",
)
"""What is not known of the authors' runs, so that ours may differ."""


def alexnet(channels: int, classes: int) -> nn.Module:
    """Build the authors' AlexNet: 3×3 convolutions, the first with stride 2, and a head 1024–4096–1024 with dropout."""
    model = nn.Sequential()
    model.features = nn.Sequential(
        *(nn.Conv2d(channels, 64, 3, stride=2, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(64, 192, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(192, 384, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(384, 256, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(256, 256, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
    )
    model.flatten = nn.Flatten()
    model.classifier = nn.Sequential(
        *(nn.Dropout(), nn.Linear(1024, 4096), nn.ReLU()),
        *(nn.Dropout(), nn.Linear(4096, 1024), nn.ReLU()),
        nn.Linear(1024, classes),
    )
    return model


def resnet18(channels: int, classes: int) -> nn.Module:
    """Build the authors' ResNet-18: 3×3 stem of stride 1, no early pooling, and PyTorch's default initialisation."""
    model = modern.resnet18(channels, classes)
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.reset_parameters()
    return model


def vgg19_bn(channels: int, classes: int) -> nn.Module:
    """Build the authors' VGG-19 with batch norm: one linear layer after the convolutions, and normal weights."""
    model = modern.vgg19_bn(channels, classes)
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            deviation = math.sqrt(2 / (9 * module.out_channels)) if isinstance(module, nn.Conv2d) else 0.01
            nn.init.normal_(module.weight, std=deviation)
            assert module.bias is not None
            nn.init.zeros_(module.bias)
    return model
