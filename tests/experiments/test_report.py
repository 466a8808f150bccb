# SPDX-License-Identifier: Apache-2.0
import json
import re

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from lightning_rwc.experiments.authors import UNKNOWN
from lightning_rwc.experiments.claims import CLAIMS, Claim, Comparison
from lightning_rwc.experiments.report import _depth_or_size, _others, _undefined, write_report
from lightning_rwc.experiments.results import NORMS, RECORDED, load_results
from tests.experiments.synthetic import ALEXNET, EARLY, LATER, MIDDLE, SIZES, curves, settings, store

LEVELS = [0.1, 0.2, 0.2, 0.15, 0.15, 0.5]


def report(out):
    return " ".join(write_report(out).read_text(encoding="utf-8").split())


def test_page_and_tables(tmp_path):
    out = tmp_path / "run"
    tables = store(out, LEVELS, recordings=tuple(RECORDED))
    page = report(out)
    assert page.count("data:image/png;base64,") == 5
    assert not re.search(r'(src|href)="(?!data:|https://arxiv)', page)
    assert page.index("<h2>Verdicts") < page.index("<h2>Groups") < page.index("<h2>Depth or size")
    for basis in ("0.8806", "the paper reports 0.895", "3 seeds (0, 1, 2)", "first 100 images only", "bf16-mixed"):
        assert basis in page
    assert all(sentence in page for sentence in (sentence.replace("'", "&#39;") for sentence in UNKNOWN))

    verdicts = pd.read_csv(out / "verdicts.csv").set_index(["claim", "norm", "summary"])["verdict"]
    assert set(verdicts["early < middle and middle < later"]) == {"does not hold"}
    assert len(verdicts) == 3 * len(NORMS) * 3  # the claim, and the overall one over all layers and in groups
    comparisons = pd.read_csv(out / "comparisons.csv")
    assert comparisons["comparison"].tolist() == ["early < middle", "middle < later"] * 9
    assert comparisons["verdict"].tolist() == ["holds", "does not hold"] * 9
    assert comparisons["share of epochs"].tolist() == [1, 0] * 9

    groups = pd.read_csv(out / "groups.csv").set_index(["group", "norm", "summary"])
    for norm in NORMS:
        for group, layers in (("early", EARLY), ("middle", MIDDLE), ("later", LATER), ("all layers", range(6))):
            by_epoch = tables[norm][:, :, list(layers)].mean(axis=2)
            of_seeds = {
                "mean": by_epoch.mean(1),
                "geometric mean": stats.gmean(by_epoch, 1),
                "median": np.median(by_epoch, 1),
            }
            for summary, samples in of_seeds.items():
                assert groups.loc[(group, norm, summary), "mean"] == pytest.approx(stats.gmean(samples))
    for recording, table in tables.items():
        over_seeds = pd.read_csv(out / f"curves_{RECORDED[recording]}.csv").set_index(["over seeds", "epoch"])
        expected = {"mean": table.mean(0), "lowest seed": table.min(0), "highest seed": table.max(0)}
        for statistic, values in expected.items():
            np.testing.assert_allclose(over_seeds.loc[statistic, ALEXNET], values)


def test_depth_or_size(tmp_path):
    out = tmp_path / "run"
    tables = store(out, LEVELS, spread=0.5, recordings=tuple(RECORDED))
    page = report(out)
    found = pd.read_csv(out / "depth_or_size.csv").set_index(["recording", "correlation"])
    assert list(found.index.unique("recording")) == list(RECORDED)
    for recording, table in tables.items():
        medians = np.median(table[1], axis=0)
        with_depth, with_size = (stats.spearmanr(x, medians).statistic for x in (range(6), SIZES))
        between = stats.spearmanr(range(6), SIZES).statistic
        assert found.loc[(recording, "depth"), "seed 1"] == pytest.approx(with_depth)
        assert found.loc[(recording, "size"), "seed 1"] == pytest.approx(with_size)
        partial = (with_depth - with_size * between) / np.sqrt((1 - with_size**2) * (1 - between**2))
        assert found.loc[(recording, "depth given size"), "seed 1"] == pytest.approx(partial)
    assert f"Depth and size themselves have ρ = {between:.2f}" in page


@pytest.mark.parametrize(
    ("sizes", "reason", "known"),
    [
        (None, "The folder does not say how large the layers are", ["depth"]),
        ([500] * 6, "All layers have the same size", ["depth"]),
        ([1, 2, 4, 8, 16, 32], "Depth and size put the layers in one order", ["depth", "size"]),
        ([32, 16, 8, 4, 2, 1], "Depth and size put the layers in one order", ["depth", "size"]),
    ],
)
def test_what_size_cannot_tell_is_said(sizes, reason, known, tmp_path):
    store(tmp_path / "run", LEVELS, spread=0.5, sizes=sizes)
    results = load_results(tmp_path / "run")
    assert _undefined(results).startswith(reason)
    found = _depth_or_size(results).groupby("correlation")["mean"].count()
    assert set(found[found > 0].index) == set(known)


