# SPDX-License-Identifier: Apache-2.0
"""Trains on two ranks that may part ways; started by test_ranks.py, once a case and with a time limit."""

import signal
import sys
import time
import warnings
from itertools import pairwise
from pathlib import Path
from threading import Timer

import lightning
import numpy as np
import pytest
import torch
import torch.distributed as dist
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import (
    Callback,
    Checkpoint,
    ModelCheckpoint,
    OnExceptionCheckpoint,
    RichProgressBar,
    TQDMProgressBar,
)
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.utils.data import DataLoader

from lightning_rwc import RWCCallback
from tests.helpers import leave_together, without_memory
from tests.oracle import numpy_rwc


class Model(LightningModule):
    """Logs what Lightning reduces over ranks when somebody first asks for it."""

    def __init__(self, strategy):
        super().__init__()
        torch.manual_seed(0)
        self.strategy = strategy
        self.body, self.head = nn.Linear(6, 5), nn.Linear(5, 3)

    def configure_model(self):
        if self.strategy == "fsdp":
            for layer in (self.body, self.head):
                fully_shard(layer, mesh=self.device_mesh["data_parallel"])

    def training_step(self, batch, batch_idx):
        loss = self.head(self.body(batch)).square().mean()
        self.log("loss", loss, on_step=True, on_epoch=True, sync_dist=True, prog_bar=True)
        return loss

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", self.head(self.body(batch)).square().mean(), sync_dist=True, prog_bar=True)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.5)


class AsksOnRankZero(Callback):
    """Reads metrics on one rank, wherever it can."""

    def on_train_batch_end(self, trainer, pl_module, *args, **kwargs):
        self.ask(trainer)

    def on_train_epoch_end(self, trainer, pl_module):
        self.ask(trainer)

    def ask(self, trainer):
        if trainer.is_global_zero:
            _ = trainer.callback_metrics, trainer.progress_bar_metrics, trainer.logged_metrics


RICH_RESUMES = [int(part) for part in lightning.__version__.split(".")[:2]] >= [2, 6]
READERS = {"tqdm": TQDMProgressBar, "rich": RichProgressBar, "callback": AsksOnRankZero}
STRATEGIES = {
    "ddp": lambda: DDPStrategy(process_group_backend="gloo"),
    "ddp_spawn": lambda: "ddp_spawn",
    "fsdp": lambda: ModelParallelStrategy(
        data_parallel_size=2, tensor_parallel_size=1, process_group_backend="gloo", save_distributed_checkpoint=False
    ),
}


def fit(strategy, folder, callbacks, ckpt=None, model=Model, **kwargs):
    options = {"max_epochs": 2, "enable_checkpointing": any(isinstance(c, Checkpoint) for c in callbacks)} | kwargs
    trainer = Trainer(
        accelerator="cpu",
        devices=2,
        strategy=STRATEGIES[strategy](),
        callbacks=callbacks,
        logger=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        default_root_dir=folder,
        num_sanity_val_steps=0,
        **options,
    )
    loader = DataLoader(torch.ones(8, 6), batch_size=2)
    trainer.fit(model(strategy), loader, loader, ckpt_path=ckpt)
    return trainer


class Check(Callback):
    """Looks at both histories where training happens, which under ``ddp_spawn`` is not the calling process."""

    def on_train_end(self, trainer, pl_module):
        assert trainer.world_size == 2
        epochs, steps = (c.history for c in trainer.callbacks if isinstance(c, RWCCallback))
        assert epochs.epochs == [0, 1]
        assert steps.steps == [2, 5]
        assert np.isfinite(epochs.values).all()
        assert (epochs.values > 0).all()


def bars(strategy, folder, *names):
    """A reader of metrics before or after ours, both cadences; a checkpoint inside an epoch, and a resume from it.

    There is no resume under ``ddp_spawn``, where each fit starts two processes anew, nor with rich's bar before
    Lightning 2.6, which fails there by itself.

    """
    for name in names:
        reader, place = name.split("-")

        def order(reader=reader, place=place):
            ours = [RWCCallback(), RWCCallback(every_n_train_steps=3, prefix="steps")]
            return [READERS[reader](), *ours] if place == "before" else [*ours, READERS[reader]()]

        progress = {"enable_progress_bar": reader != "callback"}
        saver = ModelCheckpoint(folder / name, every_n_train_steps=2, save_top_k=-1, filename="{step}")
        fit(strategy, folder, [*order(), Check(), saver], **progress)
        if strategy != "ddp_spawn" and (reader != "rich" or RICH_RESUMES):
            fit(strategy, folder, [*order(), Check()], ckpt=folder / name / "step=6.ckpt", **progress)


