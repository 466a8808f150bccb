# SPDX-License-Identifier: Apache-2.0
"""The tab in a real browser, served by a real TensorBoard."""

import csv
import io
import json
import re
from importlib import resources
from urllib.parse import quote, unquote

import numpy as np
import pytest
from matplotlib import colormaps
from torch.utils.tensorboard import SummaryWriter

from lightning_rwc.cells import Cell
from lightning_rwc.findings.finding import Finding
from lightning_rwc.scale import FIXED
from tests.tensorboard.chromium import CHROMIUM
from tests.tensorboard.logs import announce, served, write, write_measurement, write_units

HOSTILE = ['<img src=x onerror="window.hacked=1">', "../../etc/passwd", "x" * 10_000, "a\u202eb", "(a+)+$", "=1+1"]
LAYERS = ["stem", "block.10", "block.2", "head"]
VALUES = np.array([[1e-3, 1e-2, 0.0], [1e-1, 2e-2, np.nan], [5e-2, 5e-2, 5e-2], [1.0, np.inf, 0.3]])
UNITS = ["0", "1", "2", "3"]
CHANGES = np.array([[0.0, 0.0, 0.0], [1e-3, 2e-3, 4e-3], [1.0, 0.5, 0.25], [0.1, 0.01, 0.02]])
ROTATIONS = CHANGES[[2, 1, 0, 3]] / 2
MANY = 50_257
LOOKS = json.loads((resources.files("lightning_rwc") / "appearance.json").read_text("utf-8"))
LOWEST, HIGHEST = FIXED["step"][0].value, FIXED["step"][-1].value
OTHER = np.array([[1e-3, 1e-3, 1e-3], [1e-3, 1e-3, 1e-3], [5e-1, 5e-1, 5e-1], [1.0, 1.0, 1.0]])

BLOCKS = [f"net.body.{block}.{part}" for block in (0, 1) for part in ("fc", "norm")]
SICK = np.array([[1e-2, 2e-2, 4e-2, 8e-2], [2e-2, 4e-2, 8e-2, 1.6e-1], [1e-2, 0, 0, 0], [1e-2, 0, 0, 0]])
NO_GRADIENT = Finding("no_gradient", tuple(BLOCKS[2:]), 1, 19, "They have no gradient. Use them in forward().")

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium or Chrome, which is not installed here"),
]


@pytest.fixture(scope="module")
def log_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("log")
    write(folder / "main", LAYERS, VALUES, correlations=[0.8, 0.4, -0.2])
    causes = {layer: [(19, int(Cell.NO_GRADIENT))] for layer in BLOCKS[2:]}
    write(folder / "sick", BLOCKS, SICK, findings=[NO_GRADIENT], causes=causes, shapes={BLOCKS[0]: "Linear 3×4"})
    write(folder / "lost", LAYERS, np.full((4, 3), np.nan))
    write(folder / "other", LAYERS, OTHER)
    write(folder / "longer", LAYERS[1:], OTHER[1:, [0, 1, 2, 0]], epoch_length=25)
    with SummaryWriter(str(folder / "strengths")) as writer:
        for epoch, strength in enumerate((0.5, 1.0)):
            rows = {name: dict(zip(LAYERS, strength * VALUES[:, 0], strict=True)) for name in ("rwc", "strength")}
            write_measurement(writer, 10 * epoch, epoch, rows)
        announce(writer, 10, LAYERS, measures=["strength"])
    with SummaryWriter(str(folder / "units")) as writer:
        for epoch in range(3):
            step = 10 * epoch + 9
            rows = {
                "rwc": dict.fromkeys(LAYERS, 0.5),
                "still": dict(zip(LAYERS, (0, 0.5, 1, 0.1 * epoch), strict=True)),
            }
            write_measurement(writer, step, epoch, rows)
            write_units(writer, step, "block.2", CHANGES[:, epoch], ROTATIONS[:, epoch])
            write_units(writer, step, "head", np.linspace(1, 2, MANY), np.ones(MANY))
        announce(writer, step, LAYERS, shares=["still"], units={"block.2": UNITS, "head": [*map(str, range(MANY))]})
    write(folder / "<i>hostile", HOSTILE, np.full((len(HOSTILE), 2), 0.5))
    large = 10 ** np.random.default_rng(0).normal(-2, 0.5, (300, 1000))
    write(folder / "large", [f"layers.{number}.weight" for number in range(300)], large)
    return folder


@pytest.fixture(scope="module")
def url(log_dir):
    with served(log_dir, runs=15) as address:
        yield address