def test_too_early_is_said_with_its_reason(tmp_path):
    store(tmp_path / "run", LEVELS, accuracy=0.5, seeds=(0,), sizes=None)
    page = report(tmp_path / "run")
    assert "It is too early for a verdict." in page
    assert "The mean accuracy of 0.5000 is below 0.850" in page  # 0.95 × 0.895
    assert "1 seed (0); one seed decides nothing" in page
    assert "The folder does not say how large the layers are" in page
    assert 'class="does not hold"' not in page
    assert 'class="holds"' not in page


def test_a_run_that_is_left_out_is_named(tmp_path):
    store(tmp_path / "run", LEVELS)
    file = tmp_path / "run" / "seed_1" / "finished.json"
    file.write_text(json.dumps({"seed": 1, "test_top1": 0.1, "test_top5": 0.5}))
    page = report(tmp_path / "run")
    assert "seed 1: its accuracy of 0.1000 is less than half of the best seed's" in page
    assert "2 seeds (0, 2)" in page
    assert list(pd.read_csv(tmp_path / "run" / "runs.csv").seed) == [0, 2, 1]


def other_settings(change):
    changed = settings("mnist")
    for part, values in change.items():
        changed[part] = changed[part] | values if isinstance(values, dict) else values
    return changed


@pytest.mark.parametrize(
    ("change", "compared"),
    [
        ({}, True),
        ({"model": {"channels": 3, "classes": 100}}, True),
        ({"model": {"learning_rate": 0.01}}, False),
        ({"model": {"like": "modern"}}, False),
        ({"data": {"subset": None}}, False),
        ({"data": {"augment": "flip"}}, False),
        ({"trainer": {"precision": "32-true"}}, False),
        ({"trainer": {"gradient_clip_val": 1.0}}, False),
        ({"trainer": None}, False),
        ({"epochs": 5}, False),
        ({"processes": 2}, False),
    ],
)
def test_runs_with_other_settings_are_not_compared(change, compared, tmp_path):
    store(tmp_path / "run", LEVELS)
    store(tmp_path / "other", LEVELS, **other_settings(change))
    assert ("mnist" in _others(load_results(tmp_path / "run"), tmp_path / "run")) == compared


def test_runs_on_two_data_sets_are_compared(tmp_path, monkeypatch):
    comparison = Comparison("all layers", "<", "all layers", "mnist")
    monkeypatch.setitem(CLAIMS, ("alexnet", "fashion-mnist"), Claim((comparison,), 0.895))
    store(tmp_path / "run", LEVELS)
    assert "no run to compare with" in report(tmp_path / "run")
    store(tmp_path / "other", [10 * level for level in LEVELS], accuracy=0.99, **settings("mnist"))
    assert "no run to compare with" not in report(tmp_path / "run")
    assert set(pd.read_csv(tmp_path / "run" / "comparisons.csv")["verdict"]) == {"holds"}


def test_neighbours_that_are_old_unfinished_or_no_experiments_do_no_harm(tmp_path):
    store(tmp_path / "run", LEVELS)
    old = {"model": {"architecture": "alexnet"}, "data": {"name": "mnist"}, "epochs": 4, "precision": "32-true"}
    store(tmp_path / "old", LEVELS, sizes=None, **old)
    store(tmp_path / "unfinished", LEVELS, seeds=(), **settings("mnist"))
    for name, text in (("empty", ""), ("list", "[1, 2]"), ("tag", "path: !env HOME")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "settings.yaml").write_text(text)
    assert "<h2>Verdicts" in report(tmp_path / "run")
    page = report(tmp_path / "old")
    assert "not said in the settings" in page
    assert UNKNOWN[0] not in page


def test_a_run_that_diverged_leaves_a_page(tmp_path):
    def lost(seed, recording):
        table = curves(LEVELS, seed, recording)
        table[1:] = np.nan
        return table

    store(tmp_path / "run", lost, recordings=tuple(RECORDED))
    page = report(tmp_path / "run")
    assert "undefined" in page
    assert "no run to compare with" not in page
    assert set(pd.read_csv(tmp_path / "run" / "verdicts.csv")["verdict"]) == {"undecided"}


def test_report_escapes_what_it_is_given(tmp_path):
    store(tmp_path / "run", [0.1] * 6, **settings("<script>alert(1)</script>"))
    page = report(tmp_path / "run")
    assert "<script>" not in page
    assert "The paper makes no claim" in page
