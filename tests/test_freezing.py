# SPDX-License-Identifier: Apache-2.0
"""The experiment with frozen layers: its schedules, its rule, and that what is frozen stands still."""

import itertools
import math

import numpy as np
import pytest
import scipy.stats
import torch

from docs import freezing
from tests.benchmarks.freezing import policies, training
from tests.benchmarks.freezing.networks import NETWORKS


def test_the_rule_freezes_the_longest_prefix_that_has_slowed_down():
    history = [[1, 1, 1, 1], [5, 4, 5, 4], [1, 1, 4, 1], [1, 1, 1, 1], [1, 0.5, 1, 1]]
    assert policies.slowed_prefix(history, threshold=0.3, patience=3) == 2  # the third block was fast three rows ago
    assert policies.slowed_prefix(history, threshold=0.3, patience=2) == 3  # the head never counts
    assert policies.slowed_prefix(history, threshold=0.22, patience=3) == 1  # 1 / 4 is above it
    assert policies.slowed_prefix(history[:3], threshold=0.9, patience=3) == 0


def test_evidence_does_not_thaw():
    policy = policies.Evidence(threshold=0.5, patience=1)
    assert policy.frozen(0.1, [[4, 4, 4], [1, 4, 4]]) == {0}
    assert policy.frozen(0.2, [[4, 4, 4], [1, 4, 4], [4, 4, 4]]) == {0}


@pytest.mark.parametrize("wanted", [0.1, 0.3])
@pytest.mark.parametrize("schedule", [policies.front_to_back, policies.cubes])
def test_schedules_save_what_is_wanted(schedule, wanted):
    costs = [1, 5, 2, 4, 0.5]
    times = schedule(costs, wanted)
    by_hand = sum(2 * cost * (1 - time) for cost, time in zip(costs, times, strict=True)) / (3 * sum(costs))
    assert by_hand == pytest.approx(wanted)
    assert times == sorted(times)
    assert times[-1] == 1


def test_a_block_saves_nothing_while_an_earlier_one_learns():
    assert policies.saving([0.5, 0.25, 1], [1, 1, 1]) == pytest.approx(2 / 3 * (0.5 + 0.5) / 3)


def test_freezeout_keeps_the_sum_of_learning_rates():
    policy = policies.Fixed([0.5, 0.8, 1.0], own_cosine=True)
    shares = np.linspace(0, 1, 10_001)
    for block, time in enumerate(policy.times):
        rates = [policy.rate(block, share) for share in shares]
        assert rates[0] == pytest.approx(1 / time)
        assert np.mean(rates) == pytest.approx(0.5, abs=1e-3)
        assert policy.rate(block, time) == pytest.approx(0, abs=1e-9)
    assert policies.Fixed([0.5, 1.0]).rate(0, 0.25) == pytest.approx((1 + math.sqrt(0.5)) / 2)


@pytest.mark.parametrize("name", NETWORKS)
def test_blocks_are_the_whole_network(name):
    torch.manual_seed(0)
    net = NETWORKS[name]()
    images = torch.rand(2, 1, 32, 32, requires_grad=True)
    net(images).sum().backward()
    assert net(images).shape == (2, 10)
    assert all(parameter.grad is not None for parameter in net.parameters())
    assert all(any(p.ndim > 1 for p in block.parameters()) for block in net)


def test_the_operations_of_a_convolution():
    """In VGG-11 the second block makes 32 channels from 16, of 8x8 pixels."""
    costs = NETWORKS["VGG-11"]().costs(torch.zeros(2, 1, 32, 32))
    assert costs[1] == 2 * 2 * 8 * 8 * 9 * 16 * 32


@pytest.mark.integration
@pytest.mark.parametrize("optimizer", training.OPTIMIZERS)
def test_what_is_frozen_stands_still(optimizer, monkeypatch, tmp_path):
    monkeypatch.setitem(training.DATA, "digits", ("digits", 512, 128, 3))
    seen = []

    class Watch(training.Freezer):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            super().on_train_batch_start(trainer, pl_module, batch, batch_idx)
            seen.append([{k: v.clone() for k, v in block.state_dict().items()} for block in pl_module.net])

    monkeypatch.setattr(training, "Freezer", Watch)
    policy = policies.Fixed([0.5, 0.5, *[1.0] * 7])
    row, _, rotations = training.train(
        training.Setting("digits", "VGG-11", optimizer, 0), policy, str(tmp_path), measure=True
    )
    assert row["times"] == policy.times
    widths = [1, 16, 32, 64, 64, 128, 128, 128, 128]
    sizes = [9 * before * after + 3 * after for before, after in itertools.pairwise(widths)]  # with bias and norm
    assert row["updates saved"] == pytest.approx(0.5 * sum(sizes[:2]) / (sum(sizes) + 129 * 10))
    assert len(seen) == 12
    for block, moves in enumerate([False, False, *[True] * 7]):
        for name in seen[6][block]:
            assert not torch.equal(seen[0][block][name], seen[6][block][name])
            assert torch.equal(seen[6][block][name], seen[-1][block][name]) != moves  # a validation lies between
    assert (np.array(rotations)[7:, :2] == 0).all()
    assert (np.array(rotations)[7:, 2:] > 0).all()


