# SPDX-License-Identifier: Apache-2.0
"""The analysis of ``docs/depth_or_size.md`` against SciPy and formulas, and its tables against the committed curves."""

import math
import re
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from scipy.stats import halfcauchy, linregress, rankdata, spearmanr
from torch import nn

from docs import depth_or_size, depth_or_size_arrays, depth_or_size_curves, depth_or_size_runs, marked
from lightning_rwc.experiments.data import load_images

PAGE = depth_or_size.DOCS / "depth_or_size.md"


def residual_correlation(x, y, given):
    """Partial correlation of ranks by two regressions."""
    ranks = [rankdata(values) for values in (x, y, given)]
    left = [ranks[i] - (fit := linregress(ranks[2], ranks[i])).intercept - fit.slope * ranks[2] for i in (0, 1)]
    return np.corrcoef(left)[0, 1]


def test_pairs_of_mirrored_networks_part_depth_from_the_other():
    rng = np.random.default_rng(0)
    rises, falls = np.exp(rng.normal(0.2 * np.arange(8), 0.5)), np.exp(rng.normal(3, 0.5, 8))
    found = depth_or_size_curves.pair_correlations(rises, falls)
    depth = np.arange(8)
    first, second = (spearmanr(depth, values).statistic for values in (rises, falls))
    assert found["depth"] == pytest.approx((first + second) / 2)
    assert found["other"] == pytest.approx((first - second) / 2)
    both = [depth, depth], [depth, depth[::-1]], [rankdata(rises), rankdata(falls)]
    depths, other, ranks = map(np.concatenate, both)
    assert found["depth given other"] == pytest.approx(residual_correlation(depths, ranks, other))
    assert found["other given depth"] == pytest.approx(residual_correlation(other, ranks, depths))


def test_ratios_of_a_law_of_depth_and_size_are_its_factors():
    steps = np.arange(8) / 7
    found = depth_or_size_curves.pair_ratios(5 * 3**steps * 4**steps, 9 * 3**steps * 4 ** (1 - steps))
    assert found == pytest.approx({"last ÷ first": 3, "most ÷ least": 4})


@pytest.mark.parametrize("size", [100, 2000])
def test_the_definition_alone_makes_the_elementwise_mean_grow(size):
    rng = np.random.default_rng(1)
    drawn = [halfcauchy.rvs(size=size, random_state=rng).mean() for _ in range(2000)]
    # The median of 2,000 draws has a standard error of about 1 %.
    assert depth_or_size_arrays.definition(size) == pytest.approx(np.median(drawn), rel=0.04)
    l1, elementwise = depth_or_size_arrays.simulated_definition(size, 1000, 0.3, rng)
    assert np.median(l1) == pytest.approx(0.3, rel=0.02)
    assert np.median(elementwise) == pytest.approx(0.3 * np.median(drawn), rel=0.06)


def test_networks_are_mirror_images_or_have_equal_layers():
    channels = depth_or_size_runs.NETWORKS
    assert depth_or_size_runs.sizes("growing") == depth_or_size_runs.sizes("shrinking")[::-1]
    assert set(depth_or_size_runs.sizes("equal")) == {9 * 24 * 24}
    for network in channels:
        built = depth_or_size_runs.build(network, depth_or_size_runs.STARTS["default, batch norm"])
        convs = [built.get_submodule(name) for name in depth_or_size_runs.LAYERS]
        assert [conv.weight.numel() for conv in convs] == depth_or_size_runs.sizes(network)
        assert built(torch.zeros(2, 1, 28, 28)).shape == (2, 10)


def test_starts_have_the_deviations_that_they_name():
    torch.manual_seed(0)
    deviations = {
        name: [p.detach().std().item() for p in depth_or_size_runs.build("equal", start).parameters() if p.ndim == 4][
            1:
        ]
        for name, start in depth_or_size_runs.STARTS.items()
    }
    fan = 9 * 24
    assert deviations["default, batch norm"] == pytest.approx([1 / math.sqrt(3 * fan)] * 8, rel=0.05)
    assert deviations["Kaiming, no norm"] == pytest.approx([math.sqrt(2 / fan)] * 8, rel=0.05)
    assert deviations["Adam, falling scale"] == pytest.approx(np.geomspace(0.08, 0.02, 8), rel=0.05)
    assert deviations["Adam, rising scale"] == pytest.approx(np.geomspace(0.02, 0.08, 8), rel=0.05)


