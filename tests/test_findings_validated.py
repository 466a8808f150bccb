# SPDX-License-Identifier: Apache-2.0
"""Lightning clears gradients before it validates. What is found, and when, is the same as without validation."""

import copy

import pytest
import torch
from lightning.pytorch.callbacks import Callback
from torch.utils.data import IterableDataset

from lightning_rwc import RWCCallback
from lightning_rwc.trainer_state import may_validate_now
from tests.helpers import LAYERS, Net, images, net, trainer
from tests.test_findings import EPOCH, Coarse, Dead, DeadWithoutDecay, LossTimesZero


class Adversaries(Net):
    """Two optimizers that step in turn. The convolutions, which one of them has, get no gradient."""

    def __init__(self):
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch, batch_idx):
        body, head = self.optimizers()
        optimizer = head if batch_idx % 2 else body
        optimizer.zero_grad()
        hidden = self.block["conv2"](self.block["bn"](self.conv1(batch[0])).relu())
        self.manual_backward(self.fc((hidden * 0 + 1).flatten(1)).square().mean())
        optimizer.step()

    def configure_optimizers(self):
        body = [*self.conv1.parameters(), *self.block.parameters()]
        return torch.optim.SGD(body, lr=0.1), torch.optim.SGD(self.fc.parameters(), lr=0.1)


class Endless(IterableDataset):
    """Batches whose number nobody knows."""

    def __repr__(self):
        # pytest-xdist needs the same names of tests in all processes.
        return "Endless()"

    def __iter__(self):
        yield from images(batches=EPOCH)


def fit(module, *callbacks, tmp_path, data=None, validation=None, **options):
    run = trainer(*callbacks, tmp_path=tmp_path, **options)
    run.fit(module, images(batches=EPOCH) if data is None else data, validation or images(batches=1))


BEFORE = [
    {},
    {"val_check_interval": 0.5},
    {"val_check_interval": 5},
    {"val_check_interval": 5, "check_val_every_n_epoch": None},
    {"check_val_every_n_epoch": 2},
    {"limit_val_batches": 0},
    {"limit_train_batches": 7},
    {"limit_train_batches": 7, "data": Endless()},
    {"data": Endless()},
    {"val_check_interval": 5, "data": Endless()},
    {"accumulate_grad_batches": 5},
    {"max_steps": 30},
]


@pytest.mark.parametrize("options", BEFORE, ids=str)
def test_validation_is_foreseen(options, tmp_path):
    foreseen, came = [], []

    class Watch(Callback):
        def on_train_batch_end(self, trainer, *args):
            if may_validate_now(trainer):
                foreseen.append(trainer.fit_loop.total_batch_idx)

        def on_validation_start(self, trainer, *args):
            if not trainer.sanity_checking:
                came.append(trainer.fit_loop.total_batch_idx)

    fit(net(), Watch(), tmp_path=tmp_path, **options)
    assert bool(came) != ("limit_val_batches" in options)
    # The end of an epoch is foreseen too often, which costs one more look.
    every = 7 if "limit_train_batches" in options else EPOCH
    assert [batch for batch in foreseen if batch in came or (batch + 1) % every] == came


def test_a_stop_before_the_end_is_foreseen(tmp_path):
    class Later(DeadWithoutDecay):
        def loss(self, batch):
            return super().loss(batch) if self.current_epoch else Net.loss(self, batch)

    class Stop(Callback):
        def on_train_batch_end(self, trainer, *args):
            trainer.should_stop = trainer.global_step == EPOCH + 10

    callback = RWCCallback()
    fit(net(Later), Stop(), callback, tmp_path=tmp_path)
    assert [(one.kind, one.layers, one.step) for one in callback.findings] == [
        ("no_gradient", ("conv1", "block.conv2"), EPOCH + 9)
    ]


