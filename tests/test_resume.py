# SPDX-License-Identifier: Apache-2.0
"""The same curve, bit for bit, after any interruption."""

import os
import random
import signal
import subprocess
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint, OnExceptionCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_rwc import RelativeWeightChange, RWCCallback
from tests.helpers import BATCHES, Net, events, images, net, trainer

EPOCHS = 6


class Momentum(Net):
    """A network whose optimizer has a state of its own."""

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)


def same_batches():
    """Batches that are all alike: Lightning does not restore a plain loader's place inside an epoch."""
    batch = next(iter(images()))[0]
    return DataLoader(TensorDataset(batch.repeat(BATCHES, 1, 1, 1)), batch_size=4)


class Stop(Callback):
    """Stops training at a step, as a kill would; before or after the other callbacks' hooks of that batch."""

    def __init__(self, step):
        self.step = step

    def on_train_batch_end(self, trainer, pl_module, *args, **kwargs):
        if trainer.global_step == self.step:
            raise KeyError("stopped")


class Foreign(Callback):
    """Saves by itself, before the callbacks that stand after it."""

    def __init__(self, folder, when):
        self.folder, self.when = folder, when

    def save(self, trainer):
        trainer.save_checkpoint(self.folder / f"foreign-{trainer.global_step}.ckpt")

    def on_train_batch_end(self, trainer, pl_module, *args, **kwargs):
        if self.when == "batch":
            self.save(trainer)

    def on_train_epoch_end(self, trainer, pl_module):
        if self.when == "epoch":
            self.save(trainer)


def fit(tmp_path, rwc, *callbacks, before=(), ckpt=None, **kwargs):
    options = {"max_epochs": EPOCHS, "enable_checkpointing": True} | kwargs
    run = trainer(*before, rwc, *callbacks, tmp_path=tmp_path, **options)
    run.fit(net(Momentum), same_batches(), same_batches(), ckpt_path=ckpt)
    return rwc.history


def assert_same(history, whole):
    assert history.layers == whole.layers
    assert history.epochs == whole.epochs
    assert history.steps == whole.steps
    np.testing.assert_array_equal(history.values.view(np.int64), whole.values.view(np.int64))


SAVERS = {
    "default": lambda folder: ((), (ModelCheckpoint(folder, save_top_k=-1),)),
    "train end": lambda folder: ((), (ModelCheckpoint(folder, save_top_k=-1, save_on_train_epoch_end=True),)),
    "validation end": lambda folder: ((), (ModelCheckpoint(folder, save_top_k=-1, save_on_train_epoch_end=False),)),
    "every step": lambda folder: ((), (ModelCheckpoint(folder, save_top_k=-1, every_n_train_steps=1),)),
    "every 4 steps": lambda folder: ((), (ModelCheckpoint(folder, save_top_k=-1, every_n_train_steps=4),)),
    "epoch's length": lambda folder: ((), (ModelCheckpoint(folder, save_top_k=-1, every_n_train_steps=BATCHES),)),
    "last": lambda folder: ((), (ModelCheckpoint(folder, save_last=True, every_n_epochs=2),)),
    "foreign at epoch end": lambda folder: ((Foreign(folder, "epoch"),), (ModelCheckpoint(folder),)),
    "foreign at batch end": lambda folder: ((Foreign(folder, "batch"),), (ModelCheckpoint(folder),)),
}
SETTINGS = {
    "default": {},
    "every two epochs": {"every_n_epochs": 2},
    "steps": {"every_n_train_steps": 4},
    "each step": {"every_n_train_steps": 1, "norm": "l2"},
    "initial": {"relative_to": "initial", "norm": "elementwise"},
}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """The history of a run that nothing interrupts, by its settings; each is trained once."""

    @cache
    def train(settings):
        return fit(tmp_path_factory.mktemp("whole"), RWCCallback(**SETTINGS[settings]))

    return train


@pytest.mark.integration
@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("saver", SAVERS)
def test_from_a_checkpoint_of_every_kind(saver, settings, tmp_path):
    before, after = SAVERS[saver](tmp_path / "saved")
    whole = fit(tmp_path, RWCCallback(**SETTINGS[settings]), *after, before=before)
    checkpoints = sorted((tmp_path / "saved").glob("*.ckpt"))
    assert checkpoints
    generator = random.Random(f"{saver} {settings}")
    for checkpoint in generator.sample(checkpoints, min(len(checkpoints), 3)):
        assert_same(fit(tmp_path, RWCCallback(**SETTINGS[settings]), ckpt=checkpoint), whole)


