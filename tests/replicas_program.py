# SPDX-License-Identifier: Apache-2.0
"""Trains on several ranks whose weights may part; started by test_replicas.py, once a case and with a time limit."""

import sys
import warnings
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import BackboneFinetuning, Callback, ModelCheckpoint
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks.post_localSGD_hook import PostLocalSGDState, post_localSGD_hook
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

from lightning_rwc import RWCCallback, metric
from tests.helpers import leave_together, without_memory

EPOCH = 12  # batches, and steps
NUDGED = EPOCH + 2  # batches before one rank changes a weight


class Model(LightningModule):
    """The backbone has 420 elements, enough for a sample of 256."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.backbone, self.head, self.unused = nn.Linear(60, 7), nn.Linear(7, 3), nn.Linear(3, 3)
        self.unused.requires_grad_(False)

    def training_step(self, batch, batch_idx):
        return self.head(self.backbone(batch).relu()).square().mean()

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=0.01)


class Ignored(Model):
    def __init__(self):
        super().__init__()
        DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(self, ["backbone.weight", "backbone.bias"])


class HeadFirst(Model):
    """As Lightning documents it: the callback adds the backbone to the optimizer."""

    def configure_optimizers(self):
        return torch.optim.AdamW(self.head.parameters(), lr=0.01)


class Sharded(Model):
    def configure_model(self):
        for layer in (self.backbone, self.head, self.unused):
            fully_shard(layer, mesh=self.device_mesh["data_parallel"])


class Nudge(Callback):
    """Adds 1e-6 to one element on rank 1."""

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if dist.get_rank() == 1 and trainer.current_epoch * EPOCH + batch_idx + 1 == NUDGED:
            with torch.no_grad():
                before = pl_module.backbone.weight[3, 17].item()
                pl_module.backbone.weight[3, 17] += 1e-6
                assert pl_module.backbone.weight[3, 17].item() != before


class NotNumbers(Callback):
    """Each rank has a ``nan`` of its own in a layer that nobody uses."""

    def on_train_start(self, trainer, pl_module):
        pl_module.unused.weight.detach().view(torch.int32)[0, 0] = 0x7FC00001 + dist.get_rank()


class LocalSGD(Callback):
    """No rank hears of the gradients of the others."""

    def on_fit_start(self, trainer, pl_module):
        groups = [dist.new_group([rank]) for rank in range(dist.get_world_size())]
        state = PostLocalSGDState(dist.group.WORLD, groups[dist.get_rank()], start_localSGD_iter=1)
        trainer.strategy.model.register_comm_hook(state, post_localSGD_hook)


class Spread(Callback):
    """How far the weights of each layer are apart at the end."""

    def on_train_end(self, trainer, pl_module):
        state = {name: weight.numpy() for name, weight in pl_module.state_dict().items() if name.endswith("weight")}
        everyone = [None] * dist.get_world_size()
        dist.all_gather_object(everyone, state)
        self.layers = [
            name.removesuffix(".weight")
            for name, weight in state.items()
            if any((other[name] != weight).any() for other in everyone)
        ]


def fit(folder, *callbacks, model=Model, strategy=None, ranks=2, ckpt=None, **options):
    """Train for three epochs. Returns what all ranks found, and the layers that differ between them at the end."""
    callback, spread = RWCCallback(**options), Spread()
    trainer = Trainer(
        max_epochs=3,
        accelerator="cpu",
        devices=ranks,
        strategy=strategy or DDPStrategy(process_group_backend="gloo"),
        callbacks=[*callbacks, callback, *([] if model is Sharded else [spread])],
        logger=False,
        enable_checkpointing=any(isinstance(one, ModelCheckpoint) for one in callbacks),
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
    )
    data = torch.randn(2 * EPOCH * ranks, 60, generator=torch.Generator().manual_seed(0))
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="Looking for findings failed")
        trainer.fit(model(), DataLoader(data, batch_size=2), ckpt_path=ckpt)
    assert trainer.world_size == ranks
    assert trainer.global_step == 3 * EPOCH
    everyone = [None] * ranks
    dist.all_gather_object(everyone, callback.findings)
    assert everyone == [callback.findings] * ranks
    return callback, getattr(spread, "layers", None)


def told(callback, kind="replicas_differ"):
    return [(one.layers, one.step) for one in callback.findings if one.kind == kind]


# Comparisons are at least ten batches apart. Step 0 is the first batch.
CADENCES = [
    ({}, 2 * EPOCH - 1),
    ({"relative_to": "initial", "every_n_train_steps": 1}, 20),
    ({"max_elements": 256}, 2 * EPOCH - 1),
    ({"every_n_train_steps": 4, "units": "backbone"}, 15),
]


def ddp(folder):
    for options, step in CADENCES:
        healthy, apart = fit(folder, **options)
        assert healthy.findings == []
        assert apart == []
        parted, apart = fit(folder, Nudge(), **options)
        assert told(parted) == [(("backbone",), step)]
        assert [one.kind for one in parted.findings] == ["replicas_differ"]
        assert "'backbone' does not have the same weights on all 2 ranks" in parted.findings[0].message
        assert apart == ["backbone"]
        np.testing.assert_allclose(parted.history.values, healthy.history.values, rtol=1e-3)
    assert fit(folder, Nudge(), findings=False)[0].findings == []


def special(folder):
    """What parts on purpose is left alone, and what Lightning itself lets part is found."""
    callback, apart = fit(folder, model=Ignored)
    assert apart == ["backbone"]
    assert callback.findings == []
    callback, apart = fit(folder, LocalSGD())
    assert apart == ["backbone", "head"]
    assert callback.findings == []
    callback, apart = fit(folder, BackboneFinetuning(unfreeze_backbone_at_epoch=1), model=HeadFirst)
    assert apart == ["backbone"]
    assert told(callback) == [(("backbone",), 2 * EPOCH - 1)]
    callback, _ = fit(folder, NotNumbers(), Nudge(), every_n_train_steps=1)
    assert told(callback, "non_finite") == [(("unused",), 0)]
    assert told(callback) == [(("backbone",), 20)]


def resume(folder):
    saver = ModelCheckpoint(folder, every_n_train_steps=EPOCH, filename="{step}", save_top_k=-1)
    once, _ = fit(folder, Nudge(), saver)
    # A checkpoint makes ranks equal. So the resumed runs are told only what the checkpoint knows.
    again, apart = fit(folder, ckpt=folder / f"step={2 * EPOCH}.ckpt")
    assert (again.findings, apart) == ([], [])
    # This checkpoint has the measurement at the end of the second epoch.
    saver = ModelCheckpoint(folder / "late", every_n_epochs=1, save_on_train_epoch_end=True, save_top_k=-1)
    once, _ = fit(folder, Nudge(), saver, every_n_train_steps=1)
    late = folder / "late" / f"epoch=1-step={2 * EPOCH}.ckpt"
    again, apart = fit(folder, NudgeAtEnd(), ckpt=late, every_n_train_steps=1)
    assert apart == ["backbone"]
    assert again.findings == once.findings
    assert told(again) == [(("backbone",), 20)]
    # A new run compares at once.
    again, _ = fit(folder, NudgeAtEnd(), ckpt=folder / f"step={EPOCH}.ckpt", every_n_train_steps=1)
    assert told(again) == [(("backbone",), EPOCH)]


class NudgeAtEnd(Callback):
    """Adds 1e-6 to one element on rank 1 as training starts or resumes."""

    def on_train_start(self, trainer, pl_module):
        if dist.get_rank() == 1:
            with torch.no_grad():
                pl_module.backbone.weight[3, 17] += 1e-6


def failure(folder):
    """One rank cannot measure when ranks are compared."""
    calls = without_memory(rank=1, call=2)
    for options in ({}, {"max_elements": 256}):
        calls.clear()
        callback, _ = fit(folder, Nudge(), **options)
        missed = np.isnan(callback.history.values).all(1).tolist()
        assert missed == [False, "max_elements" not in options or dist.get_rank() == 1, False]
        # The next comparison tells.
        assert told(callback) == [(("backbone",), 3 * EPOCH - 1)]


def three(folder):
    """Of three ranks, the odd one is known."""
    callback, _ = fit(folder, Nudge(), ranks=3)
    assert told(callback) == [(("backbone",), 2 * EPOCH - 1)]
    assert "'backbone' has other weights on rank 1 than on the rest of 3." in callback.findings[0].message


def fsdp(folder):
    """Shards are not compared."""

    def unwanted(*args):
        raise AssertionError("compared")

    metric.marks = unwanted
    strategy = ModelParallelStrategy(
        data_parallel_size=2, tensor_parallel_size=1, process_group_backend="gloo", save_distributed_checkpoint=False
    )
    callback, _ = fit(folder, model=Sharded, strategy=strategy)
    assert np.isfinite(callback.history.values).all()
    assert callback.findings == []


CASES = {function.__name__: function for function in (ddp, special, resume, failure, three, fsdp)}

if __name__ == "__main__":
    CASES[sys.argv[1]](Path(sys.argv[2]))
    leave_together()