class Tab:
    """The tab, opened by a link."""

    def __init__(self, browser, url, width=1400, touch=False, **state):
        size = {"width": width, "height": 900}
        self.page = browser.new_page(viewport=size, accept_downloads=True, has_touch=touch)
        self.errors = []
        self.page.on("console", lambda message: self.errors.append(message.text) if message.type == "error" else None)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        own = "".join(f"&p.lightning_rwc.{name}={quote(value)}" for name, value in state.items())
        self.page.goto(f"{url}#lightning_rwc{own}")
        self.page.wait_for_selector("iframe[src*='lightning_rwc']", state="attached", timeout=60_000)
        while not (frames := [frame for frame in self.page.frames if "plugin_entry" in frame.url]):
            self.page.wait_for_timeout(20)
        (self.frame,) = frames

    def wait(self, condition):
        for _ in range(1200):
            if self.frame.evaluate(condition):
                return
            self.page.wait_for_timeout(50)
        raise TimeoutError(f"{condition}: {self.errors} {self.frame.inner_text('body')[:1000]}")

    def drawn(self):
        self.wait("performance.getEntriesByName('rwc drawn').length > 0")
        return self

    def pixel(self, row, column, rows=4, columns=3, number=0):
        """The colour of the middle of a cell, and where that is."""
        box = self.frame.evaluate(
            "n => { const c = document.querySelectorAll('canvas.map')[n]; const b = c.getBoundingClientRect();"
            "return [b.width, b.height] }",
            number,
        )
        left = round(min(190, 0.34 * box[0])) if number == 0 else 6
        x = left + (column + 0.5) * (box[0] - left - 10) / columns
        y = 4 + (row + 0.5) * (box[1] - 40) / rows
        colour = self.frame.evaluate(
            "([n, x, y]) => { const c = document.querySelectorAll('canvas.map')[n];"
            "return [...c.getContext('2d').getImageData(x * devicePixelRatio, y * devicePixelRatio, 1, 1).data] }",
            [number, x, y],
        )
        return colour[:3], {"x": x, "y": y}

    def painted(self, selector, x, y):
        """The colour at a place on a canvas."""
        return self.frame.evaluate(
            "([selector, x, y]) => { const c = document.querySelector(selector);"
            "return [...c.getContext('2d').getImageData(x * devicePixelRatio, y * devicePixelRatio, 1, 1).data] }",
            [selector, x, y],
        )

    def name(self, row, rows=4):
        """Where the name of a row is."""
        return {"x": 150, "y": self.pixel(row, 0, rows=rows)[1]["y"]}

    def click(self, position, number=0):
        self.frame.locator("canvas.map").nth(number).click(position=position)
        return self.settled()

    def hover(self, row, column, number=0):
        self.frame.locator("canvas.map").nth(number).hover(position=self.pixel(row, column, number=number)[1])
        return self.settled()

    def settled(self):
        self.frame.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
        return self.frame.inner_text("#readout")

    def link(self):
        """The address, which is written at most every 300 ms."""
        self.page.wait_for_timeout(400)
        return unquote(self.page.url)

    def download(self, button):
        with self.page.expect_download() as download:
            self.frame.click(f"button[name={button}]")
        return download.value

    def table(self):
        with open(self.download("CSV").path(), newline="", encoding="utf-8") as file:
            return list(csv.reader(io.StringIO(file.read())))

    def close(self):
        self.page.close()
        assert self.errors == []


@pytest.fixture
def tab(browser, url):
    opened = []

    def open_tab(**state):
        opened.append(Tab(browser, url, **state).drawn())
        return opened[-1]

    yield open_tab
    for one in opened:
        one.close()


def expected_colour(value, low=LOWEST, high=HIGHEST):
    share = (np.log(value) - np.log(low)) / (np.log(high) - np.log(low))
    return [round(255 * channel) for channel in colormaps["viridis"](np.clip(share, 0, 1))[:3]]


def rgb(text):
    return [int(text[at : at + 2], 16) for at in (1, 3, 5)]


def said(value, span=10):
    """A value, and what it is per step if the measurement reaches over ``span`` steps."""
    return f"{value:g} · {value / span:g} per step".replace("e-0", "e-")


def test_the_tab_is_there_and_both_charts_draw_the_known_values(tab):
    main = tab(run="main")
    assert main.page.locator("text=RWC").count() >= 1
    for row, layer in enumerate(LAYERS):
        for column in range(3):
            value = VALUES[row, column]
            text = main.hover(row, column)
            special = {0.0: "0: did not move", np.inf: "inf: moved from all zeros"}
            shown = special.get(value, "nan: not finite" if np.isnan(value) else said(value))
            assert text == f"{layer} · epoch {column} · step {10 * column + 9} · {shown}"
    main.page.mouse.move(5, 5)
    main.settled()
    for row, column in ((0, 0), (0, 1), (1, 0), (2, 1), (3, 0)):
        colour, _ = main.pixel(row, column)
        # Seventeen stops stand for the 256 of matplotlib.
        np.testing.assert_allclose(colour, expected_colour(VALUES[row, column] / 10), atol=6)
    for row, column, kind in ((0, 2, "zero"), (3, 1, "from_zero"), (1, 2, "not_finite")):
        look = LOOKS["cells"][kind]
        assert main.pixel(row, column)[0] in [rgb(look["fill"]), rgb(look["ink"])]
    drawn = main.frame.evaluate(
        "() => { const c = document.querySelector('.uplot canvas'); const d = c.getContext('2d')"
        ".getImageData(0, 0, c.width, c.height).data; const seen = new Set();"
        "for (let i = 0; i < d.length; i += 4) seen.add([d[i], d[i + 1], d[i + 2]].join()); return [...seen] }"
    )
    for row in range(4):
        red, green, blue = (round(255 * channel) for channel in colormaps["plasma"](0.85 * row / 3)[:3])
        near = [c for c in drawn if np.abs(np.subtract([*map(int, c.split(","))], [red, green, blue])).max() <= 6]
        assert near, f"no line of the colour of layer {row}"
    assert main.table() == [
        ["epoch", "step", *LAYERS],
        ["0", "9", "0.0010000000474974513", "0.10000000149011612", "0.05000000074505806", "1"],
        ["1", "19", "0.009999999776482582", "0.019999999552965164", "0.05000000074505806", "Infinity"],
        ["2", "29", "0", "NaN", "0.05000000074505806", "0.30000001192092896"],
    ]


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        ("depth", LAYERS),
        ("name", ["block.2", "block.10", "head", "stem"]),
        # The last values: stem 0, block.10 0.02 (then nan), block.2 0.05, head 0.3.
        ("value", ["head", "block.2", "block.10", "stem"]),
    ],
)
def test_rows_are_sorted(tab, order, expected):
    main = tab(run="main")
    main.frame.select_option("select[name=sort]", order)
    main.settled()
    assert [main.hover(row, 0).split(" · ")[0] for row in range(4)] == expected
    assert main.table()[0][2:] == expected


