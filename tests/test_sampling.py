# SPDX-License-Identifier: Apache-2.0
import copy
import math
import warnings
from functools import cache

import numpy as np
import pytest
import torch
from torch import nn

from lightning_rwc import RelativeWeightChange, RWCCallback
from lightning_rwc.functional import change_ratio
from lightning_rwc.sampling import Sample, sample_sizes, standard_error, unreliable
from tests.helpers import Net, images, trainer
from tests.oracle import numpy_rwc

NORMS = ["l1", "l2"]
CPU = torch.device("cpu")


@pytest.mark.parametrize(("numel", "size"), [(4, 4), (5, 4), (1000, 256), (1001, 999), (2**40 + 3, 64)])
def test_two_different_elements_of_every_stratum(numel, size):
    indices = Sample(numel, size, seed=7).indices(CPU).numpy()
    strata = size // 2
    bounds = [numel * stratum // strata for stratum in range(strata + 1)]
    first, second = indices[:strata], indices[strata:]
    assert (first != second).all()
    for drawn in (first, second):
        # Strata differ in length by one at most, wherever their bounds fall.
        assert (np.abs(np.searchsorted(bounds, drawn, side="right") - 1 - np.arange(strata)) <= 1).all()
        assert (np.diff(drawn) > 0).all()
    assert indices.min() >= 0
    assert indices.max() < numel


@pytest.mark.parametrize("numel", [0, 1, 3])
def test_a_sample_of_everything(numel):
    sample = Sample(numel, 4, seed=7)
    before, after = torch.ones(numel), torch.full((numel,), 1.5)
    chosen = sample.indices(CPU)
    # Numerator, denominator, moved, and Σd·p, Σd² and Σp². Nothing has a variance.
    sums = [numel / 2, numel, numel, numel / 2, numel / 4, numel, *[0] * 13]
    assert sample.estimate(before[chosen], after[chosen], "l1").tolist() == sums


def test_every_element_is_as_likely_and_every_pair():
    """Over many seeds each place of a stratum of five comes up in two draws of five, each pair in one of twenty."""
    counts, pairs = np.zeros(15), np.zeros((5, 5))
    for seed in range(4000):
        drawn = Sample(15, 6, seed).indices(CPU).numpy()
        counts[drawn] += 1
        pairs[drawn[1] - 5, drawn[4] - 5] += 1
    # Four standard deviations of a binomial count.
    assert (np.abs(counts - 1600) < 4 * math.sqrt(4000 * 0.4 * 0.6)).all()
    assert (np.diag(pairs) == 0).all()
    assert (np.abs(pairs[~np.eye(5, dtype=bool)] - 200) < 4.5 * math.sqrt(200)).all()


def test_a_small_layer_is_not_sampled():
    assert sample_sizes([100, 156], 256) == [100, 156]
    assert sample_sizes([10**6], None) == [10**6]
    assert sample_sizes([300, 100, 2], 200) == [149, 49, 2]


@cache
def trained():
    """Weights of a network before and after a few epochs on digits, so with the dependencies that training brings."""
    from sklearn.datasets import load_digits

    torch.manual_seed(0)
    images, labels = load_digits(return_X_y=True)
    images, labels = torch.tensor(images / 16, dtype=torch.float32), torch.tensor(labels)
    model = nn.Sequential(nn.Linear(64, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    start = copy.deepcopy(model)
    for _ in range(3):
        for batch in torch.randperm(len(images)).split(128):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images[batch]), labels[batch]).backward()
            optimizer.step()
    return start, model


@pytest.mark.parametrize("norm", NORMS)
def test_the_standard_error_covers_the_truth_at_its_nominal_rate(norm):
    start, model = trained()
    inside, biases, stated = {1: [], 2: []}, [], []
    for index in (0, 2):
        before, after = (m[index].weight.detach().flatten().double() for m in (start, model))
        truth = numpy_rwc([before], [after], norm)
        for seed in range(300):
            sample = Sample(len(before), 4096, seed)
            chosen = sample.indices(CPU)
            sums = sample.estimate(before[chosen], after[chosen], norm)
            error = (change_ratio(sums[:3], norm).item() - truth) / standard_error(sums, norm).item()
            biases.append(error)
            stated.append(standard_error(sums, norm).item() / truth)
            for width, hits in inside.items():
                hits.append(abs(error) <= width)
    assert 0.62 < np.mean(inside[1]) < 0.75
    assert 0.92 < np.mean(inside[2]) < 0.98
    assert abs(np.mean(biases)) < 0.15
    assert np.median(stated) < 0.025


def sampled(before, after, norm, size=4096, seed=0):
    """The value, its standard error, and whether that is unreliable, of one sample."""
    sample = Sample(len(before), size, seed)
    chosen = sample.indices(CPU)
    sums = sample.estimate(before[chosen], after[chosen], norm)
    return change_ratio(sums[:3], norm).item(), standard_error(sums, norm).item(), unreliable(sums).item()


def numpy_estimate(parts, norm):
    """What :func:`sampled` and its squared skewness are, from textbook formulas: 1,000 of 10,000 elements a part."""
    numerator = denominator = variance = cubes = squares = 0
    drawn = []
    for seed, (before, after) in enumerate(parts):
        chosen = Sample(10_000, 1000, seed).indices(CPU).numpy()
        terms = np.abs(np.stack((after - before, before))[:, chosen]) ** (1 if norm == "l1" else 2)
        drawn.append(terms.reshape(2, 2, 500))  # numerator or denominator, first or second of a stratum, stratum
        numerator, denominator = (
            total + 10 * part.sum() for total, part in zip((numerator, denominator), terms, strict=True)
        )
    for terms in drawn:
        # The estimated total of a stratum of 20 of which 2 are drawn: N² (1 − n/N) s²/n, of residuals.
        residuals = terms[0] - numerator / denominator * terms[1]
        variance += (20**2 * (1 - 2 / 20) * residuals.var(axis=0, ddof=1) / 2).sum()
        own = 10 * (terms[0] - terms[0].sum() / terms[1].sum() * terms[1])
        cubes, squares = cubes + (own**3).sum(), squares + (own**2).sum()
    error = math.sqrt(variance + (1.5 * cubes / squares) ** 2) / denominator
    value = numerator / denominator
    if norm == "l2":
        value = math.sqrt(value)
        error /= 2 * value
    return value, error, 25 * cubes**2 / squares**3 > 1


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize(("sigma", "expected"), [(0.2, False), (3, True)])
def test_error_and_sign_equal_numpy_and_add_up(norm, sigma, expected):
    rng = np.random.default_rng(0)
    befores = rng.normal(size=(2, 10_000))
    parts = [
        (before, before + scale * rng.lognormal(0, sigma, 10_000))
        for before, scale in zip(befores, (1, 2), strict=True)
    ]
    sums = 0
    for seed, (before, after) in enumerate(parts):
        sample = Sample(10_000, 1000, seed)
        chosen = sample.indices(CPU).numpy()
        sums = sums + sample.estimate(torch.from_numpy(before[chosen]), torch.from_numpy(after[chosen]), norm)
    value, error, sign = numpy_estimate(parts, norm)
    assert change_ratio(sums[:3], norm).item() == pytest.approx(value, rel=1e-9)
    assert standard_error(sums, norm).item() == pytest.approx(error, rel=1e-9)
    assert unreliable(sums).item() == sign == expected


@pytest.mark.parametrize(("norm", "error"), [("l1", 3 / 1000 / 2), ("l2", math.sqrt(3 / 1000) / 2)])
def test_nothing_seen_is_not_exact(norm, error):
    torch.manual_seed(0)
    before = torch.randn(100_000)
    assert sampled(before, before, norm, size=1000) == (0.0, pytest.approx(error), False)
    # Relative to nothing there is no bound; of what is not sampled there is nothing unseen.
    assert sampled(before * 0, before * 0, norm, size=1000) == (0.0, math.inf, False)
    assert sampled(before, before, norm, size=100_000) == (0.0, 0.0, False)
    assert sampled(before, before * 2, norm, size=100_000) == (1.0, 0.0, False)
    value, error, sign = sampled(before * 0, before, norm, size=1000)
    assert value == math.inf
    assert math.isnan(error)
    assert not sign


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("moved", [60, 40, 5, 1])
def test_the_bound_for_nothing_seen_holds(norm, moved):
    """Of 20,000 elements so many move by as much as they are large; 1,000 are sampled, so 3/n are 60."""
    rng, unseen, outside = np.random.default_rng(moved), 0, 0
    before = torch.from_numpy(rng.choice([-1.0, 1.0], 20_000))
    truth = (moved / 20_000) ** (1 if norm == "l1" else 0.5)
    for seed in range(200):
        after = before.clone()
        after[rng.choice(20_000, moved, replace=False)] *= 2
        value, error, _ = sampled(before, after, norm, size=1000, seed=seed)
        covered = abs(value - truth) <= 2 * error * (1 + 1e-12)
        unseen, outside = unseen + (value == 0), outside + (not covered)
        assert covered or value > 0
    # Each of the moved elements is left out by 19 samples of 20.
    expected = 200 * 0.95**moved
    assert abs(unseen - expected) < 4 * math.sqrt(expected)
    assert outside <= 0.05 * 200


def test_one_hot_row_is_covered_and_said_to_be_unreliable():
    rng = np.random.default_rng(0)
    inside, signs = [], []
    for _ in range(40):
        before = torch.from_numpy(rng.normal(size=250 * 400))
        change = np.zeros((250, 400))
        change[rng.integers(250)] = rng.normal(size=400)
        after = before + torch.from_numpy(change).flatten()
        truth = numpy_rwc([before], [after], "l1")
        for seed in rng.integers(2**31, size=8).tolist():
            value, error, sign = sampled(before, after, "l1", size=1024, seed=seed)
            inside.append(abs(value - truth) <= 2 * error)
            signs.append(sign)
    assert np.mean(inside) > 0.9
    assert np.mean(signs) > 0.98


@pytest.mark.parametrize("norm", NORMS)
def test_heavy_tails_are_unreliable_and_gaussian_changes_are_not(norm):
    rng = np.random.default_rng(0)
    before = torch.from_numpy(rng.normal(size=100_000))
    for change, expected in ((rng.lognormal(0, 3, 100_000), True), (rng.normal(size=100_000), False)):
        after = before + torch.from_numpy(change)
        signs = [sampled(before, after, norm, seed=seed)[2] for seed in range(50)]
        assert np.mean(signs) == pytest.approx(float(expected), abs=0.02)


@pytest.mark.parametrize(("moved", "expected"), [(24, True), (26, False)])
def test_the_rule_asks_for_25_moved_elements(moved, expected):
    before = torch.ones(100_000)
    after = before.clone()
    after[Sample(len(before), 20_000, 0).indices(CPU)[:moved]] = 1.5
    assert sampled(before, after, "l1", size=20_000)[2] is expected


@pytest.mark.parametrize("norm", NORMS)
def test_a_sampled_metric(norm):
    start, model = trained()
    metric = RelativeWeightChange(start, norm=norm, max_elements=65536)
    before = {name: weight.clone() for name, weight in start.named_parameters()}
    after = dict(model.named_parameters())
    metric.update(model)
    got = metric.compute()
    errors = {name: error.item() for name, error in metric.standard_errors.items()}
    for name, value in got.items():
        truth = numpy_rwc([before[f"{name}.weight"]], [after[f"{name}.weight"]], norm)
        assert value.item() == pytest.approx(truth, rel=1e-12 if name != "2" else 0.02)
    assert errors["0"] == errors["4"] == 0.0
    assert 0 < errors["2"] < 0.01 * got["2"].item()
    weights = [f"{name}.weight" for name in got]
    whole = numpy_rwc([before[n] for n in weights], [after[n] for n in weights], norm)
    assert metric.total.item() == pytest.approx(whole, rel=0.02)
    metric.update(model)
    assert {value.item() for value in metric.compute().values()} == {0.0}
    # Nothing moved: certain where every element was looked at.
    unseen = 3 / 65536 if norm == "l1" else math.sqrt(3 / 65536)
    assert [error.item() for error in metric.standard_errors.values()] == [0.0, pytest.approx(unseen / 2), 0.0]
    assert [*metric.fetch().values] == ["0", "2", "4"]
    assert metric.fetch().unreliable == []


def test_the_sign_comes_with_the_values():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(300, 400), nn.Linear(400, 300), nn.Linear(300, 2))
    metric = RelativeWeightChange(model, max_elements=4096)
    with torch.no_grad():
        model[0].weight.add_(torch.randn(400, 300))
        model[1].weight.add_(torch.randn(300, 400).mul(3).exp())
        model[2].weight.add_(torch.randn(2, 300).mul(3).exp())
    metric.update(model)
    # What is not sampled is exact, whatever its tails.
    assert metric.fetch().unreliable == ["1"]


