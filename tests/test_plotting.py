# SPDX-License-Identifier: Apache-2.0
import math

import numpy as np
import pytest
from matplotlib import colormaps
from matplotlib.collections import LineCollection

from lightning_rwc.plotting import curves, heatmap, to_image

RED, GREY, WHITE = (0xF0, 0x3B, 0x20), (0xD4, 0xD4, 0xD4), (0xFF, 0xFF, 0xFF)


def table(measurements, layers, seed=0):
    rng = np.random.default_rng(seed)
    return np.exp(rng.normal(-4, 1, (measurements, layers))), [f"block.{i}.conv" for i in range(layers)]


def cells(figure):
    return figure.axes[0].images[0].get_array()[..., :3]


def labels(axis):
    return [label.get_text() for label in axis.get_ticklabels()]


def test_heatmap_has_a_row_a_layer_from_top_to_bottom_and_a_column_a_measurement():
    values, layers = table(5, 3)
    figure = heatmap(values, layers, range(5), range(9, 59, 10))
    axes, bar = figure.axes
    assert cells(figure).shape == (3, 5, 3)
    assert labels(axes.yaxis) == layers
    assert axes.yaxis_inverted()
    assert labels(axes.xaxis) == ["0", "1", "2", "3", "4"]
    assert axes.get_xlabel() == "epoch"
    assert "relative weight change" in bar.get_ylabel()


def test_colour_is_logarithmic():
    figure = heatmap(np.array([[1e-4, 1e-3, 1e-2]]), ["a", "b", "c"], [0], [0])
    viridis = colormaps["viridis"]
    expected = [viridis(x, bytes=True)[:3] for x in (0.0, 0.5, 1.0)]
    np.testing.assert_array_equal(cells(figure)[:, 0], expected)


def test_zero_infinite_and_missing_cells_are_marked_and_leave_the_scale_alone():
    values = np.array([[0.1, 0.0, math.inf, math.nan], [1.0, 0.0, 0.1, 1.0]])
    figure = heatmap(values, list("abcd"), [0, 1], [0, 1])
    assert [tuple(cell) for cell in cells(figure)[1:, 0]] == [GREY, RED, WHITE]
    assert tuple(cells(figure)[3, 1]) == tuple(colormaps["viridis"](1.0, bytes=True)[:3])
    assert figure.axes[1].get_ylim() == pytest.approx((0.1, 1.0))
    legend = [text.get_text() for text in figure.axes[0].artists[0].get_texts()]
    assert [text.split(":")[0] for text in legend] == ["0", "inf", "nan"]


def test_steps_are_the_axis_where_an_epoch_has_several_measurements():
    values, layers = table(3, 2)
    for draw in (heatmap, curves):
        assert draw(values, layers, [0, 0, 1], [4, 9, 14]).axes[0].get_xlabel() == "step"


@pytest.mark.parametrize(("measurements", "layers"), [(1, 1), (3, 40), (2000, 3), (7, 1500)])
def test_pictures_of_any_size(measurements, layers):
    values, names = table(measurements, layers)
    for draw in (heatmap, curves):
        image = to_image(draw(values, names, range(measurements), range(measurements)))
        assert image.dtype == np.uint8
        assert image.shape[2] == 3
        assert image.shape[0] < 5000
        assert image.shape[1] < 2000


@pytest.mark.parametrize("value", [0.0, math.inf, math.nan, 1e-300, 1e300])
def test_pictures_of_one_value(value):
    values = np.full((3, 4), value)
    for draw in (heatmap, curves):
        to_image(draw(values, list("abcd"), range(3), range(3)))


def test_of_many_measurements_the_last_is_always_drawn():
    values = np.full((1001, 1), 1e-3)
    values[-1] = 1.0
    image = cells(heatmap(values, ["a"], range(1001), range(1001)))
    assert image.shape[1] < 1001
    assert tuple(image[0, -1]) == tuple(colormaps["viridis"](1.0, bytes=True)[:3])


@pytest.mark.parametrize("layers", [3, 21, 160, 300])
def test_layer_names_do_not_overlap(layers):
    values, names = table(10, layers)
    figure = heatmap(values, names, range(10), range(10))
    to_image(figure)
    boxes = [label.get_window_extent() for label in figure.axes[0].yaxis.get_ticklabels()]
    assert len(boxes) == layers
    tops = [box.y1 for box in boxes[1:]]
    bottoms = [box.y0 for box in boxes[:-1]]
    assert all(top <= bottom + 1 for top, bottom in zip(tops, bottoms, strict=True))
    assert min(box.x0 for box in boxes) >= 0
    assert min(box.height for box in boxes) >= 8


@pytest.mark.parametrize("name", ["$x_", "_private", "a" * 1000, "<script>", "line\nbreak", "a/b c", "Schicht"])
def test_odd_layer_names(name):
    values, _ = table(3, 2)
    for draw in (heatmap, curves):
        image = to_image(draw(values, [name, "fc"], range(3), range(3)))
        assert image.shape[1] < 1200


def test_curves_draw_every_layer_with_the_colour_of_its_depth():
    values, layers = table(6, 4)
    values[2, 0], values[3, 1] = 0.0, math.inf
    axes = curves(values, layers, range(6), range(6)).axes[0]
    lines = next(artist for artist in axes.collections if isinstance(artist, LineCollection))
    expected = np.where(np.isfinite(values) & (values > 0), values, np.nan)
    for path, column in zip(lines.get_paths(), expected.T, strict=True):
        np.testing.assert_array_equal(path.vertices[:, 1], column)
    np.testing.assert_allclose(lines.get_colors(), colormaps["viridis"]([0, 1 / 3, 2 / 3, 1.0]))
    entries = [text.get_text() for legend in axes.artists for text in legend.get_texts()]
    assert set(layers) < set(entries)
    assert axes.get_yscale() == "log"


def test_many_layers_get_a_colour_bar_instead_of_a_legend():
    values, layers = table(6, 160)
    axes, bar = curves(values, layers, range(6), range(6)).axes
    assert list(axes.artists) == []
    assert labels(bar.yaxis)[0] == layers[0]
    assert labels(bar.yaxis)[-1] == layers[-1]
    assert len(labels(bar.yaxis)) <= 10


def test_nothing_to_draw_is_said():
    for draw in (heatmap, curves):
        with pytest.raises(ValueError, match="There is no measurement to draw yet"):
            draw(np.empty((0, 3)), ["a", "b", "c"], [], [])
