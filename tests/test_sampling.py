# SPDX-License-Identifier: Apache-2.0
import copy
import math

import numpy as np
import pytest
import torch
from torch import nn

from lightning_rwc import RelativeWeightChange
from lightning_rwc.functional import change_ratio
from lightning_rwc.sampling import Sample, sample_sizes, standard_error
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
    assert sample.sums(before[chosen], after[chosen], "l1").tolist() == [numel / 2, numel, numel / 2, 0, 0, 0]


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
            sums = sample.sums(before[chosen], after[chosen], norm)
            error = (change_ratio(sums[:3], norm).item() - truth) / standard_error(sums, norm).item()
            biases.append(error)
            stated.append(standard_error(sums, norm).item() / truth)
            for width, hits in inside.items():
                hits.append(abs(error) <= width)
    assert 0.62 < np.mean(inside[1]) < 0.75
    assert 0.92 < np.mean(inside[2]) < 0.98
    assert abs(np.mean(biases)) < 0.15
    assert np.median(stated) < 0.025


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
    assert {error.item() for error in metric.standard_errors.values()} == {0.0}


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
    with pytest.raises(ValueError, match="`max_elements=256` cannot go with `norm='elementwise'`"):
        RelativeWeightChange(nn.Linear(2, 2), max_elements=256, norm="elementwise")
    with pytest.raises(TypeError, match=r"`max_elements` must be None or an int, but got 1\.5"):
        RelativeWeightChange(nn.Linear(2, 2), max_elements=1.5)
