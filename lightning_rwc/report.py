# SPDX-License-Identifier: Apache-2.0
"""What a measurement is told to whom: scalars to loggers and monitors, pictures now and then."""

import math
import time

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.utilities import rank_zero_warn

from lightning_rwc.cadence import check_count
from lightning_rwc.functional import depth_correlation
from lightning_rwc.history import RWCHistory
from lightning_rwc.loggers import LoggerOutput
from lightning_rwc.measures import MeasureTables
from lightning_rwc.quantity import RELATIVE_WEIGHT_CHANGE
from lightning_rwc.tags import Tags

# Pictures take their share of time at most one part in so many, however short epochs are.
_REST = 400


class Report:
    """Tells a Trainer's loggers, and whoever monitors its metrics, of each measurement.

    Args:
        prefix: what the tags start with.
        heatmap: when pictures are drawn, see :class:`~lightning_rwc.RWCCallback`.

    Raises:
        TypeError: if ``heatmap`` is neither a bool nor an int.
        ValueError: if ``heatmap`` is below 1, or ``prefix`` is blank.

    """

    def __init__(self, prefix: str, heatmap: bool | int) -> None:
        if not isinstance(heatmap, bool):
            check_count("heatmap", heatmap)
        if not isinstance(prefix, str) or not prefix.strip():
            raise ValueError(f"`prefix` must be a string that is not blank, such as 'rwc', but got {prefix!r}.")
        self._tags = Tags(prefix)
        self._heatmap = heatmap
        self._output = LoggerOutput()
        self.restart()

    def restart(self) -> None:
        """A new history begins."""
        self._drawn = 0
        self._rested = -math.inf
        self._told_non_finite = False

    def measurement(
        self, trainer: Trainer, history: RWCHistory, row: dict[str, float], total: float, measures: MeasureTables
    ) -> None:
        """Tell of ``row``, the newest of ``history``, of the ``total`` of the whole model, and of ``measures``."""
        step = history.steps[-1]
        self._warn_if_non_finite(row, step)
        scalars = {self._tags.layer(layer): value for layer, value in row.items()}
        scalars |= {self._tags.total: total, self._tags.depth_correlation: depth_correlation([*row.values()])}
        for measure, table in measures:
            tags = Tags(measure.name)
            scalars |= {tags.layer(layer): value for layer, value in table.newest().items() if layer in row}
        tensors = torch.tensor([*scalars.values()], dtype=torch.float32, device="cpu").unbind()
        trainer.callback_metrics.update(zip(scalars, tensors, strict=True))
        self._output.scalars(trainer.loggers, scalars, step)

        fresh = len(history) - self._drawn
        if self._heatmap is True:
            due = fresh >= max(self._drawn // 10, 1) and time.monotonic() >= self._rested
        else:
            due = bool(self._heatmap) and fresh >= self._heatmap
        if due:
            self.pictures(trainer, history, measures)

    def pictures(self, trainer: Trainer, history: RWCHistory, measures: MeasureTables) -> None:
        """Show the pictures of ``history`` and ``measures`` to the loggers that can, unless they have the newest."""
        if not self._heatmap or self._drawn == len(history) or not trainer.is_global_zero:
            return
        loggers = self._output.showing_images(trainer.loggers)
        if not loggers:
            return
        self._drawn = len(history)
        start = time.monotonic()
        with self._output.survive("drawing the pictures"):
            from lightning_rwc.plotting import to_image

            images = {}
            tables = [(Tags(measure.name), table, measure.quantity) for measure, table in measures]
            for tags, table, quantity in [(self._tags, history, RELATIVE_WEIGHT_CHANGE), *tables]:
                images[tags.heatmap] = to_image(table.plot_heatmap(quantity))
                images[tags.curves] = to_image(table.plot_curves(quantity))
            self._output.images(loggers, images, history.steps[-1])
        now = time.monotonic()
        self._rested = now + _REST * (now - start)

    def _warn_if_non_finite(self, row: dict[str, float], step: int) -> None:
        layer = next((layer for layer, value in row.items() if math.isnan(value)), None)
        if layer is not None and not self._told_non_finite:
            self._told_non_finite = True
            rank_zero_warn(
                f"Layer {layer!r} has a weight that is nan, infinite or too large to sum at step {step}. Its relative "
                "weight change is nan while that lasts; other layers stay right. This is said once a run."
            )