def test_filter_takes_expressions_and_survives_broken_ones(tab):
    main = tab(run="main")
    main.frame.fill("input[name=filter]", r"^block\.\d$")
    assert main.settled() == "1 of 4 layers, 3 measurements"
    main.frame.fill("input[name=filter]", "(")
    assert main.settled() == "1 of 4 layers, 3 measurements"
    assert main.frame.get_attribute("input[name=filter]", "aria-invalid") == "true"
    assert "“(” is not a regular expression yet. The rows are those of before." in main.frame.inner_text("#notes")
    main.frame.fill("input[name=filter]", "nothing like it")
    assert main.settled() == "0 of 4 layers, 3 measurements"
    assert "None of the 4 layers matches “nothing like it”." in main.frame.inner_text("#notes")
    main.frame.click("#notes button")
    assert main.settled() == "4 of 4 layers, 3 measurements"
    assert main.frame.inner_text("#notes") == ""
    assert main.frame.input_value("input[name=filter]") == ""


def test_hovering_a_row_lights_its_curve_and_the_other_way_round(tab):
    main = tab(run="main")

    def lit():
        return main.frame.evaluate(
            "() => { const c = document.querySelector('.uplot .overlay');"
            "const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;"
            "return d.filter((v, i) => i % 4 === 3 && v).length }"
        )

    main.settled()
    before = lit()
    main.hover(2, 1)
    assert lit() > before + 100
    over = main.frame.locator(".u-over").first
    size = over.bounding_box()
    for share in np.linspace(0.02, 0.98, 60):
        over.hover(position={"x": size["width"] * 0.5, "y": size["height"] * share})
        if text := re.match(r"(\S+) · epoch 1 ", main.settled()):
            break
    assert text
    assert text[1] in LAYERS


def test_a_link_shows_the_same_view(tab):
    first = tab(run="main")
    first.frame.select_option("select[name=sort]", "name")
    first.frame.select_option("select[name=colour]", "linear")
    first.frame.fill("input[name=filter]", "block|head")
    first.settled()
    place = first.pixel(1, 0, rows=3)[1]
    first.frame.locator("canvas.map").first.click(position=place)
    first.frame.locator("canvas.map").first.click(position={"x": 150, "y": place["y"]})
    first.settled()
    link = first.link()
    for part in ("run=main", "sort=name", "colour=linear", "filter=block|head", "time=9", 'pins=["block.10"]'):
        assert f"&p.lightning_rwc.{part}" in link
    first.page.reload()
    second = tab(**dict(re.findall(r"&p\.lightning_rwc\.(\w+)=([^&]*)", link)))
    assert second.settled() == "3 of 4 layers, 3 measurements"
    assert second.frame.input_value("select[name=sort]") == "name"
    assert second.frame.input_value("select[name=colour]") == "linear"
    assert second.frame.input_value("input[name=time]") == "0"
    assert second.frame.inner_text("#pins") == "block.10"
    assert second.frame.inner_text(".profile") == "at epoch 0"
    second.frame.click("#pins button")
    second.settled()
    assert second.frame.inner_text("#pins") == ""


def test_measures_have_the_labels_and_scales_of_the_log(tab):
    main = tab(run="strengths")
    options = main.frame.locator("select[name=prefix] option").all_inner_texts()
    assert options == ["rwc: relative weight change (ratio)", "rwc_strength: mean node strength"]
    assert main.frame.inner_text("#colours") == "relative weight change per step (ratio)"
    main.frame.select_option("select[name=prefix]", "rwc_strength")
    main.wait("document.querySelector('#colours').textContent === 'mean node strength'")
    # All values are positive, but the quantity is signed: the largest has an end of the scale, not of viridis.
    np.testing.assert_allclose(main.pixel(3, 1, columns=2)[0], [45, 0, 75], atol=6)


def shown(tab, units):
    """Wait until units are shown, or all layers."""
    tab.wait(f"document.querySelector('#path').hidden === {str(not units).lower()}")
    tab.wait("!document.querySelector('canvas.map').ariaLabel.includes('heatmap of 0 ')")
    tab.page.mouse.move(5, 5)
    return tab.settled()


def unit_cell(tab, row, column, rows=4, columns=3):
    """Where a cell of units is; their names take less room than those of layers."""
    width, height = tab.frame.evaluate(
        "(({width, height}) => [width, height])(document.querySelector('canvas.map').getBoundingClientRect())"
    )
    return {"x": 40 + (column + 0.5) * (width - 40 - 10) / columns, "y": 4 + (row + 0.5) * (height - 40) / rows}


