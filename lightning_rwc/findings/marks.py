# SPDX-License-Identifier: Apache-2.0
"""Marks of findings in pictures: triangles outside the chart, which hide nothing and need no colour."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.transforms import ScaledTranslation

if TYPE_CHECKING:
    from lightning_rwc.findings.finding import Finding

FINDING = "finding"
"""What the legend calls a finding."""
MARK = 8
"""The size of a triangle in points. A picture of 300 pixels still shows it."""

Indices = npt.NDArray[np.intp]


def shown_at(findings: "Sequence[Finding]", epochs: Sequence[int], steps: Sequence[int], drawn: Indices) -> Indices:
    """Which of the measurements that are ``drawn`` show ``findings``: their own or the next one, or else the last.

    Args:
        findings: the findings.
        epochs: the epoch of each measurement.
        steps: the step of each measurement.
        drawn: which of the measurements are drawn.

    Returns:
        Positions in ``drawn``, without duplicates.

    """
    times = [*zip(epochs, steps, strict=True)]
    own = [next((i for i, time in enumerate(times) if time >= (one.epoch, one.step)), len(times)) for one in findings]
    return np.unique(np.minimum(np.searchsorted(drawn, own), len(drawn) - 1)).astype(np.intp)


def concerned(findings: "Sequence[Finding]", layers: Sequence[str]) -> Indices:
    """The positions of the layers of those ``findings`` that are not about all ``layers``."""
    named = {layer for one in findings if not {*one.layers} >= {*layers} for layer in one.layers}
    return np.array([row for row, layer in enumerate(layers) if layer in named], dtype=np.intp)


def column_key(marked: npt.NDArray[Any], *, lines: bool = False) -> list[Patch | Line2D]:
    """The entry of a key for :func:`mark_columns`, if there is any mark."""
    if not marked.size:
        return []
    return [Line2D([], [], color="black", marker="v", linestyle=":" if lines else "", label=FINDING)]


def mark_columns(axes: Axes, x: npt.NDArray[Any], *, lines: bool = False) -> None:
    """Set triangles above ``x``, with dotted lines below them if ``lines``."""
    if not x.size:
        return
    if lines:
        for one in x:
            axes.axvline(one, color="0.4", linestyle=":", linewidth=0.8, zorder=0.5)
    _triangles(axes, x, "v", MARK)


def mark_rows(axes: Axes, y: Indices, size: float) -> None:
    """Set triangles of ``size`` points that point at ``y``, at the left of ``axes``."""
    if y.size:
        _triangles(axes, y, ">", size)


def _triangles(axes: Axes, at: npt.NDArray[Any], marker: str, size: float) -> None:
    figure = axes.get_figure()
    assert isinstance(figure, Figure)
    away = (size / 2 + 1) / 72
    if marker == "v":
        x, y, transform, shift = at, np.ones(len(at)), axes.get_xaxis_transform(), (0.0, away)
    else:
        x, y, transform, shift = np.zeros(len(at)), at, axes.get_yaxis_transform(), (-away, 0.0)
    marks = Line2D(x, y, color="black", linestyle="", marker=marker, markersize=size, clip_on=False)
    marks.set(markeredgecolor="white", markeredgewidth=0.5)
    marks.set_transform(transform + ScaledTranslation(*shift, scale_trans=figure.dpi_scale_trans))
    axes.add_artist(marks)  # unlike a line that is added, it leaves the limits alone
