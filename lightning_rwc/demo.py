# SPDX-License-Identifier: Apache-2.0
"""The run of ``lightning-rwc demo``: the callback in the training of a small network on real images."""

from pathlib import Path
from typing import NamedTuple

import torch
from lightning.pytorch import LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import RichProgressBar
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics.classification import MulticlassAccuracy

from lightning_rwc.callback import RWCCallback
from lightning_rwc.experiments.data import load_images
from lightning_rwc.findings import Finding
from lightning_rwc.history import RWCHistory

_MOST_IMAGES = 10_000  # two CPU cores then finish within a minute


class DemoResult(NamedTuple):
    """What a demo run produces."""

    history: RWCHistory
    findings: list[Finding]
    accuracy: float
    log_dir: Path
    files: list[Path]


class DemoCNN(LightningModule):
    """Three convolutions and a linear layer, for images of any size with one channel and ten classes."""

    def __init__(self, learning_rate: float = 0.05) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.conv1 = nn.Conv2d(1, 16, 3, padding=1)
        self.conv2 = nn.Conv2d(16, 32, 3, padding=1)
        self.conv3 = nn.Conv2d(32, 64, 3, padding=1)
        self.fc = nn.Linear(64 * 2 * 2, 10)
        self.accuracy = MulticlassAccuracy(num_classes=10, average="micro")

    def forward(self, images: Tensor) -> Tensor:
        """Class scores of shape ``(batch, 10)`` for images of shape ``(batch, 1, height, width)``."""
        hidden = nn.functional.max_pool2d(self.conv1(images).relu(), 2)
        hidden = nn.functional.max_pool2d(self.conv2(hidden).relu(), 2)
        hidden = nn.functional.adaptive_avg_pool2d(self.conv3(hidden).relu(), 2)
        return self.fc(hidden.flatten(1))  # type: ignore[no-any-return]  # modules are untyped calls in torch

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        """Cross-entropy, logged as ``train_loss``."""
        images, labels = batch
        loss = nn.functional.cross_entropy(self(images), labels)
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        """Accuracy, logged as ``val_accuracy``."""
        images, labels = batch
        self.accuracy(self(images), labels)
        self.log("val_accuracy", self.accuracy, prog_bar=True)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """SGD with momentum, as in the paper."""
        return torch.optim.SGD(self.parameters(), lr=self.hparams["learning_rate"], momentum=0.9)


def run_demo(data: str, data_dir: Path, epochs: int, log_dir: Path) -> DemoResult:
    """Train :class:`DemoCNN` on at most 10,000 images, and save history and pictures next to the event files.

    Args:
        data: which images to train on: ``"digits"`` or ``"fashion-mnist"``.
        data_dir: the folder in which Fashion-MNIST is found, unpacked or downloaded.
        epochs: how many epochs to train.
        log_dir: the folder for TensorBoard's runs. Each run gets its own folder in it.

    Raises:
        ModuleNotFoundError: if scikit-learn or torchvision is missing.
        FileNotFoundError: if Fashion-MNIST is missing and cannot be downloaded.

    """
    seed_everything(0, verbose=False)
    train, validation = demo_images(data, data_dir)
    callback = RWCCallback()
    logger = TensorBoardLogger(log_dir, name=data, default_hp_metric=False)
    trainer = Trainer(
        max_epochs=epochs,
        devices=1,
        logger=logger,
        callbacks=[callback, RichProgressBar()],
        enable_checkpointing=False,
        enable_model_summary=False,
        log_every_n_steps=10,
    )
    trainer.fit(DemoCNN(), DataLoader(train, batch_size=64, shuffle=True), DataLoader(validation, batch_size=512))

    run = Path(logger.log_dir)
    files = [run / name for name in ("rwc_heatmap.png", "rwc_curves.png", "rwc_history.csv")]
    history, findings = callback.history, callback.findings
    history.plot_heatmap(findings=findings, causes=callback.causes).savefig(files[0])
    history.plot_curves(findings=findings).savefig(files[1])
    history.save(files[2])
    return DemoResult(history, findings, float(trainer.callback_metrics["val_accuracy"]), run, files)


def demo_images(data: str, data_dir: Path) -> tuple[TensorDataset, TensorDataset]:
    """Return training and validation set, at most 10,000 images each, with pixels from 0 to 1.

    Args:
        data: a data set with one channel and ten classes, see :func:`~lightning_rwc.experiments.data.load_images`.
        data_dir: the folder in which data sets are found, unpacked or downloaded.

    """
    train, validation = (
        TensorDataset(images[:_MOST_IMAGES] / 255, labels[:_MOST_IMAGES])
        for images, labels in (dataset.tensors for dataset in load_images(data, data_dir))
    )
    return train, validation
