# SPDX-License-Identifier: Apache-2.0
"""The data sets, as tensors of pixels, and as a LightningDataModule of 32×32 images."""

import gzip
import shutil
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from typing_extensions import override

from lightning_rwc.experiments.batches import Augment, Batches, ImagesInMemory

SIZE = 32
Fit: TypeAlias = Literal["pad", "resize"]
Normalise: TypeAlias = Literal["data", "imagenet", "none"]
_DEBIAN_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")


class DataSet(NamedTuple):
    """The properties of a data set that are known before it is loaded."""

    loader: str
    """A class of ``torchvision.datasets``; empty for scikit-learn's digits."""
    channels: int = 1
    classes: int = 10


DATA_SETS = {
    "cifar10": DataSet("CIFAR10", channels=3),
    "cifar100": DataSet("CIFAR100", channels=3, classes=100),
    "digits": DataSet(""),
    "fashion-mnist": DataSet("FashionMNIST"),
    "mnist": DataSet("MNIST"),
    "svhn": DataSet("SVHN", channels=3),
}


def load_images(name: str, data_dir: Path) -> tuple[TensorDataset, TensorDataset]:
    """Load a training and a test set into memory.

    Args:
        name: a key of ``DATA_SETS``. The digits (1,797 images of 8×8 pixels) are part of scikit-learn; a fifth of them
            is the test set. torchvision loads the other data sets, and downloads them if they are not in ``data_dir``.
            Fashion-MNIST may also be four gz files in ``data_dir``, or come from Debian's package
            ``dataset-fashion-mnist``.
        data_dir: the folder in which data sets are found, unpacked or downloaded.

    Returns:
        Two data sets of pairs: an image, uint8 of shape ``(channels, height, width)``, and its label, 0-dim int64.

    Raises:
        FileNotFoundError: if the data set is missing and cannot be downloaded.
        ValueError: if ``name`` is unknown.

    """
    if name not in DATA_SETS:
        raise ValueError(f"`name` must be one of {', '.join(DATA_SETS)}, but got {name!r}.")
    if name == "digits":
        return _digits()
    if name == "fashion-mnist":
        _unpack_fashion_mnist(data_dir)
    train, test = (_from_torchvision(DATA_SETS[name].loader, data_dir, train) for train in (True, False))
    return train, test


class Images(LightningDataModule):
    """A data set of 32×32 images, which are kept in memory. A batch is cut and augmented as a whole.

    The order of the images and their augmentation in an epoch depend only on ``seed`` and the epoch. So a resumed run
    sees the same batches as an uninterrupted one.

    Args:
        name: a key of ``DATA_SETS``.
        data_dir: the folder in which data sets are found, unpacked or downloaded.
        subset: train on the first ``subset`` images only. The test set is always complete.
        batch_size: number of images per batch.
        shuffle: draw a new order for each epoch. Otherwise every epoch has the order of the data set.
        fit: how images of 28×28 pixels become 32×32: ``"pad"`` adds a black border, ``"resize"`` interpolates. Images
            of 8×8 pixels are enlarged without interpolation.
        augment: what happens to training images: ``"none"``; ``"flip"`` mirrors half of them; ``"crop-flip"`` also
            shifts them by up to four pixels.
        normalise: what happens to pixels between 0 and 1: ``"data"`` gives each channel mean 0 and standard deviation 1
            over the training set; ``"imagenet"`` uses ImageNet's means and deviations; ``"none"`` leaves them as they
            are.
        seed: seeds the order of the training images and their augmentation.

    Raises:
        ValueError: if ``name``, ``fit``, ``augment`` or ``normalise`` is unknown, or ``subset`` is not positive.

    """

    def __init__(
        self,
        *,
        name: str = "fashion-mnist",
        data_dir: str = "data",
        subset: int | None = None,
        batch_size: int = 128,
        shuffle: bool = True,
        fit: Fit = "pad",
        augment: Augment = "none",
        normalise: Normalise = "data",
        seed: int = 0,
    ) -> None:
        super().__init__()
        known = {"name": (name, tuple(DATA_SETS)), "fit": (fit, get_args(Fit))}
        known |= {"augment": (augment, get_args(Augment)), "normalise": (normalise, get_args(Normalise))}
        for argument, (value, choices) in known.items():
            if value not in choices:
                raise ValueError(f"`{argument}` must be one of {', '.join(choices)}, but got {value!r}.")
        if subset is not None and subset < 1:
            raise ValueError(f"`subset` must be a number of images, at least 1, but got {subset}.")
        self.save_hyperparameters()
        self.channels, self.classes = DATA_SETS[name].channels, DATA_SETS[name].classes
        self._normalise: nn.Module = nn.Identity()
        self._parts: dict[str, tuple[Tensor, Tensor]] = {}

    @override
    def prepare_data(self) -> None:
        load_images(self.hparams["name"], Path(self.hparams["data_dir"]))

    @override
    def setup(self, stage: str) -> None:
        if self._parts:
            return
        from torchvision.transforms import v2

        train, test = load_images(self.hparams["name"], Path(self.hparams["data_dir"]))
        images, labels = (tensor[: self.hparams["subset"]] for tensor in train.tensors)
        images = _fitted(images, self.hparams["fit"])
        scale = [] if self.hparams["normalise"] == "none" else [v2.Normalize(*self._mean_and_deviation(images))]
        self._normalise = v2.Compose([v2.ToDtype(torch.float32, scale=True), *scale])
        tested, tested_labels = test.tensors
        self._parts = {"train": (images, labels), "test": (_fitted(tested, self.hparams["fit"]), tested_labels)}

    @override
    def train_dataloader(self) -> DataLoader[Any]:
        options = {name: self.hparams[name] for name in ("batch_size", "shuffle", "seed")}
        return self._loader("train", **options, augment=self.hparams["augment"])

    @override
    def test_dataloader(self) -> DataLoader[Any]:
        return self._loader("test", batch_size=4 * self.hparams["batch_size"], shuffle=False, even=False)

    @override
    def on_after_batch_transfer(self, batch: list[Tensor], dataloader_idx: int) -> tuple[Tensor, Tensor]:
        images, labels = batch
        return self._normalise(images), labels

    def _loader(self, part: str, *, augment: Augment = "none", **options: Any) -> DataLoader[Any]:
        assert self.trainer is not None
        data = ImagesInMemory(*self._parts[part], augment)
        batches = Batches(data, num_replicas=self.trainer.world_size, rank=self.trainer.global_rank, **options)
        return DataLoader(data, batch_size=None, sampler=batches, pin_memory=torch.cuda.is_available())

    def _mean_and_deviation(self, images: Tensor) -> tuple[list[float], list[float]]:
        if self.hparams["normalise"] == "imagenet":
            mean, deviation = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
            return list(mean[: self.channels]), list(deviation[: self.channels])
        pixels = images.transpose(0, 1).flatten(1).double() / 255
        return pixels.mean(1).tolist(), pixels.std(1).clamp(min=1e-3).tolist()


