# SPDX-License-Identifier: Apache-2.0
import math

import numpy as np
import pytest
from scipy import stats

from lightning_rwc.experiments.claims import CLAIMS, Claim, Comparison, judge, later_layers_change_more, together
from lightning_rwc.experiments.results import NORMS, SUMMARIES, load_results
from tests.experiments.synthetic import EARLY, LATER, MIDDLE, settings, store

# On Fashion-MNIST the paper claims early < middle < later, and reports an accuracy of 89.5 %.
RISING = [0.1, 0.2, 0.2, 0.3, 0.3, 9]


def claim_only(monkeypatch, *comparisons, data="fashion-mnist", accuracy=0.895):
    monkeypatch.setitem(CLAIMS, ("alexnet", data), Claim(comparisons, accuracy))


@pytest.mark.parametrize(
    ("levels", "spread", "verdicts", "whole"),
    [
        (RISING, 0.02, ["holds", "holds"], "holds"),
        ([0.1, 0.2, 0.2, 0.15, 0.15, 9], 0.02, ["holds", "does not hold"], "does not hold"),
        ([0.1, 0.2, 0.2, 0.2, 0.2, 9], 0.02, ["holds", "undecided"], "undecided"),
        (RISING, 3.0, ["undecided", "undecided"], "undecided"),
    ],
)
def test_verdicts(levels, spread, verdicts, whole, tmp_path):
    tables = store(tmp_path / "run", levels, spread=spread)
    results = load_results(tmp_path / "run")
    for norm in NORMS:
        judgements = judge(results, norm, {})
        assert [judgement.verdict for judgement in judgements] == verdicts
        assert together(judgements) == whole
        means = {name: tables[norm][:, :, group].mean((1, 2)) for name, group in (("m", MIDDLE), ("l", LATER))}
        logarithms = np.log(means["m"] / means["l"])
        limits = stats.t.interval(0.95, 2, logarithms.mean(), stats.sem(logarithms))
        np.testing.assert_allclose(judgements[1].ratio, np.exp([logarithms.mean(), *limits]))


def test_the_share_of_epochs_is_averaged_over_seeds(tmp_path):
    table = store(tmp_path / "run", [0.1] * 6, spread=0.5)["l1"]
    early, middle, later = (table[:, :, group].mean(axis=2) for group in (EARLY, MIDDLE, LATER))
    expected = [
        np.mean([np.mean(a < b) for a, b in zip(*sides, strict=True)]) for sides in ((early, middle), (middle, later))
    ]
    assert [judgement.share for judgement in judge(load_results(tmp_path / "run"), "l1", {})] == expected
    assert 0 < min(expected) <= max(expected) < 1


def test_a_spike_decides_the_mean_alone(tmp_path):
    def spike(seed, recording):
        table = np.array(RISING) * np.exp(0.01 * np.random.default_rng(seed).normal(size=(20, 6)))
        table[5, EARLY] = 50
        return table

    store(tmp_path / "run", spike)
    found = {summary: judge(load_results(tmp_path / "run"), "l1", {}, summary)[0] for summary in SUMMARIES}
    assert {summary: judgement.verdict for summary, judgement in found.items()} == {
        "mean": "does not hold",
        "geometric mean": "holds",
        "median": "holds",
    }
    assert [judgement.share for judgement in found.values()] == pytest.approx([0.95] * 3)


def test_one_seed_decides_nothing(tmp_path):
    store(tmp_path / "run", RISING, seeds=(5,))
    results = load_results(tmp_path / "run")
    assert {judgement.verdict for judgement in judge(results, "l1", {})} == {"undecided"}
    assert later_layers_change_more(results, "l1").verdict == "undecided"


@pytest.mark.parametrize(("level", "verdict"), [(0.21, "holds"), (0.3, "does not hold"), (0.25, "undecided")])
def test_similar_means_within_a_quarter(level, verdict, tmp_path, monkeypatch):
    claim_only(monkeypatch, Comparison("later", "≈", "middle"))
    store(tmp_path / "run", [0.1, 0.2, 0.2, level, level, 9])
    (judgement,) = judge(load_results(tmp_path / "run"), "l1", {})
    assert judgement.verdict == verdict
    assert judgement.share == pytest.approx({0.21: 1, 0.3: 0}.get(level, judgement.share))


def groups_with_ratios(*log_ratios):
    """Curves in which log(middle / early) and log(later / middle) of each seed are given."""

    def made(seed, recording):
        middle = np.exp(log_ratios[0][seed])
        later = middle * np.exp(log_ratios[1][seed])
        return np.tile([1, middle, middle, later, later, 1], (4, 1))

    return made


def test_failing_is_corrected_for_the_number_of_comparisons_and_holding_is_not(tmp_path):
    # t = ±5 with 2 degrees of freedom: one-sided p is 0.0189, below 0.025, but twice that is above.
    noise = np.array([-1.0, 0.0, 1.0])
    clear = 5 * stats.sem(noise)
    p_value = stats.ttest_1samp(noise + clear, 0, alternative="greater").pvalue
    assert 0.025 / 2 < p_value < 0.025
    cases = {
        "both hold": (noise + clear, noise + clear, ["holds", "holds"], "holds"),
        "one fails": (noise + clear, noise - clear, ["holds", "undecided"], "undecided"),
        "both fail": (noise - clear, noise - clear, ["undecided", "undecided"], "undecided"),
        "one fails clearly": (noise - clear, noise - 9 * clear, ["does not hold"] * 2, "does not hold"),
    }
    for name, (first, second, verdicts, whole) in cases.items():
        store(tmp_path / name, groups_with_ratios(first, second))
        judgements = judge(load_results(tmp_path / name), "l1", {})
        assert [judgement.verdict for judgement in judgements] == verdicts, name
        assert together(judgements) == whole, name


