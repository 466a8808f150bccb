# SPDX-License-Identifier: Apache-2.0
"""What the callback costs in real trainings."""

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import TensorBoardLogger
from torch import nn
from torch.utils.data import DataLoader, Dataset

from lightning_rwc import RWCCallback, RWCHistory
from tests.gpu.here import NotHere, folder

_FASHION_MNIST = (Path("data"), Path("data/FashionMNIST/raw"), Path("/usr/share/datasets/fashion-mnist"))


def resnet50(here):
    """Torchvision's ResNet-50 in float32 weights and bfloat16 arithmetic, channels-last."""
    from torchvision import models

    net = here.pick(models.resnet50, models.resnet18)(num_classes=1000).to(memory_format=torch.channels_last)
    size = here.pick(224, 32)
    images, labels = torch.randn(here.pick(64, 2), 3, size, size), torch.randint(1000, (here.pick(64, 2),))
    task = Task(net, lambda net, batch: nn.functional.cross_entropy(net(batch[0]), batch[1]), torch.optim.SGD)
    batch = images.to(memory_format=torch.channels_last), labels
    return _overhead(here, task, batch, "bf16-mixed", steps=here.pick(40, 3))


def transformer(here):
    """A language model of bfloat16 weights, trained with AdamW."""
    width, depth, words = here.pick((2048, 18, 32000), (64, 2, 100))
    if not here.rehearsal and torch.cuda.mem_get_info()[0] < 30 * 2**30:
        raise NotHere("needs 30 GiB of free GPU memory")
    with torch.device(here.device):
        net = Transformer(width, depth, words)
    tokens = torch.randint(words, (here.pick(4, 2), here.pick(1025, 17)))
    task = Task(net, _next_word_loss, torch.optim.AdamW)
    return _overhead(here, task, (tokens,), "bf16-true", steps=here.pick(30, 3))


def reproduce(here):
    """The command, for five epochs of one seed. The rehearsal takes one epoch of digits."""
    data = here.pick("fashion-mnist", "digits")
    places = [path for path in _FASHION_MNIST if list(path.glob("train-images-idx3-ubyte*"))]
    if not here.rehearsal and not places:
        raise NotHere(f"Fashion-MNIST is in none of {', '.join(map(str, _FASHION_MNIST))}")
    epochs = here.pick(5, 1)
    with folder() as out:
        command = [sys.executable, "-m", "lightning_rwc", "reproduce", "--model=alexnet", f"--data={data}", "--seeds=0"]
        command += [f"--epochs={epochs}", f"--out={out}", f"--trainer.accelerator={here.device}"]
        command += here.pick(["--data-dir=data"], ["--subset=256", "--model.learning_rate=0.01"])
        start = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        seconds = time.perf_counter() - start
        assert done.returncode == 0, done.stderr[-3000:]
        history = RWCHistory.load(out / f"alexnet-{data}" / "seed_0" / "rwc.csv")
        assert len(history) == epochs
        assert np.isfinite(history.values).all()
        assert (history.values > 0).all()
        return {f"AlexNet on {data}": {"epochs": epochs, "seconds": seconds, "layers": len(history.layers)}}


class Task(LightningModule):
    """A network, and a function of it and a batch to make small."""

    def __init__(self, net, loss, optimizer):
        super().__init__()
        self.net, self.loss, self.optimizer = net, loss, optimizer

    def training_step(self, batch, batch_idx):
        return self.loss(self.net, batch)

    def configure_optimizers(self):
        return self.optimizer(self.parameters(), lr=1e-4)


class Transformer(nn.Module):
    """A decoder in the style of GPT-2."""

    def __init__(self, width, depth, words):
        super().__init__()
        self.words = nn.Embedding(words, width)
        blocks = [
            nn.TransformerEncoderLayer(width, width // 64 or 1, 4 * width, 0.0, batch_first=True, norm_first=True)
            for _ in range(depth)
        ]
        self.blocks = nn.Sequential(*blocks)
        self.out = nn.Linear(width, words, bias=False)

    def forward(self, tokens):
        mask = nn.Transformer.generate_square_subsequent_mask(
            tokens.shape[1], device=tokens.device, dtype=self.out.weight.dtype
        )
        hidden = self.words(tokens)
        for block in self.blocks:
            hidden = block(hidden, mask, is_causal=True)
        return self.out(hidden)


def _next_word_loss(net, batch):
    (tokens,) = batch
    return nn.functional.cross_entropy(net(tokens[:, :-1]).flatten(0, 1).float(), tokens[:, 1:].flatten())


class _Same(Dataset):
    """The same batch again and again."""

    def __init__(self, batch, length):
        self._batch, self._length = batch, length

    def __len__(self):
        return self._length

    def __getitem__(self, index):
        return self._batch


class _Clock(Callback):
    """Seconds from the end of step ``warm`` to the end of training, with everything that the GPU does in them."""

    def __init__(self, here, warm):
        self.here, self.warm, self.start, self.seconds = here, warm, 0.0, 0.0

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step == self.warm:
            self.here.wait()
            self.start = time.perf_counter()

    def on_train_end(self, trainer, pl_module):
        self.here.wait()
        self.seconds = time.perf_counter() - self.start


def _overhead(here, task, batch, precision, steps):
    """The time of a step without the callback, with it, and with the snapshot in main memory; the best of two runs."""
    ways = {
        "without": list,
        "with": lambda: [RWCCallback(every_n_train_steps=1)],
        "with, no pictures": lambda: [RWCCallback(every_n_train_steps=1, heatmap=False)],
        'with `snapshot_device="cpu"`': lambda: [RWCCallback(every_n_train_steps=1, snapshot_device="cpu")],
    }
    times = {way: [] for way in ways}
    # In turns, so that a slow minute of the machine hits them all.
    for _ in range(here.pick(2, 1)):
        for way, callbacks in ways.items():
            times[way].append(1e3 * _seconds(here, task, batch, precision, steps, callbacks()) / steps)
    base = min(times["without"])
    weights = sum(parameter.numel() for parameter in task.parameters()) / 1e6
    rows = {way: {"step ms": min(taken), "overhead %": 100 * (min(taken) / base - 1)} for way, taken in times.items()}
    rows["without"]["M weights"] = weights
    return rows


def _seconds(here, task, batch, precision, steps, callbacks):
    # The first 20 measurements are drawn, whatever that costs.
    warm = here.pick(25, 1)
    clock = _Clock(here, warm)
    with folder() as path:
        trainer = Trainer(
            accelerator=here.device,
            devices=1,
            precision=precision,
            max_steps=warm + steps,
            logger=TensorBoardLogger(path),
            callbacks=[*callbacks, clock],
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=path,
        )
        batch = [part.to(here.device) for part in batch]
        trainer.fit(task, DataLoader(_Same(batch, warm + steps), batch_size=None))
    return clock.seconds
