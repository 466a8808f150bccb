# SPDX-License-Identifier: Apache-2.0
"""Beside other callbacks and unusual models: what is measured is what the training weights did."""

import math
import warnings

import numpy as np
import pytest
import torch
from lightning.pytorch import callbacks as pl_callbacks
from lightning.pytorch.callbacks import (
    BackboneFinetuning,
    BatchSizeFinder,
    Callback,
    GradientAccumulationScheduler,
    LearningRateFinder,
    ModelCheckpoint,
    ModelPruning,
    StochasticWeightAveraging,
)
from torch import nn
from torch.utils.data import DataLoader

from lightning_rwc import RWCCallback
from tests.helpers import BATCHES, LAYERS, Net, Recorder, expected_table, images, net, trainer


def measured(tmp_path, module, *others, loader=None, **kwargs):
    """Train with the callback, a recorder of the weights, and ``others``; both tables."""
    rwc, recorder = RWCCallback(), Recorder()
    trainer(*others, rwc, recorder, tmp_path=tmp_path, **kwargs).fit(module, loader or images(), images())
    expected = expected_table([recorder.start, *recorder.epochs], layers=rwc.history.layers)
    np.testing.assert_allclose(rwc.history.values, expected, rtol=1e-12)
    return rwc.history


class Finetuned(Net):
    """A backbone of one layer, as BackboneFinetuning wants it."""

    @property
    def backbone(self):
        return self.conv1

    def configure_optimizers(self):
        return torch.optim.SGD([p for p in self.parameters() if p.requires_grad], lr=0.1)


def test_backbone_finetuning_shows_the_backbone_at_zero_and_then_moving(tmp_path):
    thaw = BackboneFinetuning(unfreeze_backbone_at_epoch=2, backbone_initial_lr=0.01, verbose=False)
    history = measured(tmp_path, net(Finetuned), thaw, max_epochs=4)
    assert history.layers == LAYERS
    assert (history.values[:2, 0] == 0).all()
    assert (history.values[2:, 0] > 0).all()
    assert (history.values[:, 2] > 0).all()


def test_pruning_measures_the_weights_under_the_mask_under_their_old_name(tmp_path):
    module, rwc = net(), RWCCallback()
    states = []

    class Keep(Callback):
        def on_train_start(self, trainer, pl_module):
            self.on_train_epoch_end(trainer, pl_module)

        def on_train_epoch_end(self, trainer, pl_module):
            weight = dict(pl_module.fc.named_parameters()).get("weight_orig", pl_module.fc.weight)
            states.append({"fc.weight": weight.detach().clone()})

    pruning = ModelPruning("l1_unstructured", parameters_to_prune=[(module.fc, "weight")], amount=0.25)
    trainer(pruning, rwc, Keep(), tmp_path=tmp_path).fit(module, images())
    assert rwc.history.layers == LAYERS
    np.testing.assert_allclose(rwc.history.values[:, 2:], expected_table(states, layers=["fc"]), rtol=1e-12)


def test_swa_measures_the_training_weights(tmp_path):
    """With batch norm SWA runs an extra epoch at the end, which shows the jump to the averaged weights."""
    swa = StochasticWeightAveraging(swa_lrs=0.1, swa_epoch_start=1, annealing_epochs=1)
    averaged = measured(tmp_path, net(), swa, max_epochs=4)
    plain = measured(tmp_path, net(), max_epochs=4)
    np.testing.assert_array_equal(averaged.values[:4], plain.values)
    assert len(averaged) == 5


def test_ema_measures_the_training_weights(tmp_path):
    if not hasattr(pl_callbacks, "EMAWeightAveraging"):
        pytest.skip("this Lightning has no EMAWeightAveraging")
    averaged = measured(tmp_path, net(), pl_callbacks.EMAWeightAveraging(decay=0.5))
    np.testing.assert_array_equal(averaged.values, measured(tmp_path, net()).values)


def test_gradient_accumulation_scheduler(tmp_path):
    history = measured(tmp_path, net(), GradientAccumulationScheduler({1: 3}))
    assert history.steps == [5, 7, 9]


class Tunable(Net):
    """A learning rate and a batch size that Lightning's finders may set."""

    def __init__(self):
        super().__init__()
        self.lr, self.batch_size = 0.1, 2

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=self.lr)

    def train_dataloader(self):
        return DataLoader(images().dataset, batch_size=self.batch_size)

    def val_dataloader(self):
        return images()