def test_a_layer_opens_to_its_units_and_closes_again(tab):
    main = tab(run="units")
    assert "click ▸ or press U" in main.hover(2, 1)
    assert "click" not in main.hover(0, 1)
    place = main.pixel(2, 0)[1]
    main.frame.locator("canvas.map").first.click(position={"x": 182, "y": place["y"]})
    assert shown(main, units=True) == "4 of 4 units, 3 measurements"
    assert "Units of block.2" in main.frame.inner_text("#path")
    order = [2, 3, 1, 0]  # the geometric means are 0.5, 0.027, 0.002, and nothing
    assert main.table()[0][2:] == [UNITS[unit] for unit in order]
    for row, unit in enumerate(order):
        for column in range(3):
            main.frame.locator("canvas.map").first.hover(position=unit_cell(main, row, column))
            value = CHANGES[unit, column]
            told = said(value) if value else "0: did not move"
            assert main.settled() == f"unit {unit} · epoch {column} · step {10 * column + 9} · {told}"
    place = unit_cell(main, 1, 0)
    main.frame.locator("canvas.map").first.click(position=place)
    main.frame.locator("canvas.map").first.click(position={"x": 20, "y": place["y"]})
    main.settled()
    assert main.frame.inner_text("#pins") == "3"
    assert main.frame.inner_text(".profile") == "at epoch 0"
    assert "depth" not in main.frame.inner_text("#side")
    assert not main.frame.is_visible("input[name=filter]")
    main.frame.select_option("select[name=prefix]", "rwc_rotation")
    main.wait("document.querySelector('#colours').textContent === 'rotation (radians)'")
    main.settled()
    assert main.table()[0][2:] == ["0", "3", "1", "2"]
    assert "&p.lightning_rwc.layer=block.2" in main.link()
    main.frame.click("button[name=back]")
    assert shown(main, units=False) == "4 of 4 layers, 3 measurements"
    assert "coloured by depth" in main.frame.inner_text("#side")
    assert main.frame.inner_text("#pins") == ""
    assert main.frame.evaluate("document.activeElement.className") == "map"


def test_units_open_and_close_by_keyboard_and_by_link(tab):
    main = tab(run="units", pins='["stem"]')
    main.frame.focus("canvas.map")
    for key in ("ArrowDown", "ArrowDown", "ArrowDown", "u"):
        main.page.keyboard.press(key)
    assert shown(main, units=True) == "4 of 4 units, 3 measurements"
    main.page.keyboard.press("ArrowDown")
    assert main.settled() == f"unit 2 · epoch 2 · step 29 · {said(0.25)}"
    main.page.keyboard.press("Escape")
    assert shown(main, units=False) == "4 of 4 layers, 3 measurements"
    assert main.frame.inner_text("#pins") == "stem"
    main.frame.select_option("select[name=layer]", "block.2")
    assert shown(main, units=True) == "4 of 4 units, 3 measurements"
    again = tab(run="units", layer="block.2", prefix="rwc_rotation")
    assert again.settled() == "4 of 4 units, 3 measurements"
    assert again.table()[0][2:] == ["0", "3", "1", "2"]
    again.frame.select_option("select[name=layer]", "")
    assert shown(again, units=False) == "4 of 4 layers, 3 measurements"
    again.frame.select_option("select[name=run]", "main")
    again.wait("document.querySelector('select[name=layer]').parentElement.hidden")


def test_of_many_units_a_part_is_shown_and_the_page_says_so(tab):
    main = tab(run="units", layer="head")
    assert main.settled() == f"1000 of {MANY} units, 3 measurements"
    assert f"Units of head (1000 of {MANY}, evenly spaced)" in main.frame.inner_text("#path")
    named = [int(name) for name in main.table()[0][2:]]
    assert (named[0], named[-1]) == (MANY - 1, 0)


def test_shares_are_drawn_from_0_to_1(tab):
    main = tab(run="units", prefix="rwc_still")
    for row, share in ((0, 0.0), (1, 0.5), (2, 1.0)):
        expected = [round(255 * channel) for channel in colormaps["viridis"](share)[:3]]
        np.testing.assert_allclose(main.pixel(row, 0)[0], expected, atol=6)
    assert main.frame.is_disabled("select[name=colour]")
    # Units have no such share: their change is shown, and later the share of layers again.
    main.frame.select_option("select[name=layer]", "block.2")
    assert shown(main, units=True) == "4 of 4 units, 3 measurements"
    assert main.frame.input_value("select[name=prefix]") == "rwc"
    main.frame.click("button[name=back]")
    shown(main, units=False)
    main.wait("document.querySelector('select[name=prefix]').value === 'rwc_still'")


def test_keyboard_reaches_every_cell_pins_and_selects(tab):
    main = tab(run="main")
    main.frame.focus("canvas.map")
    for key in ("ArrowDown", "ArrowDown", "ArrowLeft"):
        main.page.keyboard.press(key)
    assert main.settled() == f"block.10 · epoch 1 · step 19 · {said(0.02)}"
    main.page.keyboard.press("Enter")
    main.page.keyboard.press(" ")
    main.settled()
    assert main.frame.inner_text("#pins") == "block.10"
    assert main.frame.inner_text(".profile") == "at epoch 1"


def test_play_walks_through_the_measurements_and_smoothing_leaves_the_table(tab):
    main = tab(run="main")
    table = main.table()
    main.frame.click("button[name=play]")
    main.wait("document.querySelector('.profile').textContent === 'at epoch 0'")
    main.wait("document.querySelector('.profile').textContent === 'at epoch 2'")
    main.wait("document.querySelector('button[name=play]').textContent === 'play'")
    main.frame.fill("input[name=smooth]", "0.9")
    main.settled()
    assert "&p.lightning_rwc.smooth=0.9" in main.link()
    assert main.table() == table


