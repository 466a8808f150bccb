# SPDX-License-Identifier: Apache-2.0
"""``docs/gallery.py`` on two tiny trainings, and what ``docs/gallery.md`` shows."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

DOCS = Path(__file__).parent.parent / "docs"
PAGE = (DOCS / "gallery.md").read_text(encoding="utf-8")
START = re.compile(r"<!-- (?!end)(\S+) -->")


@pytest.fixture
def gallery_runs(monkeypatch):
    monkeypatch.syspath_prepend(DOCS)
    import gallery_runs

    return gallery_runs


@pytest.mark.integration
def test_the_command_trains_draws_and_hides_names(tmp_path):
    page, cache, blind = tmp_path / "page.md", tmp_path / "cache", tmp_path / "blind"
    page.write_text("before\n\n<!-- mlp-rate-x10 -->\nold\n<!-- end -->\n\nafter\n")
    command = [
        sys.executable,
        str(DOCS / "gallery.py"),
        cache,
        "--only",
        "mlp-healthy",
        "mlp-rate-x10",
        "--epochs",
        "1",
    ]
    command += ["--page", page, "--blind", blind, "--strip", "--seed", "3"]
    for again in (False, True):
        printed = subprocess.run(command, check=True, capture_output=True, text=True, cwd=DOCS.parent).stdout
        # Trainings in the cache are not repeated.
        assert ("mlp-healthy" in printed) == (not again)
        text = page.read_text(encoding="utf-8")
        assert text.startswith("before\n\n<!-- mlp-rate-x10 -->\n\n![MLP: learning rate 10 times too high")
        assert text.endswith("<!-- end -->\n\nafter\n")
        assert "old" not in text

    pair = Image.open(tmp_path / "images" / "gallery" / "mlp-rate-x10.png")
    assert pair.width > 1.5 * pair.height
    key = json.loads((tmp_path / "blind-key.json").read_text(encoding="utf-8"))
    assert {number: (blind / f"{number}.png").is_file() for number in key} == {"01": True, "02": True}
    assert {one["sickness"] for one in key.values()} == {"healthy", "learning rate 10 times too high"}


def test_the_page_shows_all_trainings_but_the_twins(gallery_runs):
    assert START.findall(PAGE) == [
        case.name
        for case in sorted(
            (case for case in gallery_runs.CASES.values() if case.twin),
            key=lambda case: PAGE.index(f"<!-- {case.name} -->"),
        )
    ]


def test_the_pictures_are_those_of_the_page_and_small():
    shown = re.findall(r"\]\((images/gallery/[^)]+)\)", PAGE)
    files = [DOCS / name for name in shown]
    assert sorted(files) == sorted((DOCS / "images" / "gallery").iterdir())
    sizes = [file.stat().st_size for file in files]
    assert max(sizes) <= 60_000
    assert sum(sizes) <= 1_500_000


def test_dead_units_and_rates_are_those_that_the_truth_names(gallery_runs):
    import torch

    case = gallery_runs.CASES["mlp-dead-units-60"]
    training = gallery_runs.Training(gallery_runs.RECIPES["MLP"])
    case.change(training)
    images = torch.rand(256, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    alive = {}
    for name, module in training.net.named_children():
        images = module(images)
        if name.startswith("act"):
            alive[name] = float((images > 0).any(0).float().mean())
    assert [alive[f"act{number}"] <= 0.41 for number in range(1, 12)] == [
        number in (4, 5, 6) for number in range(1, 12)
    ]

    training = gallery_runs.Training(gallery_runs.RECIPES["transformer"])
    gallery_runs.CASES["transformer-one-layer-low"].change(training)
    (optimizer,), _ = training.configure_optimizers()
    slow = {id(p) for group in optimizer.param_groups if group["lr"] < 1e-4 for p in group["params"]}
    names = [name for name, parameter in training.net.named_parameters() if id(parameter) in slow]
    assert names == ["blocks.3.linear1.weight", "blocks.3.linear1.bias"]
    assert np.isclose(min(group["lr"] for group in optimizer.param_groups), 1e-3 / 30)