def kill(tmp_path, seed):
    """How to train with settings, a saver and a stop drawn from ``seed``."""
    generator = random.Random(seed)
    saver, settings = generator.choice(list(SAVERS)), generator.choice(list(SETTINGS))
    options = generator.choice([{}, {"check_val_every_n_epoch": 2}, {"val_check_interval": 0.5}])
    stop = Stop(generator.randrange(2, EPOCHS * BATCHES))
    stop_first = generator.random() < 0.5
    folder = tmp_path / "saved"

    def run(*stops, ckpt=None):
        before, after = SAVERS[saver](folder)
        before, after = ((*stops, *before), after) if stop_first else (before, (*stops, *after))
        return fit(tmp_path, RWCCallback(**SETTINGS[settings]), *after, before=before, ckpt=ckpt, **options)

    return run, stop, folder, settings


@pytest.mark.integration
@pytest.mark.parametrize("seed", range(24))
def test_killed_at_a_random_step_and_resumed_from_the_newest_checkpoint(seed, uninterrupted, tmp_path):
    run, stop, folder, settings = kill(tmp_path, seed)
    with pytest.raises(KeyError, match="stopped"):
        run(stop)
    checkpoints = sorted(folder.glob("*.ckpt"), key=lambda path: path.stat().st_mtime_ns)
    # Neither what saves nor when validation runs changes what is measured.
    assert_same(run(ckpt=checkpoints[-1] if checkpoints else None), uninterrupted(settings))


@pytest.mark.integration
@pytest.mark.parametrize("settings", SETTINGS)
def test_stopped_by_an_exception_and_resumed_from_its_checkpoint(settings, uninterrupted, tmp_path):
    saver = OnExceptionCheckpoint(tmp_path / "saved")
    with pytest.raises(KeyError, match="stopped"):
        fit(tmp_path, RWCCallback(**SETTINGS[settings]), saver, Stop(15))
    resumed = fit(tmp_path, RWCCallback(**SETTINGS[settings]), ckpt=tmp_path / "saved/on_exception.ckpt")
    assert_same(resumed, uninterrupted(settings))


@pytest.mark.integration
@pytest.mark.parametrize("settings", SETTINGS)
def test_max_steps_inside_an_epoch(settings, tmp_path):
    limits = {"max_epochs": -1, "max_steps": 15}
    whole = fit(tmp_path, RWCCallback(**SETTINGS[settings]), **limits)
    fit(tmp_path, RWCCallback(**SETTINGS[settings]), ModelCheckpoint(tmp_path / "saved", save_top_k=-1), **limits)
    for checkpoint in sorted((tmp_path / "saved").glob("*.ckpt")):
        logger = TensorBoardLogger(tmp_path)
        resumed = fit(tmp_path, RWCCallback(**SETTINGS[settings]), ckpt=checkpoint, logger=logger, **limits)
        assert resumed.epochs == whole.epochs
        np.testing.assert_array_equal(resumed.values.view(np.int64), whole.values.view(np.int64))
        # From such a checkpoint Lightning counts its own metrics' steps one too far, and ours stay beside them.
        log = events(logger.log_dir)
        if "rwc/fc" in log.Tags()["scalars"]:
            own = "loss_step" if "every_n_train_steps" in SETTINGS[settings] else "loss_epoch"
            assert {e.step for e in log.Scalars("rwc/fc")} <= {e.step for e in log.Scalars(own)}


@pytest.mark.integration
def test_max_steps_inside_an_epoch_and_its_last_step(tmp_path):
    limits = {"max_epochs": -1, "max_steps": 15}
    saver = ModelCheckpoint(tmp_path / "saved", save_top_k=-1, every_n_train_steps=5, filename="{step}")
    whole = fit(tmp_path, RWCCallback(), saver, **limits)
    assert whole.epochs == [0, 1, 2]
    assert_same(fit(tmp_path, RWCCallback(), ckpt=tmp_path / "saved/step=15.ckpt", **limits), whole)


@pytest.mark.integration
def test_more_epochs_than_at_first(uninterrupted, tmp_path):
    saver = ModelCheckpoint(tmp_path / "saved", save_top_k=-1)
    fit(tmp_path, RWCCallback(), saver, max_epochs=3)
    newest = max((tmp_path / "saved").glob("*.ckpt"), key=lambda path: path.stat().st_mtime_ns)
    assert_same(fit(tmp_path, RWCCallback(), ckpt=newest), uninterrupted("default"))


