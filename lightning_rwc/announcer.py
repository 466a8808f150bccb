# SPDX-License-Identifier: Apache-2.0
"""The announcer: it tells loggers and monitors of each measurement, and warns the user."""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn import Module

from lightning_rwc.depth import depth_correlation
from lightning_rwc.findings.summary import summary
from lightning_rwc.history import RWCHistory
from lightning_rwc.loggers import LoggerOutput, Picture
from lightning_rwc.messages import LIGHTNING, rank_zero_info, rank_zero_warn
from lightning_rwc.metric import Measurement
from lightning_rwc.movement import MOVEMENTS
from lightning_rwc.options import check_heatmap, check_prefix, check_strip_prefix
from lightning_rwc.quantity import CHANGE_SINCE_START, RELATIVE_WEIGHT_CHANGE, Quantity, ScaleName
from lightning_rwc.recorder import Recorder
from lightning_rwc.scale import scale_of
from lightning_rwc.tags import Tags
from lightning_rwc.training import Training

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Pictures take at most this fraction of the time, however short epochs are.
_PICTURE_SHARE = 1 / 400
_ROTATION = MOVEMENTS["rotation"]


class Announcer:
    """Tells the loggers of a training, and those who monitor its metrics, of each measurement.

    Args:
        prefix: the start of all tags.
        heatmap: when pictures are drawn, see :class:`~lightning_rwc.RWCCallback`.
        scale: the scale of colours, likewise.
        strip_prefix: what tags leave out at the start of a layer's name.
        log: the name of the log for messages that are no warnings.

    Raises:
        TypeError: if ``heatmap`` is neither a bool nor an int, or ``strip_prefix`` is not a string.
        ValueError: if ``heatmap`` is below 1, ``prefix`` is blank, or ``scale`` is unknown.

    """

    def __init__(
        self,
        prefix: str,
        heatmap: bool | int,
        scale: ScaleName | None = None,
        strip_prefix: str = "",
        log: str = LIGHTNING,
    ) -> None:
        check_heatmap(heatmap)
        check_prefix(prefix)
        check_strip_prefix(strip_prefix)
        scale_of(RELATIVE_WEIGHT_CHANGE, scale)
        self._tags = Tags(prefix, strip_prefix)
        self._heatmap, self._scale = heatmap, scale
        self._log, self._output = log, LoggerOutput(log)
        self._written: dict[str, torch.Tensor] = {}
        self.restart()

    def restart(self) -> None:
        """Begin with a new history."""
        self._drawn = 0
        self._shapes: dict[str, str] = {}
        self._causes: dict[str, list[tuple[int, int]]] = {}
        self._told_about, self._causes_at = (0, 0), 0
        self._next_picture = -math.inf
        self._warned: set[str] = set()
        self._foreign: set[str] = set()
        self._told = 0
        self._output.restart()

    def resume(self, recorder: Recorder) -> None:
        """Tell no finding again that ``recorder`` has from a checkpoint. Call it after :meth:`restart`."""
        self._told = len(recorder.findings)

    def findings(self, training: Training, recorder: Recorder) -> None:
        """Tell the findings of ``recorder`` that have not been told: to loggers that take text, and as a warning each.

        :meth:`measurement` does so too.
        """
        findings, told = recorder.findings, self._told
        # Before anything can fail, so that nothing is told twice.
        self._told = len(findings)
        if told == len(findings):
            return
        if training.is_global_zero and self._tags.findings not in self._foreign:
            self._output.findings(training.loggers, self._tags.findings, findings, told)
        for finding in findings[told:]:
            rank_zero_warn(f"Relative weight change found {finding.kind!r}: {finding.message}")

    def measurement(self, training: Training, recorder: Recorder, measurement: Measurement | None) -> None:
        """Announce a measurement.

        Args:
            training: the training.
            recorder: it has the tables.
            measurement: the newest measurement, or None if it failed.

        """
        history = recorder.history
        self._warn_of_doubts(recorder, measurement)
        step = history.steps[-1]
        row, total = history.newest(), math.nan
        if measurement is not None and measurement.values:
            row, total = measurement.values, measurement.total
        scalars = {self._tags.layer(layer): value for layer, value in row.items()}
        scalars |= {
            self._tags.total: total,
            self._tags.depth_correlation: depth_correlation([*row.values()]),
            self._tags.epoch: history.epochs[-1],
        }
        tables = [*self._tables(recorder)]
        for tags, table, _ in tables[1:]:
            scalars |= {tags.layer(layer): value for layer, value in table.newest().items() if layer in row}
        pictures = []
        if self._heatmap:
            pictures = [tag for tags, *_ in tables for tag in (tags.heatmap, tags.curves, tags.heatmap_hover)]
            pictures += [
                tag(layer) for layer in recorder.units for tag in (self._tags.unit_change, self._tags.unit_rotation)
            ]
        texts = [self._tags.findings, *map(self._tags.unit_values, recorder.units)]
        self._find_foreign(training, [*scalars, *pictures, *texts])
        scalars = {tag: value for tag, value in scalars.items() if tag not in self._foreign}
        tensors = torch.tensor([*scalars.values()], dtype=torch.float32, device="cpu").unbind()
        self._written |= zip(scalars, tensors, strict=True)
        training.callback_metrics.update(zip(scalars, tensors, strict=True))
        self._output.scalars(training.loggers, scalars, step)
        if training.is_global_zero and self._tags.epoch not in self._foreign:
            with self._output.survive("telling the tab of TensorBoard"):
                self._tell_tab(training, recorder, tables)
        self.findings(training, recorder)

        fresh = len(history) - self._drawn
        if self._heatmap is True:
            due = fresh >= max(self._drawn // 10, 1) and time.monotonic() >= self._next_picture
        else:
            due = bool(self._heatmap) and fresh >= self._heatmap
        if due:
            self.pictures(training, recorder)

    def summary(self, recorder: Recorder, module: Module) -> None:
        """Say in a few lines what was found, and which layers changed most and least."""
        if recorder.looks_for_findings and recorder.metric is not None and len(recorder.history):
            with self._output.survive("the summary"):
                layers = recorder.metric.tracked(module)
                frozen = [layer for layer, found in layers.items() if not any(p.requires_grad for p in found.values())]
                rank_zero_info(summary(recorder.history, recorder.findings, frozen), self._log)

    def _tell_tab(
        self, training: Training, recorder: Recorder, tables: Sequence[tuple[Tags, RWCHistory, Quantity]]
    ) -> None:
        history, tags = recorder.history, self._tags
        quantities = {root.prefix: quantity for root, _, quantity in tables}
        layers = [layer for layer in history.layers if tags.layer(layer) not in self._foreign]
        units = {
            layer: table for layer, table in recorder.units.items() if tags.unit_values(layer) not in self._foreign
        }
        names = {layer: table.layers for layer, table in units.items()}
        change, rotation = _quantities_of_units(recorder)
        of_units = {tags.prefix: change, tags.measure(_ROTATION.name).prefix: rotation}
        if recorder.metric is not None and not self._shapes.keys() >= {*recorder.metric.layers}:
            self._shapes |= recorder.metric.described(training.module)
        # Causes may change at each measurement, and each text has all of them.
        about = len(layers), len(recorder.findings)
        if about != self._told_about or len(history) >= 1.1 * self._causes_at:
            self._told_about, self._causes_at = about, len(history)
            self._causes = recorder.causes.by_step(history.steps)
        self._output.contents(
            training.loggers,
            tags,
            layers,
            quantities,
            units=names,
            unit_quantities=of_units,
            findings=recorder.findings if recorder.looks_for_findings else None,
            causes=self._causes,
            shapes=self._shapes,
            step=history.steps[-1],
        )
        for layer, table in units.items():
            pair = table, recorder.unit_rotations[layer]
            values = np.array([[*one.newest().values()] for one in pair], dtype=np.float32)
            self._output.units(training.loggers, tags.unit_values(layer), values, history.steps[-1])

    def _warn_of_doubts(self, recorder: Recorder, measurement: Measurement | None) -> None:
        if measurement is None:
            return
        step, values = recorder.history.steps[-1], measurement.values
        lost = next((layer for layer, value in values.items() if math.isnan(value)), None)
        # As a rule this is a finding.
        if lost is not None and not any(finding.kind == "non_finite" for finding in recorder.findings):
            failed = measurement.spans_ranks and all(map(math.isnan, values.values()))
            other = ", or another rank failed to measure it" if failed else ""
            self._warn_once(
                "non-finite",
                f"Layer {lost!r} has a weight that is nan, infinite or too large to sum at step {step}{other}. Its "
                "relative weight change is nan as long as this lasts. Other layers are measured as before. This "
                "warning appears once per run.",
            )
        if layers := measurement.unreliable:
            more = f" and {len(layers) - 5} more" if len(layers) > 5 else ""
            self._warn_once(
                "unreliable",
                f"`max_elements` samples too few elements of {', '.join(map(repr, layers[:5]))}{more}. At step {step} "
                "a few of the sampled ones carry most of the change. The estimates may be further off than twice "
                "their standard errors. Choose a larger `max_elements`. This warning appears once per run.",
            )

    def _warn_once(self, kind: str, message: str) -> None:
        if kind not in self._warned:
            self._warned.add(kind)
            rank_zero_warn(message)

    def pictures(self, training: Training, recorder: Recorder) -> None:
        """Show the pictures to the loggers that can show them, unless these have the newest ones."""
        history = recorder.history
        if not self._heatmap or self._drawn == len(history) or not training.is_global_zero:
            return
        loggers = self._output.showing_pictures(training.loggers)
        if not loggers:
            return
        self._drawn = len(history)
        start = time.monotonic()
        with self._output.survive("drawing the pictures"):
            from lightning_rwc.plotting import to_image

            pictures, pages = {}, {}
            makers = self._pages(recorder) if self._output.show_pages(loggers) else {}
            for tag, plot in self._plots(recorder):
                if tag not in self._foreign:
                    figure = plot()
                    pictures[tag] = to_image(figure)
                    if tag in makers:
                        page_tag, page = makers[tag]
                        with self._output.survive("making the page of a picture"):
                            pages[page_tag] = page(figure, pictures[tag])
            self._output.pictures(loggers, pictures, history.steps[-1])
            self._output.pages(loggers, pages, history.steps[-1])
        now = time.monotonic()
        self._next_picture = now + (now - start) / _PICTURE_SHARE

    def _tables(self, recorder: Recorder) -> Iterator[tuple[Tags, RWCHistory, Quantity]]:
        yield self._tags, recorder.history, _of_run(RELATIVE_WEIGHT_CHANGE, recorder)
        for measure, table in recorder.measures:
            yield self._tags.measure(measure.name), table, _of_run(measure.quantity, recorder)

    def _plots(self, recorder: Recorder) -> Iterator[tuple[str, Callable[[], "Figure"]]]:
        for tags, table, quantity in self._tables(recorder):
            findings = recorder.findings if tags in (self._tags, self._tags.measure(_ROTATION.name)) else ()
            causes = recorder.causes.table(table.layers, len(table))
            told: dict[str, Any] = {"findings": findings, "causes": causes}
            yield tags.heatmap, partial(table.plot_heatmap, quantity, **told, scale=self._scale)
            expected = recorder.measures.expected(table)
            yield tags.curves, partial(table.plot_curves, quantity, expected, **told)
        change, rotation = _quantities_of_units(recorder)
        for layer, table in recorder.units.items():
            causes = recorder.causes.table([layer], len(table)).repeat(len(table.layers), axis=1)
            drawn: dict[str, Any] = {"causes": causes, "scale": self._scale}
            yield self._tags.unit_change(layer), partial(table.plot_units, change, **drawn)
            rotations = recorder.unit_rotations[layer]
            yield self._tags.unit_rotation(layer), partial(rotations.plot_units, rotation, **drawn)

    def _pages(self, recorder: Recorder) -> Mapping[str, tuple[str, Callable[["Figure", Picture], str]]]:
        """For the tag of each heatmap: that of its page, and what makes the page."""
        from lightning_rwc.hover_page import hover_page

        pages = {}
        for tags, table, quantity in self._tables(recorder):
            if tags.heatmap_hover not in self._foreign:
                causes = recorder.causes.table(table.layers, len(table))
                page = partial(hover_page, history=table, quantity=quantity, causes=causes)
                pages[tags.heatmap] = tags.heatmap_hover, page
        return pages

    def _find_foreign(self, training: Training, tags: Sequence[str]) -> None:
        # A metric under one of our tags that we did not write is somebody else's. Every rank looks it up here, because
        # reading a Trainer's metrics may reduce them over all ranks.
        metrics = training.callback_metrics
        foreign = [tag for tag in tags if tag in metrics and metrics[tag] is not self._written.get(tag)]
        if fresh := [tag for tag in foreign if tag not in self._foreign]:
            more = f" and {len(fresh) - 3} more" if len(fresh) > 3 else ""
            rank_zero_warn(
                f"`prefix={self._tags.prefix!r}` of RWCCallback gives tags that something else logs too: "
                f"{', '.join(map(repr, fresh[:3]))}{more}. The callback leaves these metrics alone and does not log "
                "them; its history is complete. To log both, choose another `prefix` or rename the metric."
            )
        self._foreign.update(foreign)


def _of_run(quantity: Quantity, recorder: Recorder) -> Quantity:
    """``quantity`` as it is measured: changes since the start add up, so that a value per step means nothing."""
    if recorder.metric is None or recorder.metric.relative_to == "previous" or quantity.scale != "step":
        return quantity
    return CHANGE_SINCE_START if quantity == RELATIVE_WEIGHT_CHANGE else quantity._replace(scale="measurement")


def _quantities_of_units(recorder: Recorder) -> tuple[Quantity, Quantity]:
    return _of_run(RELATIVE_WEIGHT_CHANGE, recorder), _of_run(_ROTATION.quantity, recorder)
