# SPDX-License-Identifier: Apache-2.0
"""Write scalars, pictures and findings to every kind of Lightning logger."""

import posixpath
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import IO, Any, TypeAlias, cast

import fsspec
import numpy as np
import numpy.typing as npt
from PIL import Image as PILImage

from lightning_rwc.findings.finding import Finding, listing
from lightning_rwc.messages import LIGHTNING, rank_zero_info, rank_zero_warn
from lightning_rwc.quantity import Quantity
from lightning_rwc.tags import Tags
from lightning_rwc.training import class_names

Picture: TypeAlias = npt.NDArray[np.uint8]
PictureWriter: TypeAlias = Callable[[Any, str, Picture, int], None]
PageWriter: TypeAlias = Callable[[Any, str, str, int], None]
# A function of the logger, the tag, all findings so far, and how many of them it was told before.
FindingsWriter: TypeAlias = Callable[[Any, str, Sequence[Finding], int], None]

_MLFLOW_KEY = 250
_NAMES_IN_WARNING = 3


def register_picture_writer(class_name: str, write: PictureWriter) -> None:
    """Make pictures reach a logger that this package does not know.

    Call it when your module is imported, so that processes that Lightning starts know it too.

    Args:
        class_name: the name of the logger's class. Its subclasses get pictures too.
        write: a function of the logger, the tag, the picture and the step. It is called on rank 0. The picture is a
            uint8 array of shape ``(height, width, 3)``. If the function fails, a warning says so once.

    Raises:
        TypeError: if ``class_name`` is not a string, or ``write`` is not callable.

    Example:
        >>> def write(logger, tag, picture, step):
        ...     logger.experiment.upload(f"{tag} {step}", picture)
        >>> register_picture_writer("MyLogger", write)

    """
    if not isinstance(class_name, str):
        raise TypeError(f"`class_name` must be the name of a class as a string, but got {class_name!r}.")
    if not callable(write):
        raise TypeError(f"`write` must be a function of logger, tag, picture and step, but got {write!r}.")
    _PICTURE_WRITERS[class_name] = write