def test_verdicts_are_seldom_wrong(tmp_path, monkeypatch):
    # Where all groups are equal, both "holds" and "does not hold" are wrong for a claim of two inequalities.
    store(tmp_path / "run", [0.1] * 6, seeds=range(5))
    results = load_results(tmp_path / "run")
    rng = np.random.default_rng(0)
    found = []
    for _ in range(1_000):
        results.curves["l1"] = np.exp(rng.normal(size=(5, 4, 6)) * [1, 1, 0, 1, 0, 0] / 2)
        found.append(together(judge(results, "l1", {})))
    assert found.count("holds") / 1_000 <= 0.025
    assert found.count("does not hold") / 1_000 <= 0.035


@pytest.mark.parametrize(("accuracy", "early"), [(0.84, True), (0.86, False)])  # 0.95 × 0.895 = 0.850
def test_no_verdict_far_below_the_papers_accuracy(accuracy, early, tmp_path):
    store(tmp_path / "run", RISING, accuracy=accuracy)
    results = load_results(tmp_path / "run")
    judgements = judge(results, "l1", {})
    assert {judgement.verdict for judgement in judgements} == {"too early" if early else "holds"}
    assert together(judgements) == ("too early" if early else "holds")
    assert later_layers_change_more(results, "l1").verdict == ("too early" if early else "holds")
    assert judgements[0].ratio.mean == pytest.approx(0.5, rel=0.1)


@pytest.mark.parametrize(
    ("levels", "verdict"),
    [
        ([0.1, 0.2, 0.3, 0.4, 0.5, 0.6], "holds"),
        ([0.6, 0.5, 0.4, 0.3, 0.2, 0.1], "does not hold"),
        ([0.3] * 6, "undecided"),
    ],
)
def test_the_overall_claim(levels, verdict, tmp_path):
    table = store(tmp_path / "run", levels, spread=0.2)["l2"]
    trend = later_layers_change_more(load_results(tmp_path / "run"), "l2")
    assert trend.verdict == verdict
    rhos = [stats.spearmanr(range(6), seed.mean(axis=0)).statistic for seed in table]
    some = [layer for number, layer in enumerate(load_results(tmp_path / "run").layers) if number != 1]
    part = later_layers_change_more(load_results(tmp_path / "run"), "l2", layers=some)
    of_some = [stats.spearmanr(range(5), np.delete(seed.mean(axis=0), 1)).statistic for seed in table]
    half = 6 / (5**3 - 5)
    z = np.arctanh(np.clip(of_some, half - 1, 1 - half))
    assert part.correlation.mean == pytest.approx(np.tanh(z.mean()))
    most = 1 - 6 / (6**3 - 6)
    assert trend.correlation.mean == pytest.approx(np.tanh(np.arctanh(np.clip(rhos, -most, most)).mean()))


def test_claims_across_data_sets_take_the_seeds_that_both_have(tmp_path, monkeypatch):
    claim_only(monkeypatch, Comparison("all layers", "<", "all layers", "fashion-mnist"), data="mnist", accuracy=0.9)
    low = store(tmp_path / "mnist", [0.1] * 6, seeds=(0, 1, 2, 3), **settings("mnist"))["l1"]
    high = store(tmp_path / "fashion", [0.2] * 6, seeds=(1, 2, 3, 4))["l1"]
    poor = store(tmp_path / "poor", [0.2] * 6, seeds=(1, 2, 3, 4), accuracy=0.5)["l1"]
    mnist, fashion = load_results(tmp_path / "mnist"), load_results(tmp_path / "fashion")
    (alone,) = judge(mnist, "l1", {})
    assert (alone.verdict, together([alone])) == ("undecided", "undecided")
    assert math.isnan(alone.share)
    assert np.isnan(alone.ratio).all()
    (judgement,) = judge(mnist, "l1", {"fashion-mnist": fashion})
    expected = np.log(low[1:].mean((1, 2)) / high[:3].mean((1, 2))).mean()
    assert judgement.ratio.mean == pytest.approx(math.exp(expected))
    assert judgement.verdict == "holds"
    np.testing.assert_array_equal(poor, high)
    (judgement,) = judge(mnist, "l1", {"fashion-mnist": load_results(tmp_path / "poor")})
    assert judgement.verdict == "too early"


def test_a_comparison_without_a_run_counts_in_the_correction(tmp_path, monkeypatch):
    missing = Comparison("all layers", "<", "all layers", "mnist")
    noise = np.array([-1.0, 0.0, 1.0])
    store(tmp_path / "run", groups_with_ratios(noise - 5 * stats.sem(noise), noise))
    for comparisons, verdict in (((), "does not hold"), ((missing,), "undecided")):
        claim_only(monkeypatch, Comparison("early", "<", "middle"), *comparisons)
        assert judge(load_results(tmp_path / "run"), "l1", {})[0].verdict == verdict


def test_claims_name_groups_that_there_are():
    from lightning_rwc.experiments.groups import _GROUPS

    for (architecture, _), claim in CLAIMS.items():
        for comparison in claim.comparisons:
            assert {comparison.left, comparison.right} <= {*_GROUPS[architecture], "all layers"}
            assert comparison.other_data in (None, "cifar10", "fashion-mnist")
