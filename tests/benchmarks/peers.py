# SPDX-License-Identifier: Apache-2.0
"""Ways to watch weights: ours, what others do in our words, and the least that memory allows.

Each function takes what it watches and returns a measurement, a function without arguments. Others get the weights
that we track, though some would watch biases and norm scales too.
"""

import math

import numpy as np
import torch

from lightning_rwc import RelativeWeightChange

_MOST = 2**28  # elements of the bound's arrays: a larger bound passes several times, to leave memory to the models


def tracked(module):
    """The weights that are watched, as the callback's default rule chooses them in the models here."""
    return [p.detach() for p in module.parameters() if sum(size > 1 for size in p.shape) >= 2]


def bound(count):
    """The addition in place: two reads and a write of ``count`` float32 numbers, which a measurement must move too."""
    passes = math.ceil(count / _MOST)
    p, c = (torch.ones(math.ceil(count / passes)) for _ in range(2))
    return lambda: [p.add_(c) for _ in range(passes)]


def ours(module, norm="l1"):
    """A measurement, and its values on the host."""
    metric = RelativeWeightChange(module, norm=norm)

    def measure():
        metric.update(module)
        return [*metric.fetch().values.values()]

    return measure


def authors(weights):
    """NumPy on copies, two of which are alive at a time (github.com/ManifoldRG/Relative-Weight-Change)."""

    def copies():
        return [w.cpu().numpy().copy() for w in weights]

    previous = copies()

    def measure():
        nonlocal previous
        current = copies()
        with np.errstate(divide="ignore", invalid="ignore"):
            changes = [float((np.abs(c - p) / np.abs(p)).mean()) for p, c in zip(previous, current, strict=True)]
        previous = current
        return changes

    return measure


def item_loop(weights):
    """Equation 1 as one writes it down."""
    previous = [w.clone() for w in weights]

    def measure():
        changes = []
        for i, w in enumerate(weights):
            changes.append((w - previous[i]).abs().sum().item() / previous[i].abs().sum().item())
            previous[i] = w.clone()
        return changes

    return measure


def composer(weights):
    """Norms of gradient, moment, weights and next Adam step (OptimizerMonitor with Composer's DecoupledAdamW)."""
    # Training has these anyway, so they are not counted as memory.
    gradients, moments, squares = ([torch.full_like(w, 1e-3) for w in weights] for _ in range(3))

    def measure():
        norms = []
        for w, gradient, moment, square in zip(weights, gradients, moments, squares, strict=True):
            step = moment.div(square.sqrt().add_(1e-8)).mul_(1e-3).add_(w, alpha=-1e-5)
            norms += [torch.linalg.vector_norm(x) for x in (gradient, moment, w, step)]
        return [norm.item() for norm in norms]

    return measure


def cockpit(weights):
    """Norms of updates, from a copy of all weights that is made anew (Cockpit's UpdateSize)."""
    previous = [w.clone() for w in weights]

    def measure():
        nonlocal previous
        sizes = [(w - p).norm(2).item() for w, p in zip(weights, previous, strict=True)]
        # Cockpit's cache, too, lets go of the old copy only when it has the new one.
        previous = [w.clone() for w in weights]
        return sizes

    return measure


def wandb_watch(weights):
    """A histogram of 64 bins of every parameter (``wandb.watch(log="parameters")``)."""

    def histogram(w):
        flat = w.clone().reshape(-1)
        # W&B asks twice: is anything finite, is everything?
        if (~torch.isfinite(flat)).all() or not torch.isfinite(flat).all():
            raise ValueError("the benchmark's weights are finite")
        low, high = flat.min().item(), flat.max().item()
        return flat.histc(64, low, high).tolist(), torch.linspace(low, high, steps=65).tolist()

    return lambda: [histogram(w) for w in weights]


OTHERS = {
    "authors": authors,
    "item loop": item_loop,
    "composer": composer,
    "cockpit": cockpit,
    "wandb.watch": wandb_watch,
}
