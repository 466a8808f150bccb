# SPDX-License-Identifier: Apache-2.0
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torchvision import datasets

from lightning_rwc.experiments import data
from lightning_rwc.experiments.batches import Batches, ImagesInMemory
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


def test_without_shuffling_every_epoch_has_the_order_of_the_data_set():
    expected = load_images("digits", None)[0].tensors[1].tolist()
    module = images(shuffle=False)
    for epoch in (0, 1):
        assert torch.cat([label for _, label in batches(module, epoch)]).tolist() == expected


def test_a_subset_is_the_first_images_and_the_test_set_whole():
    module = images(subset=100)
    expected = load_images("digits", None)[0].tensors[1][:100]
    assert sorted(torch.cat([label for _, label in batches(module)]).tolist()) == sorted(expected.tolist())
    tested = load_images("digits", None)[1].tensors[1]
    assert torch.equal(torch.cat([labels for _, labels in module.test_dataloader()]), tested)


@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
def test_ranks_together_test_each_image_once(ranks):
    module, tested = images(), load_images("digits", None)[1].tensors[1]
    found = torch.full((len(tested),), -1)
    for rank in range(ranks):
        module.trainer = SimpleNamespace(world_size=ranks, global_rank=rank)
        loader = module.test_dataloader()
        assert len(loader) == len(list(loader))
        found[rank::ranks] = torch.cat([labels for _, labels in loader])
    assert torch.equal(found, tested)


def augmented(how, count=4000, epoch=0, **options):
    """Numbered pixels, augmented, with the seed of each batch."""
    pixels = torch.arange(32 * 32, dtype=torch.int32).reshape(1, 1, 32, 32).repeat(count, 2, 1, 1)
    data = ImagesInMemory(pixels, torch.arange(count), how)
    order = Batches(data, batch_size=128, shuffle=True, **options)
    order.set_epoch(epoch)
    assert len(order) == len(list(order))
    batches = [data[draw] for draw in order]
    return torch.cat([image for image, _ in batches]), torch.cat([label for _, label in batches])


def test_half_of_the_images_are_mirrored():
    found, _ = augmented("flip")
    plain = torch.arange(32 * 32, dtype=torch.int32).reshape(1, 32, 32)
    mirrored = (found == plain.flip(-1)).flatten(1).all(1)
    assert torch.equal(~mirrored, (found == plain).flatten(1).all(1))
    assert mirrored.double().mean().item() == pytest.approx(0.5, abs=4 * 0.5 / 4000**0.5)


def test_images_are_shifted_by_up_to_four_pixels_in_both_directions():
    found, _ = augmented("crop-flip")
    shifts = set()
    padded = np.pad(np.arange(32 * 32).reshape(32, 32), 4)
    windows = {
        padded[top : top + 32, left : left + 32][:, ::step].tobytes(): (top - 4, left - 4, step)
        for top in range(9)
        for left in range(9)
        for step in (1, -1)
    }
    for image in found.long().numpy():
        shifts.add(windows[image[0].tobytes()])
        np.testing.assert_array_equal(image[0], image[1])  # all channels move together
    assert shifts == set(windows.values())


def test_augmentation_depends_on_seed_epoch_and_rank_alone():
    first = augmented("crop-flip", 500)
    torch.rand(7)
    again = augmented("crop-flip", 500)
    assert all(map(torch.equal, first, again))
    for other in ({"epoch": 1}, {"seed": 1}):
        changed, labels = augmented("crop-flip", 500, **other)
        assert sorted(labels.tolist()) == list(range(500))
        assert not torch.equal(changed[labels.argsort()], first[0][first[1].argsort()])
    ranks = [augmented("flip", 500, num_replicas=2, rank=rank) for rank in (0, 1)]
    assert sorted(torch.cat([labels for _, labels in ranks]).tolist()) == list(range(500))
    assert not torch.equal(ranks[0][0], ranks[1][0])


def test_test_images_are_not_augmented():
    plain, changed = images(), images(augment="crop-flip")
    for (left, _), (right, _) in zip(plain.test_dataloader(), changed.test_dataloader(), strict=True):
        assert torch.equal(left, right)


def as_the_authors(tmp_path, **settings):
    fashion_mnist_files(tmp_path, train=40, t10k=8)
    return images(
        name="fashion-mnist", data_dir=str(tmp_path), fit="resize", normalise="none", shuffle=False, **settings
    )


def test_as_the_authors_pixels_are_interpolated_and_lie_between_0_and_1(tmp_path):
    module = as_the_authors(tmp_path)
    found = torch.cat([batch for batch, _ in batches(module)])
    from PIL import Image

    original = load_images("fashion-mnist", tmp_path)[0].tensors[0]
    for image, pixels in zip(found, original, strict=True):
        expected = np.asarray(Image.fromarray(pixels[0].numpy()).resize((32, 32), Image.Resampling.BILINEAR))
        np.testing.assert_allclose(image[0].numpy(), expected / 255, atol=1.01 / 255)


def test_imagenets_mean_and_deviation():
    module = images(normalise="imagenet", shuffle=False)
    pixels = load_images("digits", None)[0].tensors[0][:128].repeat_interleave(4, 2).repeat_interleave(4, 3)
    np.testing.assert_allclose(batches(module)[0][0], (pixels / 255 - 0.485) / 0.229, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "imagenet"}, "`name`.*digits"),
        ({"subset": 0}, "`subset`"),
        ({"fit": "crop"}, "`fit` must be one of pad, resize"),
        ({"augment": "true"}, "`augment` must be one of none, flip, crop-flip"),
        ({"normalise": "all"}, "`normalise` must be one of data, imagenet, none"),
    ],
)
def test_bad_settings_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        Images(**settings)
    with pytest.raises(ValueError, match="`name` must be one of"):
        load_images("imagenet", None)
