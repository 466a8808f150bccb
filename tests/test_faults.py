# SPDX-License-Identifier: Apache-2.0
"""Whatever fails, training completes, the history is whole, and one warning names the cause."""

import contextlib
import errno
import gc
import resource
import signal
import threading
from pkgutil import resolve_name

import pytest
import torch
from lightning.pytorch.callbacks import OnExceptionCheckpoint
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from matplotlib.figure import Figure
from PIL import Image

from lightning_rwc import RWCCallback
from tests.helpers import Recorder, events, images, net, trainer
from tests.test_resume import assert_same, fit


def train(tmp_path, match, callback=None, **kwargs):
    """Train with a fault; the history, and that there was one warning of it."""
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
    history = train(tmp_path, "logging images to CSVLogger failed with OSError.*No space left", logger=logger)
    assert len(history) == 3


def test_an_image_call_that_raises(tmp_path, monkeypatch):
    logger = TensorBoardLogger(tmp_path)

    def broken(*args, **kwargs):
        raise ConnectionError("server gone")

    monkeypatch.setattr(logger.experiment, "add_image", broken)
    history = train(tmp_path, "logging images to TensorBoardLogger failed with ConnectionError: server", logger=logger)
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
    with pytest.warns(UserWarning, match=rf"no memory for the snapshot of the weights, {size:,} bytes.*by `layers=`"):
        trainer(callback, recorder, tmp_path=tmp_path).fit(net(), images())
    assert len(recorder.epochs) == 3
    assert len(callback.history) == 0


def test_another_error_in_taking_the_snapshot_is_not_hidden(tmp_path, monkeypatch):
    def broken(self, layers):
        raise RuntimeError("a bug")

    monkeypatch.setattr("lightning_rwc.snapshot.Snapshot.take", broken)
    with pytest.raises(RuntimeError, match="a bug"):
        trainer(RWCCallback(), tmp_path=tmp_path).fit(net(), images())


@pytest.fixture
def _ctrl_c():
    """Ctrl-C as in a terminal: a background job, as a test run may be, ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("_ctrl_c")
@pytest.mark.parametrize("inside", ["lightning_rwc.numba_sums._Job.run", "lightning_rwc.metric.change_ratio"])
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


def test_a_measurement_outside_the_main_thread(tmp_path):
    callback = RWCCallback()
    run = trainer(callback, tmp_path=tmp_path)
    thread = threading.Thread(target=run.fit, args=(net(), images()))
    thread.start()
    thread.join()
    assert callback.history.epochs == [0, 1, 2]


@pytest.mark.integration
def test_a_thousand_measurements_grow_neither_memory_nor_open_figures(tmp_path):
    import matplotlib.pyplot as plt

    peaks = []

    class Watch(Recorder):
        def on_train_batch_end(self, trainer, pl_module, *args, **kwargs):
            if trainer.global_step in (300, 1000):
                gc.collect()
                peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)

    callback = RWCCallback(every_n_train_steps=1, heatmap=25)
    logger = TensorBoardLogger(tmp_path)
    trainer(callback, Watch(), tmp_path=tmp_path, logger=logger, max_steps=1000).fit(net(), images())
    assert len(callback.history) == 1000
    assert (peaks[1] - peaks[0]) * 1024 < 32 * 2**20
    assert plt.get_fignums() == []
    assert sum(isinstance(thing, Figure) for thing in gc.get_objects()) <= 2
