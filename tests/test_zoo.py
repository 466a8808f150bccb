# SPDX-License-Identifier: Apache-2.0
"""Nothing that trains without the callback fails, or trains otherwise, with it in every Trainer.

Lightning lets a package add callbacks to all Trainers by an entry point: a helper package that exists only here does.

"""

import sys

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import StochasticWeightAveraging
from lightning.pytorch.demos import LightningTransformer
from lightning.pytorch.demos.boring_classes import BoringModel, DemoModel, ManualOptimBoringModel, RandomDataset
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from torch import nn
from torch.utils.data import DataLoader

from lightning_rwc import RWCCallback
from tests.helpers import Net, TwoOptimizers, images


def factory():
    """What the entry point names: the callbacks that every Trainer gets."""
    return [RWCCallback(), RWCCallback(prefix="steps", every_n_train_steps=1, norm="l2", heatmap=False)]


@pytest.fixture
def in_every_trainer(tmp_path, monkeypatch):
    """Installs the helper package."""
    metadata = tmp_path / "site" / "rwc_everywhere-1.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: rwc-everywhere\nVersion: 1\n")
    entry = "[lightning.pytorch.callbacks_factory]\nrwc = tests.test_zoo:factory\n"
    (metadata / "entry_points.txt").write_text(entry)

    def switch(on):
        monkeypatch.setattr(sys, "path", [*([str(tmp_path / "site")] if on else []), *sys.path])

    return switch


class Demo(DemoModel):
    """Lightning's demo classifier, with data of its own."""

    def train_dataloader(self):
        return DataLoader(RandomDataset(32, 16), batch_size=4)


class Words(LightningTransformer):
    """Lightning's demo transformer on random words instead of downloaded ones."""

    def __init__(self):
        super().__init__(vocab_size=50)

    def prepare_data(self):
        pass

    def train_dataloader(self):
        generator = torch.Generator().manual_seed(0)
        words = torch.randint(0, 50, (8, 2, 5), generator=generator)
        return DataLoader([(a, b) for a, b in words], batch_size=2)


class LSTM(BoringModel):
    """Sequences, and a layer of many parameters."""

    def __init__(self):
        super().__init__()
        self.layer = nn.LSTM(32, 2)

    def forward(self, x):
        return self.layer(x)[0]


class Plateau(BoringModel):
    """A scheduler that waits for a metric."""

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)["loss"]
        self.log("loss", loss, on_epoch=True)
        return loss

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.parameters())
        scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "monitor": "loss"}}


class WithImages(Net):
    """The network of the other tests, with its data."""

    train_dataloader = val_dataloader = lambda self: images()


class TwoOptimizersWithImages(TwoOptimizers):
    """The same with two optimizers."""

    train_dataloader = val_dataloader = lambda self: images()


MODELS = [BoringModel, ManualOptimBoringModel, Demo, Words, LSTM, Plateau, WithImages, TwoOptimizersWithImages]
TRAINERS = {
    "plain": {"max_epochs": 2},
    "steps": {"max_steps": 5},
    "fast": {"fast_dev_run": 2},
    "accumulate": {"max_epochs": 2, "accumulate_grad_batches": 3},
    "limits": {"max_epochs": 3, "limit_train_batches": 2, "limit_val_batches": 1, "val_check_interval": 1},
    "overfit": {"max_epochs": 2, "overfit_batches": 1},
    "double": {"max_epochs": 1, "precision": "64-true"},
    "bfloat16": {"max_epochs": 1, "precision": "bf16-mixed"},
    "profiled": {"max_epochs": 1, "profiler": "simple", "detect_anomaly": True},
    "inference": {"max_epochs": 2, "inference_mode": False, "check_val_every_n_epoch": 2},
    "barebones": {"max_epochs": 1, "barebones": True},
    "averaged": {"max_epochs": 3},
}
# What Lightning itself refuses: manual optimisation with accumulation, a scheduler whose metric is not logged, and
# averaging with two optimizers.
REFUSED = {
    (TwoOptimizersWithImages, "averaged"),
    (ManualOptimBoringModel, "accumulate"),
    (TwoOptimizersWithImages, "accumulate"),
    (Plateau, "barebones"),
}
try:
    with torch.autocast("cpu", torch.bfloat16):
        nn.LSTM(32, 2)(torch.zeros(1, 1, 32))
except RuntimeError:
    REFUSED.add((LSTM, "bfloat16"))  # by PyTorch 2.15 on some CPUs


def outcome(model, kind, tmp_path):
    torch.manual_seed(1)
    module = model()
    options = {"limit_train_batches": 6, "limit_val_batches": 2} | TRAINERS[kind]
    if kind == "barebones":
        del options["limit_val_batches"]
    else:
        options |= {"enable_progress_bar": False, "enable_model_summary": False, "log_every_n_steps": 1}
        options["logger"] = [TensorBoardLogger(tmp_path), CSVLogger(tmp_path)]
    if kind == "averaged":
        options["callbacks"] = [StochasticWeightAveraging(0.1, swa_epoch_start=1)]
    run = Trainer(accelerator="cpu", devices=1, default_root_dir=tmp_path, **options)
    run.fit(module)
    metrics = {name: value for name, value in run.callback_metrics.items() if not name.startswith(("rwc", "steps"))}
    return run, module.state_dict(), metrics, torch.get_rng_state()


@pytest.mark.integration
@pytest.mark.parametrize(("model", "kind"), [(m, k) for m in MODELS for k in TRAINERS if (m, k) not in REFUSED])
def test_trains_the_same_with_the_callback_in_every_trainer(model, kind, in_every_trainer, tmp_path):
    in_every_trainer(False)
    _, weights, metrics, rng = outcome(model, kind, tmp_path)
    in_every_trainer(True)
    run, with_weights, with_metrics, with_rng = outcome(model, kind, tmp_path)
    ours = [callback for callback in run.callbacks if isinstance(callback, RWCCallback)]
    assert [callback.prefix for callback in ours] == ["rwc", "steps"]
    assert all(len(callback.history) > 0 for callback in ours)
    assert all(torch.equal(with_weights[name], tensor) for name, tensor in weights.items())
    assert with_metrics == metrics
    assert torch.equal(with_rng, rng)