@pytest.mark.parametrize("rwc_first", [True, False])
@pytest.mark.parametrize("finder", ["learning rate", "batch size"])
def test_trial_runs_of_finders_leave_no_trace(finder, rwc_first, tmp_path):
    found = (
        LearningRateFinder(num_training_steps=8, update_attr=True)
        if finder == "learning rate"
        else BatchSizeFinder(max_trials=2, steps_per_trial=2)
    )
    rwc, recorder = RWCCallback(), Recorder()
    order = (rwc, found) if rwc_first else (found, rwc)
    trainer(*order, recorder, tmp_path=tmp_path).fit(net(Tunable))
    assert rwc.history.epochs == [0, 1, 2]
    expected = expected_table([recorder.start, *recorder.epochs])
    np.testing.assert_allclose(rwc.history.values, expected, rtol=1e-12)


class Finds(LearningRateFinder):
    """Lightning's documented pattern: a search at the start of some epochs."""

    def on_fit_start(self, *args, **kwargs):
        pass

    def on_train_epoch_start(self, trainer, pl_module):
        if trainer.current_epoch in (0, 2):
            self.lr_find(trainer, pl_module)


@pytest.mark.parametrize("settings", [{}, {"relative_to": "initial"}, {"every_n_train_steps": 4}])
@pytest.mark.parametrize("rwc_first", [True, False])
def test_a_search_for_the_learning_rate_inside_a_fit(rwc_first, settings, tmp_path):
    rwc, recorder = RWCCallback(**settings), Recorder()
    finder = Finds(num_training_steps=8, update_attr=True)
    saver = ModelCheckpoint(tmp_path / "saved", save_top_k=-1)
    order = (rwc, finder) if rwc_first else (finder, rwc)
    run = trainer(*order, recorder, saver, tmp_path=tmp_path, max_epochs=4, enable_checkpointing=True)
    run.fit(net(Tunable), images())
    if "every_n_train_steps" in settings:
        states = [recorder.start, *recorder.batches[3::4]]
        # At the lowest supported version Lightning trains one batch fewer after each search.
        assert len(recorder.batches) in (22, 24)
        assert rwc.history.steps == [*range(3, len(recorder.batches), 4)]
    else:
        states = [recorder.start, *recorder.epochs]
        assert rwc.history.epochs == [0, 1, 2, 3]
    expected = expected_table(states, relative_to=settings.get("relative_to", "previous"))
    np.testing.assert_allclose(rwc.history.values, expected, rtol=1e-12)
    # Checkpoints after the search hold the whole table too.
    newest = max((tmp_path / "saved").glob("*.ckpt"), key=lambda path: path.stat().st_mtime_ns)
    saved = torch.load(newest, weights_only=True)["callbacks"][rwc.state_key]["history"]
    np.testing.assert_array_equal(saved["values"], rwc.history.values)


class RollsBack(Callback):
    """Loads the checkpoint of the first epoch's end at the start of a batch of the second, once."""

    def on_train_epoch_end(self, trainer, pl_module):
        if trainer.current_epoch == 0:
            trainer.save_checkpoint(f"{trainer.default_root_dir}/first.ckpt")

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step == BATCHES + 2 and not hasattr(self, "done"):
            self.done = True
            state = torch.load(f"{trainer.default_root_dir}/first.ckpt", weights_only=True)
            pl_module.load_state_dict(state["state_dict"])
            for callback in trainer.callbacks:
                if isinstance(callback, RWCCallback):
                    callback.on_load_checkpoint(trainer, pl_module, state)
                    callback.load_state_dict(state["callbacks"][callback.state_key])


def test_a_load_after_our_hook_of_the_batch(tmp_path):
    """Rows by steps of three: the third spans from the weights that were loaded, not from those of one step later."""
    rwc, recorder = RWCCallback(every_n_train_steps=3), Recorder()
    run = trainer(rwc, RollsBack(), recorder, tmp_path=tmp_path, max_epochs=2)
    run.fit(net(), images())
    states = [recorder.start, *(recorder.batches[batch] for batch in (2, 5, 8, 11))]
    np.testing.assert_allclose(rwc.history.values, expected_table(states), rtol=1e-12)


