# SPDX-License-Identifier: Apache-2.0
"""A heatmap as a page that says what is under the pointer, for loggers that can show a page."""

import json
from base64 import b64encode
from importlib import resources
from io import BytesIO

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure
from PIL import Image

from lightning_rwc.activity import spread
from lightning_rwc.cells import LOOKS, Cell, classify
from lightning_rwc.drawing import MAX_COLUMNS
from lightning_rwc.history import RWCHistory
from lightning_rwc.names import printable
from lightning_rwc.quantity import Quantity
from lightning_rwc.scale import spans

_MOST_CELLS = 100_000
_PLACEHOLDER = "/*CONTENT*/null"


def hover_page(
    figure: Figure,
    picture: npt.NDArray[np.uint8],
    history: RWCHistory,
    quantity: Quantity,
    causes: npt.NDArray[np.uint8] | None = None,
) -> str:
    """The page of a heatmap: the picture itself, and the numbers of its cells.

    It is HTML that needs no other file and no network. Of a table with more than 100,000 cells, evenly spaced
    measurements are there, and if that is not enough, evenly spaced layers.

    Args:
        figure: what :meth:`RWCHistory.plot_heatmap <lightning_rwc.RWCHistory.plot_heatmap>` returned.
        picture: the same as an image.
        history: the table that was drawn.
        quantity: what its numbers are.
        causes: why layers did not move, of the shape of its values.

    """
    rows = spread(len(history.layers), _MOST_CELLS)
    columns = spread(len(history), min(MAX_COLUMNS, max(_MOST_CELLS // max(len(rows), 1), 1)))
    kinds = classify(history.values, causes, quantity)
    box = figure.axes[0].get_position()
    with np.errstate(over="ignore"):
        values = history.values[np.ix_(columns, rows)].T.astype("<f4")
    own = {int(Cell.ZERO): quantity.zero, int(Cell.FROM_ZERO): quantity.infinite}
    content = {
        "label": quantity.label,
        "picture": _base64(_png(picture)),
        "box": [box.x0, 1 - box.y1, box.width, box.height],
        "layers": [printable(history.layers[row]) for row in rows],
        "times": [f"epoch {history.epochs[column]} · step {history.steps[column]}" for column in columns],
        "spans": spans(history.steps)[columns].tolist() if quantity.scale == "step" else None,
        "values": _base64(values.tobytes()),
        "kinds": _base64(kinds[np.ix_(columns, rows)].T.tobytes()),
        "words": {int(kind): look.words for kind, look in LOOKS.items()} | own,
    }
    # Names may hold anything. As JSON without this character, they cannot end the script.
    text = json.dumps(content).replace("<", "\\u003c")
    return resources.files(__package__).joinpath("hover_page.html").read_text("utf-8").replace(_PLACEHOLDER, text, 1)


def _png(picture: npt.NDArray[np.uint8]) -> bytes:
    file = BytesIO()
    Image.fromarray(picture).save(file, format="PNG")
    return file.getvalue()


def _base64(content: bytes) -> str:
    return b64encode(content).decode("ascii")
