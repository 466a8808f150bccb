# SPDX-License-Identifier: Apache-2.0
"""What the callback costs in training, and what its scalars and pictures cost alone."""

import gzip
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import numpy as np
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, LambdaCallback
from lightning.pytorch.loggers import TensorBoardLogger
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_rwc import RWCCallback, RWCHistory
from lightning_rwc.announcer import Announcer
from lightning_rwc.metric import Measurement
from lightning_rwc.plotting import to_image
from lightning_rwc.recorder import Recorder
from tests.benchmarks.measure import stack
from tests.benchmarks.timing import interleaved, summary

_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")  # where Debian's package dataset-fashion-mnist puts it
_LAYERS = 300


def _timed(callback):
    """``callback``, and the list of when each of its hooks is called, for how many seconds."""
    calls = []

    def timed(name, hook):
        def call(*args, **kwargs):
            start = time.perf_counter()
            result = hook(*args, **kwargs)
            calls.append((name, start, time.perf_counter() - start))
            return result

        return call

    for name in ("setup", "teardown", "state_dict", "load_state_dict", *(n for n in dir(Callback) if n[:3] == "on_")):
        setattr(callback, name, timed(name, getattr(callback, name)))
    return callback, calls


def _between(calls, *marks):
    """Milliseconds from each call of the hooks ``marks`` to the next, and those of all hooks in between."""
    starts = [start for name, start, _ in calls if name in marks]
    # The last bin would have its right edge too: the hook that ends it.
    inside = [call for call in calls if call[1] < starts[-1]]
    spent, _ = np.histogram([call[1] for call in inside], bins=starts, weights=[call[2] for call in inside])
    return 1e3 * np.diff(starts), 1e3 * spent


class Task(LightningModule):
    """A network, and a function of it and a batch to make small."""

    def __init__(self, net, loss):
        super().__init__()
        self.net, self.loss = net, loss

    def training_step(self, batch, batch_idx):
        loss = self.loss(self.net, batch)
        self.log("loss", loss)
        return loss

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.01, momentum=0.9)


def _classifier(small_images=False):
    """ResNet-18 as torchvision has it, or as the field adapts it to small images: 3x3 stem, no early pooling."""
    from torchvision.models import resnet18

    net = resnet18(num_classes=10)
    net.conv1 = nn.Conv2d(1, 64, 7, 2, 3, bias=False)
    if small_images:
        net.conv1, net.maxpool = nn.Conv2d(1, 64, 3, 1, 1, bias=False), nn.Identity()
    return Task(net, lambda net, batch: nn.functional.cross_entropy(net(batch[0]), batch[1]))


def _random_walk():
    speeds = 0.1 * torch.randn(_LAYERS).exp().repeat_interleave(16)
    return Task(
        stack(_LAYERS, 4, 4),
        lambda net, batch: nn.utils.parameters_to_vector(net.parameters()) @ (torch.randn(16 * _LAYERS) * speeds),
    )