def test_zoom_and_pan(tab):
    main = tab(run="main")
    place = main.pixel(0, 0)[1]
    main.frame.locator("canvas.map").first.hover(position=place)
    for _ in range(12):
        main.page.mouse.wheel(0, -100)
    main.settled()
    # One cell now fills the map: its lower right corner shows the same one.
    main.frame.locator("canvas.map").first.hover(position=main.pixel(2, 2)[1])
    assert main.settled().startswith("stem · epoch 0")
    main.frame.locator("canvas.map").first.dblclick(position=place)
    assert main.hover(3, 2).startswith("head · epoch 2")


def test_findings_come_first_and_lead_to_their_rows_and_their_moment(tab):
    sick = tab(run="sick")
    button = sick.frame.locator("#findings button")
    assert button.all_inner_texts() == [
        "no gradient\n1.fc, 1.norm · epoch 1, step 19\nThey have no gradient. Use them in forward()."
    ]
    assert sick.frame.locator("#findings").bounding_box()["y"] < sick.frame.locator("#maps").bounding_box()["y"]
    # In the gutter and on the time axis: of the rows and the column of the finding only.
    mark = [197, 34, 31, 255]
    assert [sick.painted("canvas.map", 183, sick.name(row)["y"]) == mark for row in range(4)] == [
        False,
        False,
        True,
        True,
    ]
    below = sick.frame.evaluate("document.querySelector('canvas.map').clientHeight") - 36 + 6
    marked = [
        sick.painted("canvas.map", sick.pixel(0, column, columns=4)[1]["x"], below) == mark for column in range(4)
    ]
    assert marked == [False, True, False, False]
    button.click()
    sick.settled()
    assert sick.frame.locator("#pins button:not(.all)").all_inner_texts() == ["1.fc", "1.norm"]
    assert sick.frame.inner_text(".profile") == "at epoch 1"
    assert button.get_attribute("aria-pressed") == "true"
    button.click()
    sick.settled()
    assert sick.frame.inner_text("#pins") == ""
    healthy = tab(run="other")
    assert healthy.frame.inner_text("#findings") == "Nothing was found."
    assert not tab(run="strengths", prefix="rwc_strength").frame.is_visible("#findings")


def test_a_finding_out_of_sight_is_brought_into_view(tab):
    sick = tab(run="sick")
    sick.frame.locator("canvas.map").first.hover(position=sick.pixel(0, 0, columns=4)[1])
    for _ in range(12):
        sick.page.mouse.wheel(0, -100)
    assert sick.hover(3, 2).startswith("net.body.0.fc · Linear 3×4 · epoch 0")
    sick.frame.click("#findings button")
    sick.settled()
    # The two rows of the finding fill the map, in the column of the finding.
    assert sick.hover(0, 1).startswith("net.body.1.fc · epoch 1")
    assert sick.hover(3, 1).startswith("net.body.1.norm · epoch 1")


def test_cells_say_why_and_the_key_says_what_patterns_mean(tab):
    sick = tab(run="sick")
    assert sick.frame.locator("#key li").all_inner_texts() == [
        "no gradient",
        "row with a finding",
        "when it was found",
    ]
    look = LOOKS["cells"]["no_gradient"]
    place = sick.pixel(2, 2, columns=4)[1]
    seen = [sick.painted("canvas.map", place["x"] + dx, place["y"])[:3] for dx in range(6)]
    assert rgb(look["fill"]) in seen
    assert rgb(look["ink"]) in seen
    sick.frame.locator("canvas.map").first.hover(position=place)
    assert sick.settled() == "net.body.1.fc · epoch 2 · step 29 · 0 · no gradient"
    assert tab(run="other").frame.inner_text("#key") == "every cell has a value"


@pytest.mark.parametrize(
    ("choice", "low", "high", "title"),
    [
        (
            "measurement",
            FIXED["measurement"][0].value,
            FIXED["measurement"][-1].value,
            "relative weight change (ratio)",
        ),
        # The 2nd and 98th percentile of nine positive numbers lie between the two lowest and between the two highest.
        ("auto", 1e-3 + 0.02 * 8 * 9e-3, 1 - 0.02 * 8 * 0.7, "relative weight change (ratio)"),
    ],
)
def test_scales_of_colours(tab, choice, low, high, title):
    main = tab(run="main", colour=choice)
    assert main.frame.inner_text("#colours") == title
    for row, column in ((0, 0), (0, 1), (1, 0), (2, 1), (3, 2)):
        np.testing.assert_allclose(main.pixel(row, column)[0], expected_colour(VALUES[row, column], low, high), atol=6)


def test_the_colour_bar_has_ticks_and_words(tab):
    main = tab(run="main")
    said_of_bar = main.frame.get_attribute("#colours canvas", "aria-label")
    for value, word in FIXED["step"]:
        assert f"{value:g} {word}".replace("e-0", "e-").strip() in said_of_bar
    width = main.frame.evaluate("document.querySelector('#colours canvas').clientWidth")
    for share in (0.1, 0.5, 0.9):
        expected = [round(255 * channel) for channel in colormaps["viridis"](share)[:3]]
        colour = main.painted("#colours canvas", 22 + share * (width - 44), 6)[:3]
        np.testing.assert_allclose(colour, expected, atol=8)


def test_a_name_pins_a_cell_selects_its_time_and_nothing_does_both(tab):
    main = tab(run="main")
    main.click(main.pixel(1, 0)[1])
    assert main.frame.inner_text("#pins") == ""
    assert main.frame.inner_text(".profile") == "at epoch 0"
    main.click(main.name(1))
    assert main.frame.inner_text("#pins") == "block.10"
    assert main.frame.inner_text(".profile") == "at epoch 0"
    main.click(main.name(1))
    assert main.frame.inner_text("#pins") == ""
    units = tab(run="units")
    units.click(units.name(2))  # beside its mark
    assert units.frame.inner_text("#pins") == "block.2"
    assert not units.frame.is_visible("#path")


