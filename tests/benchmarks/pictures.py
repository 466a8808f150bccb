# SPDX-License-Identifier: Apache-2.0
"""What our own row names and the 32 levels of colour buy over matplotlib's labels and all 256 levels."""

import io
from unittest.mock import patch

import numpy as np
from PIL import Image

from lightning_rwc import plotting
from lightning_rwc.plotting import curves, heatmap, to_image
from lightning_rwc.row_names import RowNames
from tests.benchmarks.timing import interleaved, summary

_PARTS = ("self_attn.in_proj", "self_attn.out_proj", "linear1", "linear2", "norm1", "norm2")


class _Hidden(RowNames):
    def draw(self, renderer):
        pass


def _tick_labels(history):
    """The heatmap with the same names, drawn by matplotlib's own axis."""
    with patch.object(plotting, "RowNames", _Hidden):
        figure = heatmap(*history)
    axis = figure.axes[0].yaxis
    axis.set_visible(True)
    for label in axis.get_ticklabels():
        label.set_parse_math(False)
    return figure


def pictures(repeats, quick):
    """own row names and fewer colour levels"""
    sizes = ((20, 50), (300, 260))
    rows = {}
    for layers, measurements in sizes:
        history = _history(layers, measurements)
        ways = {
            "ours": lambda history=history: to_image(heatmap(*history)),
            "tick labels": lambda history=history: to_image(_tick_labels(history)),
        }
        times = {way: summary(taken) for way, taken in interleaved(ways, repeats).items()}
        names = {way: _png_kb(draw()) for way, draw in ways.items()}
        for way, columns in times.items():
            ratios = {"times ours": columns["ms"] / times["ours"]["ms"], "PNG times ours": names[way] / names["ours"]}
            rows[f"{layers} x {measurements}, {way}"] = columns | ratios
    yield "row names", "a heatmap of layers x measurements, drawn and rendered", rows

    rows = {}
    for layers, measurements in sizes:
        for draw in (heatmap, curves):
            few = _png_kb(to_image(draw(*_history(layers, measurements))))
            with patch.object(plotting, "_LEVELS", list(range(256))):
                all_levels = _png_kb(to_image(draw(*_history(layers, measurements))))
            rows[f"{draw.__name__}, {layers} x {measurements}"] = {
                "kB with 32": few,
                "kB with 256": all_levels,
                "PNG times all": few / all_levels,
            }
    yield "colour levels", "the size of a PNG with 32 and with 256 levels of each colour", rows


def _history(layers, measurements):
    rng, times = np.random.default_rng(0), range(measurements)
    decay = 0.1 / np.sqrt(1 + np.arange(measurements))[:, None]
    values = decay * rng.lognormal(0, 1, layers) * rng.lognormal(0, 0.2, (measurements, layers))
    names = [f"encoder.layers.{row // len(_PARTS)}.{_PARTS[row % len(_PARTS)]}" for row in range(layers)]
    return values, names, times, times


def _png_kb(image):
    file = io.BytesIO()
    Image.fromarray(image).save(file, format="PNG")
    return len(file.getvalue()) / 1e3
