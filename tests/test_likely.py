# SPDX-License-Identifier: Apache-2.0
"""Findings that are likely: how fast layers move over a whole run."""

import math

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from torch import nn

from lightning_rwc import RWCCallback
from lightning_rwc.findings.kinds import Kinds, kinds_of
from lightning_rwc.findings.likely import LIKELY, upheaval
from lightning_rwc.findings.trends import STOPPED, Moves, Trends

RULES = {rule.kind: rule for rule in LIKELY}


def moves(changes, rotations=None, growths=0.0, rates=1.0, steps=10):
    changes = np.array(changes, dtype=float)
    rotations = changes if rotations is None else np.array(rotations, dtype=float)
    growths, rates = (np.broadcast_to(np.array(one, dtype=float), changes.shape) for one in (growths, rates))
    return Moves(changes, rotations, growths, rates, steps)


def trends_of(*rows, planned=math.inf, kinds=None, rule=None):
    """The trends after these rows, the kinds of their layers, and what a rule said of each row."""
    trends, said = Trends(), []
    trends.planned_steps = planned
    for row in rows:
        trends.follow([f"layer{number}" for number in range(len(row.changes))])
        trends.add(row)
        kinds = kinds or Kinds(np.zeros(len(row.changes), dtype=np.intp))
        if rule:
            said.append(np.flatnonzero(RULES[rule].applies(trends, kinds)).tolist())
    return trends, kinds, said


def test_a_pace_is_over_the_root_of_steps_and_the_learning_rate():
    trends, *_ = trends_of(moves([0.4, 0.0], rates=0.01, steps=16))
    np.testing.assert_allclose(trends.pace, [math.log10(0.4 / 4 / 0.01), STOPPED])
    np.testing.assert_allclose(trends.window_pace, trends.pace)


def test_single_steps_form_windows_of_ten():
    trends, *_ = trends_of(*(moves([0.1 * number], growths=0.1, steps=1) for number in range(1, 11)))
    assert (trends.windows, trends.steps, trends.first_window) == (1, 10, 10)
    np.testing.assert_allclose(trends.window_pace, math.log10(0.55))
    np.testing.assert_allclose(trends.growth, 10 * math.log(1.1))
    np.testing.assert_allclose(trends.path, 5.5)


def test_upheaval_is_growth_and_slowdown_over_the_square_of_time():
    trends, *_ = trends_of(moves([1.0] * 3, growths=9.0), moves([0.01] * 3))
    # Ten times the size, two decades slower, after twice the first window.
    assert upheaval(trends) == pytest.approx(math.log(10) + 2 - 2 * math.log(2))
    calm, *_ = trends_of(moves([1.0] * 3, growths=0.1), moves([1e-6] * 3))
    assert upheaval(calm) == -math.inf


def shrinking(change, turns, rates=0.1):
    """Each layer shrinks by ``change`` and turns by ``turns`` times as much."""
    turns = np.array(turns) * change
    return moves(np.hypot(change, turns), turns, growths=-change, rates=rates, steps=469)


def test_a_network_that_only_decays_has_died():
    """The numbers are those of seed 1234 of the authors' AlexNet, see docs/reproduction.md."""
    alive, dead = shrinking(0.2, [1.5, 1.2, 1.0]), shrinking(0.0459, [1e-5, 2e-3, 0.025])
    dying = shrinking(0.0459, [1e-3, 2e-3, 0.05])
    said = trends_of(alive, dying, *[dead] * 5, rule="only_decay")[2]
    assert said == [[], [], [], [], [0, 1, 2], [0, 1, 2], [0, 1, 2]]
    trends, kinds, said = trends_of(*[alive] * 4, *[dead] * 4, rule="only_decay")
    assert said == [[]] * 7 + [[0, 1, 2]]  # half of the steps
    assert "for half of the 3,752 steps or more" in RULES["only_decay"].message(trends, kinds, np.ones(3, dtype=bool))


def test_a_network_has_not_died_while_a_layer_turns_or_grows_or_the_schedule_ends():
    one_learns = shrinking(0.0459, [1e-5, 1e-5, 0.04])
    grows = moves([0.01] * 3, [1e-5] * 3, growths=[-0.01, -0.01, 0.01])
    unknown = moves([0.01] * 3, [math.nan] * 3, growths=math.nan)
    for row in (one_learns, grows, unknown):
        assert trends_of(*[row] * 6, rule="only_decay")[2] == [[]] * 6
    learns, tail = shrinking(0.05, [1.0] * 3), shrinking(1e-4, [1e-5] * 3, rates=1e-3)
    assert trends_of(learns, *[tail] * 9, rule="only_decay")[2] == [[]] * 10
    still = moves([0.0, 0.01, 0.01], [0.0, 1e-5, 1e-5], growths=[0.0, -0.01, -0.01])
    assert trends_of(*[still] * 3, rule="only_decay")[2][-1] == [1, 2]


