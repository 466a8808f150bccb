# SPDX-License-Identifier: Apache-2.0
import copy
import math
import warnings

import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn

from lightning_rwc import Finding, RWCCallback
from lightning_rwc.findings.finding import listing
from tests.helpers import LAYERS, Net, TwoOptimizers, images, net, trainer

EPOCH = 12  # batches, and steps


class Frozen(Net):
    def __init__(self):
        super().__init__()
        self.block.requires_grad_(False)


class LeftOut(Net):
    def configure_optimizers(self):
        return torch.optim.AdamW([*self.conv1.parameters(), *self.fc.parameters()], lr=0.01)


class LeftOutAndUnused(LeftOut):
    """As `LeftOut`, but no gradient shows in the first batch that nobody uses it."""

    def loss(self, batch):
        hidden = self.block["conv2"](self.conv1(batch[0]).relu()).detach().relu()
        return self.fc(hidden.flatten(1)).square().mean()


class Copied(Net):
    def configure_optimizers(self):
        return torch.optim.SGD(copy.deepcopy(self).parameters(), lr=0.1)


class Dead(Net):
    """The gradient of the convolutions is exactly zero."""

    def loss(self, batch):
        hidden = self.block["conv2"](self.block["bn"](self.conv1(batch[0])).relu())
        return self.fc((hidden * 0 + 1).flatten(1)).square().mean()

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=0.01)


class DeadWithoutDecay(Dead):
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.01)


class DeadUnderAdam(Dead):
    """Adam's own weight decay turns weights that have no gradient."""

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=0.01, weight_decay=0.01)


class Detached(Net):
    def loss(self, batch):
        hidden = self.block["conv2"](self.block["bn"](self.conv1(batch[0])).relu().detach()).relu()
        return self.fc(hidden.flatten(1)).square().mean()


class Unused(Net):
    def __init__(self):
        super().__init__()
        self.extra = nn.Linear(3, 3)


class LossTimesZero(Net):
    def loss(self, batch):
        return super().loss(batch) * 0


class NoRate(Net):
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.0)


class FirstEpochWithoutRate(Net):
    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
        return [optimizer], [torch.optim.lr_scheduler.LambdaLR(optimizer, lambda epoch: min(epoch, 1))]


class Explodes(Net):
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=1e6)


class Coarse(Net):
    """Weights of 16 bits, and updates that are a hundredth of their last digit."""

    def __init__(self):
        super().__init__()
        self.to(torch.bfloat16)

    def loss(self, batch):
        return super().loss([batch[0].to(torch.bfloat16)]).float()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=1e-5)


class DeadAltogether(Net):
    """Only biases, which are not tracked, have a gradient."""

    def loss(self, batch):
        hidden = self.block["conv2"](self.block["bn"](self.conv1(batch[0])).relu())
        return (self.fc((hidden * 0).flatten(1)) - 1).square().mean()

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=0.01)


