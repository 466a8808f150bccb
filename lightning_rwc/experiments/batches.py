# SPDX-License-Identifier: Apache-2.0
"""Batches of images that are in memory. Whole batches are read and augmented, without a loop over images."""

import math
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, DistributedSampler
from typing_extensions import override

Augment: TypeAlias = Literal["none", "flip", "crop-flip"]
_BORDER = 4


class Draw(NamedTuple):
    """One batch: which images, and the seed of their augmentation."""

    images: list[int]
    seed: int


# A DistributedSampler, because Lightning tells such a sampler the epoch and leaves it in place on several ranks. With
# an ordinary sampler, an interrupted process loses the order.
class Batches(DistributedSampler[Draw]):
    """The batches of one rank in an epoch.

    Args:
        data: the images.
        batch_size: number of images per batch. The last batch may be smaller.
        shuffle: draw a new order for each epoch.
        seed: seeds orders and augmentation.
        num_replicas: number of ranks.
        rank: this rank.
        even: give every rank as many images, for which some come twice. Training needs it. Otherwise each image comes
            once.

    """

    def __init__(
        self,
        data: "ImagesInMemory",
        *,
        batch_size: int,
        shuffle: bool,
        seed: int = 0,
        num_replicas: int = 1,
        rank: int = 0,
        even: bool = True,
    ) -> None:
        super().__init__(data, num_replicas, rank, shuffle, seed)
        self._batch_size = batch_size
        self._images = self.num_samples if even else len(range(rank, len(data), num_replicas))

    @override
    def __len__(self) -> int:
        return math.ceil(self._images / self._batch_size)

    @override
    def __iter__(self) -> Iterator[Draw]:
        order: list[Any] = [*super().__iter__()][: self._images]
        seeds = np.random.SeedSequence([self.seed, self.epoch, self.rank]).generate_state(len(self), np.uint32)
        for number, seed in enumerate(seeds.tolist()):
            yield Draw(order[number * self._batch_size :][: self._batch_size], seed)


class ImagesInMemory(Dataset[tuple[Tensor, Tensor]]):
    """Images with their labels. An item is a batch.

    Args:
        images: uint8 of shape ``(images, channels, height, width)``.
        labels: int64 of shape ``(images,)``.
        augment: ``"none"``, ``"flip"`` to mirror half of the images, or ``"crop-flip"`` to shift them by up to four
            pixels as well.

    """

    def __init__(self, images: Tensor, labels: Tensor, augment: Augment = "none") -> None:
        self._images, self._labels, self._augment = images, labels, augment

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, draw: Draw) -> tuple[Tensor, Tensor]:
        chosen = torch.tensor(draw.images)
        images, generator = self._images[chosen], torch.Generator().manual_seed(draw.seed)
        if self._augment == "crop-flip":
            images = _shifted(images, generator)
        if self._augment != "none":
            mirrored = torch.rand(len(images), generator=generator) < 0.5
            images = torch.where(mirrored[:, None, None, None], images.flip(-1), images)
        return images, self._labels[chosen]


def _shifted(images: Tensor, generator: torch.Generator) -> Tensor:
    count, _, height, width = images.shape
    padded = nn.functional.pad(images, [_BORDER] * 4).movedim(1, -1)
    top, left = torch.randint(2 * _BORDER + 1, (2, count, 1), generator=generator)
    rows, columns = top + torch.arange(height), left + torch.arange(width)
    return padded[torch.arange(count)[:, None, None], rows[:, :, None], columns[:, None, :]].movedim(-1, 1)
