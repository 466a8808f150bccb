# SPDX-License-Identifier: Apache-2.0
import io
import math
import statistics

import numpy as np
import pytest
from matplotlib import colormaps
from matplotlib.backend_bases import RendererBase
from matplotlib.collections import LineCollection, PathCollection
from PIL import Image

from lightning_rwc import RWCHistory
from lightning_rwc.plotting import curves, heatmap, to_image, unit_heatmap
from lightning_rwc.quantity import Quantity

# Fill and ink of each kind of cell, and the share of pixels that have ink: counted in the tiles of 36 pixels.
NOT_FINITE = {(0xC8, 0x00, 0x1E): 24, (0xFF, 0xFF, 0xFF): 12}
NOT_MEASURED = {(0xFF, 0xFF, 0xFF): 36}
FROM_ZERO = {(0xF4, 0xF4, 0xF4): 28, (0x8C, 0x8C, 0x8C): 8}
ZERO = {(0xBD, 0xBD, 0xBD): 36}
FROZEN = {(0xDF, 0xE3, 0xE8): 30, (0xA9, 0xB1, 0xBB): 6}
DECAYS = {(0xFF, 0xFF, 0xFF): 32, (0x00, 0x00, 0x00): 4}


def table(measurements, layers, seed=0):
    rng = np.random.default_rng(seed)
    return np.exp(rng.normal(-4, 1, (measurements, layers))), [f"block.{i}.conv" for i in range(layers)]


def cells(figure):
    return figure.axes[0].images[0].get_array()[..., :3]