class Fails(Callback):
    """Raises on rank 0 alone, inside the second epoch, while the other rank waits for its gradients."""

    def on_before_backward(self, trainer, pl_module, loss):
        if trainer.is_global_zero and trainer.global_step == 6:
            raise ValueError("the user's own error")


def exception(strategy, folder):
    """Lightning writes the checkpoint, and then waits for the other rank: that is its own doing."""
    saver = OnExceptionCheckpoint(folder)
    fit(strategy, folder, [RWCCallback(), from_initial(), saver, Fails()], enable_progress_bar=False)


def from_initial():
    return RWCCallback(relative_to="initial", prefix="initial")


def after_exception(strategy, folder):
    callback, initial, weights = RWCCallback(), from_initial(), Weights()
    ours = [callback, initial, weights]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer = fit(strategy, folder, ours, ckpt=folder / "on_exception.ckpt", enable_progress_bar=False)
    told = [w for w in caught if "lacks the other ranks' parts" in str(w.message)]
    assert len(told) == (1 if trainer.is_global_zero else 0)
    assert callback.history.epochs == [0, 1]
    assert (callback.history.values > 0).all()
    # What is relative to the initial weights needs nothing of the other ranks.
    change = numpy_rwc([Model(strategy).body.weight.detach()], [weights.states[-1]], "l1")
    np.testing.assert_allclose(initial.history.values[-1, 0], change, rtol=1e-6)


def by_rank(name, parameter):
    return dist.get_rank() == 0 or name == "body.weight"


def raises_on_one_rank(name, parameter):
    if dist.get_rank() == 1:
        raise KeyError("the filter's own error")
    return True


def disagreement(strategy, folder):
    for function, messages in (
        (by_rank, ["do not track the same layers"] * 2),
        (raises_on_one_rank, ["do not track the same layers", "the filter's own error"]),
    ):
        with pytest.raises((ValueError, KeyError)) as caught:
            fit(strategy, folder, [RWCCallback(layers=function)], enable_progress_bar=False)
        assert messages[dist.get_rank()] in str(caught.value)


class Weights(Callback):
    """Keeps the weights of the body."""

    def __init__(self):
        self.states = []

    def on_train_start(self, trainer, pl_module):
        self.states.append(pl_module.body.weight.detach().clone())

    def on_train_epoch_end(self, trainer, pl_module):
        self.states.append(pl_module.body.weight.detach().clone())


def memory(strategy, folder):
    """One rank has no memory in the second of four measurements."""
    without_memory(rank=1, call=2)
    callback, weights = RWCCallback(), Weights()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit(strategy, folder, [callback, weights], enable_progress_bar=False, max_epochs=4)
    told = [w for w in caught if "on rank 1" in str(w.message) and "MemoryError: none left" in str(w.message)]
    assert len(told) == dist.get_rank()
    expected = [numpy_rwc([p], [c], "l1") for p, c in pairwise(weights.states)]
    expected[1] = np.nan
    np.testing.assert_allclose(callback.history.values[:, 0], expected, rtol=1e-6)


def alone(strategy, folder):
    """After the ranks have trained together, one of them trains by itself."""
    fit(strategy, folder, [RWCCallback()], enable_progress_bar=False)
    if dist.get_rank() == 0:
        callback, quiet = RWCCallback(), dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar"), False)
        trainer = Trainer(accelerator="cpu", devices=1, max_epochs=2, callbacks=[callback], **quiet)
        trainer.fit(Quiet("alone"), DataLoader(torch.randn(8, 6), batch_size=4))
        assert (callback.history.values > 0).all()
        assert callback.history.values.shape == (2, 2)


class Sleeps(Callback):
    """Lets rank 0 wait in our collective for rank 1, until somebody presses Ctrl-C."""

    def on_train_epoch_end(self, trainer, pl_module):
        if not trainer.is_global_zero:
            time.sleep(600)
        Timer(2, signal.raise_signal, [signal.SIGINT]).start()


class Quiet(Model):
    """Logs nothing, so that no reduction of Lightning's comes before ours."""

    def log(self, *args, **kwargs):
        pass


def dead_peer(strategy, folder):
    signal.signal(signal.SIGINT, signal.default_int_handler)
    fit(strategy, folder, [Sleeps(), RWCCallback()], model=Quiet, enable_progress_bar=False)


CASES = {
    function.__name__: function
    for function in (bars, exception, after_exception, disagreement, memory, alone, dead_peer)
}

if __name__ == "__main__":
    case, strategy, folder, *arguments = sys.argv[1:]
    CASES[case](strategy, Path(folder), *arguments)
    leave_together()
