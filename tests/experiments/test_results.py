# SPDX-License-Identifier: Apache-2.0
"""Statistics, verdicts and the report, on results made by hand."""

import json
import math
import re

import numpy as np
import pandas as pd
import pytest
import yaml
from scipy import stats

from lightning_rwc import RWCHistory
from lightning_rwc.experiments.claims import CLAIMS, Comparison, judge, together
from lightning_rwc.experiments.report import write_report
from lightning_rwc.experiments.results import RECORDED, interval, load_results

ALEXNET = ["features.0", "features.3", "features.6", "features.8", "features.10", "classifier"]
EARLY, MIDDLE, LATER = [0], [1, 2], [3, 4]


def store(out, levels, data="fashion-mnist", seeds=(0, 1, 2), epochs=4, spread=0.02):
    """Finished runs of AlexNet whose layers have these mean levels, up to noise of ``spread``; returns the tables."""
    out.mkdir(parents=True)
    settings = {
        "model": {"architecture": "alexnet", "learning_rate": 0.1},
        "data": {"name": data, "subset": 100, "batch_size": 128},
        "epochs": epochs,
        "precision": "32-true",
    }
    (out / "settings.yaml").write_text(yaml.safe_dump(settings))
    tables = {norm: [] for norm in RECORDED}
    for seed in seeds:
        folder = out / f"seed_{seed}"
        folder.mkdir()
        for number, (norm, prefix) in enumerate(RECORDED.items()):
            rng = np.random.default_rng(10 * seed + number)
            values = np.array(levels) * np.exp(spread * rng.normal(size=(epochs, len(levels))))
            tables[norm].append(values)
            RWCHistory(ALEXNET, range(epochs), range(epochs), values).save(folder / f"{prefix}.csv")
        ended = {"seed": seed, "test_top1": 0.8 + seed / 100, "test_top5": 0.99}
        (folder / "finished.json").write_text(json.dumps(ended))
    (out / "seed_99").mkdir()  # begun, not finished
    return {norm: np.stack(table) for norm, table in tables.items() if table}


def test_interval_is_students():
    samples = [0.3, 0.5, 0.45, 0.7]
    expected = stats.ttest_1samp(samples, 0).confidence_interval(0.95)
    np.testing.assert_allclose(interval(samples), [np.mean(samples), expected.low, expected.high])
    assert interval([0.5])[0] == 0.5
    assert np.isnan(interval([0.5])[1:]).all()


def test_results_are_read_and_averaged(tmp_path):
    tables = store(tmp_path / "run", [0.1, 0.2, 0.3, 0.4, 0.5, 0.05], seeds=(123, 0, 42))
    results = load_results(tmp_path / "run")
    assert (results.architecture, results.data, results.seeds) == ("alexnet", "fashion-mnist", [0, 42, 123])
    np.testing.assert_allclose(results.accuracy(), [0.8, 1.22, 2.03])
    for norm, unsorted in tables.items():
        table = unsorted[[1, 2, 0]]
        np.testing.assert_array_equal(results.curves[norm], table)
        means = [seed[:, MIDDLE].mean() for seed in table]
        np.testing.assert_allclose(results.means(norm, ["features.3", "features.6"]), means)
        rhos = [stats.spearmanr(range(6), np.median(seed, axis=0)).statistic for seed in table]
        np.testing.assert_allclose(results.correlations(norm), rhos)


def test_nothing_finished_is_an_error(tmp_path):
    store(tmp_path / "run", [0.1] * 6, seeds=())
    with pytest.raises(FileNotFoundError, match="has no finished run"):
        load_results(tmp_path / "run")


# The claim: early < middle < later.
@pytest.mark.parametrize(
    ("levels", "spread", "verdicts", "whole"),
    [
        ([0.1, 0.2, 0.2, 0.3, 0.3, 9], 0.02, ["holds", "holds"], "holds"),
        ([0.1, 0.2, 0.2, 0.15, 0.15, 9], 0.02, ["holds", "does not hold"], "does not hold"),
        ([0.1, 0.2, 0.2, 0.2, 0.2, 9], 0.02, ["holds", "undecided"], "undecided"),
        ([0.1, 0.2, 0.2, 0.3, 0.3, 9], 3.0, ["undecided", "undecided"], "undecided"),
    ],
)
def test_verdicts(levels, spread, verdicts, whole, tmp_path):
    tables = store(tmp_path / "run", levels, spread=spread)
    results = load_results(tmp_path / "run")
    for norm in RECORDED:
        judgements = judge(results, norm, {})
        assert [judgement.verdict for judgement in judgements] == verdicts
        assert together(judgements) == whole
        means = {name: tables[norm][:, :, group].mean((1, 2)) for name, group in (("m", MIDDLE), ("l", LATER))}
        logarithms = np.log(means["m"] / means["l"])
        limits = stats.t.interval(0.95, 2, logarithms.mean(), stats.sem(logarithms))
        np.testing.assert_allclose(judgements[1].ratio, np.exp([logarithms.mean(), *limits]))


