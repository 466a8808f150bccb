# SPDX-License-Identifier: Apache-2.0
"""Scalars and pictures to every kind of Lightning logger."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeAlias

import fsspec
import numpy as np
import numpy.typing as npt
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from PIL import Image as PILImage

Image: TypeAlias = npt.NDArray[np.uint8]


class LoggerOutput:
    """Writes to loggers, and never raises for what a logger does: each failure is warned about once."""

    def __init__(self) -> None:
        self._told: set[str] = set()

    def scalars(self, loggers: Iterable[Logger], metrics: Mapping[str, float], step: int) -> None:
        """Give every logger ``metrics`` under ``step``."""
        for logger in loggers:
            with self.survive(f"logging scalars to {_kind(logger)}"):
                logger.log_metrics(dict(metrics), step=step)

    def showing_images(self, loggers: Iterable[Logger]) -> list[Logger]:
        """Those of ``loggers`` that can show a picture; the others are named once."""
        able = []
        for logger in loggers:
            if _image_writer(logger) is not None:
                able.append(logger)
            elif _kind(logger) != "DummyLogger" and self._first(f"images to {_kind(logger)}"):
                rank_zero_info(
                    f"{_kind(logger)} gets relative weight changes as scalars. The pictures of them go only to "
                    f"{', '.join(_IMAGE_WRITERS)}; `RWCHistory.plot_heatmap()` draws them at any time."
                )
        return able

    def images(self, loggers: Iterable[Logger], images: Mapping[str, Image], step: int) -> None:
        """Give each logger that can show them the ``images``: tag to uint8 array of shape (height, width, 3)."""
        for logger in loggers:
            write = _image_writer(logger)
            if write is not None:
                for tag, image in images.items():
                    with self.survive(f"logging images to {_kind(logger)}"):
                        write(logger, tag, image, step)

    @contextmanager
    def survive(self, doing: str) -> Iterator[None]:
        """Turn an error into a warning that says what failed while ``doing``, the first time it does."""
        try:
            yield
        except Exception as error:
            if self._first(doing):
                rank_zero_warn(
                    f"Relative weight change: {doing} failed with {type(error).__name__}: {error}. Training goes on "
                    "and the history is complete; further failures of this kind are not reported."
                )

    def _first(self, what: str) -> bool:
        first = what not in self._told
        self._told.add(what)
        return first


def _tensorboard(logger: Any, tag: str, image: Image, step: int) -> None:
    logger.experiment.add_image(tag, image, step, dataformats="HWC")


def _csv(logger: Any, tag: str, image: Image, step: int) -> None:
    # Each picture holds all measurements so far, so the newest replaces the one before. The folder may be remote.
    files, folder = fsspec.core.url_to_fs(logger.log_dir)
    files.makedirs(folder, exist_ok=True)
    with files.open(f"{folder}/{tag.replace('/', '_')}.png", "wb") as file:
        PILImage.fromarray(image).save(file, format="PNG")


def _wandb(logger: Any, tag: str, image: Image, step: int) -> None:
    logger.log_image(key=tag, images=[image], step=step)


def _mlflow(logger: Any, tag: str, image: Image, step: int) -> None:
    key = re.sub(r"[^a-zA-Z0-9_\-./ ]", "_", tag)  # all that MLflow takes
    logger.experiment.log_image(logger.run_id, image, key=key, step=step)


def _comet(logger: Any, tag: str, image: Image, step: int) -> None:
    # Comet rescales the values of an array, but not those of a PIL image.
    logger.experiment.log_image(PILImage.fromarray(image), name=tag, step=step)


def _lit(logger: Any, tag: str, image: Image, step: int) -> None:
    from litlogger import Image as LitImage

    logger.experiment[tag].append(LitImage(image), step=step)


# By class name: each class exists in `lightning.pytorch` and again in `pytorch_lightning`, unrelated by inheritance.
_IMAGE_WRITERS: dict[str, Callable[[Any, str, Image, int], None]] = {
    "TensorBoardLogger": _tensorboard,
    "CSVLogger": _csv,
    "WandbLogger": _wandb,
    "MLFlowLogger": _mlflow,
    "CometLogger": _comet,
    "LitLogger": _lit,
}


def _image_writer(logger: Logger) -> Callable[[Any, str, Image, int], None] | None:
    return next((_IMAGE_WRITERS[c.__name__] for c in type(logger).__mro__ if c.__name__ in _IMAGE_WRITERS), None)


def _kind(logger: Logger) -> str:
    return type(logger).__name__