def test_bytes_that_a_linear_layer_keeps():
    """A Linear keeps its input, and the loss keeps logarithms, labels and the sum of their weights."""
    task = training.Task(training.Setting("digits", "VGG-11", "SGD", 0), lambda *_: 1.0)
    task.net = torch.nn.Sequential(torch.nn.Linear(50, 10))
    batch = torch.rand(4, 50), torch.zeros(4, dtype=torch.int64)
    assert training.kept_bytes(task, batch) == 4 * 50 * 4 + 4 * 10 * 4 + 4 * 8 + 4
    task.net[0].requires_grad_(False)
    assert training.kept_bytes(task, batch) == 0


def test_the_page_has_the_tables_of_the_committed_trainings():
    page = freezing.PAGE.read_text(encoding="utf-8")
    for name, table in freezing.tables(*freezing.runs()).items():
        assert f"<!-- {name} -->\n\n{table}\n\n<!-- end -->" in page


def mostly_frozen(times):
    """When blocks were frozen, if these are all but one or two; otherwise nothing."""
    frozen = [time for time in times if time < 1]
    return frozen if len(frozen) >= len(times) - 2 else []


def test_what_the_page_says_of_the_frozen_blocks():
    table, _ = freezing.runs()
    evidence = table[table["policy"] == "evidence"]
    frozen = [[time for time in times if time < 1] for times in evidence["times"]]
    assert (len(frozen), sum(map(bool, frozen))) == (36, 27)
    most = [one for one in evidence["times"] if mostly_frozen(one)]
    assert [one.count(1) for one in most].count(1) == 20
    assert len(most) == 21
    assert max(max(times) - min(times) for times in map(mostly_frozen, most)) < 0.25
    first_only = np.array([len(one) == 1 for one in frozen])
    assert first_only.sum() == 6
    assert evidence["operations saved"][first_only].max() < 0.0235
    lost = evidence["points"][first_only & (evidence["network"] == "transformer")]
    assert (round(lost.max(), 1), round(lost.min(), 1)) == (-0.8, -4.2)
    points = evidence["points"][evidence["times"].map(mostly_frozen).map(bool) & (evidence["data"] == "Fashion-MNIST")]
    assert (len(points), round(points.max(), 2), round(points.min(), 2)) == (6, -1.65, -6.87)


def test_what_the_page_says_of_each_network():
    page, (table, _) = freezing.PAGE.read_text(encoding="utf-8"), freezing.runs()
    for network in ["VGG-11", "transformer"]:
        evidence = table[(table["network"] == network) & (table["policy"] == "evidence")]
        each = -evidence["points"]
        for lost, digits in [(each, 1), (each.groupby([evidence["data"], evidence["optimizer"]]).mean(), 2)]:
            reach = scipy.stats.t.ppf(0.975, len(lost) - 1) * lost.std() / math.sqrt(len(lost))
            mean, low, high = (f"{x:.{digits}f}" for x in (lost.mean(), lost.mean() - reach, lost.mean() + reach))
            said = f"{mean} [{low}, {high}]".replace("-", "−")
            assert said in " ".join(page.replace(" points", "").replace(" of accuracy", "").split())


def test_the_baseline_was_seldom_ready_when_most_was_frozen():
    table, _ = freezing.runs()
    ready = []
    for _, one in table.groupby(freezing.CELL):
        rows = {row["policy"]: row for row in one.to_dict("records")}
        if times := mostly_frozen(rows["evidence"]["times"]):
            accuracies = [accuracy for _, accuracy in rows["baseline"]["epochs"]]
            reached = next(epoch for epoch, a in enumerate(accuracies, 1) if a >= 0.99 * accuracies[-1])
            ready.append(reached / len(accuracies) <= max(times))
    assert (len(ready), sum(ready)) == (21, 7)