def special(figure, row, column):
    """How often each colour is drawn over a cell, in 36 pixels, or None if it shows its value."""
    picture = figure.axes[0].images[1].get_array()
    columns, rows = round(np.ptp(figure.axes[0].get_xlim())), round(np.ptp(figure.axes[0].get_ylim()))
    height, width = (size // count for size, count in zip(picture.shape, (rows, columns), strict=False))
    top, left = row * picture.shape[0] // rows, column * picture.shape[1] // columns
    part = picture[top + 1 : top + height // 6 * 6 + 1, left + 1 : left + width // 6 * 6 + 1].reshape(-1, 4)
    if not part[:, 3].any():
        return None
    assert (part[:, 3] == 255).all()
    colours, counts = np.unique(part[:, :3], axis=0, return_counts=True)
    return {tuple(colour): count * 36 // len(part) for colour, count in zip(colours.tolist(), counts, strict=True)}


def png(figure, **options):
    file = io.BytesIO()
    figure.savefig(file, **options)
    return np.asarray(Image.open(file).convert("L"))


def ink(figure, picture):
    """Whether each row of pixels beside the chart has ink in the names' column, and where the chart begins and ends."""
    height, width = picture.shape
    box = figure.axes[0].get_position()
    column = picture[:, round(0.35 / figure.get_figwidth() * width) : round(box.x0 * width) - 2]
    return (column < 128).any(axis=1), round((1 - box.y1) * height), round((1 - box.y0) * height)


class Recorder(RendererBase):
    """A renderer that notes the texts, as those that write vectors get them."""

    def __init__(self):
        super().__init__()
        self.texts = {}

    def flipy(self):
        return False

    def draw_text(self, gc, x, y, s, prop, angle, ismath=False, mtext=None):
        self.texts[s] = x, y, ismath

    def draw_path(self, *args, **kwargs):
        pass

    draw_image = draw_path


def labels(axis):
    return [label.get_text() for label in axis.get_ticklabels()]


def test_heatmap_has_a_row_a_layer_from_top_to_bottom_and_a_column_a_measurement():
    values, layers = table(5, 3)
    figure = heatmap(values, layers, range(5), range(9, 59, 10))
    axes, bar = figure.axes
    assert cells(figure).shape == (3, 5, 3)
    assert labels(axes.yaxis) == ["0.conv", "1.conv", "2.conv"]
    assert axes.yaxis_inverted()
    assert labels(axes.xaxis) == ["0", "1", "2", "3", "4"]
    assert axes.get_xlabel() == "epoch"
    assert bar.get_ylabel() == "relative weight change per step\n(ratio, log scale)"
    assert figure.texts[0].get_text() == "relative weight change (ratio); each column has 10 steps"


def viridis(*shares):
    return [colormaps["viridis"](share, bytes=True)[:3] for share in shares]


@pytest.mark.parametrize(
    ("scale", "expected"),
    [
        # Ten steps each. From 1e-5 to 0.1 a step: 0.01 / 10 is in the middle.
        (None, (0.25, 0.5, 0.75, 0.75)),
        ("step", (0.25, 0.5, 0.75, 0.75)),
        # From 0.001 to 10.
        ("measurement", (0.0, 0.25, 0.5, 0.5)),
    ],
)
def test_fixed_scales_give_a_value_the_same_colour_whatever_the_others_are(scale, expected):
    figure = heatmap(np.array([[1e-3, 1e-2, 0.1, 0.1]]), list("abcd"), [0], [9], scale=scale)
    np.testing.assert_array_equal(cells(figure)[:, 0], viridis(*expected))
    alone = heatmap(np.array([[1e-2]]), ["b"], [0], [9], scale=scale)
    np.testing.assert_array_equal(cells(alone)[0, 0], cells(figure)[1, 0])
    words = [label.split()[1] for label in labels(figure.axes[1].yaxis)]
    assert words == ["still", "slow", "typical", "fast", "replaced"]


def test_steps_of_other_lengths_have_the_same_colour_if_the_rate_is_the_same():
    figure = heatmap(np.array([[1e-2], [3e-2]]), ["a"], [0, 1], [9, 39])
    np.testing.assert_array_equal(cells(figure)[0], viridis(0.5, 0.5))
    assert figure.texts[0].get_text().endswith("each column has 10 to 30 steps")


def test_an_automatic_scale_ignores_a_few_outliers():
    values = np.full((1, 101), 1e-2)
    values[0, :51], values[0, -1] = 1e-3, 1e6
    figure = heatmap(values, [f"a{i}" for i in range(101)], [0], [0], scale="auto")
    np.testing.assert_array_equal(cells(figure)[[0, 60, 100], 0], viridis(0.0, 1.0, 1.0))
    assert figure.axes[1].get_ylim() == pytest.approx((1e-3, 1e-2))


def test_other_quantities_have_an_automatic_scale():
    figure = heatmap(np.array([[1.0, 10.0]]), ["a", "b"], [0], [0], Quantity("strength"), scale="step")
    assert figure.axes[1].get_ylabel() == "strength\n(log scale)"
    assert figure.axes[1].get_ylim() == pytest.approx((1.18, 9.82))  # 2 % of the way


def test_an_unknown_scale_is_refused():
    with pytest.raises(ValueError, match="`scale` must be one of step, measurement, auto, but got 'log'"):
        heatmap(np.ones((1, 1)), ["a"], [0], [0], scale="log")


def test_special_cells_are_patterns_of_their_own():
    values = np.array([[0.1, 0.0, math.inf, math.nan, 0.1, 0.0, 0.1], [1.0, 0.0, 0.1, 1.0, math.nan, 0.0, 0.2]])
    causes = np.zeros(values.shape, np.uint8)
    causes[1, 4], causes[:, 5], causes[:, 6] = 2, 5, 7
    figure = heatmap(values, list("abcdefg"), [0, 1], [0, 1], causes=causes)
    assert special(figure, 1, 0) == special(figure, 1, 1) == ZERO
    assert special(figure, 2, 0) == FROM_ZERO
    assert special(figure, 3, 0) == NOT_MEASURED
    assert special(figure, 4, 1) == NOT_FINITE
    assert special(figure, 5, 0) == FROZEN
    assert special(figure, 6, 0) == DECAYS
    assert all(special(figure, *cell) is None for cell in ((0, 0), (2, 1), (3, 1), (4, 0)))
    assert [text.get_text() for text in figure.axes[0].artists[0].get_texts()] == [
        "nan: not finite",
        "only decays: no gradient",
        "not measured",
        "inf: moved from all zeros",
        "0: did not move",
        "frozen",
    ]
    assert figure.texts[1].get_text() == "not finite since epoch 1: e"
    plain = heatmap(values[:, :1], ["a"], [0, 1], [0, 1])
    assert len(plain.axes[0].images) == 1
    assert not plain.axes[0].artists


def test_a_run_that_is_lost_says_so():
    values = np.full((3, 4), math.nan)
    for draw in (heatmap, curves):
        texts = [text.get_text() for text in draw(values, list("abcd"), range(3), range(3)).texts]
        assert "not finite since epoch 0: all 4 layers" in texts
    axes = curves(values, list("abcd"), range(3), range(3)).axes[0]
    assert [text.get_text() for text in axes.texts] == ["no value is finite"]
    assert len(axes.get_yticks()) == 0


def test_lines_part_blocks():
    layers = ["net.stem", "net.blocks.0.a", "net.blocks.0.b", "net.blocks.1.a", "net.head"]
    axes = heatmap(np.ones((2, 5)), layers, [0, 1], [0, 1]).axes[0]
    [lines] = [one for one in axes.collections if isinstance(one, LineCollection)]
    assert [path.vertices[0, 1] for path in lines.get_paths()] == [0.5, 2.5, 3.5]
    assert not heatmap(np.ones((2, 2)), ["a", "b"], [0, 1], [0, 1]).axes[0].collections


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


@pytest.mark.parametrize("dpi", [100, 144])
@pytest.mark.parametrize("layers", [3, 21, 161, 300])
def test_every_name_stands_beside_its_row_and_overlaps_no_other(layers, dpi):
    values, _ = table(10, layers)
    figure = heatmap(values, ["conv.Hg"] * layers, range(10), range(10))
    inked, top, bottom = ink(figure, png(figure, dpi=dpi))
    starts, ends = (np.flatnonzero(np.diff(np.pad(inked, 1).astype(int)) == step) for step in (1, -1))
    assert len(starts) == layers
    assert min(ends - starts) >= 8
    assert np.ptp(np.diff(starts)) <= 1
    rows = top + (np.arange(layers) + 0.5) * (bottom - top) / layers
    np.testing.assert_allclose((starts + ends) / 2, rows, atol=2.5)


@pytest.mark.parametrize("named", [0, 7, 299])
def test_a_name_stands_beside_its_own_row(named):
    values, _ = table(10, 300)
    figure = heatmap(values, ["weight" if row == named else "" for row in range(300)], range(10), range(10))
    inked, top, bottom = ink(figure, png(figure))
    row = (np.flatnonzero(inked).mean() - top) / (bottom - top) * 300
    assert int(row) == named


def test_names_follow_when_the_chart_is_zoomed():
    values, layers = table(10, 20)
    figure = heatmap(values, layers, range(10), range(10))
    figure.axes[0].set_ylim(4.5, 1.5)
    recorder = Recorder()
    figure.draw(recorder)
    names = [name.removeprefix("block.") for name in layers]
    assert [name for name in names if name in recorder.texts] == names[2:5]


def test_vector_files_get_the_names_as_text_beside_their_rows():
    values, layers = table(10, 300)
    layers[5], layers[6] = "$x^2$", "$_"
    figure, recorder = heatmap(values, layers, range(10), range(10)), Recorder()
    figure.draw(recorder)
    box = figure.axes[0].get_window_extent()
    for row, name in enumerate(layers):
        x, y, is_math = recorder.texts[name]
        assert 0.3 * figure.dpi < x < box.x0
        assert int((box.y1 - y) / box.height * 300) == row
        assert not is_math


def test_of_too_many_layers_evenly_spaced_ones_are_named():
    values, layers = table(3, 1000)
    figure = heatmap(values, layers, range(3), range(3))
    named = [layers.index(f"block.{name}") for name in labels(figure.axes[0].yaxis)]
    np.testing.assert_array_equal(figure.axes[0].get_yticks(), named)
    assert (named[0], named[-1]) == (0, 999)
    assert set(np.diff(named)) == {3, 4}
    assert ink(figure, png(figure))[0].any()


def test_a_picture_cut_to_its_contents_keeps_names_and_legends():
    values, layers = table(5, 4)
    values[0, 0], values[1, 1] = 0.0, math.inf
    for draw in (heatmap, curves):
        figure = draw(values, layers, range(5), range(5))
        png(figure, bbox_inches="tight")
        cut = figure.get_tightbbox()
        for legend in figure.axes[0].artists:
            box = legend.get_window_extent()
            assert cut.y1 * figure.dpi >= box.y1
            assert cut.x1 * figure.dpi >= box.x1
        assert cut.x0 < 0.3


@pytest.mark.parametrize(("draw", "most"), [(heatmap, 320_000), (curves, 160_000)])
def test_a_picture_stays_small_in_a_log(draw, most):
    values, layers = table(1000, 300)
    image = to_image(draw(values, layers, range(1000), range(1000)))
    file = io.BytesIO()
    Image.fromarray(image).save(file, format="PNG")
    assert len(file.getvalue()) < most
    assert (image[0] == 255).all()


@pytest.mark.parametrize(
    "name", ["$x_", "$x^2$", "_private", "a" * 1000, "", "..", "a\n\0", "a/b c", "größe", "\ud800"]
)
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
    np.testing.assert_allclose(lines.get_colors(), colormaps["plasma"](np.array([0, 1, 2, 3]) / 3 * 0.85), atol=0.01)
    entries = [text.get_text() for legend in axes.artists for text in legend.get_texts()]
    assert {"0.conv", "1.conv", "2.conv", "3.conv"} < {*entries}
    assert axes.get_yscale() == "log"


def test_curves_of_many_layers_keep_every_layer_and_the_last_measurement():
    values, layers = table(1000, 300)
    axes = curves(values, layers, range(1000), range(1000)).axes[0]
    lines = next(artist for artist in axes.collections if isinstance(artist, LineCollection))
    assert len(lines.get_paths()) == 300
    assert 20_000 <= sum(len(path.vertices) for path in lines.get_paths()) <= 24_000
    assert all(
        path.vertices[-1].tolist() == [999, value] for path, value in zip(lines.get_paths(), values[-1], strict=True)
    )


def test_of_triangles_on_top_of_each_other_the_deepest_is_drawn():
    values, layers = table(5, 4)
    values[:, :3] = 0.0
    axes = curves(values, layers, range(5), range(5)).axes[0]
    triangles = [artist for artist in axes.collections if isinstance(artist, PathCollection)][-1]
    np.testing.assert_array_equal(triangles.get_offsets()[:, 0], range(5))
    np.testing.assert_allclose(triangles.get_facecolors(), [colormaps["plasma"](2 / 3 * 0.85)] * 5, atol=0.01)


def test_many_layers_get_a_colour_bar_instead_of_a_legend():
    values, layers = table(6, 160)
    axes, bar = curves(values, layers, range(6), range(6)).axes
    assert list(axes.artists) == []
    assert labels(bar.yaxis)[0] == "0.conv"
    assert labels(bar.yaxis)[-1] == "159.conv"
    assert len(labels(bar.yaxis)) <= 10


def test_nothing_to_draw_is_said():
    for draw in (heatmap, curves, unit_heatmap):
        with pytest.raises(ValueError, match="There is no measurement to draw yet"):
            draw(np.empty((0, 3)), ["a", "b", "c"], [], [])


SHARE = Quantity("share of units", share=True)


def test_shares_are_on_a_linear_scale_from_0_to_1():
    values = np.array([[0.0, 0.25, 0.5, 1.0, np.nan]])
    figure = heatmap(values, list("abcde"), [0], [0], SHARE)
    np.testing.assert_array_equal(cells(figure)[:4, 0], viridis(0.0, 0.25, 0.5, 1.0))
    assert special(figure, 4, 0) == NOT_MEASURED
    assert figure.axes[1].get_ylim() == (0, 1)
    assert figure.axes[1].get_ylabel() == "share of units"
    assert [text.get_text() for text in figure.axes[0].artists[0].get_texts()] == ["not measured"]


def test_curves_of_shares_have_an_axis_from_0_to_1_and_draw_zeros():
    values = np.array([[0.0, 0.5], [1.0, 0.25]])
    axes = curves(values, ["a", "b"], [0, 1], [0, 1], SHARE).axes[0]
    assert axes.get_yscale() == "linear"
    low, high = axes.get_ylim()
    assert -0.1 < low < 0
    assert 1 < high < 1.1
    lines = next(artist for artist in axes.collections if isinstance(artist, LineCollection))
    for path, column in zip(lines.get_paths(), values.T, strict=True):
        np.testing.assert_array_equal(path.vertices[:, 1], column)


def mean_logarithm(column, low, high):
    logs = [math.log(min(value, high) if value else low / 2) for value in column if not math.isnan(value)]
    return statistics.fmean(logs) if logs else -math.inf


def test_units_are_drawn_from_the_most_active_one_to_those_that_never_moved():
    values, units = table(6, 9)
    values[:, 2], values[:, 4], values[:, 6] = 0.0, np.nan, 0.0
    values[1, 0], values[2, 1], values[3, 3] = np.inf, 0.0, np.nan
    positive = values[np.isfinite(values) & (values > 0)]
    by_name = dict(zip(units, values.T.tolist(), strict=True))
    expected = sorted(units, key=lambda unit: -mean_logarithm(by_name[unit], positive.min(), positive.max()))
    assert expected[-3:] == [units[2], units[6], units[4]]
    axes = unit_heatmap(values, units, range(6), range(6)).axes[0]
    assert labels(axes.yaxis) == expected
    assert [special(axes.figure, row, 0) for row in (6, 7, 8)] == [ZERO, ZERO, NOT_FINITE]
    assert special(axes.figure, expected.index(units[0]), 1) == FROM_ZERO
    again = RWCHistory(units, range(6), range(6), values).plot_units()
    np.testing.assert_array_equal(cells(again), cells(axes.figure))


def test_of_many_units_evenly_spaced_ones_are_drawn():
    count = 50_257
    values = np.exp(-np.random.default_rng(0).permutation(count) / count)[None].repeat(3, axis=0)
    figure = unit_heatmap(values, [*map(str, range(count))], range(3), range(3))
    assert cells(figure).shape[0] == 640
    assert "(640 of 50,257, evenly spaced)" in figure.texts[1].get_text()
    named = [int(name) for name in labels(figure.axes[0].yaxis)]
    assert len(named) == 64
    assert (named[0], named[-1]) == (values[0].argmax(), values[0].argmin())
    ranks = -count * np.log(values[0, named])
    assert np.ptp(np.diff(ranks)) <= 0.03 * count
    image = to_image(figure)
    assert image.shape[0] < 1000


@pytest.mark.parametrize("shape", [(1, 1), (3, 2), (300, 65), (2, 640), (2, 641)])
def test_units_of_any_number(shape):
    for values in (np.zeros(shape), np.full(shape, np.nan), np.full(shape, np.inf), np.full(shape, 0.5)):
        units = [*map(str, range(shape[1]))]
        figure = unit_heatmap(values, units, range(shape[0]), range(shape[0]), Quantity("rotation (radians)"))
        image = to_image(figure)
        assert image.shape[0] < 1000
        if values[0, 0] == 0.5 and shape[1] <= 64:
            assert labels(figure.axes[0].yaxis) == units  # equally active units keep their order
