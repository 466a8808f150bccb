# SPDX-License-Identifier: Apache-2.0
"""One training, with the clock stopped while it is tested."""

import time
from typing import NamedTuple

import numpy as np
import torch
from lightning.pytorch import LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import BaseFinetuning, Callback
from torch import nn
from torchmetrics.classification import MulticlassAccuracy

from lightning_rwc import RWCCallback
from lightning_rwc.experiments.data import Images
from tests.benchmarks.freezing.networks import NETWORKS

OPTIMIZERS = {
    "SGD": lambda groups: torch.optim.SGD(groups, lr=0.05, momentum=0.9, weight_decay=5e-4),
    "AdamW": lambda groups: torch.optim.AdamW(groups, lr=2e-3, weight_decay=0.05),
}
DATA = {"Fashion-MNIST": ("fashion-mnist", 5000, 64, 12), "digits": ("digits", 1437, 32, 20)}
"""Name to the data set, how many training images are used, how many in a batch, and for how many epochs."""
MEASUREMENTS = 40
_TESTED_EACH_EPOCH = 2048


class Setting(NamedTuple):
    """What is trained."""

    data: str
    network: str
    optimizer: str
    seed: int


class _Images(Images):
    def val_dataloader(self):
        return self.test_dataloader()


class Task(LightningModule):
    """A classifier whose blocks have learning rates of their own."""

    def __init__(self, setting, rate):
        super().__init__()
        self.net = NETWORKS[setting.network]().to(memory_format=torch.channels_last)
        self._optimizer, self._rate = OPTIMIZERS[setting.optimizer], rate
        self.accuracy = MulticlassAccuracy(10, average="micro")

    def training_step(self, batch, batch_idx):
        images, labels = batch
        return nn.functional.cross_entropy(self.net(images), labels)

    def validation_step(self, batch, batch_idx):
        images, labels = batch
        self.accuracy.update(self.net(images), labels)
        self.log("accuracy", self.accuracy)

    test_step = validation_step

    def configure_optimizers(self):
        steps = self.trainer.estimated_stepping_batches
        optimizer = self._optimizer([{"params": [*block.parameters()]} for block in self.net])
        rates = [lambda step, block=block: self._rate(block, min(step / steps, 1)) for block in range(len(self.net))]
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, rates)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


class Freezer(Callback):
    """Freezes blocks when a policy says so, and records what that saves."""

    def __init__(self, policy, rwc):
        self._policy, self._rwc, self._rates = policy, rwc, []
        self.per_rate = []  # rotations per learning rate: measurements x blocks
        self.frozen, self.seconds, self.epochs, self.bytes = {}, 0.0, [], []

    def on_train_epoch_start(self, trainer, pl_module):
        self._start = time.perf_counter()

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        share = trainer.global_step / trainer.estimated_stepping_batches
        new = self._policy.frozen(share, self.per_rate) - self.frozen.keys()
        for block in new:
            freeze(pl_module.net[block])
            self.frozen[block] = share
        if new or not self.bytes:
            stopped = time.perf_counter()
            self.bytes.append((share, kept_bytes(pl_module, batch)))
            self._start += time.perf_counter() - stopped
        self._rates.append([group["lr"] for group in trainer.optimizers[0].param_groups])

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        rotations = self._rwc and self._rwc.histories["rotation"]
        if rotations and len(rotations) > len(self.per_rate):
            self.per_rate.append(rotations.values[-1] / np.sum(self._rates, axis=0))
            self._rates.clear()

    def on_validation_start(self, trainer, pl_module):
        self.seconds += time.perf_counter() - self._start

    def on_validation_end(self, trainer, pl_module):
        self.epochs.append((self.seconds, trainer.callback_metrics["accuracy"].item()))


def freeze(block):
    """Stop everything that changes a block: gradients, momentum, decay and the statistics of norms."""
    BaseFinetuning.freeze(block, train_bn=False)
    block.eval()
    for parameter in block.parameters():
        parameter.grad = None


def kept_bytes(task, batch):
    """How many bytes of activations a forward pass keeps for the backward pass."""
    weights = {parameter.untyped_storage().data_ptr() for parameter in task.parameters()}
    kept = {}

    def pack(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    statistics = {name: buffer.clone() for name, buffer in task.net.named_buffers()}
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = task.training_step(batch, 0)  # its graph keeps all that is counted, so that no address comes twice
    for name, buffer in task.net.named_buffers():
        buffer.copy_(statistics[name])
    del loss
    return sum(size for place, size in kept.items() if place not in weights)


def train(setting, policy, data_dir, measure=False):
    """Train once.

    Args:
        setting: what is trained.
        policy: when blocks are frozen.
        data_dir: where data sets are.
        measure: whether rotations are measured, which the policy may need.

    Returns:
        What to keep of it, the operations of each block, and the rotations per learning rate.

    """
    seed_everything(setting.seed, verbose=False)
    name, subset, batch_size, epochs = DATA[setting.data]
    images = _Images(
        name=name,
        subset=subset,
        batch_size=batch_size,
        data_dir=data_dir,
        augment="flip" if name == "fashion-mnist" else "none",
        seed=setting.seed,
    )
    task = Task(setting, policy.rate)
    blocks = len(task.net)
    costs = task.net.costs(torch.zeros(2, 1, 32, 32))
    rwc = None
    if measure:
        steps = -(-subset // batch_size) * epochs
        rwc = RWCCallback(
            group_by=lambda parameter: parameter.split(".")[1],
            every_n_train_steps=max(steps // MEASUREMENTS, 1),
            measures=("rotation",),
            heatmap=False,
            findings=False,
        )
    freezer = Freezer(policy, rwc)
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_model_summary", "enable_progress_bar"), False)
    trainer = Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=epochs,
        num_sanity_val_steps=0,
        limit_val_batches=_TESTED_EACH_EPOCH // (4 * batch_size),
        callbacks=[callback for callback in (rwc, freezer) if callback],
        **quiet,
    )
    trainer.fit(task, images)
    (tested,) = trainer.test(task, images, verbose=False)
    times = [freezer.frozen.get(block, 1.0) for block in range(blocks)]
    sizes = [sum(parameter.numel() for parameter in block.parameters()) for block in task.net]
    starts, kept = zip(*freezer.bytes, strict=True)
    row = {
        "seconds": freezer.seconds,
        "accuracy": tested["accuracy"],
        "epochs": freezer.epochs,
        "times": times,
        "updates saved": float(np.dot(sizes, 1 - np.array(times)) / np.sum(sizes)),
        "activation bytes": float(np.dot(np.diff([*starts, 1]), kept)),
    }
    return row, costs, freezer.per_rate