def _fit(module, data, callback, max_epochs=-1, **kwargs):
    """Seconds of a fit, and megabytes of its log."""
    with tempfile.TemporaryDirectory() as folder:
        kwargs |= dict.fromkeys(("enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
        kwargs |= {"accelerator": "cpu", "devices": 1, "logger": TensorBoardLogger(folder), "callbacks": [callback]}
        trainer = Trainer(max_epochs=max_epochs, **kwargs)
        start = time.perf_counter()
        trainer.fit(module, DataLoader(data, batch_size=128, shuffle=True))
        seconds = time.perf_counter() - start
        return seconds, sum(file.stat().st_size for file in Path(folder).rglob("*") if file.is_file()) / 1e6


def training(repeats, quick):
    """The callback in the training of ResNet-18, logging to TensorBoard."""
    count, epochs = (1_000, 2) if quick else (10_000, 8)
    data, what = _images(count)

    callback, calls = _timed(RWCCallback())
    seconds, _ = _fit(_classifier(), data, callback, max_epochs=epochs)
    clock, ticks = _timed(Callback())
    _fit(_classifier(), data, clock, max_epochs=epochs)
    whole, spent = _between(calls, "on_train_epoch_start", "on_train_end")
    # The first has what a process pays once: kernels are loaded, matplotlib is imported.
    rows = {"first epoch": _share(whole[0], spent[0]), "later epochs, mean": _share(whole[1:].mean(), spent[1:].mean())}
    rows["fit, start to end"] = _share(1e3 * seconds, 1e3 * sum(took for _, _, took in calls))
    whole, _ = _between(ticks, "on_train_epoch_start", "on_train_end")
    rows["later epochs without callback"] = {"ms": whole[1:].mean()}
    yield f"epochs of {count:,} images", what, rows

    rows = {}
    for stem, small_images, steps in (("7x7 stem", False, 120), ("3x3 stem", True, 24)):
        callback, calls = _timed(RWCCallback(every_n_train_steps=1))
        _fit(_classifier(small_images), data, callback, max_steps=steps // 4 if quick else steps)
        whole, spent = _between(calls, "on_train_batch_start")
        rows[stem] = _share(np.median(whole), np.median(spent))
    yield "step", "the median of steps that are all measured", rows


def _share(whole, spent):
    return {"ms": whole, "callback ms": spent, "share %": 100 * spent / whole}


def _images(count):
    files = [_FASHION_MNIST / f"train-{kind}-ubyte.gz" for kind in ("images-idx3", "labels-idx1")]
    if not all(file.exists() for file in files):
        images, labels = torch.rand(count, 28, 28), torch.randint(10, (count,))
        what = "random images, since dataset-fashion-mnist is not installed"
    else:
        pixels, kinds = (np.frombuffer(gzip.decompress(file.read_bytes()), np.uint8) for file in files)
        images = torch.from_numpy(pixels[16:].reshape(-1, 28, 28)[:count] / np.float32(255))
        labels, what = torch.from_numpy(kinds[8:][:count].astype(np.int64)), "Fashion-MNIST"
    return TensorDataset(images.unsqueeze(1), labels), f"{what}, in batches of 128"


def logs(repeats, quick):
    """Scalars, pictures, and the size of a long log."""
    one_batch, announcer, recorder = (
        TensorDataset(torch.zeros(1)),
        Announcer("rwc", False),
        Recorder((), looks_for_findings=True),
    )
    row = {f"block{i}.conv.weight": value for i, value in enumerate(np.random.rand(_LAYERS).tolist())}

    measurement = Measurement(row, {}, [], 0.1, {}, {})

    def ours(trainer, module):
        recorder.history.record(trainer.current_epoch, trainer.global_step, row)
        announcer.measurement(trainer, recorder, measurement)

    ways = {
        "nothing": lambda trainer, module: None,
        "ours": ours,
        "log_metrics": lambda trainer, module: trainer.logger.log_metrics(row, trainer.global_step),
        "log_dict": lambda trainer, module: module.log_dict(row),
    }
    callback, calls = _timed(
        LambdaCallback(
            # What the logger's thread has yet to write counts for the epoch that ends.
            on_train_epoch_start=lambda trainer, module: trainer.logger.experiment.flush(),
            on_train_epoch_end=lambda trainer, module: [*ways.values()][trainer.current_epoch % 4](trainer, module),
        )
    )
    _fit(_random_walk(), one_batch, callback, max_epochs=4 * (1 + 2 * repeats) + 1)
    starts = [start + took for name, start, took in calls if name == "on_train_epoch_start"]
    times = 1e3 * np.median(np.diff(starts).reshape(-1, 4)[1:], axis=0)
    rows = {way: {"ms": time - times[0]} for way, time in zip(ways, times, strict=True) if way != "nothing"}
    yield "scalars", f"of {_LAYERS} layers to TensorBoard, on disk; above an epoch that logs nothing", rows

    rows = {}
    for layers in (3, 300) if quick else (3, 300, 3000):
        for measurements in (20, 1000) if quick else (20, 1000, 10_000):
            history = _history(layers, measurements)
            times = interleaved({"draw": lambda h=history: to_image(h.plot_heatmap())}, min(repeats, 5))
            rows[f"{layers:,} x {measurements:,}"] = summary(times["draw"])
    yield "heatmap", "layers x measurements, drawn and rendered", rows

    epochs, callback = 100 if quick else 1000, RWCCallback()
    # Epochs as short as these would not get all the pictures that those of a real run get.
    with patch("lightning_rwc.announcer.time", SimpleNamespace(monotonic=lambda: 86_400 * len(callback.history))):
        seconds, size = _fit(_random_walk(), one_batch, callback, max_epochs=epochs)
    rows = {f"{epochs:,} epochs": {"MB": size, "ms an epoch": 1e3 * seconds / epochs}}
    yield "log size", f"of {_LAYERS} layers to TensorBoard, as the defaults write it if an epoch takes a day", rows


def _history(layers, measurements):
    rng, times = np.random.default_rng(0), range(measurements)
    decay = 0.1 / np.sqrt(1 + np.arange(measurements))[:, None]
    values = decay * rng.lognormal(0, 1, layers) * rng.lognormal(0, 0.2, (measurements, layers))
    return RWCHistory([f"block{i}.conv" for i in range(layers)], times, times, values)