@pytest.mark.parametrize(("norms", "found"), [("none", True), ("batch", False)])
def test_a_learning_rate_is_high_if_weights_grow_at_once(norms, found):
    kinds = Kinds(np.zeros(3, dtype=np.intp), norms=norms)
    growth = math.exp(3) - 1
    trends, _, said = trends_of(moves([5.0] * 3, growths=growth, rates=0.1), kinds=kinds, rule="learning_rate_high")
    assert said == [[0, 1, 2] if found else []]
    message = RULES["learning_rate_high"].message(trends, kinds, np.ones(3, dtype=bool))
    assert message.startswith("Likely the learning rate (0.1) is too high. Within 10 steps, weights have grown to 20.1")


def test_a_learning_rate_is_low_if_no_layer_will_have_moved_by_a_hundredth():
    slow, fast = moves([1e-5, 2e-5]), moves([1e-5, 2e-3])
    assert trends_of(*[slow] * 4, planned=100, rule="learning_rate_low")[2] == [[], [], [0, 1], [0, 1]]
    assert trends_of(*[fast] * 4, planned=100, rule="learning_rate_low")[2] == [[]] * 4
    # It is not known how long the run will be, or it has hardly begun.
    assert trends_of(*[slow] * 4, rule="learning_rate_low")[2] == [[]] * 4
    assert trends_of(*[slow] * 4, planned=1000, rule="learning_rate_low")[2] == [[]] * 4
    # A layer that was zero has moved by more than its size.
    born = [moves([1e-5, math.inf]), *[slow] * 3]
    assert trends_of(*born, planned=100, rule="learning_rate_low")[2] == [[]] * 4


def test_gradients_vanish_if_rates_fall_towards_the_input():
    falling = moves([1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2])
    trends, kinds, said = trends_of(*[falling] * 3, rule="vanishing")
    assert said == [[], [], [0, 1, 2, 3]]
    assert "'layer0', 'layer1', 'layer2' and 'layer3'" in RULES["vanishing"].message(trends, kinds, np.arange(6) < 4)
    mixed = moves([1e-5, 1e-7, 1e-2, 1e-6, 1e-3, 1e-4])
    assert trends_of(*[mixed] * 3, rule="vanishing")[2] == [[]] * 3


def test_layers_that_rounding_stops_are_named_with_those_behind_which_they_are():
    row = moves([0, 0, 1e-8, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3])
    trends, kinds, said = trends_of(*[row] * 3, rule="vanishing")
    assert said[-1] == [0, 1, 2, 3, 4, 5]
    assert "down to 1e-05 of the fastest" in RULES["vanishing"].message(trends, kinds, np.arange(8) < 6)
    # A learning rate of 0 freezes them, which is meant.
    frozen = moves(row.changes, rates=[0, 0, *[1] * 6])
    assert trends_of(*[frozen] * 3, rule="vanishing")[2][-1] == [2, 3, 4, 5]


def test_a_new_head_is_no_vanishing_gradient():
    assert trends_of(*[moves([1e-5, 1e-5, 2e-5, 2e-5, 1e-2])] * 3, rule="vanishing")[2] == [[]] * 3


def test_weight_decay_does_not_hide_that_gradients_vanish():
    row = moves([1e-2] * 6, rotations=[1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2])
    assert trends_of(*[row] * 3, rule="vanishing")[2][-1] == [0, 1, 2, 3]


def test_a_layer_is_out_of_line_with_those_of_its_kind_only():
    row = moves([1e-2, 2e-2, 3e-2, 1e-2, 2e-2, 1e-6])
    trends, kinds, said = trends_of(*[row] * 3, rule="out_of_line")
    assert said == [[], [], [5]]
    message = RULES["out_of_line"].message(trends, kinds, np.arange(6) == 5)
    assert "'layer5' moves 10,000 times less than the slowest of the 5 layers like it" in message
    other = Kinds(np.array([0, 0, 0, 0, 0, 1]))
    assert trends_of(*[row] * 3, kinds=other, rule="out_of_line")[2] == [[]] * 3
    own_rate = moves(row.changes, rates=[1, 1, 1, 1, 1, 1e-4])
    assert trends_of(*[own_rate] * 3, rule="out_of_line")[2] == [[]] * 3


def test_a_layer_is_behind_if_it_was_so_from_the_start():
    behind, calm = moves([1e-2, 2e-2, 1e-2, 2e-2, 2e-4]), moves([1e-2] * 5)
    assert trends_of(*[behind] * 3, rule="out_of_line")[2] == [[], [], [4]]
    # A gate that saturates.
    assert trends_of(calm, *[behind] * 4, rule="out_of_line")[2] == [[]] * 5
    # A new head.
    ahead = moves([1e-2, 2e-2, 1e-2, 2e-2, 1.0])
    assert trends_of(*[ahead] * 3, rule="out_of_line")[2] == [[]] * 3