PROGRAM = """
import sys
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning_rwc import RelativeWeightChange, RWCCallback
from tests.test_resume import Kill, fit
from pathlib import Path
folder = Path(sys.argv[1])
fit(folder, RWCCallback(), ModelCheckpoint(folder / "saved", save_top_k=-1, every_n_train_steps=5), Kill(17))
"""


class Kill(Stop):
    """Ends the process without any chance to clean up."""

    def on_train_batch_end(self, trainer, pl_module, *args, **kwargs):
        if trainer.global_step == self.step:
            os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.integration
def test_a_killed_process(uninterrupted, tmp_path):
    root = Path(__file__).parent.parent
    done = subprocess.run([sys.executable, "-c", PROGRAM, str(tmp_path)], cwd=root, capture_output=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    newest = max((tmp_path / "saved").glob("*.ckpt"), key=lambda path: path.stat().st_mtime_ns)
    assert "step=15" in newest.name
    assert_same(fit(tmp_path, RWCCallback(), ckpt=newest), uninterrupted("default"))


def save_at(tmp_path, rwc, step):
    """A checkpoint of ``step`` global steps, made with the callback ``rwc`` or any other."""
    saver = ModelCheckpoint(tmp_path / "saved", save_top_k=-1, every_n_train_steps=step, filename="{step}")
    run = trainer(rwc, saver, tmp_path=tmp_path, max_epochs=4, enable_checkpointing=True)
    run.fit(net(Momentum), same_batches(), same_batches())
    return tmp_path / "saved" / f"step={step}.ckpt"


def model_bytes():
    return sum(p.nbytes for name, p in net().named_parameters() if p.ndim >= 2)


def test_a_checkpoint_holds_the_snapshot_only_when_the_weights_have_moved(tmp_path):
    def stored(checkpoint):
        states = torch.load(checkpoint, weights_only=True)["callbacks"]
        [state] = [state for key, state in states.items() if key.startswith("RWCCallback")]
        snapshot = state["metric"]["snapshot"]["whole"] if "metric" in state else {}
        return sum(tensor.nbytes for tensor in snapshot.values())

    fit(tmp_path, RWCCallback(), ModelCheckpoint(tmp_path / "epochs", save_top_k=-1), max_epochs=2)
    assert [stored(path) for path in (tmp_path / "epochs").glob("*.ckpt")] == [0, 0]
    assert stored(save_at(tmp_path, RWCCallback(), 4)) == model_bytes()
    initial = ModelCheckpoint(tmp_path / "initial")
    fit(tmp_path, RWCCallback(relative_to="initial"), initial, max_epochs=2)
    assert stored(initial.best_model_path) == model_bytes()


def test_a_checkpoint_without_our_state_is_resumed_with_one_warning(tmp_path):
    checkpoint = save_at(tmp_path, Callback(), 8)
    with pytest.warns(
        UserWarning, match=r"has no state of RWCCallback\[prefix='rwc', .*\]. It has none at all"
    ) as caught:
        history = fit(tmp_path, RWCCallback(), ckpt=checkpoint)
    assert len([w for w in caught if "RWCCallback" in str(w.message) and "lightning_rwc" in w.filename]) == 1
    assert history.epochs == [1, 2, 3, 4, 5]


def test_a_checkpoint_of_other_settings_is_resumed_with_one_warning(tmp_path):
    checkpoint = save_at(tmp_path, RWCCallback(norm="l2"), 8)
    with pytest.warns(UserWarning, match=r"has no state of RWC.* norm='l1'.* It has RWCCallback.*norm='l2'") as caught:
        history = fit(tmp_path, RWCCallback(), ckpt=checkpoint)
    assert len([w for w in caught if "RWCCallback" in str(w.message) and "lightning_rwc" in w.filename]) == 1
    assert history.epochs == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("version", [None, 2])
def test_a_checkpoint_of_another_version_is_resumed_with_one_warning(version, tmp_path):
    path = save_at(tmp_path, RWCCallback(), 8)
    checkpoint = torch.load(path, weights_only=True)
    [ours] = [state for key, state in checkpoint["callbacks"].items() if key.startswith("RWCCallback")]
    ours["version"] = version
    torch.save(checkpoint, path)
    with pytest.warns(UserWarning, match=rf"has version {version} of the state of RWC.* reads version 4") as caught:
        history = fit(tmp_path, RWCCallback(), ckpt=path)
    assert len([w for w in caught if "RWCCallback" in str(w.message) and "lightning_rwc" in w.filename]) == 1
    assert history.epochs == [1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ({}, {"every_n_epochs": 2}, "`every_n_epochs` was 1 and is 2"),
        ({}, {"every_n_train_steps": 6}, "`every_n_train_steps` was None and is 6"),
        ({"max_elements": 256}, {}, "`max_elements` was 256 and is None"),
    ],
)
def test_another_cadence_or_sample_keeps_the_history(before, after, message, tmp_path):
    checkpoint = save_at(tmp_path, RWCCallback(**before), 8)
    whole = fit(tmp_path, RWCCallback(**before))
    with pytest.warns(UserWarning, match=f"{message}.* from epoch 1, step 8 on, its values do not compare") as caught:
        history = fit(tmp_path, RWCCallback(**after), ckpt=checkpoint)
    assert len([w for w in caught if "RWCCallback" in str(w.message) and "lightning_rwc" in w.filename]) == 1
    np.testing.assert_array_equal(history.values[0], whole.values[0])
    assert history.epochs == ([0, 1, 3, 5] if after.get("every_n_epochs") == 2 else [0, 1, 2, 3, 4, 5])
    # The first measurement after the resume is the same: it spans the same steps.
    assert_allclose = np.testing.assert_allclose
    assert_allclose(history.values[1], whole.values[1], rtol=1e-12)


