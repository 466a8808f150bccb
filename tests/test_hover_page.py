# SPDX-License-Identifier: Apache-2.0
"""The heatmap as a page that says what is under the pointer."""

import base64
import json
import re

import numpy as np
import pytest

from lightning_rwc import RWCHistory
from lightning_rwc.cells import Cell
from lightning_rwc.hover_page import hover_page
from lightning_rwc.plotting import to_image
from lightning_rwc.quantity import RELATIVE_WEIGHT_CHANGE, Quantity
from tests.tensorboard.chromium import CHROMIUM, chromium

HOSTILE = "</script><script>document.title='hacked'</script><img src=x onerror=\"document.title='hacked'\">"
VALUES = [[np.inf, 0.5, 0.0], [0.012345, np.nan, 0.0], [0.002, np.nan, 0.001]]
CAUSES = np.array([[0, 0, 0], [0, Cell.NOT_FINITE, 0], [0, Cell.NOT_FINITE, Cell.ONLY_DECAYS]], np.uint8)


def page_of(history, quantity=RELATIVE_WEIGHT_CHANGE, causes=None):
    figure = history.plot_heatmap(quantity, causes=causes)
    return hover_page(figure, to_image(figure), history, quantity, causes)


def content_of(page):
    return json.loads(re.search(r"const content = (.*);", page)[1])


@pytest.mark.integration
@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium or Chrome, which is not installed here")
@pytest.mark.parametrize("width", [1200, 500])
def test_the_pointer_reads_cells_in_a_frame_like_that_of_weights_and_biases(width):
    history = RWCHistory(["model.stem", HOSTILE, "model.head"], [0, 1, 2], [9, 19, 39], VALUES)
    source = base64.b64encode(page_of(history, causes=CAUSES).encode()).decode()
    style = "width: 100%; height: 700px; border: 0"
    frame = f'<iframe sandbox="allow-scripts" style="{style}" src="data:text/html;base64,{source}"></iframe>'
    expected = {
        (0, 0): "model.stem\nepoch 0 · step 9\ninf: moved from all zeros",
        (0, 1): "model.stem\nepoch 1 · step 19\n0.0123 in 10 steps: 0.00123 per step",
        (0, 2): "model.stem\nepoch 2 · step 39\n0.002 in 20 steps: 0.0001 per step",
        (1, 1): f"{HOSTILE}\nepoch 1 · step 19\nnan: not finite",
        (2, 0): "model.head\nepoch 0 · step 9\n0: did not move",
        (2, 2): "model.head\nepoch 2 · step 39\n0.001 in 20 steps: 0.00005 per step\nonly decays: no gradient",
    }
    with chromium() as browser:
        page = browser.new_page(viewport={"width": width, "height": 800})
        errors, requests = [], []
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("request", lambda request: requests.append(request.url.partition(":")[0]))
        page.set_content(frame)
        inner = page.frames[1]
        inner.wait_for_function("document.querySelector('img').naturalWidth > 400")
        area, told = inner.locator("#cells").bounding_box(), inner.locator("#told")
        for (row, column), text in expected.items():
            x, y = area["x"] + (column + 0.5) / 3 * area["width"], area["y"] + (row + 0.5) / 3 * area["height"]
            page.mouse.move(x, y)
            assert told.text_content() == text
            box, cell = told.bounding_box(), inner.locator("#cell").bounding_box()
            assert box["x"] >= 0
            assert box["x"] + box["width"] <= width or HOSTILE in text
            assert cell["x"] < x < cell["x"] + cell["width"]
            assert cell["y"] < y < cell["y"] + cell["height"]
        page.mouse.move(area["x"] - 20, area["y"] + 5)
        told.wait_for(state="hidden")
        assert not inner.title()
    assert errors == []
    assert set(requests) <= {"data"}


def test_the_cells_are_where_the_picture_has_them():
    history = RWCHistory(["a", "b"], [0, 1], [9, 19], [[1e9, 1e-9], [1e-9, 1e9]])
    figure = history.plot_heatmap()
    picture = to_image(figure)
    left, top, width, height = content_of(hover_page(figure, picture, history, RELATIVE_WEIGHT_CHANGE))["box"]
    for row, column, yellow in ((0, 0, True), (0, 1, False), (1, 0, False), (1, 1, True)):
        y, x = top + (row + 0.5) / 2 * height, left + (column + 0.5) / 2 * width
        red, green, blue = picture[int(y * picture.shape[0]), int(x * picture.shape[1])]
        # The ends of viridis are yellow and violet.
        assert (red > 200 > blue) == (green > 200) == yellow


@pytest.mark.parametrize(
    ("layers", "measurements", "columns"), [(3, 5, 5), (10, 1000, 260), (1000, 300, 100), (2000, 60, 50)]
)
def test_a_page_has_at_most_100_000_cells(layers, measurements, columns):
    values = np.arange(layers * measurements).reshape(measurements, layers)
    history = RWCHistory([f"l{number}" for number in range(layers)], range(measurements), range(measurements), values)
    content = content_of(page_of(history, Quantity("number")))
    shown = np.frombuffer(base64.b64decode(content["values"]), "<f4").reshape(layers, -1)
    assert (len(content["layers"]), len(content["times"])) == (layers, columns)
    drawn = np.round(np.linspace(0, measurements - 1, columns)).astype(int)
    np.testing.assert_array_equal(shown, values[drawn].T.astype(np.float32))
    assert [content["times"][0], content["times"][-1]] == [f"epoch {end} · step {end}" for end in (0, measurements - 1)]
    assert len(base64.b64decode(content["kinds"])) == shown.size
