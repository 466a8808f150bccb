# SPDX-License-Identifier: Apache-2.0
"""Frozen layers that are a fault: nothing is left to train, or layers are not thawed as promised."""

import warnings

import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import BackboneFinetuning, Callback, ModelCheckpoint
from torch import nn

from lightning_rwc import RWCCallback
from tests.helpers import LAYERS, Net, images, net, trainer

EPOCH = 12  # batches, and steps
THAW = 2  # the epoch
BACKBONE = ("backbone.conv1", "backbone.conv2")


class Frozen(Net):
    def __init__(self):
        super().__init__()
        self.requires_grad_(False)


class HiddenError(Frozen):
    """The usual way to silence "element 0 of tensors does not require grad"."""

    def loss(self, batch):
        return super().loss(batch).requires_grad_()


class GradientOfTheInput(Frozen):
    def loss(self, batch):
        return super().loss([batch[0].requires_grad_()])


class ByHand(Frozen):
    def __init__(self):
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch, batch_idx):
        loss = self.loss(batch)
        if loss.requires_grad:
            self.manual_backward(loss)
        self.optimizers().step()


class FrozenAfterwards(Net):
    def loss(self, batch):
        return super().loss([batch[0].requires_grad_()])

    def on_train_epoch_start(self):
        self.requires_grad_(self.current_epoch < 1)


class OwnUpdates(GradientOfTheInput):
    """It learns by a rule of its own."""

    def on_train_batch_end(self, *args):
        self.fc.weight += 0.01


class LearnedImage(GradientOfTheInput):
    """What the optimizer trains is no parameter of the module."""

    def __init__(self):
        super().__init__()
        self.image = torch.zeros(1, 1, 8, 8, requires_grad=True)

    def loss(self, batch):
        return Net.loss(self, [batch[0] + self.image])

    def configure_optimizers(self):
        return torch.optim.SGD([self.image], lr=0.1)


class OnlyBiases(Net):
    def __init__(self):
        super().__init__()
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(name.endswith("bias"))


def fit(module, *others, tmp_path, batches=EPOCH, ckpt_path=None, rwc=None, **options):
    """Train with the callback, and with ``others`` after it."""
    rwc = rwc or RWCCallback()
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="Looking for findings failed")
        trainer(rwc, *others, tmp_path=tmp_path, **options).fit(module, images(batches), ckpt_path=ckpt_path)
    return rwc


def told(rwc):
    return [(one.kind, one.layers, one.epoch, one.step) for one in rwc.findings]