class LoggerOutput:
    """Writes to loggers. It never raises if a logger fails, but warns once for each kind of failure.

    Args:
        log: the name of the log for messages that are no warnings.

    """

    def __init__(self, log: str = LIGHTNING) -> None:
        self._log = log
        self._warned: set[str] = set()
        self.restart()

    def restart(self) -> None:
        """Begin a new run."""
        self._contents: dict[int, object] = {}

    def scalars(self, loggers: Iterable[Any], metrics: Mapping[str, float], step: int) -> None:
        """Log ``metrics`` at ``step`` to every logger, without those that would make a logger refuse all of them."""
        for logger in loggers:
            with self.survive(f"logging scalars to {_class_name(logger)}"):
                refused = _refused_by_mlflow(logger, metrics) if "MLFlowLogger" in class_names(logger) else {}
                self._warn_of_refused(_class_name(logger), refused)
                logger.log_metrics({tag: value for tag, value in metrics.items() if tag not in refused}, step=step)

    def showing_pictures(self, loggers: Iterable[Any]) -> list[Any]:
        """Those of ``loggers`` that can show a picture. The others are named once, in a message."""
        able = []
        for logger in loggers:
            if _supported(logger, _PICTURE_WRITERS) is not None:
                able.append(logger)
            elif _class_name(logger) != "DummyLogger" and self._first(f"pictures to {_class_name(logger)}"):
                rank_zero_info(
                    f"{_class_name(logger)} gets relative weight changes as scalars, but no pictures. Pictures go to "
                    f"{', '.join(_PICTURE_WRITERS)}. `lightning_rwc.loggers.register_picture_writer` adds a logger. "
                    "`callback.history.plot_heatmap()` draws the pictures at any time.",
                    self._log,
                )
        return able

    def pictures(self, loggers: Iterable[Any], pictures: Mapping[str, Picture], step: int) -> None:
        """Log ``pictures`` at ``step`` to loggers that can show them.

        Args:
            loggers: the loggers.
            pictures: tag to uint8 array of shape ``(height, width, 3)``.
            step: the step.

        """
        self._write("pictures", loggers, _PICTURE_WRITERS, pictures, step)

    @staticmethod
    def show_pages(loggers: Iterable[Any]) -> bool:
        """Whether any of ``loggers`` can show a page."""
        return any(_supported(logger, _PAGE_WRITERS) is not None for logger in loggers)

    def pages(self, loggers: Iterable[Any], pages: Mapping[str, str], step: int) -> None:
        """Log ``pages`` at ``step`` to loggers that can show them.

        Args:
            loggers: the loggers.
            pages: tag to HTML.
            step: the step.

        """
        self._write("pages", loggers, _PAGE_WRITERS, pages, step)

    def _write(
        self,
        what: str,
        loggers: Iterable[Any],
        writers: Mapping[str, Callable[[Any, str, Any, int], None]],
        contents: Mapping[str, Any],
        step: int,
    ) -> None:
        for logger in loggers:
            name = _supported(logger, writers)
            if name is not None:
                for tag, content in contents.items():
                    with self.survive(f"logging {what} to {_class_name(logger)}"):
                        writers[name](logger, tag, content, step)

    def findings(self, loggers: Iterable[Any], tag: str, findings: Sequence[Finding], told: int) -> None:
        """Write findings to loggers that take text.

        Args:
            loggers: the loggers.
            tag: the tag.
            findings: all findings so far, oldest first.
            told: how many of them were written before.

        """
        for logger in loggers:
            name = _supported(logger, _FINDINGS_WRITERS)
            if name is not None:
                with self.survive(f"logging findings to {_class_name(logger)}"):
                    _FINDINGS_WRITERS[name](logger, tag, findings, told)

    def contents(
        self,
        loggers: Iterable[Any],
        tags: Tags,
        layers: Sequence[str],
        quantities: Mapping[str, Quantity],
        *,
        units: Mapping[str, Sequence[str]],
        unit_quantities: Mapping[str, Quantity],
        findings: Sequence[Finding] | None,
        causes: Mapping[str, Sequence[tuple[int, int]]],
        shapes: Mapping[str, str],
        step: int,
    ) -> None:
        """Tell the tab in TensorBoard what the log holds, if that has changed. Call it after :meth:`scalars`.

        Args:
            loggers: the loggers.
            tags: the tags of relative weight change.
            layers: the names of all layers, in definition order.
            quantities: what the tags of a table start with, to its quantity.
            units: the names of the units of each layer that :meth:`units` writes.
            unit_quantities: the table that each row of their values belongs to, with its quantity.
            findings: all findings so far, oldest first, or ``None`` if nobody looks for them.
            causes: layer to the steps at which the cause of its standstill changes, and to which cause.
            shapes: layer to the shapes of its parameters.
            step: the step.

        """
        contents = (
            [*layers],
            dict(quantities),
            {layer: [*names] for layer, names in units.items()},
            None if findings is None else [*findings],
            {layer: [*changes] for layer, changes in causes.items()},
        )
        for position, logger in enumerate(loggers):
            if "TensorBoardLogger" in class_names(logger) and self._contents.get(position) != contents:
                with self.survive(f"logging the layers to {_class_name(logger)}"):
                    from lightning_rwc.tensorboard.contents import Contents, summary

                    named, of_units = (
                        {_with_prefix(logger, root): quantity for root, quantity in tables.items()}
                        for tables in (quantities, unit_quantities)
                    )
                    about = Contents([*layers], named, dict(units), of_units if units else {}, findings, causes, shapes)
                    told = about._replace(strip=tags.strip)
                    writer = cast(Any, logger).experiment.file_writer
                    writer.add_summary(summary(_with_prefix(logger, tags.layers), told), step)
                    self._contents[position] = contents

    def units(self, loggers: Iterable[Any], tag: str, values: npt.NDArray[np.float32], step: int) -> None:
        """Give the tab in TensorBoard the units of a layer.

        Args:
            loggers: the loggers.
            tag: the :meth:`Tags.unit_values <lightning_rwc.tags.Tags.unit_values>` of the layer.
            values: of shape ``(quantities, units)``.
            step: the step.

        """
        for logger in loggers:
            if "TensorBoardLogger" in class_names(logger):
                with self.survive(f"logging units to {_class_name(logger)}"):
                    from lightning_rwc.tensorboard.contents import unit_summary

                    writer = cast(Any, logger).experiment.file_writer
                    writer.add_summary(unit_summary(_with_prefix(logger, tag), values), step)

    @contextmanager
    def survive(self, doing: str) -> Iterator[None]:
        """Turn an error into a warning that says what failed, the first time that ``doing`` fails."""
        try:
            yield
        except Exception as error:
            if self._first(doing):
                rank_zero_warn(
                    f"Relative weight change: {doing} failed with {type(error).__name__}: {error}. Training continues, "
                    "and the history is complete. Further failures of this kind are not reported."
                )

    def _warn_of_refused(self, kind: str, refused: Mapping[str, str]) -> None:
        fresh = [tag for tag in refused if self._first(f"{tag} to {kind}")]
        if fresh:
            named = "; ".join(f"{_shortened(tag)!r}, which {refused[tag]}" for tag in fresh[:_NAMES_IN_WARNING])
            more = f"; and {len(fresh) - _NAMES_IN_WARNING} more" if len(fresh) > _NAMES_IN_WARNING else ""
            rank_zero_warn(
                f"{kind} cannot store the relative weight change of {named}{more}. It gets all others, and the history "
                "is complete. You can give layers other names with `group_by`."
            )

    def _first(self, what: str) -> bool:
        first = what not in self._warned
        self._warned.add(what)
        return first


