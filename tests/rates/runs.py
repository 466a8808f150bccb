# SPDX-License-Identifier: Apache-2.0
"""Trainings of one architecture with one optimizer at all learning rates: how layers moved, and how well it learnt."""

import math
import random
import warnings
from tempfile import gettempdir

import numpy as np
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback

from lightning_rwc import RWCCallback
from tests.faults.architectures import ARCHITECTURES
from tests.faults.optimizers import OPTIMIZERS
from tests.faults.training import Training
from tests.rates.data import Batches, images

FACTORS = (1e-3, 1e-2, 0.1, 0.3, 1, 3, 10, 30, 100, 300)
MEASURES = ("rotation", "radial", "moved")
DATA = ("digits", "fashion-mnist")
SCHEDULES = ("constant", "cosine", "warm-up, cosine", "constant")


def groups(seeds=3):
    """Architecture, optimizer, data and seed of each group, in a random order that is always the same."""
    plan = [(a, o, d, s) for s in range(seeds) for a in ARCHITECTURES for o in OPTIMIZERS for d in DATA]
    for seed in range(seeds):
        part = [one for one in plan if one[3] == seed]
        random.Random(seed).shuffle(part)
        yield from part


def settings(name, optimizer, data, seed):
    """Schedule, batch size and epochs of a group."""
    draw = random.Random(f"{name} {optimizer} {data} {seed}")
    size = draw.choice((32, 64, 128))
    count = len(images(data)[0]) // size
    steps = draw.choice((200, 300, 400))
    return draw.choice(SCHEDULES), size, max(3, round(steps / count))


class _Rates(Callback):
    """The learning rate of each step, and the size of each weight at the start."""

    def __init__(self):
        self.rates = []

    def on_before_optimizer_step(self, trainer, training, optimizer):
        if optimizer in (trainer.optimizers[0], getattr(trainer.optimizers[0], "optimizer", None)):
            self.rates.append(optimizer.param_groups[0]["lr"])


def run(name, optimizer, data, seed, factor, change=None, setting=None):
    """Train once.

    Returns:
        A dict of the tables of both cadences, and of what is known of the run.

    """
    schedule, size, epochs = setting or settings(name, optimizer, data, seed)
    train, labels, test, truth = images(data)
    torch.manual_seed(seed)
    training = Training(ARCHITECTURES[name], optimizer)
    training.rate *= factor
    batches = Batches(train, labels, size)
    total = len(batches) * epochs
    if schedule == "cosine":
        training.schedule = (lambda step: 0.5 * (1 + math.cos(math.pi * min(step / total, 1))), "step")
    elif schedule == "warm-up, cosine":
        warm = total / 10
        training.schedule = (
            lambda step: min((step + 1) / warm, 0.5 * (1 + math.cos(math.pi * min(step / total, 1)))),
            "step",
        )
    if change is not None:
        change(training)
    callbacks = {
        "epoch": RWCCallback(heatmap=False, prefix="e", measures=MEASURES),
        "step": RWCCallback(heatmap=False, prefix="s", measures=MEASURES, every_n_train_steps=1),
    }
    rates = _Rates()
    before = {n: p.detach().clone() for n, p in training.named_parameters()}
    generate = ARCHITECTURES[name].task == "generate"
    if generate:
        callbacks["step"] = RWCCallback(heatmap=False, prefix="s", measures=MEASURES, every_n_train_steps=2)
    start = _quality(training, test, truth)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _trainer([*callbacks.values(), rates], epochs).fit(training, batches)
    quality = _quality(training, test, truth)
    result = {
        "about": {
            "architecture": name,
            "optimizer": optimizer,
            "data": data,
            "seed": seed,
            "factor": factor,
            "rate": training.rate,
            "schedule": schedule,
            "batch": size,
            "epochs": epochs,
            "batches": len(batches),
            "quality": quality,
            "start": start,
            "per": 2 if generate else 1,
            "layers": callbacks["epoch"].history.layers,
            "kinds": {c: sorted({f.kind for f in cb.findings}) for c, cb in callbacks.items()},
            "found": {c: [(f.kind, f.layers, f.step, f.message) for f in cb.findings] for c, cb in callbacks.items()},
            "sizes": _sizes(callbacks["epoch"], before, training),
        },
        "losses": np.array(training.losses, dtype=np.float32),
        "rates": np.array(rates.rates, dtype=np.float32),
    }
    for cadence, callback in callbacks.items():
        tables = [callback.histories[m].values for m in ("rwc", *MEASURES)]
        result[cadence] = np.stack(tables).astype(np.float32)
        result[f"{cadence} steps"] = np.array(callback.history.steps)
    return result


def _sizes(callback, before, training):
    sizes = {}
    tracked = callback._metric.tracked(training)
    for layer, parameters in tracked.items():
        values = [before[n] for n in parameters if n in before]
        flat = torch.cat([v.flatten() for v in values]) if values else torch.zeros(1)
        sizes[layer] = [
            flat.abs().mean().item(),
            flat.square().mean().sqrt().item(),
            flat.numel(),
            any(p.requires_grad for p in parameters.values()),
        ]
    return sizes


@torch.no_grad()
def _quality(training, test, truth):
    training.eval()
    task, flat = training.task, test.flatten(1)
    if task == "generate":
        torch.manual_seed(0)
        fake = training.net["generator"](torch.randn(len(flat), 16))
        quality = -_energy(fake, flat)
    elif task == "rebuild":
        quality = 1 - ((training.net(test) - flat).square().mean() / (flat - flat.mean(0)).square().mean()).item()
    else:
        quality = (training.net(test).argmax(1) == truth).float().mean().item()
    training.train()
    return quality if math.isfinite(quality) else -math.inf


def _energy(a, b):
    """The energy distance of two sets of vectors."""
    return (2 * torch.cdist(a, b).mean() - torch.cdist(a, a).mean() - torch.cdist(b, b).mean()).item()


def _trainer(callbacks, epochs, **arguments):
    return Trainer(
        max_epochs=epochs,
        callbacks=callbacks,
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=gettempdir(),
        **arguments,
    )
