# SPDX-License-Identifier: Apache-2.0
"""If something fails, training still completes, the history is complete, and one warning names the cause."""

import contextlib
import errno
import gc
import resource
import signal
import sys
import threading
from pathlib import Path
from pkgutil import resolve_name

import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping, OnExceptionCheckpoint
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from matplotlib.figure import Figure
from PIL import Image
from torch import nn

from lightning_rwc import RWCCallback
from lightning_rwc.interrupts import signals_held
from lightning_rwc.measures import Measure
from lightning_rwc.quantity import Quantity
from lightning_rwc.snapshot import Snapshot
from tests.helpers import LAYERS, Net, Opaque, Recorder, events, expected_table, images, net, trainer
from tests.test_resume import assert_same, fit


def train(tmp_path, match, callback=None, **kwargs):
    """Train with a fault, check that there is one warning about it, and return the history."""
    callback = callback or RWCCallback()
    with pytest.warns(UserWarning, match=match) as caught:
        trainer(callback, tmp_path=tmp_path, **kwargs).fit(net(), images())
    assert len([w for w in caught if "lightning_rwc" in w.filename or "elative weight" in str(w.message)]) == 1
    return callback.history


def test_a_full_disk_when_a_picture_is_written(tmp_path, monkeypatch):
    def full(self, path, *args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    logger = CSVLogger(tmp_path)
    history = train(tmp_path, "logging pictures to CSVLogger failed with OSError.*No space left", logger=logger)
    assert len(history) == 3


def test_an_image_call_that_raises(tmp_path, monkeypatch):
    logger = TensorBoardLogger(tmp_path)

    def broken(*args, **kwargs):
        raise ConnectionError("server gone")

    monkeypatch.setattr(logger.experiment, "add_image", broken)
    history = train(tmp_path, "pictures to TensorBoardLogger failed with ConnectionError: server", logger=logger)
    assert len(history) == 3
    assert len(events(logger.log_dir).Scalars("rwc/fc")) == 3


def test_matplotlib_failing(tmp_path, monkeypatch):
    def broken(self, *args, **kwargs):
        raise RuntimeError("no font")

    monkeypatch.setattr(Figure, "draw", broken)
    history = train(
        tmp_path, "drawing the pictures failed with RuntimeError: no font", logger=TensorBoardLogger(tmp_path)
    )
    assert len(history) == 3


def test_a_layer_of_zeros_that_stays(tmp_path):
    module = net()
    torch.nn.init.zeros_(module.conv1.weight)
    module.conv1.requires_grad_(False)
    callback = RWCCallback()
    trainer(callback, tmp_path=tmp_path, logger=TensorBoardLogger(tmp_path)).fit(module, images())
    assert (callback.history.values[:, 0] == 0).all()


def test_out_of_memory_for_the_snapshot(tmp_path, monkeypatch):
    def full(self, layers):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 576 bytes.")

    monkeypatch.setattr("lightning_rwc.snapshot.Snapshot.take", full)
    size = sum(p.nbytes for p in net().parameters() if p.ndim >= 2)
    recorder = Recorder()
    callback = RWCCallback()
    with pytest.warns(UserWarning, match=rf"no memory for the snapshot of the weights, {size:,} bytes.*with `layers`"):
        trainer(callback, recorder, tmp_path=tmp_path).fit(net(), images())
    assert len(recorder.epochs) == 3
    assert len(callback.history) == 0


@pytest.mark.parametrize("message", ["a bug", "CUDA error: an illegal memory access was encountered"])
def test_another_error_in_taking_the_snapshot_is_not_hidden(message, tmp_path, monkeypatch):
    def broken(self, layers):
        raise RuntimeError(message)

    monkeypatch.setattr("lightning_rwc.snapshot.Snapshot.take", broken)
    with pytest.raises(RuntimeError, match=message):
        trainer(RWCCallback(), tmp_path=tmp_path).fit(net(), images())


@pytest.mark.parametrize("error", [MemoryError("none left"), RuntimeError("a bug")])
def test_a_measurement_that_fails_is_nan_and_the_next_starts_there(error, tmp_path, monkeypatch):
    real, calls = Snapshot.measure, []

    def broken(self, *args, **kwargs):
        calls.append(None)
        if len(calls) == 2:
            raise error
        return real(self, *args, **kwargs)

    monkeypatch.setattr(Snapshot, "measure", broken)
    callback, recorder = RWCCallback(), Recorder()
    with pytest.warns(
        UserWarning, match=f"measurement of relative weight change failed on rank 0 with .*{error}"
    ) as caught:
        trainer(callback, recorder, tmp_path=tmp_path, logger=TensorBoardLogger(tmp_path)).fit(net(), images())
    assert len([w for w in caught if str(error) in str(w.message)]) == 1
    expected = expected_table([recorder.start, *recorder.epochs])
    expected[1] = np.nan
    np.testing.assert_allclose(callback.history.values, expected, rtol=1e-12)


def test_a_first_measurement_that_fails_leaves_monitors_their_keys(tmp_path, monkeypatch):
    real, calls = Snapshot.measure, []

    def broken(self, *args, **kwargs):
        calls.append(None)
        if len(calls) == 1:
            raise MemoryError("none left")
        return real(self, *args, **kwargs)

    def cannot(self, layers):
        monkeypatch.setattr(Snapshot, "retake", retake)
        raise MemoryError("none left for that either")

    retake = Snapshot.retake
    monkeypatch.setattr(Snapshot, "measure", broken)
    monkeypatch.setattr(Snapshot, "retake", cannot)
    callback, recorder = RWCCallback(), Recorder()
    stopping = EarlyStopping("rwc/fc", check_finite=False, patience=10)
    with pytest.warns(UserWarning, match="failed on rank 0 with MemoryError: none left for that either") as caught:
        trainer(callback, recorder, stopping, tmp_path=tmp_path, max_epochs=4).fit(net(), images(), images())
    assert [w for w in caught if "nan, infinite" in str(w.message)] == []
    # A new snapshot fails at first and succeeds at the second measurement.
    expected = expected_table([recorder.start, *recorder.epochs])
    expected[:2] = np.nan
    np.testing.assert_allclose(callback.history.values, expected, rtol=1e-12)


def opaque(weight):
    return nn.Parameter(torch.Tensor._make_wrapper_subclass(Opaque, weight.shape), requires_grad=False)


class Frozen(Net):
    """The network with a matrix that it does not use."""

    def __init__(self):
        super().__init__()
        self.kept = nn.Linear(4, 4, bias=False)
        self.kept.weight.requires_grad_(False)


def test_a_tensor_that_cannot_be_measured_is_left_out(tmp_path):
    module, callback = net(Frozen), RWCCallback()
    module.kept.weight = opaque(module.kept.weight)
    with pytest.warns(UserWarning, match="cannot compute with the weights of 'kept.weight'") as caught:
        trainer(callback, tmp_path=tmp_path).fit(module, images())
    assert len([w for w in caught if "cannot compute" in str(w.message)]) == 1
    assert [w for w in caught if "Looking for findings failed" in str(w.message)] == []
    assert callback.history.layers == LAYERS
    assert (callback.history.values > 0).all()


def test_a_tensor_that_can_no_longer_be_measured_is_nan_from_then_on(tmp_path):
    class Quantise(Callback):
        def on_train_epoch_start(self, trainer, pl_module):
            if trainer.current_epoch == 1:
                pl_module.kept.weight = opaque(pl_module.kept.weight)

    callback = RWCCallback()
    with pytest.warns(UserWarning, match="cannot compute with the weights of 'kept.weight'") as caught:
        trainer(callback, Quantise(), tmp_path=tmp_path).fit(net(Frozen), images())
    assert [w for w in caught if "Looking for findings failed" in str(w.message)] == []
    np.testing.assert_array_equal(callback.history.to_frame()["kept"], [0, np.nan, np.nan])
    assert (callback.history.values[:, :3] > 0).all()


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_weights_of_8_bits(dtype, tmp_path):
    class Replace(Callback):
        def on_train_epoch_start(self, trainer, pl_module):
            if trainer.current_epoch == 1:
                pl_module.kept.weight.data = (2 * weight).to(dtype)

    module, callback = net(Frozen), RWCCallback()
    weight = module.kept.weight.detach().clone()
    module.kept.weight.data = weight.to(dtype)
    trainer(callback, Replace(), tmp_path=tmp_path).fit(module, images())
    before, after = (tensor.to(dtype).float().double().numpy() for tensor in (weight, 2 * weight))
    change = np.abs(after - before).sum() / np.abs(before).sum()
    np.testing.assert_allclose(callback.history.to_frame()["kept"], [0, change, 0], rtol=1e-12)


@pytest.fixture
def _ctrl_c():
    """Ctrl-C as in a terminal. Without this, a test run in the background ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("_ctrl_c")
@pytest.mark.parametrize("inside", ["lightning_rwc.sums.numba_sums._Job.run", "lightning_rwc.metric.change_ratio"])
def test_an_interrupt_inside_the_measurement_leaves_a_checkpoint_that_resumes(inside, tmp_path, monkeypatch):
    whole = fit(tmp_path, RWCCallback())
    saver = OnExceptionCheckpoint(tmp_path / "saved")
    real = resolve_name(inside)

    def interrupt(*args, **kwargs):
        signal.raise_signal(signal.SIGINT)
        return real(*args, **kwargs)

    class Press(Recorder):
        def on_train_epoch_end(self, trainer, pl_module):
            if trainer.current_epoch == 2:
                monkeypatch.setattr(inside, interrupt)

    callback = RWCCallback()
    with contextlib.suppress(KeyboardInterrupt, SystemExit):
        fit(tmp_path, callback, saver, before=(Press(),))
    monkeypatch.undo()
    assert callback.history.epochs == [0, 1, 2]
    resumed = fit(tmp_path, RWCCallback(), ckpt=tmp_path / "saved/on_exception.ckpt")
    assert_same(resumed, whole)


@pytest.mark.usefixtures("_ctrl_c")
def test_ctrl_c_ends_a_measure_of_the_users_own(tmp_path):
    class Endless(Measure):
        name, quantity = "endless", Quantity("endless")

        def __call__(self, layers):
            signal.raise_signal(signal.SIGINT)
            raise AssertionError("the interrupt was held back")

    whole = fit(tmp_path, RWCCallback())
    saver = OnExceptionCheckpoint(tmp_path / "saved")
    callback = RWCCallback(measures=[Endless()])
    with contextlib.suppress(KeyboardInterrupt, SystemExit):
        fit(tmp_path, callback, saver)
    # The measurement had not started. It is taken when training resumes.
    assert len(callback.history) == 0
    resumed = fit(tmp_path, RWCCallback(), ckpt=tmp_path / "saved/on_exception.ckpt")
    assert_same(resumed, whole)


@pytest.mark.usefixtures("_ctrl_c")
def test_signals_held_back_and_a_second_ctrl_c():
    order = []
    signal.signal(signal.SIGUSR1, lambda number, frame: order.append("signal"))
    with contextlib.suppress(KeyboardInterrupt), signals_held():
        signal.raise_signal(signal.SIGUSR1)
        signal.raise_signal(signal.SIGINT)
        order.append("inside")
        signal.raise_signal(signal.SIGINT)
        order.append("not reached")
    with signals_held():
        signal.raise_signal(signal.SIGUSR1)
        order.append("inside")
    signal.signal(signal.SIGUSR1, signal.SIG_DFL)
    assert order == ["inside", "signal", "inside", "signal"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.fixture
def _slurm(monkeypatch):
    """A SLURM job. A signal announces its end, and Lightning saves a checkpoint in the handler."""
    for name, value in {"SLURM_JOB_ID": "1", "SLURM_NTASKS": "1", "SLURM_JOB_NAME": "job"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("lightning.pytorch.trainer.connectors.signal_connector.call", lambda *args, **kwargs: 0)


@pytest.mark.usefixtures("_slurm")
@pytest.mark.parametrize("inside", ["lightning_rwc.sums.numba_sums._Job.run", "lightning_rwc.metric.change_ratio"])
def test_a_checkpoint_of_slurm_inside_a_measurement_resumes(inside, tmp_path, monkeypatch):
    whole = fit(tmp_path / "whole", RWCCallback())
    real, fired = resolve_name(inside), []

    class Announce(Recorder):
        def on_train_epoch_end(self, trainer, pl_module):
            if trainer.current_epoch == 2:
                monkeypatch.setattr(inside, announce)

    def announce(*args, **kwargs):
        if not fired:
            fired.append(None)
            signal.raise_signal(signal.SIGUSR1)
        return real(*args, **kwargs)

    fit(tmp_path, RWCCallback(), before=(Announce(),))
    assert fired
    resumed = fit(tmp_path, RWCCallback(), ckpt=tmp_path / "hpc_ckpt_1.ckpt")
    assert_same(resumed, whole)


@pytest.mark.usefixtures("_slurm")
def test_a_checkpoint_of_slurm_inside_a_step_resumes_beside_lightnings_own_steps(tmp_path):
    whole = fit(tmp_path / "whole", RWCCallback())

    class Announce(Callback):
        def on_before_backward(self, trainer, pl_module, loss):
            if trainer.global_step == 8:
                signal.raise_signal(signal.SIGUSR1)

    fit(tmp_path, RWCCallback(), before=(Announce(),))
    logger = TensorBoardLogger(tmp_path)
    resumed = fit(tmp_path, RWCCallback(), ckpt=tmp_path / "hpc_ckpt_1.ckpt", logger=logger)
    assert resumed.epochs == whole.epochs
    np.testing.assert_array_equal(resumed.values, whole.values)
    assert resumed.steps[1:] == [event.step for event in events(logger.log_dir).Scalars("loss_epoch")]


def test_a_measurement_outside_the_main_thread(tmp_path):
    callback = RWCCallback()
    run = trainer(callback, tmp_path=tmp_path)
    thread = threading.Thread(target=run.fit, args=(net(), images()))
    thread.start()
    thread.join()
    assert callback.history.epochs == [0, 1, 2]


@pytest.mark.integration
@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux for the memory that is in use")
def test_a_thousand_measurements_grow_neither_memory_nor_open_figures(tmp_path):
    import matplotlib.pyplot as plt

    sizes = {}

    class Watch(Recorder):
        def on_train_batch_end(self, trainer, pl_module, *args, **kwargs):
            if trainer.global_step % 100 == 0:
                # Figures contain cycles. Those that are not collected yet are not a leak.
                gc.collect()
                # The memory in use now, because the peak includes earlier tests.
                pages = int(Path("/proc/self/statm").read_text().split()[1])
                sizes[trainer.global_step] = pages * resource.getpagesize()

    callback = RWCCallback(every_n_train_steps=1, heatmap=25)
    logger = TensorBoardLogger(tmp_path)
    trainer(callback, Watch(), tmp_path=tmp_path, logger=logger, max_steps=1000).fit(net(), images())
    assert len(callback.history) == 1000
    assert sizes[1000] - sizes[300] < 32 * 2**20
    assert plt.get_fignums() == []
    assert sum(isinstance(thing, Figure) for thing in gc.get_objects()) <= 2
