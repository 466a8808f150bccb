# SPDX-License-Identifier: Apache-2.0
"""Each statistic against SciPy, a formula written out, or a simulation whose truth is known."""

import math
import warnings

import numpy as np
import pytest
from scipy import stats

from lightning_rwc.experiments.statistics import (
    LEVEL,
    correlation_interval,
    depth_and_size,
    geometric_interval,
    holm,
    interval,
    p_greater,
    p_less,
    partial_spearman,
    spearman,
)

EXPERIMENTS, SEEDS = 1_000, 5
SAMPLES = [0.3, 0.5, 0.45, 0.7]


def coverage(intervals, truth):
    return np.mean([low <= truth <= high for _, low, high in intervals])


def test_interval_is_students():
    expected = stats.ttest_1samp(SAMPLES, 0).confidence_interval(0.95)
    np.testing.assert_allclose(interval(SAMPLES), [np.mean(SAMPLES), expected.low, expected.high])


def test_geometric_interval_is_that_of_the_logarithms():
    expected = stats.ttest_1samp(np.log(SAMPLES), 0).confidence_interval(0.95)
    low, high = np.exp([expected.low, expected.high])
    np.testing.assert_allclose(geometric_interval(SAMPLES), [stats.gmean(SAMPLES), low, high])
    assert np.isnan(geometric_interval([0.3, 0.0, 0.5])).all()
    assert np.isnan(geometric_interval([0.3, math.nan])).all()


def test_correlation_interval_is_that_of_fishers_z():
    z = np.arctanh(SAMPLES)
    expected = stats.ttest_1samp(z, 0).confidence_interval(0.95)
    np.testing.assert_allclose(correlation_interval(SAMPLES), np.tanh([z.mean(), expected.low, expected.high]))
    # With 8 layers, ρ = 1 − 6 Σd² / (8³ − 8), and the smallest change of Σd² is 2.
    step = 6 * 2 / (8**3 - 8)
    z = np.arctanh([0.5, 0.9, 1 - step / 2])
    by_t = stats.t.ppf(0.975, 2) * stats.sem(z)
    reach = np.sqrt(by_t**2 + (step * np.cosh(z.mean()) ** 2) ** 2)
    expected = np.tanh([z.mean(), z.mean() - reach, z.mean() + reach])
    np.testing.assert_allclose(correlation_interval([0.5, 0.9, 1.0], layers=8), expected)


@pytest.mark.parametrize("rho", [-1.0, 1.0])
def test_seeds_that_all_agree_have_an_interval_within_the_range(rho):
    mean, low, high = correlation_interval([rho] * 3, layers=6)
    assert -1 < low < mean < high < 1
    assert np.isnan(correlation_interval([rho] * 3)[1:]).all()


@pytest.mark.parametrize("function", [interval, geometric_interval, correlation_interval])
def test_one_seed_has_no_limits(function):
    assert function([0.5])[0] == pytest.approx(0.5)
    assert np.isnan(function([0.5])[1:]).all()


def test_interval_covers_the_true_mean():
    samples = np.random.default_rng(1).normal(3, 2, (EXPERIMENTS, SEEDS))
    assert coverage(map(interval, samples), 3) == pytest.approx(0.95, abs=0.02)


def test_geometric_interval_covers_the_true_geometric_mean():
    samples = np.exp(np.random.default_rng(2).normal(math.log(1.3), 1, (EXPERIMENTS, SEEDS)))
    assert coverage(map(geometric_interval, samples), 1.3) == pytest.approx(0.95, abs=0.02)


def rank_correlations(rng, layers, trend, experiments, seeds):
    """ρ with depth of layers whose change is a trend, a pattern that all seeds share, and noise."""
    depth = stats.zscore(np.arange(layers))
    pattern = 0.5 * np.random.default_rng(0).normal(size=layers)
    changes = trend * depth + pattern + rng.normal(size=(experiments, seeds, layers))
    # Σd² of the ranks, in the textbook's formula.
    squares = ((stats.rankdata(changes, axis=-1) - np.arange(1, layers + 1)) ** 2).sum(axis=-1)
    return 1 - 6 * squares / (layers**3 - layers)


@pytest.mark.parametrize("seeds", [3, 5])
@pytest.mark.parametrize("layers", [8, 17, 40])
@pytest.mark.parametrize("trend", [0.0, 0.5, 1.5])
def test_correlation_interval_covers_tanh_of_the_mean_z(layers, seeds, trend):
    rng = np.random.default_rng(3)
    most = 1 - 6 / (layers**3 - layers)
    z = np.arctanh(np.clip(rank_correlations(rng, layers, trend, 20_000, 1), -most, most))
    samples = rank_correlations(rng, layers, trend, EXPERIMENTS, seeds)
    intervals = [correlation_interval(sample, layers) for sample in samples]
    assert coverage(intervals, math.tanh(z.mean())) == pytest.approx(0.95, abs=0.02)
    assert all(-1 <= low <= high <= 1 for _, low, high in intervals)