def test_a_name_has_the_whole_name_and_the_shape_as_its_title(tab):
    sick = tab(run="sick")
    sick.frame.locator("canvas.map").first.hover(position=sick.name(0))
    assert sick.settled().startswith("net.body.0.fc · Linear 3×4 · ")
    assert sick.frame.get_attribute("canvas.map", "title") == "net.body.0.fc\nLinear 3×4"


def test_blocks_fold_to_the_medians_of_their_layers(tab):
    sick = tab(run="sick")
    sick.frame.check("input[name=fold]")
    assert sick.settled() == "2 of 2 blocks, 4 measurements"
    table = sick.table()
    assert table[0][2:] == ["net.body.0", "net.body.1"]
    medians = [np.median(SICK[rows], axis=0) for rows in ([0, 1], [2, 3])]
    np.testing.assert_allclose(np.array(table[1:], dtype=float)[:, 2:].T, medians, rtol=1e-6)
    # The finding is about both layers of the second block.
    sick.frame.click("#findings button")
    sick.settled()
    assert sick.frame.inner_text("#pins") == "1"
    assert "&p.lightning_rwc.fold=blocks" in sick.link()
    assert not tab(run="main").frame.is_visible("input[name=fold]")


def test_in_all_runs_blocks_fold_and_unfold(tab):
    runs = tab(view="all", runs="^sick$")
    assert "the same 4 layers in each" in runs.settled()
    runs.frame.check("input[name=fold]")
    assert "the same 2 layers in each" in runs.settled()
    runs.frame.uncheck("input[name=fold]")
    assert "the same 4 layers in each" in runs.settled()


def test_a_run_that_is_all_nan_says_so(tab):
    lost = tab(run="lost")
    look = LOOKS["cells"]["not_finite"]
    for row in range(4):
        for column in range(3):
            assert lost.pixel(row, column)[0] in [rgb(look["fill"]), rgb(look["ink"])]
    assert lost.frame.inner_text(".nothing") == "Every value is nan since epoch 0."
    assert lost.frame.locator(".uplot").count() == 0
    assert "non finite\nstem, block.10, block.2, head · epoch 0, step 9" in lost.frame.inner_text("#findings")
    assert lost.frame.locator("#key li").first.inner_text() == "nan: not finite"


def test_the_newest_run_is_shown_and_a_link_to_a_run_that_is_gone_says_so(tab):
    newest = tab()
    assert newest.frame.input_value("select[name=run]") == "large"
    gone = tab(run="gone")
    assert gone.frame.input_value("select[name=run]") == "large"
    said = "The run “gone” of this link is not in this log (yet). The run “large” is shown."
    assert gone.frame.inner_text("#notes") == said
    gone.frame.select_option("select[name=run]", "main")
    gone.wait("document.querySelector('#readout').textContent === '4 of 4 layers, 3 measurements'")
    assert gone.frame.inner_text("#notes") == ""


def test_the_profile_has_a_dot_for_each_row_on_the_scale_of_colours(tab):
    main = tab(run="main", time="9")
    width = main.frame.evaluate("document.querySelector('.profile canvas').clientWidth")
    for row in range(4):
        y = main.pixel(row, 0)[1]["y"]
        share = np.log(VALUES[row, 0] / 10 / LOWEST) / np.log(HIGHEST / LOWEST)
        x = 12 + np.clip(share, 0, 1) * (width - 24)
        inked = [main.painted(".profile canvas", at, y) == [23, 78, 166, 255] for at in (x - 12, x, x + 12)]
        assert inked == [False, True, False]
    # It shares rows and zoom with the map.
    main.frame.locator(".profile canvas").first.hover(position={"x": 60, "y": main.pixel(3, 0)[1]["y"]})
    assert main.settled().startswith("head · epoch 0")
    for _ in range(12):
        main.page.mouse.wheel(0, -100)
    assert main.hover(0, 0).startswith("head · epoch 0")
    main.frame.locator(".profile canvas").first.click(position={"x": 60, "y": 100})
    main.settled()
    assert main.frame.inner_text("#pins") == "head"


def test_the_depth_correlation_is_the_logged_one(tab):
    main = tab(run="main")
    captions = main.frame.locator("#side figure:visible figcaption").all_inner_texts()
    assert captions == ["curves, coloured by depth", "depth correlation"]
    assert (
        main.frame.get_attribute("#side figure:nth-child(2) [role=img]", "aria-label") == "depth correlation over epoch"
    )
    # This run has logged none.
    assert tab(run="other").frame.locator("#side figure:visible").count() == 1


def test_closing_units_returns_to_where_one_was(tab):
    main = tab(run="units")
    main.frame.locator("canvas.map").first.hover(position=main.pixel(2, 0)[1])
    for _ in range(12):
        main.page.mouse.wheel(0, -100)
    assert main.hover(0, 2).startswith("block.2 · epoch 0")
    main.click({"x": 182, "y": 100})
    assert shown(main, units=True) == "4 of 4 units, 3 measurements"
    main.frame.click("button[name=back]")
    shown(main, units=False)
    assert main.hover(0, 2).startswith("block.2 · epoch 0")