def test_a_burst_of_one_layer_may_be_smaller_over_many_steps():
    calm = moves([1e-2] * 4)
    for others, steps, found in ((1e-2, 10, [1]), (3e-2, 10, []), (1e-2, 5, [])):
        rows = [moves(calm.changes, steps=steps)] * 10
        *_, said = trends_of(*rows, moves([others, 0.1, others, others], steps=steps), rule="burst")
        assert said == [[]] * 10 + [found]
    # Nobody knows whether others would have moved.
    frozen = moves([math.nan, 1e-2, 1e-2, 1e-2])
    assert trends_of(*[frozen] * 10, moves([math.nan, 0.1, 1e-2, 1e-2]), rule="burst")[2] == [[]] * 11


def test_a_burst_is_faster_than_all_before():
    calm = moves([1e-2, 1e-2, 1e-2])
    *_, said = trends_of(*[calm] * 10, moves([1e-2, 1.0, 1e-2]), calm, rule="burst")
    assert said == [[]] * 10 + [[1], []]
    assert trends_of(*[calm] * 3, moves([1e-2, 1.0, 1e-2]), rule="burst")[2] == [[]] * 4
    # A learning rate that jumps explains it.
    assert trends_of(*[calm] * 10, moves([1.0] * 3, rates=100.0), rule="burst")[2] == [[]] * 11


def test_trends_resume_where_they_were():
    rows = [moves([0.1, 0.2], growths=0.01, steps=7) for _ in range(9)]
    whole, *_ = trends_of(*rows)
    first, *_ = trends_of(*rows[:4])
    second = Trends()
    second.load_state_dict(first.state_dict())
    for row in rows[4:]:
        second.add(row)
    for name, value in vars(whole).items():
        np.testing.assert_array_equal(getattr(second, name), value, err_msg=name)


def test_layers_that_come_and_go_keep_their_own_numbers():
    trends = Trends()
    trends.follow(["a", "b"])
    trends.add(moves([0.1, 0.2]))
    trends.follow(["b", "c"])
    np.testing.assert_allclose(trends.path, [0.2, 0.0])
    assert math.isnan(trends.peak[1])


def test_kinds():
    module = nn.Sequential(
        nn.Embedding(5, 4), nn.Conv2d(1, 1, 3), nn.BatchNorm2d(1), nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)
    )
    layers = {str(number): {"weight": module[number].weight} for number in (0, 1, 3, 4, 5)}
    sgd = torch.optim.SGD([p for number in (0, 1, 3, 4) for p in module[number].parameters()], lr=0.1)
    adam = torch.optim.Adam(module[5].parameters())
    kinds = kinds_of(module, layers, [sgd, adam])
    assert kinds.numbers.tolist() == [0, 1, 2, 2, 3]
    assert kinds.groups.tolist() == [0, 0, 0, 0, 1]
    assert (kinds.is_sgd, kinds.norms) == (False, "none")
    assert kinds_of(module, {"1": layers["1"]}, [sgd]).norms == "batch"
    assert kinds_of(nn.Sequential(nn.LayerNorm(4)), {}, []).norms == "layer"


class Net(LightningModule):
    def __init__(self, rate):
        super().__init__()
        self.rate = rate
        self.fc1, self.fc2, self.fc3 = nn.Linear(8, 16), nn.Linear(16, 16), nn.Linear(16, 1)

    def training_step(self, batch, batch_idx):
        out = self.fc3(torch.tanh(self.fc2(torch.tanh(self.fc1(batch)))))
        return (out - batch.sum(1, keepdim=True)).square().mean()

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=self.rate)


def kinds_found(rate, epochs=3, **arguments):
    torch.manual_seed(0)
    callback = RWCCallback(**arguments)
    options = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = Trainer(max_epochs=epochs, accelerator="cpu", callbacks=[callback], **options)
    trainer.fit(Net(rate), torch.randn(20, 4, 8))
    return [finding.kind for finding in callback.findings]


@pytest.mark.parametrize("arguments", [{}, {"every_n_train_steps": 1}, {"norm": "elementwise"}])
@pytest.mark.parametrize(
    ("rate", "kinds"), [(1e-3, []), (1e-2, []), (10.0, ["learning_rate_high"]), (1e-6, ["learning_rate_low"])]
)
def test_a_run_says_that_its_learning_rate_is_wrong(rate, kinds, arguments):
    assert kinds_found(rate, **arguments) == kinds


def test_a_kind_is_silenced_by_name():
    assert kinds_found(10.0, ignore_findings=["learning_rate_high"]) == []


def test_the_names_of_kinds_are_checked():
    with pytest.raises(
        ValueError, match=r"`ignore_findings` has 'bursts', but findings are of these kinds: non_finite"
    ):
        RWCCallback(ignore_findings=["bursts"])
    with pytest.raises(TypeError, match="`ignore_findings` must be a list of names"):
        RWCCallback(ignore_findings="burst")