def test_a_search_before_a_second_fit_leaves_the_first_history_out(tmp_path):
    rwc, recorder = RWCCallback(), Recorder()
    trainer(rwc, tmp_path=tmp_path).fit(net(Tunable))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer(LearningRateFinder(num_training_steps=8), rwc, recorder, tmp_path=tmp_path).fit(net(Tunable))
    assert [w for w in caught if "lightning_rwc" in w.filename or "RWCCallback" in str(w.message)] == []
    expected = expected_table([recorder.start, *recorder.epochs])
    np.testing.assert_allclose(rwc.history.values, expected, rtol=1e-12)


class Change(Callback):
    """Changes the module when an epoch begins."""

    def __init__(self, epoch, change):
        self.epoch, self.change = epoch, change

    def on_train_epoch_start(self, trainer, pl_module):
        if trainer.current_epoch == self.epoch:
            self.change(pl_module)


def test_layers_added_and_removed_between_epochs(tmp_path):
    rwc = RWCCallback()
    grow = Change(1, lambda module: module.add_module("extra", nn.Linear(2, 2)))
    shrink = Change(3, lambda module: delattr(module, "extra"))
    trainer(grow, shrink, rwc, tmp_path=tmp_path, max_epochs=5).fit(net(), images())
    assert rwc.history.layers == [*LAYERS, "extra"]
    extra = rwc.history.values[:, 3]
    np.testing.assert_array_equal(extra, [math.nan, math.nan, 0.0, math.nan, math.nan])
    assert np.isfinite(rwc.history.values[:, :3]).all()


def test_a_layer_added_in_front_stands_in_front(tmp_path):
    def put_in_front(module):
        module._modules = {"stem": nn.Linear(2, 2), **module._modules}

    class Push(Callback):
        def on_train_batch_end(self, trainer, pl_module, *args, **kwargs):
            # Layers move the more, the later they stand.
            for place, layer in enumerate(("stem", *LAYERS)):
                if hasattr(pl_module, layer.split(".")[0]):
                    pl_module.get_submodule(layer).weight.data.mul_(1 + 0.01 * (place + 1))

    class Still(Net):
        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.0)

    rwc, correlations = RWCCallback(), []

    class Look(Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            correlations.append(trainer.callback_metrics["rwc_summary/depth_correlation"].item())

    trainer(Change(1, put_in_front), Push(), rwc, Look(), tmp_path=tmp_path).fit(net(Still), images())
    assert rwc.history.layers == ["stem", *LAYERS]
    assert np.isnan(rwc.history.values[:2, 0]).all()
    # Each batch multiplies a layer by 1.01, 1.02, 1.03 or 1.04, and there are six.
    np.testing.assert_allclose(rwc.history.values[2], [1.01**6 - 1, 1.02**6 - 1, 1.03**6 - 1, 1.04**6 - 1], rtol=1e-5)
    assert correlations == [1, 1, 1]


def test_a_hint_where_no_tracked_layer_learns(tmp_path):
    module = net()
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(name.endswith("bias"))
    with pytest.warns(UserWarning, match=r"None of the 3 tracked layers.* 4 other parameters, such as 'conv1.bias'"):
        trainer(RWCCallback(), tmp_path=tmp_path).fit(module, images())


def test_a_module_assigned_anew_is_measured_from_the_weights_of_old(tmp_path):
    history = measured(tmp_path, net(), Change(1, lambda module: setattr(module, "fc", nn.Linear(64, 2))))
    assert history.values[1, 2] > 0.5


class LoRA(nn.Module):
    """A frozen matrix and a low-rank update that starts at zero."""

    def __init__(self, size):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(size, size), requires_grad=False)
        self.lora_A, self.lora_B = nn.Parameter(torch.randn(2, size)), nn.Parameter(torch.zeros(size, 2))

    def forward(self, x):
        return x @ (self.weight + self.lora_B @ self.lora_A).T


class Adapted(Net):
    """The network with an adapter."""

    def __init__(self):
        super().__init__()
        self.adapter = LoRA(64)
        self.conv1.requires_grad_(False)

    def loss(self, batch):
        hidden = self.block["conv2"](self.block["bn"](self.conv1(batch[0])).relu()).relu()
        return self.fc(self.adapter(hidden.flatten(1))).square().mean()


def test_adapters_that_start_at_zero(tmp_path):
    rwc = RWCCallback()
    trainer(rwc, tmp_path=tmp_path, max_epochs=2).fit(net(Adapted), images())
    frame = rwc.history.to_frame()
    assert frame["adapter.weight"].tolist() == [0, 0]
    assert frame["adapter.lora_B"].iloc[0] == math.inf
    assert 0 < frame["adapter.lora_B"].iloc[1] < math.inf