def test_arrow_keys_show_the_cell_and_bring_it_into_view(tab):
    main = tab(run="main")
    main.frame.locator("canvas.map").first.hover(position=main.pixel(0, 0)[1])
    for _ in range(12):
        main.page.mouse.wheel(0, -100)
    main.page.mouse.move(5, 5)
    main.frame.focus("canvas.map")
    for key in ("ArrowDown", "ArrowDown", "ArrowDown", "ArrowDown"):
        main.page.keyboard.press(key)
    assert main.settled().startswith("head · epoch 2")
    assert main.hover(0, 0).startswith("head · epoch 2")  # the map has followed
    again = tab(run="main")
    again.frame.focus("canvas.map")
    again.page.keyboard.press("ArrowDown")
    again.page.keyboard.press("ArrowLeft")
    again.settled()
    place = again.pixel(0, 1)[1]
    left = 190 + (again.frame.evaluate("document.querySelector('canvas.map').clientWidth") - 200) / 3
    assert again.painted(".heatmap .overlay", left, place["y"])[3] > 0  # the frame of the cell
    assert again.painted(".heatmap .overlay", place["x"], place["y"])[3] == 0


def test_fingers_and_narrow_windows(tab):
    both = tab(run="main", other="other", width=800, touch=True)
    maps = both.frame.locator("canvas.map")
    boxes = [maps.nth(number).bounding_box() for number in (0, 1)]
    assert boxes[1]["y"] > boxes[0]["y"] + boxes[0]["height"]
    assert all(box["x"] >= 0 and box["x"] + box["width"] <= 800 for box in boxes)
    for number in (0, 1):  # names in both maps
        found = both.frame.evaluate(
            "(n) => { const c = document.querySelectorAll('canvas.map')[n];"
            "const d = c.getContext('2d').getImageData(0, 0, 180, c.height).data;"
            "return d.filter((v, i) => i % 4 === 3 && v).length }",
            number,
        )
        assert found > 200
    maps.nth(0).tap(position=both.pixel(1, 0)[1])
    assert both.settled().startswith("block.10 · epoch 0")
    assert both.frame.inner_text(".profile") == "at epoch 0"
    maps.nth(0).tap(position=both.name(1))
    both.settled()
    assert both.frame.inner_text("#pins") == "block.10"
    assert both.frame.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_a_pinch_stays_when_one_finger_is_lifted(tab):
    main = tab(run="main", touch=True)
    fingers = main.page.context.new_cdp_session(main.page)
    box = main.frame.locator("canvas.map").first.bounding_box()
    left, width = box["x"] + 190, box["width"] - 200
    middle = box["y"] + 4 + (box["height"] - 40) / 2

    def touch(kind, *shares, first=0):
        points = [{"x": left + share * width, "y": middle, "id": number} for number, share in enumerate(shares, first)]
        fingers.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    touch("touchStart", 0.4)
    touch("touchStart", 0.4, 0.6)
    touch("touchMove", 0.3, 0.7)
    touch("touchMove", 0.2, 0.8)
    touch("touchEnd", 0.2)
    touch("touchMove", 0.802, first=1)
    touch("touchEnd", 0.802, first=1)
    # A third of the rows and of the columns is seen, in the middle.
    assert main.hover(0, 0).startswith("block.10 · epoch 1 ")
    assert main.hover(3, 2).startswith("block.2 · epoch 1 ")


def test_dark_mode_follows_tensorboard(tab):
    main = tab(run="main")
    ground = "getComputedStyle(document.body).backgroundColor"
    assert main.frame.evaluate(ground) == "rgb(255, 255, 255)"
    main.page.evaluate("document.body.classList.add('dark-mode')")
    main.wait("document.documentElement.classList.contains('dark')")
    assert main.frame.evaluate(ground) == "rgb(48, 48, 48)"


def test_png_has_the_size_of_what_is_shown(tab):
    from PIL import Image

    main = tab(run="main")
    picture = Image.open(main.download("PNG").path())
    width, height = main.frame.evaluate(
        "(({width, height}) => [width, height])(document.querySelector('main').getBoundingClientRect())"
    )
    assert abs(picture.width - width) <= 1
    assert abs(picture.height - height) <= 1
    assert len(set(picture.convert("RGB").getdata())) > 20


def test_hostile_names_are_shown_and_nothing_else(tab):
    hostile = tab(run="<i>hostile")
    names = hostile.table()[0][2:]
    assert names == [f"'{name}" if name == "=1+1" else name for name in HOSTILE]
    for row in range(len(HOSTILE)):
        place = hostile.pixel(row, 0, rows=6, columns=2)[1]
        hostile.frame.locator("canvas.map").first.click(position={"x": 100, "y": place["y"]})
        hostile.settled()
    assert hostile.frame.locator("#pins button:not(.all)").count() == len(HOSTILE)
    assert hostile.frame.locator("img, i, script[src]").count() == 0
    assert hostile.frame.evaluate("window.hacked") is None
    assert hostile.page.evaluate("window.hacked") is None


def test_curves_stay_zoomed_when_something_else_changes(tab):
    sick = tab(run="sick")
    over = sick.frame.locator(".u-over").first
    size = over.bounding_box()

    def last():
        """The epoch at the right end of the curves."""
        for share in np.linspace(0.02, 0.98, 60):
            over.hover(position={"x": size["width"] - 3, "y": size["height"] * share})
            if said := re.search(r" · epoch (\d) ", sick.settled()):
                return int(said[1])
        return None

    assert last() == 3
    over.hover(position={"x": 5, "y": 20})
    sick.page.mouse.down()
    over.hover(position={"x": size["width"] * 0.4, "y": 20})
    sick.page.mouse.up()
    assert last() == 1
    sick.frame.select_option("select[name=sort]", "name")
    sick.settled()
    assert last() == 1
    over.dblclick(position={"x": 50, "y": 20})
    assert last() == 3