def _refused_by_mlflow(logger: Any, metrics: Iterable[str]) -> dict[str, str]:
    # MLflow stores all metrics of a call, or none.
    refused, taken = {}, set()
    for tag in metrics:
        key = re.sub(r"[^a-zA-Z0-9_/. -]+", "", _with_prefix(logger, tag))  # what Lightning makes of it
        if len(key) > _MLFLOW_KEY:
            refused[tag] = f"has {len(key)} characters, but MLflow accepts {_MLFLOW_KEY}"
        elif posixpath.normpath(key) != key or key.startswith(("/", "..")):
            refused[tag] = "is not a path that MLflow accepts"
        elif key in taken:
            refused[tag] = f"has the same name as another one in MLflow, {_shortened(key)!r}"
        taken.add(key)
    return refused


def _with_prefix(logger: Any, tag: str) -> str:
    # Lightning's loggers put their argument `prefix` before scalars only, and have no public attribute for it.
    prefix = getattr(logger, "_prefix", None)
    return f"{prefix}{logger.LOGGER_JOIN_CHAR}{tag}" if prefix else tag


def _tensorboard(logger: Any, tag: str, picture: Picture, step: int) -> None:
    logger.experiment.add_image(_with_prefix(logger, tag), picture, step, dataformats="HWC")


def _csv(logger: Any, tag: str, picture: Picture, step: int) -> None:
    # Each picture has all measurements so far, so the newest replaces the one before.
    with _beside_metrics(logger, tag, "png") as file:
        PILImage.fromarray(picture).save(file, format="PNG")


@contextmanager
def _beside_metrics(logger: Any, tag: str, suffix: str) -> Iterator[IO[bytes]]:
    # The folder may be remote.
    files, folder = fsspec.core.url_to_fs(logger.log_dir)
    files.makedirs(folder, exist_ok=True)
    prefix, _, kind = _with_prefix(logger, tag).rpartition("/")
    name = prefix.replace("%", "%25").replace("/", "%2F")  # `a/b` and `a_b` may both exist
    with files.open(f"{folder}/{name}_{kind}.{suffix}", "wb") as file:
        yield file


def _wandb(logger: Any, tag: str, picture: Picture, step: int) -> None:
    logger.log_image(key=tag, images=[picture], step=step)  # puts the logger's prefix before the key itself


def _mlflow(logger: Any, tag: str, picture: Picture, step: int) -> None:
    logger.experiment.log_image(logger.run_id, picture, key=_mlflow_key(logger, tag), step=step)


def _mlflow_key(logger: Any, tag: str) -> str:
    return re.sub(r"[^a-zA-Z0-9_\-./ ]", "_", _with_prefix(logger, tag))  # all that MLflow takes


def _comet(logger: Any, tag: str, picture: Picture, step: int) -> None:
    # Comet rescales the values of an array, but not those of a PIL image.
    logger.experiment.log_image(PILImage.fromarray(picture), name=_comet_name(logger, tag), step=step)


def _comet_name(logger: Any, tag: str) -> str:
    # Comet, not Lightning, joins the prefix of a scalar to its name.
    prefix = getattr(logger, "_prefix", None)
    return tag if prefix is None else f"{prefix}_{tag}"