def test_one_seed_decides_nothing(tmp_path):
    store(tmp_path / "run", [0.1, 0.2, 0.2, 0.3, 0.3, 9], seeds=(5,))
    judgements = judge(load_results(tmp_path / "run"), "l1", {})
    assert {judgement.verdict for judgement in judgements} == {"undecided"}


@pytest.mark.parametrize(("level", "verdict"), [(0.21, "holds"), (0.3, "does not hold"), (0.25, "undecided")])
def test_similar_means_within_a_quarter(level, verdict, tmp_path, monkeypatch):
    comparison = Comparison("later", "≈", "middle")
    claim = CLAIMS["alexnet", "fashion-mnist"]
    monkeypatch.setitem(CLAIMS, ("alexnet", "fashion-mnist"), claim.__class__((comparison,), claim.accuracy))
    store(tmp_path / "run", [0.1, 0.2, 0.2, level, level, 9])
    assert judge(load_results(tmp_path / "run"), "l1", {})[0].verdict == verdict


def test_claims_across_data_sets_take_the_seeds_that_both_have(tmp_path, monkeypatch):
    comparison = Comparison("all layers", "<", "all layers", "fashion-mnist")
    monkeypatch.setitem(CLAIMS, ("alexnet", "mnist"), CLAIMS["alexnet", "mnist"].__class__((comparison,), 0.9))
    low = store(tmp_path / "mnist", [0.1] * 6, data="mnist", seeds=(0, 1, 2, 3))["l1"]
    high = store(tmp_path / "fashion", [0.2] * 6, seeds=(1, 2, 3, 4))["l1"]
    mnist, fashion = load_results(tmp_path / "mnist"), load_results(tmp_path / "fashion")
    assert judge(mnist, "l1", {})[0].verdict == "undecided"
    (judgement,) = judge(mnist, "l1", {"fashion-mnist": fashion})
    expected = np.log(low[1:].mean((1, 2)) / high[:3].mean((1, 2))).mean()
    assert judgement.ratio.mean == pytest.approx(math.exp(expected))
    assert judgement.verdict == "holds"


def test_claims_name_groups_that_there_are():
    from lightning_rwc.experiments.groups import _GROUPS

    for (architecture, _), claim in CLAIMS.items():
        for comparison in claim.comparisons:
            assert {comparison.left, comparison.right} <= {*_GROUPS[architecture], "all layers"}
            assert comparison.other_data in (None, "cifar10", "fashion-mnist")


def test_report(tmp_path):
    out = tmp_path / "alexnet-fashion-mnist"
    tables = store(out, [0.1, 0.2, 0.2, 0.15, 0.15, 0.5])
    page = write_report(out).read_text(encoding="utf-8")
    assert page.count("data:image/png;base64,") == 4
    assert not re.search(r'(src|href)="(?!data:|https://arxiv)', page)
    assert page.count('class="does not hold">does not hold') == 2 * len(RECORDED)
    assert "0.8100" in page  # mean accuracy
    claims = pd.read_csv(out / "claims.csv")
    assert claims["claim"].tolist() == ["early < middle", "middle < later"] * 3
    assert claims["verdict"].tolist() == ["holds", "does not hold"] * 3
    groups = pd.read_csv(out / "groups.csv").set_index(["group", "norm"])
    for norm, table in tables.items():
        for group, layers in (("early", EARLY), ("middle", MIDDLE), ("later", LATER), ("all layers", range(6))):
            assert groups.loc[(group, norm), "mean"] == pytest.approx(table[:, :, list(layers)].mean())
        curves = pd.read_csv(out / f"curves_{norm}.csv").set_index(["over seeds", "epoch"])
        for statistic, values in (
            ("mean", table.mean(0)),
            ("lowest seed", table.min(0)),
            ("highest seed", table.max(0)),
        ):
            np.testing.assert_allclose(curves.loc[statistic, ALEXNET], values)
    correlation = pd.read_csv(out / "correlation.csv")
    rho = stats.spearmanr(range(6), np.median(tables["l1"][1], axis=0)).statistic
    assert correlation.loc[0, "seed 1"] == pytest.approx(rho)


def test_report_escapes_what_it_is_given(tmp_path):
    store(tmp_path / "run", [0.1] * 6, data="<script>alert(1)</script>")
    page = write_report(tmp_path / "run").read_text(encoding="utf-8")
    assert "<script>" not in page
    assert "The paper makes no claim" in page
