# SPDX-License-Identifier: Apache-2.0
"""Optimizers by name, with learning rates at which the architectures learn."""

from functools import partial

import torch
from torch import optim


class Lion(optim.Optimizer):
    """The sign of an average of gradients, with decoupled decay (Chen et al., arXiv 2302.06675, algorithm 2)."""

    def __init__(self, params, lr, betas=(0.9, 0.99), weight_decay=0.1):
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure=None):
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            slow, fast = group["betas"]
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                average = self.state[parameter].setdefault("average", torch.zeros_like(parameter))
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.sub_(group["lr"] * average.lerp(parameter.grad, 1 - slow).sign())
                average.lerp_(parameter.grad, 1 - fast)
        return loss


# Name to class and learning rate.
OPTIMIZERS = {
    "SGD": (optim.SGD, 0.1),
    "SGD, momentum, decay": (partial(optim.SGD, momentum=0.9, weight_decay=5e-4), 0.01),
    "Adam": (optim.Adam, 1e-3),
    "AdamW": (partial(optim.AdamW, weight_decay=0.01), 1e-3),
    "Adam, coupled decay": (partial(optim.Adam, weight_decay=1e-4), 1e-3),
    "RMSprop": (optim.RMSprop, 1e-3),
    "Adagrad": (optim.Adagrad, 0.01),
    "NAdam": (optim.NAdam, 1e-3),
    "Lion": (Lion, 3e-4),
}
DECAYS = ("SGD, momentum, decay", "AdamW", "Adam, coupled decay", "Lion")