class GAN(Net):
    """A generator and a discriminator that take turns."""

    def __init__(self):
        super().__init__()
        self.automatic_optimization = False
        self.generator, self.discriminator = nn.Linear(8, 64), nn.Linear(64, 1)

    def training_step(self, batch, batch_idx):
        turns = zip(self.optimizers(), (1, -1), strict=True)
        for optimizer, sign in turns:
            self.toggle_optimizer(optimizer)
            loss = sign * self.discriminator(self.generator(torch.ones(2, 8))).tanh().mean()
            optimizer.zero_grad()
            self.manual_backward(loss)
            optimizer.step()
            self.untoggle_optimizer(optimizer)

    def validation_step(self, batch, batch_idx):
        pass

    def configure_optimizers(self):
        halves = self.generator, self.discriminator
        return [torch.optim.SGD(half.parameters(), lr=0.1) for half in halves]


def test_a_gan(tmp_path):
    history = measured(tmp_path, net(GAN))
    frame = history.to_frame()
    assert (frame[["generator", "discriminator"]] > 0).all(axis=None)
    assert (frame["conv1"] == 0).all()


class Tied(Net):
    """A language model's head that shares its matrix with the embedding."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(11, 4, sparse=False)
        self.out = nn.Linear(4, 11, bias=False)
        self.out.weight = self.embedding.weight

    def loss(self, batch):
        return self.out(self.embedding(torch.arange(11))).square().mean()


def test_tied_embeddings_count_once(tmp_path):
    history = measured(tmp_path, net(Tied))
    assert history.layers == [*LAYERS, "embedding"]
    assert (history.values[:, 3] > 0).all()


def test_two_callbacks_with_prefixes_of_their_own(tmp_path):
    recorder = Recorder()
    first, second = RWCCallback(), RWCCallback(norm="l2", relative_to="initial", prefix="moved")
    run = trainer(first, second, recorder, tmp_path=tmp_path)
    run.fit(net(), images())
    states = [recorder.start, *recorder.epochs]
    np.testing.assert_allclose(first.history.values, expected_table(states), rtol=1e-12)
    np.testing.assert_allclose(second.history.values, expected_table(states, "l2", "initial"), rtol=1e-12)
    assert {"rwc/fc", "moved/fc", "rwc_summary/total", "moved_summary/total"} <= set(run.callback_metrics)


def test_two_callbacks_of_one_prefix_are_refused(tmp_path):
    run = trainer(RWCCallback(), RWCCallback(norm="l2"), tmp_path=tmp_path)
    with pytest.raises(ValueError, match="Two RWCCallbacks have `prefix='rwc'`: give each its own prefix"):
        run.fit(net(), images())


@pytest.mark.parametrize("prefix", ["rwc_summary", "rwc/late"])
def test_two_callbacks_whose_tags_could_be_the_same_are_refused(prefix, tmp_path):
    run = trainer(RWCCallback(), RWCCallback(prefix=prefix), tmp_path=tmp_path)
    with pytest.raises(ValueError, match=f"tags that start with 'rwc' and with '{prefix}', which can be the same"):
        run.fit(net(), images())


@pytest.mark.parametrize("precision", ["16-mixed", "bf16-mixed", "bf16-true", "64-true"])
def test_precisions(precision, tmp_path):
    measured(tmp_path, net(), precision=precision)


@pytest.mark.parametrize("change", ["channels_last", "compiled"])
def test_memory_format_and_compilation(change, tmp_path):
    module = net()
    if change == "channels_last":
        module = module.to(memory_format=torch.channels_last)
    else:
        module.block["conv2"] = torch.compile(module.block["conv2"], backend="eager")
    rwc = RWCCallback()
    trainer(rwc, tmp_path=tmp_path).fit(module, images())
    plain = measured(tmp_path, net())
    assert rwc.history.layers == LAYERS
    np.testing.assert_allclose(rwc.history.values, plain.values, rtol=1e-5)


class OnMeta(Net):
    """A model whose weights come into being in configure_model."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(64, 2, device="meta")

    def configure_model(self):
        if self.fc.weight.is_meta:
            torch.manual_seed(3)
            self.fc = nn.Linear(64, 2)


def test_models_on_meta_before_configure_model(tmp_path):
    assert measured(tmp_path, net(OnMeta)).layers == LAYERS