def test_a_table_takes_8_bytes_a_cell_in_a_checkpoint(tmp_path):
    state = torch.load(save_at(tmp_path, RWCCallback(every_n_train_steps=1), 8), weights_only=True)
    [ours] = [state for key, state in state["callbacks"].items() if key.startswith("RWCCallback")]
    tables = [value for value in ours["history"].values() if isinstance(value, torch.Tensor)]
    assert sum(table.nbytes for table in tables) == 8 * 8 * 3


def test_a_checkpoint_with_other_layers_is_resumed_with_one_warning(tmp_path):
    checkpoint = save_at(tmp_path, RWCCallback(layers="conv.*weight"), 8)
    with pytest.warns(UserWarning, match=r"different layers for RWCCallback.*: \['fc'\]") as caught:
        history = fit(tmp_path, RWCCallback(layers="conv.*weight|fc.weight"), ckpt=checkpoint)
    assert len([w for w in caught if "RWCCallback" in str(w.message) and "lightning_rwc" in w.filename]) == 1
    assert history.layers == ["conv1", "block.conv2", "fc"]
    assert np.isnan(history.values[0, 2])
    assert np.isfinite(history.values[1:]).all()


def test_validating_a_checkpoint_leaves_the_next_fit_alone(uninterrupted, tmp_path):
    checkpoint = save_at(tmp_path, RWCCallback(), 8)
    callback = RWCCallback()
    run = trainer(callback, tmp_path=tmp_path, enable_checkpointing=True, max_epochs=EPOCHS)
    run.validate(net(Momentum), same_batches(), ckpt_path=checkpoint, verbose=False)
    assert len(callback.history) == 0
    run.fit(net(Momentum), same_batches(), same_batches())
    assert_same(callback.history, uninterrupted("default"))


def test_an_exception_before_training_resumes_saves_what_was_loaded(uninterrupted, tmp_path):
    class Fail(Callback):
        def on_train_start(self, trainer, pl_module):
            raise KeyError("stopped")

    checkpoint = save_at(tmp_path, RWCCallback(), 8)
    with pytest.raises(KeyError, match="stopped"):
        fit(tmp_path, RWCCallback(), OnExceptionCheckpoint(tmp_path / "again"), before=(Fail(),), ckpt=checkpoint)
    assert_same(fit(tmp_path, RWCCallback(), ckpt=tmp_path / "again/on_exception.ckpt"), uninterrupted("default"))


def test_a_sampled_run_resumes(tmp_path):
    kwargs = {"max_elements": 256, "group_by": lambda name: "all"}
    checkpoint = save_at(tmp_path, RWCCallback(**kwargs), 8)
    whole = fit(tmp_path, RWCCallback(**kwargs))
    resumed = fit(tmp_path, RWCCallback(**kwargs), ckpt=checkpoint)
    assert_same(resumed, whole)
    np.testing.assert_array_equal(resumed.standard_errors, whole.standard_errors)
    assert (whole.standard_errors > 0).all()


def test_a_metric_in_a_plain_loop_resumes_from_its_state_dict():
    torch.manual_seed(0)
    model = nn.Linear(3, 3)
    metric, resumed = RelativeWeightChange(model), RelativeWeightChange(nn.Linear(3, 3))
    resumed.load_state_dict(metric.state_dict())
    with torch.no_grad():
        model.weight.mul_(1.01)
    assert resumed(model)["weight"] == metric(model)["weight"] > 0
