# SPDX-License-Identifier: Apache-2.0
import math
import random
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from lightning.pytorch import seed_everything
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint
from lightning.pytorch.loggers import Logger, TensorBoardLogger
from lightning.pytorch.strategies import FSDPStrategy
from scipy.stats import spearmanr
from torch import nn
from torch.utils.data import DataLoader

from lightning_rwc import RWCCallback
from lightning_rwc.demo import DemoCNN, demo_images
from lightning_rwc.measures import NodeStrength
from tests.helpers import BATCHES, LAYERS, Net, Recorder, TwoOptimizers, events, expected_table, images, net, trainer
from tests.oracle import NORMS, numpy_rwc

SWITCHES = ("logger", "log_every_n_steps", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")
BAREBONES = {"barebones": True, **dict.fromkeys(SWITCHES)}
DIGITS_LAYERS = ["conv1", "conv2", "conv3", "fc"]


@pytest.mark.integration
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("relative_to", ["previous", "initial"])
def test_event_file_of_a_digits_run_equals_numpy(norm, relative_to, tmp_path):
    seed_everything(0, verbose=False)
    train, validation = demo_images("digits", tmp_path)
    recorder, logger = Recorder(), TensorBoardLogger(tmp_path)
    callback = RWCCallback(norm=norm, relative_to=relative_to)
    fit = trainer(callback, recorder, tmp_path=tmp_path, logger=logger, max_epochs=5)
    fit.fit(DemoCNN(), DataLoader(train, batch_size=64, shuffle=True), DataLoader(validation, batch_size=512))

    states = [recorder.start, *recorder.epochs]
    expected = expected_table(states, norm, relative_to, DIGITS_LAYERS)
    log = events(logger.log_dir)
    lightnings_steps = [event.step for event in log.Scalars("val_accuracy")]
    for layer, curve in zip(DIGITS_LAYERS, expected.T, strict=True):
        scalars = log.Scalars(f"rwc/{layer}")
        assert [event.step for event in scalars] == lightnings_steps
        np.testing.assert_allclose([event.value for event in scalars], curve, rtol=1e-6)

    bases = [states[0]] * 5 if relative_to == "initial" else states[:-1]
    names = [f"{layer}.weight" for layer in DIGITS_LAYERS]
    totals = [
        numpy_rwc([p[n] for n in names], [c[n] for n in names], norm) for p, c in zip(bases, states[1:], strict=True)
    ]
    np.testing.assert_allclose([event.value for event in log.Scalars("rwc_summary/total")], totals, rtol=1e-6)
    rhos = [spearmanr(range(4), row).statistic for row in expected]
    rho_events = log.Scalars("rwc_summary/depth_correlation")
    np.testing.assert_allclose([event.value for event in rho_events], rhos, rtol=1e-6, atol=1e-9)
    assert set(log.Tags()["images"]) == {"rwc/heatmap", "rwc/curves"}

    np.testing.assert_allclose(callback.history.values, expected, rtol=1e-12)
    assert callback.history.layers == DIGITS_LAYERS
    assert callback.history.epochs == [0, 1, 2, 3, 4]
    assert callback.history.steps == lightnings_steps


@pytest.mark.parametrize("model", [Net, TwoOptimizers])
def test_training_is_the_same_to_the_bit(model, tmp_path):
    outcomes = []
    for callbacks in ([], [RWCCallback()], [RWCCallback(every_n_train_steps=1, norm="elementwise")]):
        module = net(model)
        torch.manual_seed(1)
        logger = TensorBoardLogger(tmp_path)
        fit = trainer(*callbacks, tmp_path=tmp_path, logger=logger)
        fit.fit(module, DataLoader(images().dataset, batch_size=4, shuffle=True))
        losses = [event.value for event in events(logger.log_dir).Scalars("loss_epoch")]
        rng = (torch.get_rng_state().tolist(), np.random.get_state()[1].tolist(), random.getstate())
        outcomes.append((module.state_dict(), losses, rng))
    for weights, losses, rng in outcomes[1:]:
        assert all(torch.equal(weights[name], tensor) for name, tensor in outcomes[0][0].items())
        assert losses == outcomes[0][1]
        assert rng == outcomes[0][2]


def test_the_history_fills_without_a_logger(tmp_path):
    callback, recorder = RWCCallback(), Recorder()
    trainer(callback, recorder, tmp_path=tmp_path).fit(net(), images())
    assert callback.history.layers == LAYERS
    np.testing.assert_allclose(callback.history.values, expected_table([recorder.start, *recorder.epochs]), rtol=1e-12)


@pytest.mark.parametrize("model", [Net, TwoOptimizers])
@pytest.mark.parametrize("cadence", ["epochs", "steps"])
def test_values_land_on_the_steps_of_lightnings_own_metrics(model, cadence, tmp_path):
    logger = TensorBoardLogger(tmp_path)
    callback = (
        RWCCallback(every_n_train_steps=2 if model is TwoOptimizers else 1) if cadence == "steps" else RWCCallback()
    )
    trainer(callback, tmp_path=tmp_path, logger=logger).fit(net(model), images())
    log = events(logger.log_dir)
    own = "loss_epoch" if cadence == "epochs" else "loss_step" if model is Net else None
    steps = [event.step for event in log.Scalars(own)] if own else list(range(3 * BATCHES))
    assert [event.step for event in log.Scalars("rwc/fc")] == steps
    assert callback.history.steps == steps


def test_every_n_epochs_compares_n_epochs_apart(tmp_path):
    callback, recorder = RWCCallback(every_n_epochs=2), Recorder()
    trainer(callback, recorder, tmp_path=tmp_path, max_epochs=5).fit(net(), images())
    assert callback.history.epochs == [1, 3]
    expected = expected_table([recorder.start, recorder.epochs[1], recorder.epochs[3]])
    np.testing.assert_allclose(callback.history.values, expected, rtol=1e-12)


def test_every_n_train_steps_counts_optimizer_steps(tmp_path):
    callback, recorder = RWCCallback(every_n_train_steps=2), Recorder()
    fit = trainer(callback, recorder, tmp_path=tmp_path, accumulate_grad_batches=2, max_epochs=2)
    fit.fit(net(), images())
    # Six batches an epoch make three optimizer steps; the 2nd, 4th and 6th end with batches 3, 7 and 11.
    states = [recorder.start, recorder.batches[3], recorder.batches[7], recorder.batches[11]]
    np.testing.assert_allclose(callback.history.values, expected_table(states), rtol=1e-12)
    assert callback.history.epochs == [0, 1, 1]


def test_two_optimizers_do_not_skip_a_cadence_of_three(tmp_path):
    callback, recorder = RWCCallback(every_n_train_steps=3), Recorder()
    trainer(callback, recorder, tmp_path=tmp_path, max_epochs=1).fit(net(TwoOptimizers), images())
    # global_step goes 2, 4, 6, 8, 10, 12 and passes 3, 6, 9, 12 at the batches 1, 2, 4, 5.
    states = [recorder.start, *(recorder.batches[batch] for batch in (1, 2, 4, 5))]
    np.testing.assert_allclose(callback.history.values, expected_table(states), rtol=1e-12)


@pytest.mark.parametrize(
    ("kwargs", "epochs"),
    [
        ({"max_steps": BATCHES + 2}, [0, 1]),
        ({"limit_train_batches": 2}, [0, 1, 2]),
        ({"fast_dev_run": True}, [0]),
        ({"fast_dev_run": 3}, [0]),
        ({"overfit_batches": 2}, [0, 1, 2]),
        (BAREBONES, [0, 1, 2]),
        ({"limit_train_batches": 0}, []),
        ({"reload_dataloaders_every_n_epochs": 1, "val_check_interval": 0.5}, [0, 1, 2]),
    ],
)
def test_kinds_of_runs(kwargs, epochs, tmp_path):
    callback, recorder = RWCCallback(), Recorder()
    trainer(callback, recorder, tmp_path=tmp_path, **kwargs).fit(net(), images(), images())
    assert callback.history.epochs == epochs
    expected = expected_table([recorder.start, *recorder.epochs]) if epochs else np.empty((0, 0))
    np.testing.assert_allclose(callback.history.values, expected, rtol=1e-12)


def test_validating_and_testing_leave_no_trace(tmp_path):
    callback = RWCCallback()
    run = trainer(callback, tmp_path=tmp_path)
    run.validate(net(), images(), verbose=False)
    run.test(net(), images(), verbose=False)
    assert len(callback.history) == 0


def test_a_second_fit_starts_a_new_history(tmp_path):
    callback = RWCCallback()
    trainer(callback, tmp_path=tmp_path).fit(net(), images())
    first = callback.history
    recorder = Recorder()
    trainer(callback, recorder, tmp_path=tmp_path, max_epochs=2).fit(net(), images())
    assert len(first) == 3
    expected = expected_table([recorder.start, *recorder.epochs])
    np.testing.assert_allclose(callback.history.values, expected, rtol=1e-12)


@pytest.mark.parametrize("relative_to", ["previous", "initial"])
def test_a_fit_with_more_epochs_continues_the_history(relative_to, tmp_path):
    callback, recorder = RWCCallback(relative_to=relative_to), Recorder()
    run, module = trainer(callback, recorder, tmp_path=tmp_path), net()
    run.fit(module, images())
    start = recorder.start
    run.fit_loop.max_epochs = 5
    run.fit(module, images())
    assert callback.history.epochs == [0, 1, 2, 3, 4]
    expected = expected_table([start, *recorder.epochs], relative_to=relative_to)
    np.testing.assert_allclose(callback.history.values, expected, rtol=1e-12)


def test_checkpoints_and_early_stopping_monitor_a_layer(tmp_path):
    seen = {}

    class Look(Callback):
        def on_train_end(self, trainer, pl_module):
            seen.update(trainer.callback_metrics)

    checkpoint = ModelCheckpoint(dirpath=tmp_path, monitor="rwc/fc", mode="max", filename="best-{epoch}")
    stopping = EarlyStopping("rwc_summary/total", mode="max", patience=2, check_on_train_epoch_end=True)
    callback = RWCCallback()
    fit = trainer(callback, stopping, checkpoint, Look(), tmp_path=tmp_path, max_epochs=50, enable_checkpointing=True)
    fit.fit(net(), images(), images())

    best = int(np.argmax(callback.history.values[:, LAYERS.index("fc")]))
    assert checkpoint.best_model_path.endswith(f"best-epoch={best}.ckpt")
    assert 3 <= len(callback.history) < 50
    summary = {f"rwc_summary/{name}" for name in ("total", "depth_correlation", "epoch")}
    assert set(seen) >= {*(f"rwc/{layer}" for layer in LAYERS)} | summary
    assert seen["rwc/conv1"].item() == pytest.approx(callback.history.values[-1, 0], rel=1e-6)


@pytest.mark.parametrize(
    ("rwc", "kwargs", "stopping", "saving"),
    [
        ({}, {}, {}, {}),
        (
            {"every_n_epochs": 2},
            {},
            {"strict": False},
            {"every_n_epochs": 2, "save_on_train_epoch_end": True},
        ),
        (
            {},
            {"val_check_interval": 0.5},
            {"check_on_train_epoch_end": True},
            {"save_on_train_epoch_end": True},
        ),
    ],
)
def test_monitors_set_as_readme_says(rwc, kwargs, stopping, saving, tmp_path):
    callback = RWCCallback(**rwc)
    monitors = EarlyStopping("rwc_summary/total", **stopping), ModelCheckpoint(tmp_path, monitor="rwc/fc", **saving)
    fit = trainer(*monitors, callback, tmp_path=tmp_path, enable_checkpointing=True, max_epochs=4, **kwargs)
    fit.fit(net(), images(), images())
    assert len(callback.history) >= 1
    assert monitors[1].best_model_score.item() == pytest.approx(callback.history.values[:, 2].min(), rel=1e-6)


def test_another_model_in_the_same_trainer_starts_anew(tmp_path):
    callback, recorder = RWCCallback(), Recorder()
    run, first = trainer(callback, tmp_path=tmp_path), net()
    run.fit(first, images())
    run.fit_loop.max_epochs = 5
    run.callbacks.append(recorder)
    run.fit(net(), images())
    expected = expected_table([recorder.start, *recorder.epochs])
    np.testing.assert_allclose(callback.history.values, expected, rtol=1e-12)


def test_layers_groups_and_prefix_reach_the_logger(tmp_path):
    logger = TensorBoardLogger(tmp_path)
    callback = RWCCallback(layers=[r"conv.*weight", "fc"], group_by=1, prefix="moved")
    trainer(callback, tmp_path=tmp_path, logger=logger).fit(net(), images())
    tags = events(logger.log_dir).Tags()
    assert {tag for tag in tags["scalars"] if tag.startswith("moved")} == {
        "moved/conv1",
        "moved/block",
        "moved/fc",
        "moved_summary/total",
        "moved_summary/depth_correlation",
        "moved_summary/epoch",
    }
    assert set(tags["images"]) == {"moved/heatmap", "moved/curves"}


@pytest.mark.parametrize(
    ("heatmap", "drawn"),
    [(True, [*range(1, 21), 22, 24, 26, 28, 30]), (False, []), (8, [8, 16, 24, 30]), (1, list(range(1, 31)))],
)
def test_pictures_are_drawn_at_their_cadence_and_at_the_end(heatmap, drawn, tmp_path, monkeypatch):
    monkeypatch.setattr("lightning_rwc.announcer.time.monotonic", lambda: 0.0)  # they take no time
    logger = TensorBoardLogger(tmp_path)
    callback = RWCCallback(heatmap=heatmap, every_n_train_steps=1)
    trainer(callback, tmp_path=tmp_path, logger=logger, max_steps=30).fit(net(), images())
    log = events(logger.log_dir)
    if not drawn:
        assert log.Tags()["images"] == []
    else:
        assert [event.step + 1 for event in log.Images("rwc/heatmap")] == drawn


def test_pictures_take_a_quarter_of_a_percent_of_the_time(tmp_path, monkeypatch):
    """By a clock by which a step takes ten seconds, and the pictures of one measurement one."""
    logger = TensorBoardLogger(tmp_path)
    callback = RWCCallback(every_n_train_steps=1)
    monkeypatch.setattr("lightning_rwc.announcer.time.monotonic", lambda: 10.0 * len(callback.history) + drawn[0])
    drawn = [0.0]

    def draw(figure):
        drawn[0] += 1
        return np.zeros((4, 4, 3), dtype=np.uint8)

    monkeypatch.setattr("lightning_rwc.plotting.to_image", draw)
    trainer(callback, tmp_path=tmp_path, logger=logger, max_steps=100).fit(net(), images())
    # Two pictures, 800 seconds of rest; and the last.
    assert [event.step + 1 for event in events(logger.log_dir).Images("rwc/heatmap")] == [1, 81, 100]


def test_an_interrupted_run_shows_its_last_measurement(tmp_path):
    class Interrupt(Callback):
        def on_train_batch_end(self, trainer, pl_module, *args, **kwargs):
            if trainer.global_step == 15:
                raise RuntimeError("pulled the plug")

    logger = TensorBoardLogger(tmp_path)
    callback = RWCCallback(heatmap=10, every_n_train_steps=1)
    with pytest.raises(RuntimeError, match="pulled the plug"):
        trainer(callback, Interrupt(), tmp_path=tmp_path, logger=logger).fit(net(), images())
    assert [event.step + 1 for event in events(logger.log_dir).Images("rwc/heatmap")] == [10, 15]


class Broken(Logger):
    """A logger that fails whenever it is written to."""

    name, version = "broken", 0

    def log_metrics(self, metrics, step=None):
        if any(key.startswith("rwc") for key in metrics):
            raise OSError("disk full")

    def log_hyperparams(self, *args, **kwargs):
        pass


def test_a_failing_logger_warns_once_and_training_goes_on(tmp_path):
    good = TensorBoardLogger(tmp_path)
    callback = RWCCallback()
    with pytest.warns(UserWarning, match="logging scalars to Broken failed with OSError: disk full") as caught:
        trainer(callback, tmp_path=tmp_path, logger=[Broken(), good]).fit(net(), images())
    assert len([w for w in caught if "disk full" in str(w.message)]) == 1
    assert len(callback.history) == 3
    assert len(events(good.log_dir).Scalars("rwc/fc")) == 3


def test_a_failing_picture_warns_once_and_training_goes_on(tmp_path, monkeypatch):
    def fail(figure):
        raise MemoryError("no canvas")

    monkeypatch.setattr("lightning_rwc.plotting.to_image", fail)
    callback = RWCCallback()
    with pytest.warns(UserWarning, match="drawing the pictures failed with MemoryError: no canvas") as caught:
        trainer(callback, tmp_path=tmp_path, logger=TensorBoardLogger(tmp_path)).fit(net(), images())
    assert len([w for w in caught if "no canvas" in str(w.message)]) == 1
    assert len(callback.history) == 3


def test_a_non_finite_weight_is_said_once_and_others_stay_right(tmp_path):
    class Explode(Callback):
        def on_train_batch_end(self, trainer, pl_module, *args, **kwargs):
            if trainer.global_step == 2 * BATCHES:
                pl_module.fc.weight.data[0, 0] = math.inf

    callback, recorder = RWCCallback(), Recorder()
    with pytest.warns(UserWarning, match=r"found 'non_finite': 'fc' has a weight that is nan") as caught:
        trainer(callback, Explode(), recorder, tmp_path=tmp_path, max_epochs=4).fit(net(), images())
    assert len([w for w in caught if "nan, infinite" in str(w.message)]) == 1
    assert [(one.kind, one.layers, one.step) for one in callback.findings] == [("non_finite", ("fc",), 11)]
    expected = expected_table([recorder.start, *recorder.epochs])
    assert np.isnan(expected[1:, 2]).all()
    assert np.isfinite(expected[:2, :2]).all()
    np.testing.assert_allclose(callback.history.values, expected, rtol=1e-12)


def test_frozen_layers_are_zero(tmp_path):
    module = net()
    module.conv1.requires_grad_(False)
    callback = RWCCallback()
    trainer(callback, tmp_path=tmp_path).fit(module, images())
    assert (callback.history.values[:, 0] == 0).all()
    assert (callback.history.values[:, 1:] > 0).all()


def test_a_good_run_warns_of_nothing(tmp_path):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer(RWCCallback(), tmp_path=tmp_path, logger=TensorBoardLogger(tmp_path)).fit(net(), images())
    assert [w for w in caught if "rwc" in f"{w.filename} {w.message}".lower()] == []


class Summary(NodeStrength):
    name = "summary"


@pytest.mark.parametrize(
    ("kwargs", "error", "message"),
    [
        ({"norm": "max"}, ValueError, "`norm` must be one of .* but got 'max'"),
        ({"relative_to": "first"}, ValueError, "`relative_to` must be one of .* but got 'first'"),
        ({"layers": "["}, ValueError, "`layers` has an invalid regular expression"),
        ({"group_by": -1}, ValueError, "`group_by` must be at least 1"),
        ({"every_n_epochs": 0}, ValueError, "`every_n_epochs` must be at least 1, but got 0"),
        ({"every_n_epochs": 1.5}, TypeError, "`every_n_epochs` must be an int, but got 1.5"),
        ({"every_n_train_steps": 0}, ValueError, "`every_n_train_steps` must be at least 1, but got 0"),
        ({"every_n_epochs": 2, "every_n_train_steps": 5}, ValueError, "exclude each other: give one of them"),
        ({"heatmap": 0}, ValueError, "`heatmap` must be at least 1, but got 0"),
        (
            {"strip_prefix": None},
            TypeError,
            "`strip_prefix` must be a string, such as 'model.base_model.', but got None",
        ),
        ({"scale": "log"}, ValueError, "`scale` must be one of step, measurement, auto, but got 'log'"),
        ({"heatmap": "yes"}, TypeError, "`heatmap` must be an int, but got 'yes'"),
        ({"prefix": " "}, ValueError, "`prefix` must be a string that is not blank"),
        ({"measures": (Summary(),)}, ValueError, "could give one tag to two things"),
    ],
)
def test_bad_arguments_are_refused_at_construction(kwargs, error, message):
    with pytest.raises(error, match=message):
        RWCCallback(**kwargs)


class Lazy(Net):
    """The network with a last layer that learns its size from the first batch."""

    def __init__(self):
        super().__init__()
        self.fc = nn.LazyLinear(2)

    def configure_optimizers(self):
        return torch.optim.SGD([p for p in self.parameters() if not nn.parameter.is_lazy(p)], lr=0.1)


def test_models_that_cannot_be_measured_are_refused_at_the_start_of_fit(tmp_path):
    run = trainer(RWCCallback(layers="encoder"), tmp_path=tmp_path)
    with pytest.raises(ValueError, match=r"'encoder' matches no parameter. The model has .*'conv1.weight'"):
        run.fit(net(), images())
    with pytest.raises(ValueError, match=r"still lazy: 'fc.weight', 'fc.bias'"):
        trainer(RWCCallback(), tmp_path=tmp_path).fit(net(Lazy), images())


def test_strategies_that_have_not_been_verified_are_refused(tmp_path):
    class DeepSpeedStrategy:
        """Goes by its name: the real one cannot be made without the package."""

    for strategy in (FSDPStrategy(), DeepSpeedStrategy()):
        with pytest.raises(ValueError, match=f"RWCCallback is not verified under {type(strategy).__name__}"):
            RWCCallback().on_fit_start(SimpleNamespace(strategy=strategy, callbacks=[]), net())


def test_lazy_layers_initialised_by_the_sanity_check_are_measured(tmp_path):
    callback = RWCCallback()
    trainer(callback, tmp_path=tmp_path).fit(net(Lazy), images(), images())
    assert callback.history.layers == LAYERS
