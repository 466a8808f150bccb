# SPDX-License-Identifier: Apache-2.0
"""Two runs beside each other, and many at once, in a real browser."""

import re

import numpy as np
import pytest
from matplotlib import colormaps
from torch.utils.tensorboard import SummaryWriter

from tests.tensorboard.chromium import CHROMIUM
from tests.tensorboard.logs import announce, served, write, write_measurement
from tests.tensorboard.test_tab import Tab

LAYERS = ["stem", "block.10", "block.2", "head"]
FIRST = np.array([[1e-3, 1e-2, 0.0], [1e-1, 2e-2, np.nan], [5e-2, 5e-2, 0.0], [1.0, np.inf, 0.3]])
SECOND = np.array([[1e-3, 1e-3, 1e-3], [1e-3, 1e-2, 1e-3], [1e-1, 2.5e-2, 0.0], [0.9, 1.0, 0.3]])
SEEDS = {"slow": [1e-4, 1e-3, 1e-2], "fast": [1e-2, 0.1, 0.8]}

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium or Chrome, which is not installed here"),
]

SCAN = """([selector, number]) => {
  const canvas = document.querySelectorAll(selector)[number];
  const box = canvas.getBoundingClientRect();
  const [across, down] = [canvas.width / box.width, canvas.height / box.height];
  const image = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
  const found = {};
  for (let y = 1.5; y < box.height; y += 3) {
    for (let x = 1.5; x < box.width; x += 3) {
      const place = {clientX: box.left + x, clientY: box.top + y, bubbles: true};
      canvas.dispatchEvent(new PointerEvent('pointermove', place));
      const text = document.querySelector('#readout').textContent;
      const at = 4 * (Math.floor(y * down) * canvas.width + Math.floor(x * across));
      (found[text] ??= []).push([x, y, ...image.slice(at, at + 3)]);
    }
  }
  canvas.dispatchEvent(new PointerEvent('pointerleave', {pointerType: 'mouse'}));
  delete found[document.querySelector('#readout').textContent];
  return found;
}"""


SMALL = "#smallMaps canvas:not(.overlay)"


def scan(tab, number=0, selector="#maps canvas.map"):
    """What the page says of each cell of a map: text to the cell's place and colours, as x, y, red, green, blue."""
    tab.settled()
    found = tab.frame.evaluate(SCAN, [selector, number])
    return {text: np.array(places) for text, places in found.items()}


def colour(places):
    """The colour of most of a cell."""
    colours, counts = np.unique(places[:, 2:], axis=0, return_counts=True)
    return colours[counts.argmax()]


def cell(found, layer, *parts):
    """The one cell of a layer whose text has all ``parts``."""
    texts = [text for text in found if text.startswith(f"{layer} ") and all(part in text for part in parts)]
    assert len(texts) == 1, texts or sorted(found)
    return texts[0], found[texts[0]]