def test_buttons_keep_the_focus(tab):
    sick = tab(run="sick")
    sick.frame.focus("#findings button")
    for pressed in ("true", "false", "true"):
        sick.page.keyboard.press("Enter")
        sick.settled()
        assert sick.frame.get_attribute("#findings button:focus", "aria-pressed") == pressed
    sick.frame.focus("#pins button")
    sick.frame.select_option("select[name=sort]", "name")
    sick.settled()
    assert sick.frame.locator("#pins button:focus").inner_text() == "1.fc"


def test_a_link_in_the_address_of_the_open_tab_is_followed(tab):
    main = tab(run="main")
    main.frame.fill("input[name=filter]", "stem")
    assert main.settled() == "1 of 4 layers, 3 measurements"
    main.link()
    main.page.evaluate("location.hash = 'lightning_rwc&p.lightning_rwc.run=units&p.lightning_rwc.time=9'")
    main.wait("document.querySelector('canvas.map').ariaLabel.startsWith('units')")
    assert main.settled() == "4 of 4 layers, 3 measurements"
    assert main.frame.inner_text(".profile") == "at epoch 0"
    assert main.frame.input_value("input[name=filter]") == ""


def test_what_has_not_grown_is_not_fetched_again(tab):
    main = tab(run="main")
    main.wait("performance.getEntriesByType('resource').filter((e) => e.name.includes('/runs')).length > 1")
    main.settled()
    names = main.frame.evaluate("performance.getEntriesByType('resource').map((e) => e.name)")
    assert sum("/table" in name for name in names) == 1


def test_large_log_is_drawn_soon_and_answers_at_once(tab):
    large = tab(run="large")
    assert large.settled() == "300 of 300 layers, 1000 measurements"
    answers = large.frame.evaluate(
        "performance.getEntriesByType('resource').filter((e) => e.name.includes('/table'))"
        ".map((e) => e.decodedBodySize)"
    )
    assert max(answers) < 3_000_000
    for row in (0, 150, 299):
        place = large.pixel(row, 500, rows=300, columns=1000)[1]
        large.frame.locator("canvas.map").first.hover(position=place)
        assert large.settled().startswith(f"layers.{row}.weight · epoch 500 ·")


def test_live_log_grows_without_losing_the_selection(browser, tmp_path):
    with served(tmp_path) as address:
        live = Tab(browser, address)
        live.wait("document.querySelector('#empty') && !document.querySelector('#empty').hidden")
        assert "RWCCallback()" in live.frame.inner_text("#empty")
        write(tmp_path / "run", LAYERS, OTHER)
        live.drawn()
        live.wait("document.querySelector('#readout').textContent === '4 of 4 layers, 3 measurements'")
        live.frame.select_option("select[name=sort]", "name")
        live.settled()
        place = live.pixel(0, 1)[1]
        live.frame.locator("canvas.map").first.click(position=place)
        live.frame.locator("canvas.map").first.click(position={"x": 150, "y": place["y"]})
        write(tmp_path / "run", LAYERS, OTHER, first=3)
        live.page.mouse.move(5, 5)
        live.wait("document.querySelector('#readout').textContent === '4 of 4 layers, 6 measurements'")
        assert live.frame.inner_text("#pins") == "block.2"
        assert live.frame.input_value("select[name=sort]") == "name"
        assert live.frame.inner_text(".profile") == "at epoch 1"
        live.close()


def test_a_link_is_restored_when_its_runs_are_read(browser, tmp_path):
    write(tmp_path / "first", LAYERS, OTHER)
    with served(tmp_path) as address:
        waiting, touched = (Tab(browser, address, run="late", other="later").drawn() for _ in range(2))
        assert waiting.frame.locator("#notes p").all_inner_texts() == [
            "The run “late” of this link is not in this log (yet). The run “first” is shown.",
            "The run “later” of this link is not in this log (yet).",
        ]
        touched.click(touched.name(1))
        write(tmp_path / "late", LAYERS, VALUES)
        waiting.wait("document.querySelector('canvas.map').ariaLabel.startsWith('late')")
        write(tmp_path / "later", LAYERS, VALUES)
        waiting.wait("document.querySelector('select[name=other]').value === 'later'")
        waiting.wait("document.querySelector('#notes').textContent === ''")
        touched.wait("document.querySelector('select[name=run]').length === 3")
        assert touched.frame.input_value("select[name=run]") == "first"
        assert touched.frame.inner_text("#pins") == "block.10"
        for one in (waiting, touched):
            one.close()


def test_a_newer_run_is_shown_until_the_user_does_something(browser, tmp_path):
    write(tmp_path / "first", LAYERS, OTHER)
    with served(tmp_path) as address:
        live = Tab(browser, address).drawn()
        write(tmp_path / "second", LAYERS, VALUES)
        live.wait("document.querySelector('select[name=run]').value === 'second'")
        live.wait("document.querySelector('canvas.map').ariaLabel.startsWith('second')")
        live.click(live.name(1))
        write(tmp_path / "third", LAYERS, VALUES)
        live.wait("document.querySelector('select[name=run]').length === 3")
        live.settled()
        assert live.frame.input_value("select[name=run]") == "second"
        assert live.frame.inner_text("#pins") == "block.10"
        live.close()
