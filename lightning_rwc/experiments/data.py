# SPDX-License-Identifier: Apache-2.0
"""The data sets, as tensors of pixels, and as a LightningDataModule of 32×32 images."""

import gzip
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, DistributedSampler, TensorDataset
from typing_extensions import override

SIZE = 32
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
    """A data set of 32×32 images. Each channel has mean 0 and standard deviation 1 over the training set.

    Images of 28×28 pixels get a border. Images of 8×8 pixels are enlarged. The order of the images in an epoch depends
    only on ``seed`` and the epoch, so a resumed run sees the same batches as an uninterrupted one.

    Args:
        name: a key of ``DATA_SETS``.
        data_dir: the folder in which data sets are found, unpacked or downloaded.
        subset: train on the first ``subset`` images only. The test set is always complete.
        batch_size: number of images per batch.
        augment: shift training images by up to four pixels and mirror half of them, as is usual for CIFAR.
        num_workers: number of processes that load images.
        seed: seeds the order of the training images.

    Raises:
        ValueError: if ``name`` is unknown, or ``subset`` is not positive.

    """

    def __init__(
        self,
        *,
        name: str = "fashion-mnist",
        data_dir: str = "data",
        subset: int | None = None,
        batch_size: int = 128,
        augment: bool = False,
        num_workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if name not in DATA_SETS:
            raise ValueError(f"`name` must be one of {', '.join(DATA_SETS)}, but got {name!r}.")
        if subset is not None and subset < 1:
            raise ValueError(f"`subset` must be a number of images, at least 1, but got {subset}.")
        self.save_hyperparameters()
        self.channels, self.classes = DATA_SETS[name].channels, DATA_SETS[name].classes
        self._normalise: nn.Module = nn.Identity()

    @override
    def prepare_data(self) -> None:
        load_images(self.hparams["name"], Path(self.hparams["data_dir"]))

    @override
    def setup(self, stage: str) -> None:
        from torchvision.transforms import v2

        train, test = load_images(self.hparams["name"], Path(self.hparams["data_dir"]))
        images, labels = (tensor[: self.hparams["subset"]] for tensor in train.tensors)
        shifts = [v2.RandomCrop(SIZE, padding=4), v2.RandomHorizontalFlip()] if self.hparams["augment"] else []
        images = _resized(images)
        pixels = images.transpose(0, 1).flatten(1).double() / 255
        scale = v2.Normalize(pixels.mean(1).tolist(), pixels.std(1).clamp(min=1e-3).tolist())
        self._normalise = v2.Compose([v2.ToDtype(torch.float32, scale=True), scale])
        self._train = _Pairs(images, labels, v2.Compose(shifts) if shifts else nn.Identity())
        self._test = TensorDataset(_resized(test.tensors[0]), test.tensors[1])

    @override
    def train_dataloader(self) -> DataLoader[Any]:
        assert self.trainer is not None
        ranks, rank, seed = self.trainer.world_size, self.trainer.global_rank, self.hparams["seed"]
        # Lightning tells this sampler the epoch. An interrupted process loses the order of an ordinary sampler.
        sampler: DistributedSampler[Any] = DistributedSampler(self._train, num_replicas=ranks, rank=rank, seed=seed)
        return DataLoader(self._train, self.hparams["batch_size"], sampler=sampler, **self._workers())

    @override
    def test_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self._test, 4 * self.hparams["batch_size"], **self._workers())

    @override
    def on_after_batch_transfer(self, batch: list[Tensor], dataloader_idx: int) -> tuple[Tensor, Tensor]:
        images, labels = batch
        return self._normalise(images), labels

    def _workers(self) -> dict[str, Any]:
        count = self.hparams["num_workers"]
        return {"num_workers": count, "persistent_workers": count > 0, "pin_memory": torch.cuda.is_available()}


class _Pairs(Dataset[tuple[Tensor, Tensor]]):
    """Images with their labels. An image is transformed each time it is read."""

    def __init__(self, images: Tensor, labels: Tensor, transform: nn.Module) -> None:
        self._images, self._labels, self._transform = images, labels, transform

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self._transform(self._images[index]), self._labels[index]


def _resized(images: Tensor) -> Tensor:
    size = images.shape[-1]
    if size < SIZE // 2:
        return images.repeat_interleave(SIZE // size, dim=-1).repeat_interleave(SIZE // size, dim=-2)
    return nn.functional.pad(images, [(SIZE - size) // 2] * 4)


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