def _lit(logger: Any, tag: str, picture: Picture, step: int) -> None:
    from litlogger import Image as LitImage

    logger.experiment[_with_prefix(logger, tag)].append(LitImage(picture), step=step)


_PICTURE_WRITERS: dict[str, PictureWriter] = {
    "TensorBoardLogger": _tensorboard,
    "CSVLogger": _csv,
    "WandbLogger": _wandb,
    "MLFlowLogger": _mlflow,
    "CometLogger": _comet,
    "LitLogger": _lit,
}


def _page_to_wandb(logger: Any, tag: str, page: str, step: int) -> None:
    # A chart of W&B's own needs a preset on its server, and those have other colours. A table cannot be coloured.
    import wandb

    logger.log_metrics({tag: wandb.Html(page, inject=False)}, step=step)


def _page_to_mlflow(logger: Any, tag: str, page: str, step: int) -> None:
    # Each page has all measurements so far, so the newest replaces the one before.
    logger.experiment.log_text(logger.run_id, page, f"{_mlflow_key(logger, tag)}.html")


_PAGE_WRITERS: dict[str, PageWriter] = {"WandbLogger": _page_to_wandb, "MLFlowLogger": _page_to_mlflow}


def _findings_to_tensorboard(logger: Any, tag: str, findings: Sequence[Finding], told: int) -> None:
    for step, text in _by_step(findings, told):
        logger.experiment.add_text(_with_prefix(logger, tag), text, step)


def _findings_to_csv(logger: Any, tag: str, findings: Sequence[Finding], told: int) -> None:
    with _beside_metrics(logger, tag, "md") as file:
        file.write(_markdown(findings).encode())


def _findings_to_wandb(logger: Any, tag: str, findings: Sequence[Finding], told: int) -> None:
    # Its pages show the newest table, so this has all findings.
    rows = [[one.epoch, one.step, one.kind, _layers(one), one.message] for one in findings]
    logger.log_text(tag, columns=["epoch", "step", "kind", "layers", "message"], data=rows, step=findings[-1].step)


def _findings_to_mlflow(logger: Any, tag: str, findings: Sequence[Finding], told: int) -> None:
    logger.experiment.log_text(logger.run_id, _markdown(findings), f"{_mlflow_key(logger, tag)}.md")


def _findings_to_comet(logger: Any, tag: str, findings: Sequence[Finding], told: int) -> None:
    for step, text in _by_step(findings, told):
        logger.experiment.log_text(text, step=step, metadata={"name": _comet_name(logger, tag)})


def _findings_to_lit(logger: Any, tag: str, findings: Sequence[Finding], told: int) -> None:
    from litlogger import Text

    for step, text in _by_step(findings, told):
        logger.experiment[_with_prefix(logger, tag)].append(Text(text), step=step)


def _by_step(findings: Sequence[Finding], told: int) -> Iterator[tuple[int, str]]:
    # TensorBoard shows the last text of a step only, so a text has what was told at its step before.
    for step in dict.fromkeys(finding.step for finding in findings[told:]):
        yield step, _markdown([finding for finding in findings if finding.step == step])


def _markdown(findings: Iterable[Finding]) -> str:
    texts = []
    for one in findings:
        about = [f"**{one.kind}**", _layers(one), f"epoch {one.epoch}, step {one.step}"]
        texts.append(f"{' · '.join(filter(None, about))}\n\n{one.message}\n")
    return "\n".join(texts)


def _layers(finding: Finding) -> str:
    return listing(finding.layers) if finding.layers else ""


_FINDINGS_WRITERS: dict[str, FindingsWriter] = {
    "TensorBoardLogger": _findings_to_tensorboard,
    "CSVLogger": _findings_to_csv,
    "WandbLogger": _findings_to_wandb,
    "MLFlowLogger": _findings_to_mlflow,
    "CometLogger": _findings_to_comet,
    "LitLogger": _findings_to_lit,
}


def _supported(logger: Any, writers: Iterable[str]) -> str | None:
    return next((c.__name__ for c in type(logger).__mro__ if c.__name__ in writers), None)


def _class_name(logger: Any) -> str:
    return type(logger).__name__


def _shortened(name: str) -> str:
    return name if len(name) <= 100 else f"{name[:60]}…{name[-30:]}"
