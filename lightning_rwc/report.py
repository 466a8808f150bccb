# SPDX-License-Identifier: Apache-2.0
"""What a measurement is told to whom: scalars to loggers and monitors, pictures now and then."""

import math
import time
from collections.abc import Sequence

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.utilities import rank_zero_warn

from lightning_rwc.cadence import check_count
from lightning_rwc.functional import depth_correlation
from lightning_rwc.history import RWCHistory
from lightning_rwc.loggers import LoggerOutput
from lightning_rwc.measures import MeasureTables
from lightning_rwc.quantity import RELATIVE_WEIGHT_CHANGE, Quantity
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
        self._written: dict[str, torch.Tensor] = {}
        self.restart()

    def restart(self) -> None:
        """A new history begins."""
        self._drawn = 0
        self._rested = -math.inf
        self._told_non_finite = self._told_unreliable = False
        self._foreign: set[str] = set()

    def measurement(
        self, trainer: Trainer, history: RWCHistory, row: dict[str, float], total: float, measures: MeasureTables
    ) -> None:
        """Tell of ``row``, the newest of ``history``, of the ``total`` of the whole model, and of ``measures``."""
        step = history.steps[-1]
        scalars = {self._tags.layer(layer): value for layer, value in row.items()}
        scalars |= {self._tags.total: total, self._tags.depth_correlation: depth_correlation([*row.values()])}
        for measure, table in measures:
            tags = Tags(measure.name)
            scalars |= {tags.layer(layer): value for layer, value in table.newest().items() if layer in row}
        pictures = [tag for tags, *_ in self._tables(history, measures) for tag in (tags.heatmap, tags.curves)]
        self._find_foreign(trainer, [*scalars, *(pictures if self._heatmap else ())])
        scalars = {tag: value for tag, value in scalars.items() if tag not in self._foreign}
        tensors = torch.tensor([*scalars.values()], dtype=torch.float32, device="cpu").unbind()
        self._written |= zip(scalars, tensors, strict=True)
        trainer.callback_metrics.update(zip(scalars, tensors, strict=True))
        self._output.scalars(trainer.loggers, scalars, step)

        fresh = len(history) - self._drawn
        if self._heatmap is True:
            due = fresh >= max(self._drawn // 10, 1) and time.monotonic() >= self._rested
        else:
            due = bool(self._heatmap) and fresh >= self._heatmap
        if due:
            self.pictures(trainer, history, measures)

    def non_finite(self, row: dict[str, float], history: RWCHistory, ranks: bool) -> None:
        """Warn, once a run, if a layer of ``row``, the newest of ``history``, is ``nan``.

        Args:
            row: layer name to value.
            history: the table of all rows.
            ranks: whether several ranks measured it, of which one may have failed.

        """
        layer = next((layer for layer, value in row.items() if math.isnan(value)), None)
        if layer is not None and not self._told_non_finite:
            self._told_non_finite = True
            failed = ranks and all(map(math.isnan, row.values()))
            rank_zero_warn(
                f"Layer {layer!r} has a weight that is nan, infinite or too large to sum at step {history.steps[-1]}"
                f"{', or another rank failed to measure it' if failed else ''}. Its relative weight change is nan "
                "while that lasts; other layers stay right. This is said once a run."
            )

    def unreliable(self, layers: Sequence[str], history: RWCHistory) -> None:
        """Warn, once a run, that the newest standard errors of ``layers`` mean little."""
        if layers and not self._told_unreliable:
            self._told_unreliable = True
            more = f" and {len(layers) - 5} more" if len(layers) > 5 else ""
            rank_zero_warn(
                f"At step {history.steps[-1]}, a few of the elements that `max_elements` samples carry most of the "
                f"change of {', '.join(map(repr, layers[:5]))}{more}. The estimates may be further off than twice "
                "their standard errors; a larger `max_elements` makes them better. This is said once a run."
            )

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
            for tags, table, quantity in self._tables(history, measures):
                for tag, plot in ((tags.heatmap, table.plot_heatmap), (tags.curves, table.plot_curves)):
                    if tag not in self._foreign:
                        images[tag] = to_image(plot(quantity))
            self._output.images(loggers, images, history.steps[-1])
        now = time.monotonic()
        self._rested = now + _REST * (now - start)

    def _tables(self, history: RWCHistory, measures: MeasureTables) -> list[tuple[Tags, RWCHistory, Quantity]]:
        further = [(Tags(measure.name), table, measure.quantity) for measure, table in measures]
        return [(self._tags, history, RELATIVE_WEIGHT_CHANGE), *further]

    def _find_foreign(self, trainer: Trainer, tags: Sequence[str]) -> None:
        # What stands under one of our tags, but was not put there by us, is a metric of somebody else. It is looked up
        # here, where every rank passes: reading the metrics of a Trainer may reduce them over all ranks.
        metrics = trainer.callback_metrics
        foreign = [tag for tag in tags if tag in metrics and metrics[tag] is not self._written.get(tag)]
        if fresh := [tag for tag in foreign if tag not in self._foreign]:
            more = f" and {len(fresh) - 3} more" if len(fresh) > 3 else ""
            rank_zero_warn(
                f"Something else logs {', '.join(map(repr, fresh[:3]))}{more}, as RWCCallback(prefix="
                f"{self._tags.prefix!r}) does. The callback leaves that metric alone and logs nothing of that name any "
                "more; its history is complete. Choose another `prefix=`, or rename the metric, to have both."
            )
        self._foreign.update(foreign)
