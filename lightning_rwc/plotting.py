# SPDX-License-Identifier: Apache-2.0
"""Pictures of a history: a heatmap and a chart of curves, as matplotlib figures without pyplot's global state."""

import numpy as np
import numpy.typing as npt
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from lightning_rwc.curves import curves
from lightning_rwc.heatmaps import heatmap, unit_heatmap

__all__ = ["curves", "heatmap", "to_image", "unit_heatmap"]

# Of each colour channel. The eye sees no difference to 256, and a PNG is a quarter to two fifths smaller.
_LEVELS = [round(round(level * 31 / 255) * 255 / 31) for level in range(256)]


def to_image(figure: Figure) -> npt.NDArray[np.uint8]:
    """Render ``figure`` to an array of shape ``(height, width, 3)`` with 32 levels of each colour."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB").point(_LEVELS * 3))
