# SPDX-License-Identifier: Apache-2.0
"""A small convolutional network on real images, trained with the callback: what ``lightning-rwc demo`` runs."""

import gzip
import shutil
from collections.abc import Sized
from pathlib import Path
from typing import NamedTuple, cast

import torch
from lightning.pytorch import LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import RichProgressBar
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset, random_split
from torchmetrics.classification import MulticlassAccuracy

from lightning_rwc.callback import RWCCallback
from lightning_rwc.history import RWCHistory

_MOST_IMAGES = 10_000  # so that two CPU cores are done within a minute
_DEBIAN_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")


class DemoResult(NamedTuple):
    """What a demo run leaves behind."""

    history: RWCHistory
    accuracy: float
    log_dir: Path
    files: list[Path]


class DemoCNN(LightningModule):
    """Three convolutions and a linear layer for one-channel images of any size and ten classes."""

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
    """Train :class:`DemoCNN` on at most 10,000 images; leave history and pictures beside the event files.

    Args:
        data: which images to train on: ``"digits"`` or ``"fashion-mnist"``.
        data_dir: where Fashion-MNIST is looked for, unpacked or downloaded to.
        epochs: how many epochs to train.
        log_dir: where TensorBoard's runs are kept, one folder a run.

    Raises:
        ModuleNotFoundError: if scikit-learn or torchvision is missing.
        FileNotFoundError: if Fashion-MNIST is neither there nor to be downloaded.

    """
    seed_everything(0, verbose=False)
    train, validation = load_digits() if data == "digits" else load_fashion_mnist(data_dir)
    train = Subset(train, range(min(len(cast(Sized, train)), _MOST_IMAGES)))
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
    callback.history.plot_heatmap().savefig(files[0])
    callback.history.plot_curves().savefig(files[1])
    callback.history.save(files[2])
    return DemoResult(callback.history, float(trainer.callback_metrics["val_accuracy"]), run, files)


def load_digits() -> tuple[Dataset[tuple[Tensor, ...]], Dataset[tuple[Tensor, ...]]]:
    """scikit-learn's 1,797 handwritten digits of 8×8 pixels, which ship inside it: training and validation set."""
    from sklearn.datasets import load_digits as load

    digits = load()
    images = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 16
    train, validation = random_split(TensorDataset(images, torch.tensor(digits.target)), [0.8, 0.2])
    return train, validation


def load_fashion_mnist(data_dir: Path) -> tuple[Dataset[tuple[Tensor, ...]], Dataset[tuple[Tensor, ...]]]:
    """Fashion-MNIST by torchvision: 60,000 training and 10,000 test images of 28×28 pixels.

    The four gz files are taken from ``data_dir``, or where Debian's package ``dataset-fashion-mnist`` puts them;
    else torchvision downloads them.

    """
    from torchvision.datasets import FashionMNIST

    _unpack_fashion_mnist(data_dir, [name for name, _ in FashionMNIST.resources])
    sets = []
    for train in (True, False):
        try:
            data = FashionMNIST(str(data_dir), train=train, download=True)
        except Exception as error:
            raise FileNotFoundError(
                f"Fashion-MNIST is not in {data_dir} and could not be downloaded ({error}). Put its four files "
                f"*-ubyte.gz there, or install Debian's package dataset-fashion-mnist."
            ) from error
        sets.append(TensorDataset(data.data.unsqueeze(1).float() / 255, data.targets))
    return sets[0], sets[1]


def _unpack_fashion_mnist(data_dir: Path, names: list[str]) -> None:
    # torchvision wants the files unpacked, in this folder.
    raw = data_dir / "FashionMNIST" / "raw"
    if all((raw / name).with_suffix("").exists() for name in names):
        return
    for source in (data_dir, raw, _DEBIAN_FASHION_MNIST):
        if all((source / name).exists() for name in names):
            raw.mkdir(parents=True, exist_ok=True)
            for name in names:
                partial = raw / f"{name}.partial"
                with gzip.open(source / name) as packed, partial.open("wb") as unpacked:
                    shutil.copyfileobj(packed, unpacked)
                partial.replace((raw / name).with_suffix(""))
            return