def _fitted(images: Tensor, fit: Fit) -> Tensor:
    size = images.shape[-1]
    if size < SIZE // 2:
        return images.repeat_interleave(SIZE // size, dim=-1).repeat_interleave(SIZE // size, dim=-2)
    if fit == "pad" or size == SIZE:
        return nn.functional.pad(images, [(SIZE - size) // 2] * 4)
    from torchvision.transforms import v2

    resized: Tensor = v2.functional.resize(images, [SIZE, SIZE])
    return resized


def _digits() -> tuple[TensorDataset, TensorDataset]:
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    images, labels = load_digits(return_X_y=True)
    images = np.round(images.reshape(-1, 1, 8, 8) * (255 / 16)).astype(np.uint8)
    parts = train_test_split(images, labels, test_size=0.2, random_state=0, stratify=labels)
    train_images, test_images, train_labels, test_labels = map(torch.from_numpy, parts)
    return TensorDataset(train_images, train_labels), TensorDataset(test_images, test_labels)


def _from_torchvision(loader: str, data_dir: Path, train: bool) -> TensorDataset:
    from torchvision import datasets

    part = {"split": "train" if train else "test"} if loader == "SVHN" else {"train": train}
    try:
        data = getattr(datasets, loader)(str(data_dir), **part, download=True)
    except Exception as error:
        raise FileNotFoundError(_missing(loader, data_dir, error)) from error
    images = torch.as_tensor(data.data)
    if images.ndim == 3:
        images = images.unsqueeze(1)
    elif images.shape[-1] == 3:
        images = images.permute(0, 3, 1, 2).contiguous()
    labels = data.labels if loader == "SVHN" else data.targets
    return TensorDataset(images, torch.as_tensor(labels, dtype=torch.int64))


def _missing(loader: str, data_dir: Path, error: Exception) -> str:
    where = {
        "FashionMNIST": f"Put its four files *-ubyte.gz into {data_dir}, or install Debian's package "
        "dataset-fashion-mnist.",
        "MNIST": f"Put its four files *-ubyte.gz into {data_dir / 'MNIST' / 'raw'}.",
        "CIFAR10": f"Put cifar-10-python.tar.gz into {data_dir}.",
        "CIFAR100": f"Put cifar-100-python.tar.gz into {data_dir}.",
        "SVHN": f"Put train_32x32.mat and test_32x32.mat into {data_dir}.",
    }
    return f"{loader} is not in {data_dir} and cannot be downloaded ({error}). {where[loader]}"


def _unpack_fashion_mnist(data_dir: Path) -> None:
    from torchvision.datasets import FashionMNIST

    # torchvision reads the unpacked files from this folder.
    names = [name for name, _ in FashionMNIST.resources]
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
