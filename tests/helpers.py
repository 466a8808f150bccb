# SPDX-License-Identifier: Apache-2.0
"""A model, data and recorders that the tests of the callback share."""

import copy
import gzip
import struct
from contextlib import suppress
from datetime import timedelta
from itertools import pairwise

import numpy as np
import torch
import torch.distributed as dist
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_rwc.snapshot import Snapshot
from tests.oracle import numpy_rwc

LAYERS = ["conv1", "block.conv2", "fc"]
BATCHES = 6


class Net(LightningModule):
    """A small convolutional network that logs a loss at the end of each epoch."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 4, 3)
        self.block = nn.ModuleDict({"bn": nn.BatchNorm2d(4), "conv2": nn.Conv2d(4, 4, 3)})
        self.fc = nn.Linear(4 * 4 * 4, 2)

    def loss(self, batch):
        hidden = self.block["conv2"](self.block["bn"](self.conv1(batch[0])).relu()).relu()
        return self.fc(hidden.flatten(1)).square().mean()

    def training_step(self, batch, batch_idx):
        loss = self.loss(batch)
        self.log("loss", loss, on_step=True, on_epoch=True)
        return loss

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", self.loss(batch))

    test_step = validation_step

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class TwoOptimizers(Net):
    """The same by hand, with an optimizer for the body and one for the head."""

    def __init__(self):
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch, batch_idx):
        loss = self.loss(batch)
        self.log("loss", loss, on_epoch=True)
        for optimizer in self.optimizers():
            optimizer.zero_grad()
        self.manual_backward(loss)
        for optimizer in self.optimizers():
            optimizer.step()

    def configure_optimizers(self):
        body = [*self.conv1.parameters(), *self.block.parameters()]
        return torch.optim.SGD(body, lr=0.1), torch.optim.SGD(self.fc.parameters(), lr=0.1)


def images(batches=BATCHES):
    generator = torch.Generator().manual_seed(0)
    return DataLoader(TensorDataset(torch.randn(4 * batches, 1, 8, 8, generator=generator)), batch_size=4)


def net(cls=Net):
    torch.manual_seed(0)
    return cls()


def trainer(*callbacks, tmp_path, **kwargs):
    """A quiet Trainer on the CPU, for three epochs unless told otherwise."""
    defaults = {
        "accelerator": "cpu",
        "devices": 1,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "log_every_n_steps": 1,
        "default_root_dir": tmp_path,
    }
    if "max_steps" not in kwargs and "fast_dev_run" not in kwargs:
        defaults["max_epochs"] = 3
    return Trainer(callbacks=list(callbacks), **(defaults | kwargs))


class Recorder(Callback):
    """Keeps a copy of the weights at the start, after every batch and at the end of every epoch."""

    def __init__(self):
        self.start, self.batches, self.epochs = None, [], []

    def on_train_start(self, trainer, pl_module):
        self.start = copy.deepcopy(pl_module.state_dict())

    def on_train_batch_end(self, trainer, pl_module, *args, **kwargs):
        self.batches.append(copy.deepcopy(pl_module.state_dict()))

    def on_train_epoch_end(self, trainer, pl_module):
        self.epochs.append(copy.deepcopy(pl_module.state_dict()))


def expected_table(states, norm="l1", relative_to="previous", layers=LAYERS):
    """What NumPy makes of a series of state dicts: measurements × layers."""
    pairs = [(states[0] if relative_to == "initial" else before, after) for before, after in pairwise(states)]
    return np.array(
        [[numpy_rwc([p[f"{x}.weight"]], [c[f"{x}.weight"]], norm) for x in layers] for p, c in pairs]
    ).reshape(-1, len(layers))


def events(log_dir):
    """Everything TensorBoard would read from a folder."""
    accumulator = EventAccumulator(str(log_dir), size_guidance={"scalars": 0, "images": 0})
    accumulator.Reload()
    return accumulator


def lit_logger(upload):
    """A LitLogger with litlogger's own series. ``upload(key, value, step)`` stands where its service would."""
    from litlogger.series import Series

    class Experiment:
        def __getitem__(self, key):
            return Series(self, key)

        def _register_key_type(self, key, kind):
            assert kind == "file_series"

        def _log_file_series_value(self, key, value, index, step):
            upload(key, value, step)

    class LitLogger:
        experiment = Experiment()

    return LitLogger()


def fashion_mnist_files(folder, **counts):
    """Write the four files of Fashion-MNIST with random content; returns images and labels of each part."""
    rng = np.random.default_rng(0)
    arrays = {part: (rng.integers(0, 256, (n, 28, 28)), rng.integers(0, 10, n)) for part, n in counts.items()}
    for part, pair in arrays.items():
        for kind, array in zip(("images-idx3", "labels-idx1"), pair, strict=True):
            header = struct.pack(">BBBB", 0, 0, 8, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape)
            (folder / f"{part}-{kind}-ubyte.gz").write_bytes(gzip.compress(header + array.astype(np.uint8).tobytes()))
    return arrays


class Opaque(torch.Tensor):
    """A tensor with which PyTorch cannot compute, like those of quantisation libraries."""

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        if func is torch.ops.aten.detach.default:
            return args[0]
        raise NotImplementedError(f"Opaque: {func} is not implemented")


def leave_together():
    """End the process group of this program when all ranks are here.

    Threads of gloo that are still alive at the end of Python may abort it.

    """
    if dist.is_initialized():
        if dist.get_backend() == "gloo":
            # Lightning may have ended another rank after an error. Waiting for it would take half an hour.
            with suppress(RuntimeError):
                dist.monitored_barrier(timeout=timedelta(seconds=20))
        else:
            dist.barrier()
        dist.destroy_process_group()


def without_memory(rank, call):
    """Make a measurement fail on one rank. Returns the list of calls so far.

    Args:
        rank: the rank that has no memory.
        call: in which call after the list was emptied last, from 1.

    """
    real, calls = Snapshot.measure, []

    def measure(self, *args, **kwargs):
        calls.append(None)
        if dist.get_rank() == rank and len(calls) == call:
            raise MemoryError("none left")
        return real(self, *args, **kwargs)

    Snapshot.measure = measure
    return calls
