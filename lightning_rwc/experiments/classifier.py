# SPDX-License-Identifier: Apache-2.0
"""The paper's training: cross-entropy, and SGD with momentum at a constant learning rate."""

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassAccuracy
from typing_extensions import override

from lightning_rwc.experiments.models import Like, build


class Classifier(LightningModule):
    """A LightningModule that trains one of the architectures to classify images.

    Args:
        architecture: a key of :data:`~lightning_rwc.experiments.models.ARCHITECTURES`.
        like: ``"authors"`` for the network of the paper's authors, ``"modern"`` for the one of torchvision or timm.
        learning_rate: learning rate of SGD, the same in every epoch.
        weight_decay: weight decay of SGD.
        momentum: momentum of SGD.
        channels: number of channels of the images. The data module sets it.
        classes: number of classes. The data module sets it.

    Raises:
        ValueError: if ``architecture`` is unknown, or has no version ``like`` this.

    """

    def __init__(
        self,
        *,
        architecture: str = "resnet18",
        like: Like = "authors",
        learning_rate: float = 0.1,
        weight_decay: float = 1e-4,
        momentum: float = 0.9,
        channels: int = 1,
        classes: int = 10,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.network = build(architecture, channels, classes, like)
        self.accuracies = MetricCollection(
            {f"test_top{k}": MulticlassAccuracy(classes, top_k=k, average="micro") for k in (1, 5)}
        )

    @override
    def forward(self, images: Tensor) -> Tensor:
        """Return scores of shape ``(batch, classes)`` for images of shape ``(batch, channels, 32, 32)``."""
        scores: Tensor = self.network(images)
        return scores

    @override
    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Return the cross-entropy, and log it as ``train_loss``."""
        images, labels = batch
        loss = nn.functional.cross_entropy(self(images), labels)
        self.log("train_loss", loss, on_step=False, on_epoch=True)
        return loss

    @override
    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Log top-1 and top-5 accuracy as ``test_top1`` and ``test_top5``."""
        images, labels = batch
        self.accuracies.update(self(images), labels)
        self.log_dict(self.accuracies)

    @override
    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return SGD as in the paper."""
        settings = {name: self.hparams[name] for name in ("momentum", "weight_decay")}
        return torch.optim.SGD(self.parameters(), lr=self.hparams["learning_rate"], **settings)


def layer_name(parameter: str) -> str:
    """Return the layer of a parameter of :class:`Classifier`: the name of its module within the network."""
    return parameter.removeprefix("network.").removesuffix(".weight")
