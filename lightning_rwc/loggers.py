# SPDX-License-Identifier: Apache-2.0
"""Scalars and pictures to every kind of Lightning logger."""

import posixpath
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

_MLFLOW_KEY = 250
_NAMES_IN_WARNING = 3


class LoggerOutput:
    """Writes to loggers, and never raises for what a logger does: each failure is warned about once."""

    def __init__(self) -> None:
        self._told: set[str] = set()

    def scalars(self, loggers: Iterable[Logger], metrics: Mapping[str, float], step: int) -> None:
        """Give every logger ``metrics`` under ``step``, without those that it would refuse along with all others."""
        for logger in loggers:
            with self.survive(f"logging scalars to {_kind(logger)}"):
                refused = _refused_by_mlflow(logger, metrics) if _supported(logger) == "MLFlowLogger" else {}
                self._tell_refused(_kind(logger), refused)
                logger.log_metrics({tag: value for tag, value in metrics.items() if tag not in refused}, step=step)

    def showing_images(self, loggers: Iterable[Logger]) -> list[Logger]:
        """Those of ``loggers`` that can show a picture; the others are named once."""
        able = []
        for logger in loggers:
            if _supported(logger) is not None:
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
            name = _supported(logger)
            if name is not None:
                for tag, image in images.items():
                    with self.survive(f"logging images to {_kind(logger)}"):
                        _IMAGE_WRITERS[name](logger, tag, image, step)

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

    def _tell_refused(self, kind: str, refused: Mapping[str, str]) -> None:
        fresh = [tag for tag in refused if self._first(f"{tag} to {kind}")]
        if fresh:
            named = "; ".join(f"{_shortened(tag)!r}, which {refused[tag]}" for tag in fresh[:_NAMES_IN_WARNING])
            more = f"; and {len(fresh) - _NAMES_IN_WARNING} more" if len(fresh) > _NAMES_IN_WARNING else ""
            rank_zero_warn(
                f"{kind} gets no relative weight change under {named}{more}. It gets all others, and the history has "
                "these too. `group_by=` can give layers other names."
            )

    def _first(self, what: str) -> bool:
        first = what not in self._told
        self._told.add(what)
        return first


def _refused_by_mlflow(logger: Any, metrics: Iterable[str]) -> dict[str, str]:
    # MLflow takes the metrics of one call all or not at all.
    refused, taken = {}, set()
    for tag in metrics:
        key = re.sub(r"[^a-zA-Z0-9_/. -]+", "", _with_prefix(logger, tag))  # what Lightning makes of it
        if len(key) > _MLFLOW_KEY:
            refused[tag] = f"has {len(key)} characters where MLflow takes {_MLFLOW_KEY}"
        elif posixpath.normpath(key) != key or key.startswith(("/", "..")):
            refused[tag] = "is no path as MLflow takes it"
        elif key in taken:
            refused[tag] = f"is {_shortened(key)!r} to MLflow, as another is"
        taken.add(key)
    return refused


def _with_prefix(logger: Any, tag: str) -> str:
    # The argument `prefix` of Lightning's loggers stands before scalars alone. It has no public name once given.
    prefix = getattr(logger, "_prefix", None)
    return f"{prefix}{logger.LOGGER_JOIN_CHAR}{tag}" if prefix else tag


def _tensorboard(logger: Any, tag: str, image: Image, step: int) -> None:
    logger.experiment.add_image(_with_prefix(logger, tag), image, step, dataformats="HWC")


def _csv(logger: Any, tag: str, image: Image, step: int) -> None:
    # Each picture holds all measurements so far, so the newest replaces the one before. The folder may be remote.
    files, folder = fsspec.core.url_to_fs(logger.log_dir)
    files.makedirs(folder, exist_ok=True)
    prefix, _, kind = _with_prefix(logger, tag).rpartition("/")
    name = prefix.replace("%", "%25").replace("/", "%2F")  # `a/b` and `a_b` may both be there
    with files.open(f"{folder}/{name}_{kind}.png", "wb") as file:
        PILImage.fromarray(image).save(file, format="PNG")


def _wandb(logger: Any, tag: str, image: Image, step: int) -> None:
    logger.log_image(key=tag, images=[image], step=step)  # puts the logger's prefix before the key itself


def _mlflow(logger: Any, tag: str, image: Image, step: int) -> None:
    key = re.sub(r"[^a-zA-Z0-9_\-./ ]", "_", _with_prefix(logger, tag))  # all that MLflow takes
    logger.experiment.log_image(logger.run_id, image, key=key, step=step)


def _comet(logger: Any, tag: str, image: Image, step: int) -> None:
    # Comet, not Lightning, joins the prefix of a scalar to its name.
    prefix = getattr(logger, "_prefix", None)
    name = tag if prefix is None else f"{prefix}_{tag}"
    # Comet rescales the values of an array, but not those of a PIL image.
    logger.experiment.log_image(PILImage.fromarray(image), name=name, step=step)


def _lit(logger: Any, tag: str, image: Image, step: int) -> None:
    from litlogger import Image as LitImage

    logger.experiment[_with_prefix(logger, tag)].append(LitImage(image), step=step)


# By class name: each class exists in `lightning.pytorch` and again in `pytorch_lightning`, unrelated by inheritance.
_IMAGE_WRITERS: dict[str, Callable[[Any, str, Image, int], None]] = {
    "TensorBoardLogger": _tensorboard,
    "CSVLogger": _csv,
    "WandbLogger": _wandb,
    "MLFlowLogger": _mlflow,
    "CometLogger": _comet,
    "LitLogger": _lit,
}


def _supported(logger: Logger) -> str | None:
    return next((c.__name__ for c in type(logger).__mro__ if c.__name__ in _IMAGE_WRITERS), None)


def _kind(logger: Logger) -> str:
    return type(logger).__name__


def _shortened(name: str) -> str:
    return name if len(name) <= 100 else f"{name[:60]}…{name[-30:]}"
