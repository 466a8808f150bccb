# SPDX-License-Identifier: Apache-2.0
"""What changed from one saved model to another, as a page."""

import json
import re
from base64 import b64decode

import numpy as np
import pytest
import torch

from lightning_rwc.diff_page import diff_page
from lightning_rwc.weight_diff import diff_checkpoints
from tests.tensorboard.chromium import CHROMIUM, chromium

HOSTILE = "</script><script>document.title='hacked'</script>/*CONTENT*/"


@pytest.fixture
def page(tmp_path):
    ones = torch.ones(2, 2)
    base = {"stem.weight": ones, f"{HOSTILE}.weight": ones.clone(), "head.weight": 0 * ones, "odd.weight": ones.clone()}
    tuned = dict(zip(base, (2 * ones, ones.clone(), ones.clone(), torch.nan * ones), strict=True))
    for name, state in (("base", base), ("tuned", tuned)):
        torch.save(state, tmp_path / f"{name}.pt")
    path = tmp_path / "diff.html"
    path.write_text(diff_page(diff_checkpoints(tmp_path / "base.pt", tmp_path / "tuned.pt")), encoding="utf-8")
    return path


def test_the_page_holds_the_numbers_and_asks_for_nothing_else(page):
    text = page.read_text(encoding="utf-8")
    content = json.loads(re.search(r'id="content">(.*?)</script>', text)[1])
    assert content["common"]["layers"] == ["stem", HOSTILE, "head", "odd"]
    # A value, zero, moved from zero, not finite: the codes of appearance.json.
    assert [*b64decode(content["tables"]["l1"]["cells"])] == [0, 4, 3, 2]
    values = np.frombuffer(b64decode(content["tables"]["radial"]["values"]), "<f4")
    np.testing.assert_array_equal(values, [1, 0, np.inf, np.nan])
    assert not re.search(r"(src|href)=|@import|https?:", text)


@pytest.mark.integration
@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium or Chrome, which is not installed here")
def test_the_page_draws_tells_and_sorts(page):
    with chromium() as browser:
        tab = browser.new_page(viewport={"width": 1000, "height": 900})
        errors, requests = [], []
        tab.on("pageerror", lambda error: errors.append(str(error)))
        tab.on("request", lambda request: requests.append(request.url.partition(":")[0]))
        tab.goto(page.as_uri())
        names = tab.locator("#numbers tbody tr td:first-child")
        names.nth(3).wait_for()
        assert names.all_text_contents() == ["stem", HOSTILE, "head", "odd"]
        box = tab.locator(".profile canvas").first.bounding_box()
        tab.mouse.move(box["x"] + 30, box["y"] + 4 + (box["height"] - 40) / 8)
        tab.wait_for_function("document.querySelector('#readout').textContent.startsWith('stem')")
        assert tab.locator("#readout").text_content() == "stem · 2×2 · l1 1 · l2 1 · rotation 0 · radial 1 · moved 1"
        words = tab.locator("#key .words").all_text_contents()
        assert set(words) == {"nan: not finite", "0: did not move", "inf: moved from all zeros"}
        tab.select_option("select[name=sort]", "value")
        tab.wait_for_function("document.querySelector('#numbers tbody td').textContent === 'head'")
        tab.fill("input[name=filter]", "st?em")
        tab.wait_for_function("document.querySelectorAll('#numbers tbody tr').length === 1")
        tab.locator("#numbers tbody tr").click()
        tab.locator("#numbers tr.pinned").wait_for()
        assert tab.title() == "What changed"
    assert errors == []
    assert set(requests) <= {"file", "data"}
