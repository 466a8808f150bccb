# SPDX-License-Identifier: Apache-2.0
"""Trainings of one architecture with one optimizer at all learning rates: how layers moved, and how well it learnt."""

import math
import random
import warnings

import numpy as np
import torch
from lightning.pytorch.callbacks import Callback

from lightning_rwc import RWCCallback
from tests.faults.architectures import ARCHITECTURES
from tests.faults.optimizers import OPTIMIZERS
from tests.faults.training import Training, quiet_trainer
from tests.rates.data import Batches, images

# Times the learning rate at which the architecture learns.
FACTORS = (1e-3, 1e-2, 0.1, 0.3, 1, 3, 10, 30, 100, 300)
MEASURES = ("rotation", "radial", "moved")
DATA = ("digits", "fashion-mnist")
CADENCES = ("epoch", "step")
_SCHEDULES = ("constant", "cosine", "warm-up, cosine", "constant")


def groups(seeds):
    """Architecture, optimizer, data and seed of each group, in an order that is mixed but always the same."""
    for seed in range(seeds):
        plan = [(name, optimizer, data, seed) for name in ARCHITECTURES for optimizer in OPTIMIZERS for data in DATA]
        random.Random(seed).shuffle(plan)
        yield from plan


def train(group):
    """Train a group at all learning rates."""
    return [_train(*group, factor) for factor in FACTORS]


def _train(name, optimizer, data, seed, factor):
    """Train once. Returns the tables of both cadences, and what is known of the run."""
    schedule, size, epochs = _setting(name, optimizer, data, seed)
    train, labels, test, truth = images(data)
    torch.manual_seed(seed)
    training = Training(ARCHITECTURES[name], optimizer)
    training.rate *= factor
    batches = Batches(train, labels, size)
    training.schedule = _schedule(schedule, len(batches) * epochs)
    steps = 2 if training.task == "generate" else 1
    callbacks = {
        "epoch": RWCCallback(heatmap=False, prefix="epoch", measures=MEASURES),
        "step": RWCCallback(heatmap=False, prefix="step", measures=MEASURES, every_n_train_steps=steps),
    }
    rates, start = _Rates(), quality(training, test, truth)
    trainable = {name for name, parameter in training.named_parameters() if parameter.requires_grad}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quiet_trainer([*callbacks.values(), rates], epochs).fit(training, batches)
    layers = callbacks["epoch"].history.layers
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
            "quality": quality(training, test, truth),
            "start": start,
            "per": steps,
            "layers": layers,
            "trainable": [any(one.startswith(layer) for one in trainable) for layer in layers],
            "kinds": {cadence: sorted({f.kind for f in callback.findings}) for cadence, callback in callbacks.items()},
        },
        "rates": np.array(rates.rates, dtype=np.float32),
    }
    for cadence, callback in callbacks.items():
        tables = [callback.histories[measure].values for measure in ("rwc", *MEASURES)]
        result[cadence] = np.stack(tables).astype(np.float32)
        result[f"{cadence} steps"] = np.array(callback.history.steps)
    return result


class _Rates(Callback):
    """The learning rate of each step of the first optimizer."""

    def __init__(self):
        self.rates = []

    def on_before_optimizer_step(self, trainer, training, optimizer):
        if optimizer in (trainer.optimizers[0], getattr(trainer.optimizers[0], "optimizer", None)):
            self.rates.append(optimizer.param_groups[0]["lr"])


def _setting(name, optimizer, data, seed):
    """Schedule, batch size and epochs of a group, by chance."""
    draw = random.Random(f"{name} {optimizer} {data} {seed}")
    size = draw.choice((32, 64, 128))
    batches = len(images(data)[0]) // size
    steps = draw.choice((200, 300, 400))
    return draw.choice(_SCHEDULES), size, max(3, round(steps / batches))


def _schedule(name, steps):
    def cosine(step):
        return 0.5 * (1 + math.cos(math.pi * min(step / steps, 1)))

    def warmed(step):
        return min((step + 1) / (steps / 10), cosine(step))

    return {"constant": None, "cosine": (cosine, "step"), "warm-up, cosine": (warmed, "step")}[name]


@torch.no_grad()
def quality(training, test, truth):
    """Accuracy, or the share of variance that is rebuilt, or minus the energy distance of made and real images."""
    training.eval()
    flat = test.flatten(1)
    if training.task == "generate":
        torch.manual_seed(0)
        quality = -_energy_distance(training.net["generator"](torch.randn(len(flat), 16)), flat)
    elif training.task == "rebuild":
        quality = 1 - ((training.net(test) - flat).square().mean() / (flat - flat.mean(0)).square().mean()).item()
    else:
        quality = (training.net(test).argmax(1) == truth).float().mean().item()
    training.train()
    return quality if math.isfinite(quality) else -math.inf


def _energy_distance(some, others):
    distance = torch.cdist(some, others).mean()
    return (2 * distance - torch.cdist(some, some).mean() - torch.cdist(others, others).mean()).item()
