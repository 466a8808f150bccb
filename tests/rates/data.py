# SPDX-License-Identifier: Apache-2.0
"""Real images of 8 × 8 pixels: scikit-learn's digits, and Fashion-MNIST made smaller."""

from functools import lru_cache
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch.nn import functional as F

from lightning_rwc.experiments.data import load_images

_FASHION = 4096, 2000


class Batches:
    """Batches of images and labels, in a new order in each epoch."""

    def __init__(self, images, labels, size):
        self.images, self.labels, self.size = images, labels, size

    def __len__(self):
        return len(self.images) // self.size

    def __iter__(self):
        for chosen in torch.randperm(len(self.images))[: len(self) * self.size].split(self.size):
            yield self.images[chosen], self.labels[chosen]


@lru_cache
def images(name, folder=Path("data")):
    """Training images, their labels, test images and their labels."""
    if name == "digits":
        digits = load_digits()
        order = torch.randperm(len(digits.images), generator=torch.Generator().manual_seed(0))
        pixels = torch.tensor(digits.images, dtype=torch.float32)[order].unsqueeze(1) / 16
        labels = torch.tensor(digits.target)[order]
        return pixels[:1408], labels[:1408], pixels[1408:], labels[1408:]
    parts = []
    for dataset, count in zip(load_images("fashion-mnist", folder), _FASHION, strict=True):
        pixels, labels = dataset.tensors
        # 28 pixels do not divide into 8: the frame of two pixels is empty.
        small = F.avg_pool2d(pixels[:count, :, 2:-2, 2:-2].float() / 255, 3)
        parts += [small, labels[:count]]
    return tuple(parts)