def test_a_recorder_measures_what_numpy_computes():
    torch.manual_seed(0)
    net = depth_or_size_runs.build("growing", depth_or_size_runs.STARTS["default, batch norm"])
    recorder = depth_or_size_runs.Recorder(net)
    weights = {name: net.get_parameter(f"{name}.weight") for name in depth_or_size_runs.LAYERS}
    states = [{name: weight.detach().double().numpy().ravel().copy() for name, weight in weights.items()}]
    changes = [lambda w: 0.1 * w, lambda w: 0.01 * torch.randn_like(w), lambda w: w * (torch.rand_like(w) < 0.5)]
    for epoch, change in enumerate(changes):
        with torch.no_grad():
            for weight in weights.values():
                weight.add_(change(weight))
        recorder.measure(epoch)
        states.append({name: weight.detach().double().numpy().ravel().copy() for name, weight in weights.items()})
    rows = {(row["measure"], row["epoch"]): row for row in recorder.rows}
    assert len(rows) == len(changes) * len(depth_or_size_runs.MEASURES)
    for name in depth_or_size_runs.LAYERS:
        start, before, after, _ = (state[name] for state in states)
        change = np.abs(after - before)
        cosine = before @ after / np.linalg.norm(before) / np.linalg.norm(after)
        assert rows["l1", 1][name] == pytest.approx(change.sum() / np.abs(before).sum(), rel=1e-4)
        assert rows["elementwise", 1][name] == pytest.approx((change / np.abs(before)).mean(), rel=1e-3)
        assert rows["rotation", 1][name] == pytest.approx(math.acos(cosine), rel=1e-3)
        since = np.abs(after - start).sum() / np.abs(start).sum()
        assert rows["l1 since the start", 1][name] == pytest.approx(since, rel=1e-4)
        # Half a thousand weights estimate a ratio of sums to a few per cent.
        assert rows["l1, equal samples", 1][name] == pytest.approx(rows["l1", 1][name], rel=0.2)
        assert rows["elementwise, equal samples", 0][name] == pytest.approx(0.1, rel=1e-4)
        # A mean of 500 zeros and ones.
        doubled = 500 * rows["elementwise, equal samples", 2][name]
        assert doubled == pytest.approx(round(doubled), abs=0.01)
        assert doubled == pytest.approx(250, abs=60)


def test_deviations_are_those_with_which_networks_start():
    torch.manual_seed(0)
    net = timm.create_model("efficientnet_b4", num_classes=10)
    known = depth_or_size_arrays.known_layers("efficientnet", 10)
    for name, row in known.iterrows():
        weight = net.get_submodule(name).weight
        assert row["size"] == weight.numel()
        assert row["deviation"] == pytest.approx(weight.detach().std().item(), rel=6 / math.sqrt(2 * weight.numel()))
    layer = nn.Conv2d(16, 64, 3)
    assert depth_or_size_arrays.default_deviation(layer) == pytest.approx(layer.weight.detach().std().item(), rel=0.05)
    assert len(known) == 161
    assert len(depth_or_size_arrays.known_layers("resnet", 10)) == 37


def test_recorded_curves_are_read_and_correlated(tmp_path):
    known = depth_or_size_arrays.known_layers("resnet", 100)
    rng = np.random.default_rng(0)
    values = rng.lognormal(size=(37, 5))
    values[3, 2] = np.inf
    names = [name.replace("downsample", "shortcut").replace("fc", "linear") for name in known.index]
    lines = ["layer,epoch_1,epoch_2,epoch_3,epoch_4,epoch_5"]
    lines += [",".join([f"{name}.weight", *map(str, row)]) for name, row in zip(names, values, strict=True)]
    (tmp_path / "any-resnet-cifar100.csv").write_text("\n".join(lines))
    recorded = depth_or_size_arrays.load_recorded(tmp_path, "resnet", "cifar100")
    medians, depth = np.sort(values, axis=1)[:, 2], np.arange(37)
    size, inverse = known["size"].to_numpy(), 1 / known["deviation"].to_numpy()
    assert recorded.layers["change"].to_numpy() == pytest.approx(medians)
    found = recorded.correlations()
    assert found["size"] == pytest.approx(spearmanr(size, medians).statistic)
    assert found["1/scale"] == pytest.approx(spearmanr(inverse, medians).statistic)
    assert found["depth given size"] == pytest.approx(residual_correlation(depth, medians, size))
    assert found["depth given 1/scale"] == pytest.approx(residual_correlation(depth, medians, inverse))
    assert len(recorded.inner().layers) == 32


def test_the_page_has_the_tables_of_the_committed_curves():
    page = PAGE.read_text(encoding="utf-8")
    tables = depth_or_size.own_tables(depth_or_size_curves.Curves(depth_or_size.FOLDER))
    assert marked.filled(page, tables) == page
    assert set(re.findall(r"<!-- (?!end)(\S+) -->", page)) == {*tables, "arrays", "kinds", "thirds"}
    assert sum(file.stat().st_size for file in depth_or_size.FOLDER.iterdir()) < 500_000


@pytest.mark.integration
def test_missing_runs_are_trained_and_others_kept(tmp_path, monkeypatch):
    try:
        load_images("fashion-mnist", Path("data"))
    except FileNotFoundError:
        pytest.skip("needs Fashion-MNIST")
    run = depth_or_size_runs.Run("equal", "default, batch norm", 7)
    monkeypatch.setattr(depth_or_size_runs, "RUNS", [run])
    trained = []

    def short(one):
        trained.append(one)
        return real(one, epochs=1, images=256)

    real = depth_or_size_runs.train
    monkeypatch.setattr(depth_or_size_runs, "train", short)
    for _ in range(2):
        depth_or_size_runs.train_missing(tmp_path)
    assert trained == [run]
    monkeypatch.setattr(depth_or_size_curves, "SEEDS", [7])
    curves = depth_or_size_curves.Curves(tmp_path)
    assert (curves.medians(run, "l1") > 0).all()
    assert 0 <= curves.accuracy(run)[0] <= 1
