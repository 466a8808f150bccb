# SPDX-License-Identifier: Apache-2.0
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torchvision import datasets

from lightning_rwc.experiments import data
from lightning_rwc.experiments.data import DATA_SETS, Images, load_images
from tests.helpers import fashion_mnist_files


def images(**settings):
    module = Images(**({"name": "digits"} | settings))
    module.trainer = SimpleNamespace(world_size=1, global_rank=0)
    module.setup("fit")
    return module


def batches(module, epoch=0):
    loader = module.train_dataloader()
    loader.sampler.set_epoch(epoch)
    return [module.on_after_batch_transfer(batch, 0) for batch in loader]


def test_digits_are_those_of_scikit_learn():
    from sklearn.datasets import load_digits

    train, test = load_images("digits", None)
    assert (len(train), len(test)) == (1437, 360)
    known = {(image.round(3).tobytes(), label) for image, label in zip(*load_digits(return_X_y=True), strict=True)}
    for split in (train, test):
        pixels = (split.tensors[0].double().numpy() / (255 / 16)).round().reshape(-1, 64)
        found = {(image.tobytes(), label) for image, label in zip(pixels, split.tensors[1].tolist(), strict=True)}
        assert found <= known


def test_fashion_mnist_from_gz_files(tmp_path, monkeypatch):
    monkeypatch.setattr(data, "_DEBIAN_FASHION_MNIST", tmp_path / "package")
    (tmp_path / "package").mkdir()
    arrays = fashion_mnist_files(tmp_path / "package", train=6, t10k=3)
    for _ in range(2):  # the second time they are unpacked already
        train, test = load_images("fashion-mnist", tmp_path / "data")
    for dataset, part in ((train, "train"), (test, "t10k")):
        np.testing.assert_array_equal(dataset.tensors[0][:, 0], arrays[part][0])
        assert dataset.tensors[1].tolist() == arrays[part][1].tolist()


@pytest.mark.parametrize("name", [name for name in DATA_SETS if name != "digits"])
def test_data_that_is_nowhere_is_explained(name, tmp_path, monkeypatch):
    def offline(self):
        raise RuntimeError("no network")

    loader = DATA_SETS[name].loader
    monkeypatch.setattr(data, "_DEBIAN_FASHION_MNIST", tmp_path / "package")
    monkeypatch.setattr(getattr(datasets, loader), "download", offline)
    message = rf"{loader} is not in .* cannot be downloaded \(no network\)\. Put .*{tmp_path}"
    with pytest.raises(FileNotFoundError, match=message):
        load_images(name, tmp_path / "data")


@pytest.mark.parametrize(("name", "labels"), [("cifar10", "targets"), ("cifar100", "targets"), ("svhn", "labels")])
def test_colour_images_come_channels_first(name, labels, monkeypatch):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)
    stored = pixels.transpose(0, 3, 1, 2) if name == "svhn" else pixels
    asked = []

    def loader(root, **kwargs):
        asked.append(kwargs)
        return SimpleNamespace(data=stored, **{labels: [4, 3, 2, 1, 0]})

    monkeypatch.setattr(datasets, DATA_SETS[name].loader, loader)
    train, _ = load_images(name, "anywhere")
    np.testing.assert_array_equal(train.tensors[0].permute(0, 2, 3, 1), pixels)
    assert train.tensors[1].tolist() == [4, 3, 2, 1, 0]
    parts = [{"split": "train"}, {"split": "test"}] if name == "svhn" else [{"train": True}, {"train": False}]
    assert asked == [part | {"download": True} for part in parts]


def test_pixels_have_mean_0_and_deviation_1():
    pixels = torch.cat([batch for batch, _ in batches(images())]).double()
    assert pixels.shape == (1437, 1, 32, 32)
    assert pixels.mean().item() == pytest.approx(0, abs=1e-5)
    assert pixels.std().item() == pytest.approx(1, rel=1e-5)


def test_order_depends_on_seed_and_epoch_alone():
    def labels(seed, epoch):
        return torch.cat([label for _, label in batches(images(seed=seed), epoch)]).tolist()

    first = labels(0, 0)
    torch.rand(7)
    assert labels(0, 0) == first
    assert labels(0, 1) != first
    assert labels(1, 0) != first
    assert sorted(labels(1, 3)) == sorted(first)


def test_a_subset_is_the_first_images_and_the_test_set_whole():
    module = images(subset=100)
    expected = load_images("digits", None)[0].tensors[1][:100]
    assert sorted(torch.cat([label for _, label in batches(module)]).tolist()) == sorted(expected.tolist())
    assert len(module.test_dataloader().dataset) == 360


def test_augmentation_moves_and_mirrors_training_images_only():
    plain, changed = images(), images(augment=True)
    original, augmented = (torch.cat([batch for batch, _ in batches(module)]) for module in (plain, changed))
    differ = (original != augmented).flatten(1).any(1).double().mean()
    assert differ > 0.9  # 80 of 81 shifts move, half are mirrored
    for module in (plain, changed):
        image, _ = next(iter(module.test_dataloader()))
        np.testing.assert_array_equal(image, plain._test.tensors[0][: len(image)])


@pytest.mark.parametrize(
    ("settings", "message"), [({"name": "imagenet"}, "`name`.*digits"), ({"subset": 0}, "`subset`")]
)
def test_bad_settings_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        Images(**settings)
    with pytest.raises(ValueError, match="`name` must be one of"):
        load_images("imagenet", None)