class Sparse(Net):
    """An embedding of which few rows are used, and a layer that learns as a whole."""

    def __init__(self):
        super().__init__()
        self.words, self.wide = nn.Embedding(4000, 16), nn.Linear(64, 256)

    def loss(self, batch):
        rows = self.words(torch.arange(0, 4000, 1000))
        return self.wide(batch[0].flatten(1)).square().mean() + rows.square().sum()


def test_a_run_warns_once_of_layers_that_a_sample_does_not_suit(tmp_path):
    callback = RWCCallback(max_elements=8192, layers=["words", "wide"], heatmap=False)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer(callback, tmp_path=tmp_path).fit(Sparse(), images())
    said = [str(w.message) for w in caught if "max_elements" in str(w.message)]
    assert len(said) == 1
    assert "`max_elements` samples too few elements of 'words'. At step 5 a few of the sampled ones carry" in said[0]


def test_the_snapshot_is_as_small_as_the_sample():
    model = nn.Sequential(nn.Linear(1000, 1000), nn.Linear(1000, 10))
    state = RelativeWeightChange(model, max_elements=1000).get_extra_state()["snapshot"]
    assert [tensor.numel() for tensor in state["samples"]["0.weight"]] == [1000]
    assert state["samples"]["1.weight"][0].numel() == 1000
    assert not state["whole"]


def test_a_group_shares_its_sample_and_frozen_tensors_count():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(300, 400), nn.Linear(400, 300))
    metric = RelativeWeightChange(model, max_elements=20000, group_by=lambda name: "all")
    before = [layer.weight.detach().clone() for layer in model]
    with torch.no_grad():
        model[1].weight.mul_(1.5)
    metric.update(model)
    truth = numpy_rwc(before, [layer.weight for layer in model], "l1")
    value = metric.compute()["all"].item()
    error = metric.standard_errors["all"].item()
    assert 0 < error < 0.02 * truth
    assert abs(value - truth) < 4 * error


def test_bad_sizes_are_named():
    with pytest.raises(ValueError, match="`max_elements` must be at least 256, but got 10"):
        RelativeWeightChange(nn.Linear(2, 2), max_elements=10)
    with pytest.raises(ValueError, match="`max_elements=256` does not work with `norm='elementwise'`"):
        RelativeWeightChange(nn.Linear(2, 2), max_elements=256, norm="elementwise")
    with pytest.raises(TypeError, match=r"`max_elements` must be None or an int, but got 1\.5"):
        RelativeWeightChange(nn.Linear(2, 2), max_elements=1.5)