@pytest.mark.parametrize("value", [0.0, 0.4, 0.45, 2.0])
def test_one_sided_tests_are_scipys_and_agree_with_the_interval(value):
    for test, alternative in ((p_greater, "greater"), (p_less, "less")):
        expected = stats.ttest_1samp(SAMPLES, value, alternative=alternative).pvalue
        assert test(SAMPLES, value) == pytest.approx(expected)
    for end in interval(SAMPLES)[1:]:
        assert min(p_greater(SAMPLES, end), p_less(SAMPLES, end)) == pytest.approx(LEVEL)
    assert math.isnan(p_greater([0.5], value))


def test_equal_samples_leave_no_doubt():
    assert (p_greater([0.5, 0.5], 0.4), p_less([0.5, 0.5], 0.4)) == (0, 1)


def test_holm_rejects_step_by_step():
    # The procedure as Holm stated it: the i-th smallest of m is rejected at α / (m − i), until one is not.
    rng = np.random.default_rng(4)
    for _ in range(200):
        p_values, level = rng.uniform(0, 0.1, 5), rng.uniform(0.01, 0.2)
        rejected = set()
        for place, index in enumerate(np.argsort(p_values)):
            if p_values[index] > level / (5 - place):
                break
            rejected.add(index)
        assert rejected == set(np.flatnonzero(holm(p_values) <= level))


def test_holm_counts_what_could_not_be_tested():
    np.testing.assert_allclose(holm([0.01, math.nan, 0.3, 0.02]), [0.04, math.nan, 0.6, 0.06])
    assert holm([]).shape == (0,)


def test_holm_keeps_the_probability_of_any_false_rejection():
    p_values = stats.norm.sf(np.random.default_rng(5).normal(size=(EXPERIMENTS * 4, 5)))
    assert np.mean([holm(experiment).min() <= 0.05 for experiment in p_values]) == pytest.approx(0.05, abs=0.01)


def test_spearman_is_scipys():
    rng = np.random.default_rng(6)
    for _ in range(20):
        x, y = rng.integers(0, 6, 12), rng.normal(size=12)
        assert spearman(x, y) == pytest.approx(stats.spearmanr(x, y).statistic)
    y[3] = math.nan
    assert spearman(x, y) == pytest.approx(stats.spearmanr(x, y, nan_policy="omit").statistic)


def test_partial_spearman_correlates_what_a_regression_leaves():
    rng = np.random.default_rng(7)
    for _ in range(20):
        given = rng.normal(size=15)
        x, y = given + rng.normal(size=15), given + rng.normal(size=15)
        x_ranks, y_ranks, ranks = (stats.rankdata(values) for values in (x, y, given))
        left = [r - np.polyval(np.polyfit(ranks, r, 1), ranks) for r in (x_ranks, y_ranks)]
        assert partial_spearman(x, y, given) == pytest.approx(stats.pearsonr(*left).statistic)


def test_partial_spearman_sees_through_a_common_cause():
    rng = np.random.default_rng(8)
    size = rng.normal(size=4_000)
    depth, change = size + rng.normal(size=4_000), size + rng.normal(size=4_000)
    assert spearman(depth, change) > 0.4
    assert partial_spearman(depth, change, size) == pytest.approx(0, abs=0.05)


def test_depth_and_size_are_told_apart():
    rng = np.random.default_rng(9)
    sizes = np.exp(rng.normal(np.linspace(0, 4, 400), 2))
    for cause in ("depth", "size"):
        causes = np.arange(400.0) if cause == "depth" else sizes
        found = depth_and_size(stats.zscore(stats.rankdata(causes)) + rng.normal(size=400), sizes)
        other = "size" if cause == "depth" else "depth"
        assert min(found["depth"], found["size"]) > 0.25
        assert found[f"{cause} given {other}"] > 0.4
        assert found[f"{other} given {cause}"] == pytest.approx(0, abs=0.1)


def test_correlations_that_are_not_defined_are_nan():
    up, other = np.arange(5.0), np.array([2.0, 5.0, 1.0, 4.0, 3.0])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for value in (
            spearman(up, np.ones(5)),
            spearman([1.0], [2.0]),
            partial_spearman(up, other, np.ones(5)),  # all sizes equal
            partial_spearman(up, other, np.exp(up)),  # the same order
            partial_spearman(up, other, -other),
        ):
            assert math.isnan(value)