class Single(Net):
    """A layer of one number, which learns to be smaller."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Linear(1, 1, bias=False)
        nn.init.ones_(self.scale.weight)

    def loss(self, batch):
        return (super().loss(batch) + self.scale.weight.square()).sum()


def findings(cls, tmp_path, epochs=3, validation=None, **options):
    callback = RWCCallback(**options)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="Looking for findings failed")
        trainer(callback, tmp_path=tmp_path, max_epochs=epochs).fit(net(cls), images(batches=EPOCH), validation)
    return callback.findings


# The kind, its layers, and the step that shows it in epochs of 12 steps. Step 0 is the first batch.
FAULTS = [
    (LeftOut, "not_in_optimizer", ["block.conv2"], 0),
    (LeftOutAndUnused, "not_in_optimizer", ["block.conv2"], EPOCH - 1),
    (Copied, "not_in_optimizer", LAYERS, 0),
    (Dead, "no_gradient", ["conv1", "block.conv2"], EPOCH - 1),
    (DeadWithoutDecay, "no_gradient", ["conv1", "block.conv2"], EPOCH - 1),
    (DeadUnderAdam, "no_gradient", ["conv1", "block.conv2"], 2 * EPOCH - 1),
    (Detached, "no_gradient", ["conv1"], EPOCH - 1),
    (Unused, "no_gradient", ["extra"], EPOCH - 1),
    (LossTimesZero, "nothing_moves", LAYERS, EPOCH - 1),
    (DeadAltogether, "nothing_moves", LAYERS, EPOCH - 1),
    (NoRate, "nothing_moves", LAYERS, EPOCH - 1),
    (FirstEpochWithoutRate, "nothing_moves", LAYERS, EPOCH - 1),
    (Coarse, "rounded_away", LAYERS, EPOCH - 1),
]


@pytest.mark.parametrize("validates", [False, True], ids=["", "validated"])
@pytest.mark.parametrize(("cls", "kind", "layers", "step"), FAULTS, ids=lambda value: getattr(value, "__name__", None))
def test_a_fault_is_found_at_the_first_measurement_with_exactly_its_layers(
    cls, kind, layers, step, validates, tmp_path
):
    found = findings(cls, tmp_path, validation=images(batches=1) if validates else None)
    if cls is LeftOutAndUnused:
        # What `conv1` lacks is a finding of its own.
        assert [(one.kind, one.layers) for one in found[1:]] == [("no_gradient", ("conv1",))]
        found = found[:1]
    assert [(one.kind, [*one.layers], one.epoch, one.step) for one in found] == [(kind, layers, step // EPOCH, step)]
    assert kind == "nothing_moves" or all(repr(layer) in found[0].message for layer in layers)


@pytest.mark.parametrize(("cls", "kind", "layers", "step"), FAULTS, ids=lambda value: getattr(value, "__name__", None))
def test_a_fault_is_found_from_step_to_step(cls, kind, layers, step, tmp_path):
    found = findings(cls, tmp_path, every_n_train_steps=1)
    assert (found[0].kind, [*found[0].layers]) == (kind, layers)
    assert len(found) == 1 + (cls is LeftOutAndUnused)
    # Ten steps must agree. The first measurement finds out that Adam's gradients must be watched.
    assert found[0].step == (0 if step == 0 else 9 + (cls is DeadUnderAdam))


HEALTHY = [Net, Frozen, TwoOptimizers, Single]


@pytest.mark.parametrize(
    "options",
    [{}, {"validation": images(batches=1)}, {"every_n_train_steps": 1}, {"relative_to": "initial"}, {"norm": "l2"}],
    ids=", ".join,
)
@pytest.mark.parametrize("cls", HEALTHY)
def test_there_is_nothing_to_find_in_a_healthy_run(cls, options, tmp_path):
    assert findings(cls, tmp_path, **options) == []


def test_zeros_at_the_start_and_a_warm_up_are_healthy(tmp_path):
    class Adapted(Net):
        """The second matrix starts at zero, so the first has no gradient in the first step. The first rate is 0."""

        def __init__(self):
            super().__init__()
            self.requires_grad_(False)
            self.a, self.b = nn.Linear(64, 4, bias=False), nn.Linear(4, 2, bias=False)
            nn.init.zeros_(self.b.weight)

        def loss(self, batch):
            hidden = self.block["conv2"](self.conv1(batch[0]).relu()).relu().flatten(1)
            return (self.fc(hidden) + self.b(self.a(hidden)) - 1).square().mean()

        def configure_optimizers(self):
            optimizer = torch.optim.AdamW(self.parameters(), lr=0.01)
            schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(step / 5, 1))
            return [optimizer], [{"scheduler": schedule, "interval": "step"}]

    assert findings(Adapted, tmp_path, every_n_train_steps=1) == []


def test_the_first_layer_that_is_not_finite(tmp_path):
    (found,) = findings(Explodes, tmp_path, every_n_train_steps=1)
    assert found.kind == "non_finite"
    assert f"first of them in depth is {found.layers[0]!r}" in found.message


def test_where_the_gradient_stops(tmp_path):
    (found,) = findings(Dead, tmp_path)
    assert "have changed only by weight decay in 12 steps" in found.message
    assert "No gradient gets past 'block.conv2'" in found.message
    assert "the first layer that learns is 'fc'" in found.message
    assert "Their gradient is zero" in found.message
    (found,) = findings(Detached, tmp_path)
    assert found.message.startswith("'conv1' has not changed in 12 steps")
    assert "Its gradient is missing" in found.message


def test_why_nothing_moves(tmp_path):
    rate = "The learning rate of all of them is 0"
    for cls, cause in ((LossTimesZero, "exactly zero"), (NoRate, rate), (FirstEpochWithoutRate, rate)):
        (found,) = findings(cls, tmp_path)
        assert cause in found.message


def test_gradients_that_have_been_cleared_say_nothing_of_a_cause(tmp_path):
    class Cleared(Dead):
        def __init__(self):
            super().__init__()
            self.automatic_optimization = False

        def training_step(self, batch, batch_idx):
            optimizer = self.optimizers()
            self.manual_backward(self.loss(batch))
            optimizer.step()
            optimizer.zero_grad()

    (found,) = findings(Cleared, tmp_path)
    assert (found.kind, found.layers) == ("no_gradient", ("conv1", "block.conv2"))
    assert "gradient is" not in found.message


def test_a_resumed_run_tells_nothing_twice_and_forgets_nothing(tmp_path):
    class DiesLater(Net):
        def loss(self, batch):
            loss = super().loss(batch)
            return loss if self.current_epoch < 2 else (self.fc.weight - 1).square().sum()

    def fit(callback, *callbacks, **options):
        run = trainer(callback, *callbacks, tmp_path=tmp_path, max_epochs=4, enable_checkpointing=bool(callbacks))
        run.fit(net(DiesLater), images(batches=EPOCH), **options)
        return callback.findings

    saver = ModelCheckpoint(tmp_path, every_n_train_steps=EPOCH, filename="{step}", save_top_k=-1)
    once = fit(RWCCallback(), saver)
    assert [(one.kind, one.layers, one.epoch) for one in once] == [("no_gradient", ("conv1", "block.conv2"), 2)]
    for step in (1, 2, 3):
        again = fit(RWCCallback(), ckpt_path=tmp_path / f"step={step * EPOCH}.ckpt")
        # The last checkpoint was saved before the measurement that shows it, and has no gradients. So they are watched
        # during the next epoch.
        epoch = 2 if step < 3 else 3
        assert [(one.kind, one.layers, one.epoch) for one in again] == [(once[0].kind, once[0].layers, epoch)]


def test_findings_can_be_turned_off(tmp_path):
    assert findings(Dead, tmp_path, findings=False) == []
    with pytest.raises(TypeError, match="`findings` must be True or False, but got 'all'"):
        RWCCallback(findings="all")


def test_a_rule_that_fails_warns_once_and_costs_no_measurement(tmp_path, monkeypatch):
    monkeypatch.setattr("lightning_rwc.findings.findings.Findings.observe", lambda *args: 1 / 0)
    callback = RWCCallback()
    with pytest.warns(UserWarning, match="Looking for findings failed with ZeroDivisionError") as caught:
        trainer(callback, tmp_path=tmp_path).fit(net(), images())
    assert sum("findings" in str(one.message) for one in caught) == 1
    assert np.isfinite(callback.history.values).all()


def test_a_finding_is_a_value():
    one = Finding("no_gradient", ("fc",), 0, 9, "…")
    assert one == Finding("no_gradient", ("fc",), 0, 9, "…")
    with pytest.raises(AttributeError):
        one.kind = "other"
    assert listing([]) == "no layer"
    assert listing(["a"]) == "'a'"
    assert math.isfinite(hash(one))