@pytest.fixture(scope="module")
def log_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("log")
    write(folder / "first", LAYERS, FIRST)
    write(folder / "second", LAYERS, SECOND)
    write(folder / "longer", [*LAYERS[1:], "extra"], SECOND[[1, 2, 3, 0]][:, [0, 1, 2, 0]], epoch_length=25)
    with SummaryWriter(str(folder / "often")) as writer:
        for index, step in enumerate((9, 14, 19, 29)):
            write_measurement(writer, step, index // 2, {"rwc": dict.fromkeys(LAYERS, 0.5)})
        announce(writer, 9, LAYERS)
    for number, (signed, share) in enumerate(((0.5, 0.75), (-0.25, 0.25))):
        with SummaryWriter(str(folder / f"measures_{number}")) as writer:
            rows = {"rwc": {"a": 0.5}, "strength": {"a": signed}, "still": {"a": share}}
            write_measurement(writer, 9, 0, rows)
            announce(writer, 9, ["a"], measures=["strength"], shares=["still"])
    for name, values in SEEDS.items():
        for seed, value in enumerate(values):
            write(folder / "sweep" / name / f"seed_{seed}", LAYERS, np.full((4, 3), value))
            with SummaryWriter(str(folder / "sweep" / name / f"seed_{seed}")) as writer:
                writer.add_scalar("val/loss", {"slow": 2.0, "fast": 1.0}[name] + seed / 10, 29)
    return folder


@pytest.fixture(scope="module")
def url(log_dir):
    with served(log_dir, runs=16) as address:
        yield address


@pytest.fixture
def tab(browser, url):
    opened = []

    def open_tab(colour="measurement", **state):
        opened.append(Tab(browser, url, colour=colour, **state).drawn())
        return opened[-1]

    yield open_tab
    for one in opened:
        one.close()


def axes(tab):
    """What the charts say that they are drawn over."""
    described = tab.frame.locator("#side [role=img]").evaluate_all("all => all.map((one) => one.ariaLabel)")
    return {text.split(" over ")[1].split(",")[0] for text in described if " over " in text}


def test_the_ratio_of_two_runs_has_a_fixed_scale_and_special_cells_are_neutral(tab):
    both = tab(run="first", other="second")
    assert both.frame.locator("#maps figcaption").all_inner_texts()[2].startswith("first ÷ second")
    cells = scan(both, 2)
    expected = {  # layer, epoch: ratio, and what the page says of it
        ("stem", 0): (1, "="),
        ("stem", 1): (10, "×10"),
        ("block.10", 0): (10, "×100"),  # beyond the end of the scale: the colour of the end
        ("block.10", 1): (2, "×2"),
        ("block.2", 0): (0.5, "÷2"),
        ("block.2", 1): (2, "×2"),
        ("head", 0): (1 / 0.9, "×1.11"),
        ("head", 2): (1, "="),
    }
    for (layer, epoch), (ratio, words) in expected.items():
        text, places = cell(cells, layer, f" epoch {epoch} ")
        assert text.endswith(f" · {words}")
        share = (np.log10(ratio) + 1) / 2
        wanted = [round(255 * channel) for channel in colormaps["PuOr"](share)[:3]]
        np.testing.assert_allclose(colour(places), wanted, atol=6)
    special = {
        ("stem", 2): "0 in one run only",
        ("block.10", 2): "nan or inf in one run only",
        ("head", 1): "nan or inf in one run only",
        ("block.2", 2): "=",
    }
    for (layer, epoch), words in special.items():
        text, places = cell(cells, layer, f" epoch {epoch} ")
        assert text.endswith(f" · {words}")
        assert np.ptp(colour(places)) <= 12, f"{words} has a colour of the scale: {colour(places)}"
    assert cell(cells, "stem", " epoch 1 ")[0] == "stem · epoch 1 · step 19 · 0.01 · second: 0.001 · ×10"


def test_runs_with_epochs_of_different_length_are_aligned_by_epoch(tab):
    both = tab(run="first", other="longer")
    assert both.frame.input_value("select[name=by]") == "epoch"
    assert axes(both) == {"epoch"}
    for number in range(3):
        text, _ = cell(scan(both, number), "block.10", " epoch 1 · step 19 ")
        assert text == "block.10 · epoch 1 · step 19 · 0.02 · longer: 0.01 (epoch 1, step 49) · ×2"
        # The fourth epoch, which the first run has not reached, is on the axis of all maps.
        assert cell(scan(both, number), "block.10", "not measured", "longer: 0.001 ")


def test_values_per_step_are_compared_if_the_scale_is_per_step(tab):
    both = tab(run="first", other="longer", colour="step")
    # 0.02 over 10 steps, and 0.01 over 25.
    text, places = cell(scan(both, 2), "block.10", " epoch 1 ")
    assert text.endswith(" · ×5 per step")
    share = (np.log10(5) + 1) / 2
    wanted = [round(255 * channel) for channel in colormaps["PuOr"](share)[:3]]
    np.testing.assert_allclose(colour(places), wanted, atol=6)


def test_by_step_the_axis_says_step_and_only_near_measurements_meet(tab):
    both = tab(run="first", other="longer", by="step")
    assert axes(both) == {"step"}
    assert "at step 29" in both.frame.inner_text("figure.profile")
    # Measured at 9, 19 and 29, and at 24, 49, 74 and 99: only the first of the second run is near.
    near = {text for text in scan(both, 2) if text.startswith("block.2 ") and "not measured" not in text}
    assert {tuple(text.split(" · ")[2:3] + text.split(" · ")[-2:]) for text in near} == {
        ("step 19", "longer: 0.1 (epoch 0, step 24)", "÷2"),
        ("step 29", "longer: 0.1 (epoch 0, step 24)", "0 in one run only"),
    }


def test_by_share_of_the_run_the_ends_meet(tab):
    both = tab(run="first", other="longer")
    both.frame.select_option("select[name=by]", "share")
    both.settled()
    assert axes(both) == {"share of the run (%)"}
    assert "&p.lightning_rwc.by=share" in both.link()
    cells = scan(both, 2)
    assert cell(cells, "block.2", "step 9 · 0.05", "longer: 0.1 (epoch 0, step 24) · ÷2")
    assert cell(cells, "head", "step 29 · 0.3", "longer: 0.9 (epoch 3, step 99) · ÷3")


def test_several_measurements_in_an_epoch_are_never_aligned_by_epoch(tab):
    both = tab(run="first", other="often", by="epoch")
    assert axes(both) == {"step"}
    offered = both.frame.locator("select[name=by] option").all_inner_texts()
    assert offered == ["step", "share of the run (%)"]
    assert both.frame.input_value("select[name=by]") == "step"
    single = tab(run="often")
    assert not single.frame.is_visible("select[name=by]")


def test_the_page_says_which_layers_match(tab):
    both = tab(run="first", other="longer")
    summary = both.frame.locator("#matching summary")
    assert summary.inner_text() == "3 of 5 layers are in both runs · 1 only in first · 1 only in longer"
    assert "stem" not in both.frame.inner_text("#matching")
    summary.click()
    assert "only in first: stem" in both.frame.inner_text("#matching")
    assert "only in longer: extra" in both.frame.inner_text("#matching")
    assert both.frame.evaluate("document.querySelector('#matching').open")
    same = tab(run="first", other="second")
    assert same.frame.inner_text("#matching summary") == "all 4 layers are in both runs"


def test_curves_of_both_runs_are_there_and_light_up_together(tab):
    both = tab(run="first", other="longer")
    caption = both.frame.locator("#side figcaption").first.inner_text()
    assert "first ──" in caption
    assert "longer ╌╌" in caption
    lit = (
        "() => { const c = document.querySelector('.uplot .overlay');"
        "const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;"
        "return d.filter((v, i) => i % 4 === 3 && v).length }"
    )

    def light(layer):
        places = next(places for text, places in scan(both).items() if text.startswith(f"{layer} "))
        x, y = places[len(places) // 2][:2]
        both.frame.locator("#maps canvas.map").first.hover(position={"x": x, "y": y})
        both.settled()
        return both.frame.evaluate(lit)

    # The first run has the stem, and both have a block.2.
    assert light("block.2") > light("stem")


@pytest.mark.parametrize(("prefix", "words"), [("rwc_strength", "+0.75"), ("rwc_still", "+0.5")])
def test_signed_quantities_and_shares_are_subtracted(tab, prefix, words):
    both = tab(run="measures_0", other="measures_1", prefix=prefix)
    assert both.frame.locator("#maps figcaption").all_inner_texts()[2].startswith("measures_0 − measures_1")
    text, places = cell(scan(both, 2), "a")
    assert text.endswith(f" · {words}")
    wanted = [round(255 * channel) for channel in colormaps["PuOr"](1.0)[:3]]  # the largest difference
    np.testing.assert_allclose(colour(places), wanted, atol=6)


def names(tab):
    return tab.frame.locator("#smallMaps figcaption button").all_inner_texts()


def runs(*groups, seeds=range(3)):
    return [f"{group}/seed_{seed}" for group in groups for seed in seeds]


def test_all_runs_are_small_maps_on_one_scale(tab):
    sweep = tab(view="all", runs="sweep")
    assert names(sweep) == runs("fast", "slow")
    assert "6 runs of sweep/ · the same 4 layers in each · epoch 0 to 2" in sweep.settled()
    colours = {}
    shown = [(name, value) for name in ("fast", "slow") for value in SEEDS[name]]
    for number, (name, value) in enumerate(shown):
        found = scan(sweep, number, SMALL)
        assert len(found) == 12
        text, places = cell({t.split(" · ", 1)[1]: p for t, p in found.items()}, "stem", " epoch 1 ")
        assert text == f"stem · epoch 1 · step 19 · {value:g}"
        colours[name, value] = tuple(colour(places))
    assert len({colours["fast", value] for value in SEEDS["fast"]}) == 3
    assert colours["fast", 1e-2] == colours["slow", 1e-2]
    sweep.frame.locator(SMALL).nth(1).click()
    sweep.wait("!document.querySelector('main').hidden")
    sweep.settled()
    assert sweep.frame.input_value("select[name=run]") == "sweep/fast/seed_1"
    assert sweep.frame.input_value("select[name=view]") == ""
    assert not sweep.frame.is_visible("#smallMaps")


def test_runs_are_filtered_and_a_broken_expression_keeps_them(tab):
    sweep = tab()
    sweep.frame.select_option("select[name=view]", "all")
    sweep.wait("document.querySelectorAll('#smallMaps figure').length === 12")
    sweep.frame.fill("input[name=runs]", "slow/seed_[01]")
    sweep.wait("document.querySelectorAll('#smallMaps figure').length === 2")
    assert names(sweep) == ["seed_0", "seed_1"]
    assert "2 runs of sweep/slow/" in sweep.settled()
    sweep.frame.fill("input[name=runs]", "slow/seed_[01")
    sweep.wait("document.querySelector('input[name=runs]').ariaInvalid === 'true'")
    assert "not a regular expression, so the runs are those of before · 2 runs" in sweep.settled()
    assert names(sweep) == ["seed_0", "seed_1"]
    sweep.frame.fill("input[name=runs]", "nothing")
    sweep.wait("document.querySelectorAll('#smallMaps figure').length === 0")
    assert sweep.settled() == "No run has this quantity and fits the expression."


def test_runs_are_sorted_by_a_scalar(tab):
    sweep = tab(view="all", runs="sweep")
    options = sweep.frame.locator("select[name=scalar] option").all_inner_texts()
    assert options == ["none", "rwc/own", "rwc_summary/epoch", "rwc_summary/total", "val/loss"]
    sweep.frame.select_option("select[name=scalar]", "val/loss")
    sweep.wait("document.querySelector('#smallMaps figcaption').textContent.endsWith('1')")
    assert sweep.frame.input_value("select[name=order]") == "lowest"
    assert names(sweep) == runs("fast", "slow")
    notes = sweep.frame.locator("#smallMaps figcaption span").all_inner_texts()
    assert notes == ["1", "1.1", "1.2", "2", "2.1", "2.2"]
    sweep.frame.select_option("select[name=order]", "highest")
    sweep.wait("document.querySelector('#smallMaps figcaption').textContent.endsWith('2.2')")
    assert names(sweep) == [*reversed(runs("fast", "slow"))]
    again = tab(**dict(re.findall(r"&p\.lightning_rwc\.(\w+)=([^&]*)", sweep.link())))
    assert names(again) == names(sweep)


def test_seeds_are_one_map_with_their_range(tab):
    sweep = tab(view="all", runs="sweep")
    sweep.frame.fill("input[name=group]", "seed_*")
    sweep.wait("document.querySelectorAll('#smallMaps figure').length === 2")
    assert names(sweep) == ["fast/seed_*", "slow/seed_*"]
    assert sweep.frame.locator("#smallMaps figcaption span").all_inner_texts() == ["3 runs", "3 runs"]
    found = scan(sweep, 1, SMALL)
    # The cube root of 1e-4 · 1e-3 · 1e-2 is 1e-3.
    assert "sweep/slow/seed_* (3 runs) · head · epoch 2 · mean 0.001 · 0.0001 to 0.01, ×100" in found
    sweep.frame.locator(SMALL).nth(1).click()
    sweep.wait("document.querySelectorAll('#smallMaps figure').length === 3")
    assert names(sweep) == ["seed_0", "seed_1", "seed_2"]


def test_maps_of_runs_that_share_layers_have_the_same_rows(tab):
    sweep = tab(view="all", runs="^(first|longer|measures_0)$")
    rows = []
    for number in range(3):
        found = scan(sweep, number, SMALL)
        heights = {text.split(" · ")[1]: places[:, 1].mean() for text, places in found.items()}
        rows.append(sorted(heights, key=heights.__getitem__))
    assert names(sweep) == ["first", "longer", "measures_0"]
    assert rows == [["stem", "block.10", "block.2", "head", "extra"]] * 2 + [["a"]]
    assert "5 or 1 layers" in sweep.settled()