@pytest.mark.parametrize(
    "options",
    [
        {"val_check_interval": 0.5},
        {"val_check_interval": 5, "check_val_every_n_epoch": None},
        {"check_val_every_n_epoch": 2},
        {"limit_val_batches": 0},
        {"limit_train_batches": 10},
        {"data": Endless()},
    ],
    ids=str,
)
@pytest.mark.parametrize(
    ("cls", "kind", "layers"), [(Dead, "no_gradient", LAYERS[:2]), (Coarse, "rounded_away", LAYERS)]
)
def test_a_fault_is_found_at_the_first_measurement_whenever_validation_comes(cls, kind, layers, options, tmp_path):
    callback = RWCCallback()
    fit(net(cls), callback, tmp_path=tmp_path, **options)
    assert [(one.kind, [*one.layers], one.epoch) for one in callback.findings] == [(kind, layers, 0)]


def test_with_gradients_of_several_batches(tmp_path):
    callback = RWCCallback()
    # An epoch has 6 steps, so the second is the first that ends after ten steps.
    fit(net(Dead), callback, tmp_path=tmp_path, accumulate_grad_batches=2)
    assert [(one.layers, one.epoch) for one in callback.findings] == [(("conv1", "block.conv2"), 1)]


def test_with_two_optimizers(tmp_path):
    callback = RWCCallback()
    fit(net(Adversaries), callback, tmp_path=tmp_path)
    assert [(one.kind, one.layers, one.epoch) for one in callback.findings] == [
        ("no_gradient", ("conv1", "block.conv2"), 0)
    ]
    assert "Their gradient is zero" in callback.findings[0].message


def test_the_second_of_two_epochs_is_measured(tmp_path):
    callback = RWCCallback(every_n_epochs=2)
    fit(net(Dead), callback, tmp_path=tmp_path)
    assert [(one.layers, one.epoch) for one in callback.findings] == [(("conv1", "block.conv2"), 1)]


def test_the_message_names_the_cause(tmp_path):
    for cls, cause in ((Dead, "Their gradient is zero"), (LossTimesZero, "All of their gradients are exactly zero")):
        callback = RWCCallback()
        fit(net(cls), callback, tmp_path=tmp_path)
        assert cause in callback.findings[0].message


def test_gradients_of_an_earlier_batch_are_forgotten(tmp_path):
    class Later(DeadWithoutDecay):
        """Layers have a gradient until validation. In the last batch, the first that moves weights, they have none."""

        def loss(self, batch):
            return Net.loss(self, batch) if self.global_step < EPOCH - 1 else super().loss(batch)

        def configure_optimizers(self):
            optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
            schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: float(step >= EPOCH - 1))
            return [optimizer], [{"scheduler": schedule, "interval": "step"}]

    callback = RWCCallback()
    options = {"data": images(batches=2 * EPOCH), "val_check_interval": EPOCH - 1, "max_steps": EPOCH}
    fit(net(Later), callback, tmp_path=tmp_path, **options)
    assert [(one.layers, one.epoch) for one in callback.findings] == [(("conv1", "block.conv2"), 0)]


def test_training_is_the_same_bit_for_bit(tmp_path):
    def weights(*callbacks):
        module = net()
        fit(module, *callbacks, tmp_path=tmp_path)
        return copy.deepcopy(module.state_dict())

    without, with_callback = weights(), weights(RWCCallback())
    assert all(torch.equal(with_callback[name], weight) for name, weight in without.items())


def test_no_gradient_is_looked_at_unless_an_epoch_ends_with_a_measurement(tmp_path, monkeypatch):
    looks = []
    monkeypatch.setattr("lightning_rwc.findings.findings.Findings.before_validation", lambda *args: looks.append(args))
    fit(net(), RWCCallback(every_n_train_steps=4), tmp_path=tmp_path)
    fit(net(), RWCCallback(findings=False), tmp_path=tmp_path)
    assert looks == []
    fit(net(), RWCCallback(every_n_epochs=3), tmp_path=tmp_path)
    assert len(looks) == 1