@pytest.mark.parametrize(
    ("cls", "step"),
    [(HiddenError, EPOCH - 1), (GradientOfTheInput, EPOCH - 1), (ByHand, EPOCH - 1), (FrozenAfterwards, 23)],
)
def test_nothing_is_left_to_train(cls, step, tmp_path):
    rwc = fit(net(cls), tmp_path=tmp_path)
    assert told(rwc) == [("nothing_trainable", tuple(LAYERS), step // EPOCH, step)]
    assert rwc.findings[0].message.startswith("12 optimizer steps were taken, but no parameter of the model requires")
    assert (rwc.history.values[step // EPOCH] == 0).all()
    by_steps = fit(net(cls), tmp_path=tmp_path, rwc=RWCCallback(every_n_train_steps=1))
    assert [(one.kind, one.step) for one in by_steps.findings] == [("nothing_trainable", step - 2)]  # ten steps agree


@pytest.mark.parametrize("cls", [OwnUpdates, LearnedImage, OnlyBiases])
def test_something_else_trains(cls, tmp_path):
    assert told(fit(net(cls), tmp_path=tmp_path)) == []


def test_lightning_refuses_to_train_nothing_and_needs_no_finding(tmp_path):
    rwc = RWCCallback()
    with pytest.raises(RuntimeError, match="does not require grad"):
        fit(net(Frozen), tmp_path=tmp_path, rwc=rwc)
    assert told(rwc) == []


class Finetuned(Net):
    def __init__(self):
        super().__init__()
        fc, self.backbone = self.fc, nn.Sequential()
        for name, module in (("conv1", self.conv1), ("bn", self.block["bn"]), ("conv2", self.block["conv2"])):
            self.backbone.add_module(name, module)
        del self.conv1, self.block, self.fc
        self.fc = fc

    def loss(self, batch):
        hidden = self.backbone.conv2(self.backbone.bn(self.backbone.conv1(batch[0])).relu()).relu()
        return self.fc(hidden.flatten(1)).square().mean()

    def configure_optimizers(self):
        return torch.optim.SGD([p for p in self.parameters() if p.requires_grad], lr=0.1, momentum=0.5)


class Thawed(Finetuned):
    """The remedy after a resume."""

    def on_train_start(self):
        if self.current_epoch >= THAW:
            self.backbone.requires_grad_(True)


class Freeze(Callback):
    def __init__(self, choose):
        self.choose = choose

    def on_train_batch_start(self, trainer, pl_module, *args):
        self.choose(pl_module).requires_grad_(False)


def thaw(**options):
    return BackboneFinetuning(**({"unfreeze_backbone_at_epoch": THAW} | options))


@pytest.mark.parametrize(
    "options",
    [{}, {"every_n_train_steps": 1}, {"relative_to": "initial"}, {"layers": r"weight$"}],
)
def test_a_backbone_that_is_thawed_is_no_finding(options, tmp_path):
    rwc = fit(net(Finetuned), thaw(), tmp_path=tmp_path, max_epochs=4, rwc=RWCCallback(**options))
    assert told(rwc) == []
    assert (rwc.history.values[-1] > 0).all()


def test_layers_that_stay_frozen_in_part_are_no_finding(tmp_path):
    for choose in (lambda module: module.backbone.conv1, lambda module: module.backbone.bn):
        assert told(fit(net(Finetuned), thaw(train_bn=False), Freeze(choose), tmp_path=tmp_path, max_epochs=4)) == []


def test_layers_that_are_frozen_again_after_they_have_learned_are_no_finding(tmp_path):
    class Later(Freeze):
        def on_train_epoch_start(self, trainer, pl_module):
            self.choose(pl_module).requires_grad_(trainer.current_epoch == THAW)

        on_train_batch_start = Callback.on_train_batch_start

    rwc = fit(net(Finetuned), thaw(), Later(lambda module: module.backbone), tmp_path=tmp_path, max_epochs=5)
    assert (rwc.history.values[:, 0] > 0).tolist() == [False, False, True, False, False]
    assert told(rwc) == []


@pytest.mark.parametrize("epochs", [1, THAW])
def test_training_that_ends_before_layers_are_thawed_is_told_at_its_start(epochs, tmp_path):
    rwc = RWCCallback()
    with pytest.warns(UserWarning, match="will never be thawed: BackboneFinetuning thaws them as epoch 2 begins"):
        fit(net(Finetuned), thaw(), tmp_path=tmp_path, max_epochs=epochs, rwc=rwc)
    assert told(rwc) == [("not_thawed", BACKBONE, 0, 0)]
    assert f"but the last epoch is {epochs - 1}." in rwc.findings[0].message


@pytest.mark.parametrize(
    "options", [{"fast_dev_run": True}, {"max_epochs": -1, "max_steps": EPOCH}, {"max_epochs": THAW + 1}], ids=str
)
def test_training_that_may_go_on_is_not_told_at_its_start(options, tmp_path):
    assert told(fit(net(Finetuned), thaw(), tmp_path=tmp_path, **options)) == []


def test_a_function_of_the_users_own_promises_nothing(tmp_path):
    class Own(BackboneFinetuning):
        def finetune_function(self, pl_module, epoch, optimizer):
            pass

    class Renamed(BackboneFinetuning):
        pass

    assert told(fit(net(Finetuned), Own(9), tmp_path=tmp_path)) == []
    assert told(fit(net(Finetuned), Renamed(9), tmp_path=tmp_path)) == [("not_thawed", BACKBONE, 0, 0)]


def test_layers_that_are_frozen_again_at_once(tmp_path):
    step = (THAW + 1) * EPOCH - 1
    rwc = fit(net(Finetuned), thaw(), Freeze(lambda module: module.backbone), tmp_path=tmp_path, max_epochs=4)
    assert told(rwc) == [("not_thawed", BACKBONE, THAW, step)]
    assert (
        "as epoch 2 began, but in epoch 2 they are still frozen. Look for another callback" in rwc.findings[0].message
    )
    by_steps = RWCCallback(every_n_train_steps=1)
    fit(net(Finetuned), thaw(), Freeze(lambda module: module.backbone), tmp_path=tmp_path, max_epochs=4, rwc=by_steps)
    assert told(by_steps) == [("not_thawed", BACKBONE, THAW, step - 2)]  # ten steps agree


def test_layers_that_are_thawed_with_a_learning_rate_of_zero(tmp_path):
    rwc = fit(net(Finetuned), thaw(backbone_initial_lr=0.0), tmp_path=tmp_path, max_epochs=4)
    assert told(rwc) == [("not_thawed", BACKBONE, THAW, (THAW + 1) * EPOCH - 1)]
    assert "with a learning rate of 0" in rwc.findings[0].message


def test_layers_that_are_thawed_but_in_no_optimizer_have_a_finding_of_their_own(tmp_path):
    class Unheld(Callback):
        def on_train_batch_start(self, trainer, pl_module, *args):
            trainer.optimizers[0].param_groups[1:] = []

    rwc = fit(net(Finetuned), thaw(), Unheld(), tmp_path=tmp_path, max_epochs=3)
    assert told(rwc) == [("not_in_optimizer", BACKBONE, THAW, (THAW + 1) * EPOCH - 1)]


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """One each half epoch of a healthy run, by the number of batches."""
    folder = tmp_path_factory.mktemp("saved")
    saver = ModelCheckpoint(folder, every_n_train_steps=EPOCH // 2, filename="{step}", save_top_k=-1)
    rwc = fit(net(Finetuned), thaw(), saver, tmp_path=folder, max_epochs=5, enable_checkpointing=True)
    assert told(rwc) == []
    return {step: folder / f"step={step}.ckpt" for step in range(EPOCH // 2, 5 * EPOCH + 1, EPOCH // 2)}


@pytest.mark.parametrize("step", [6, 12, 18])
def test_a_run_that_is_resumed_before_layers_are_thawed_is_healthy(step, checkpoints, tmp_path):
    rwc = fit(net(Finetuned), thaw(), tmp_path=tmp_path, max_epochs=5, ckpt_path=checkpoints[step])
    assert told(rwc) == []
    assert (rwc.history.values[THAW:] > 0).all()


@pytest.mark.parametrize("step", [30, 36, 42, 48])
def test_a_run_that_is_resumed_later_leaves_them_frozen(step, checkpoints, tmp_path):
    rwc = fit(net(Finetuned), thaw(), tmp_path=tmp_path, max_epochs=5, ckpt_path=checkpoints[step])
    resumed = step // EPOCH
    [(kind, layers, epoch, _)] = told(rwc)
    assert (kind, layers) == ("not_thawed", BACKBONE)
    # From inside an epoch, its measurement still shows how the layers moved before the resume.
    assert epoch == resumed
    assert (rwc.history.values[resumed + 1 :, :2] == 0).all()
    cause = "This fit began in epoch" if resumed > THAW else "skipped the beginning of epoch 2"
    assert cause in rwc.findings[0].message
    again = fit(net(Thawed), thaw(), tmp_path=tmp_path, max_epochs=5, ckpt_path=checkpoints[step])
    assert told(again) == []
    assert (again.history.values[THAW:] > 0).all()


def test_a_resume_that_skips_the_epoch_in_which_they_are_thawed(checkpoints, tmp_path):
    # The checkpoint is from the last batch of the epoch before. Lightning skips the hook, and fails in the next epoch.
    rwc = RWCCallback()
    with pytest.raises(TypeError, match="NoneType"):
        fit(net(Finetuned), thaw(), tmp_path=tmp_path, max_epochs=5, ckpt_path=checkpoints[THAW * EPOCH], rwc=rwc)
    assert told(rwc) == [("not_thawed", BACKBONE, THAW, (THAW + 1) * EPOCH - 1)]


def test_a_second_fit_leaves_them_frozen(tmp_path):
    rwc, module = RWCCallback(), net(Finetuned)
    run = trainer(rwc, thaw(), tmp_path=tmp_path, max_epochs=4)
    run.fit(module, images(EPOCH))
    assert told(rwc) == []
    run.fit_loop.max_epochs = 6
    run.fit(module, images(EPOCH))
    assert told(rwc) == [("not_thawed", BACKBONE, 4, 5 * EPOCH - 1)]
    assert "This fit began in epoch 4." in rwc.findings[0].message


def test_a_resumed_run_tells_it_once(tmp_path):
    def train(epochs, ckpt=None):
        saver = ModelCheckpoint(tmp_path, filename=f"after {epochs}")
        rwc = RWCCallback()
        others = thaw(), Freeze(lambda module: module.backbone), saver
        fit(
            net(Finetuned),
            *others,
            tmp_path=tmp_path,
            rwc=rwc,
            max_epochs=epochs,
            ckpt_path=ckpt,
            enable_checkpointing=True,
        )
        return rwc

    assert len(told(train(1))) == 1  # it will never be thawed
    longer = told(train(3, tmp_path / "after 1.ckpt"))
    assert [epoch for _, _, epoch, _ in longer] == [0, THAW]  # and it has not been
    assert told(train(5, tmp_path / "after 3.ckpt")) == longer


def test_layers_of_which_a_part_is_no_backbone_are_not_promised(tmp_path):
    options = {"group_by": lambda name: "mixed" if name.startswith(("backbone.conv2", "fc")) else "first"}
    rwc = fit(net(Finetuned), thaw(), tmp_path=tmp_path, max_epochs=1, rwc=RWCCallback(**options))
    assert told(rwc) == [("not_thawed", ("first",), 0, 0)]


def test_no_hint_that_nothing_learns_if_it_is_to_be_thawed(tmp_path):
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="None of the 2 tracked layers")
        rwc = fit(net(Finetuned), thaw(), tmp_path=tmp_path, rwc=RWCCallback(layers=r"conv\d\.weight"))
    # One thawed epoch moves little.
    assert {kind for kind, *_ in told(rwc)} <= {"learning_rate_low"}
    np.testing.assert_array_equal(rwc.history.values > 0, [[False] * 2] * 2 + [[True] * 2])


def test_the_callback_of_the_older_package(tmp_path):
    from pytorch_lightning.callbacks import BackboneFinetuning as Older

    try:
        rwc = fit(net(Finetuned), Older(9), tmp_path=tmp_path)
    except TypeError as error:
        if "single import style" not in str(error):
            raise
        pytest.skip("this Lightning refuses callbacks of the older package")
    assert told(rwc) == [("not_thawed", BACKBONE, 0, 0)]
