# SPDX-License-Identifier: Apache-2.0
"""One LightningModule for all architectures. Faults change its attributes before training."""

import copy
from functools import lru_cache
from tempfile import gettempdir

import torch
from lightning.pytorch import LightningModule, Trainer
from sklearn.datasets import load_digits
from torch.nn import functional as F
from torch.utils.data import DataLoader

from tests.faults.optimizers import OPTIMIZERS

BATCHES, BATCH = 10, 64


@lru_cache
def batches(seed):
    """Scikit-learn's digits: ten batches of 64 images and labels."""
    digits = load_digits()
    chosen = torch.randperm(len(digits.images), generator=torch.Generator().manual_seed(seed))[: BATCHES * BATCH]
    images = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1)[chosen] / 16
    labels = torch.tensor(digits.target)[chosen]
    return DataLoader([*zip(images.split(BATCH), labels.split(BATCH), strict=True)], batch_size=None)


class Training(LightningModule):
    """Trains a network, well unless a fault has changed one of the attributes.

    Attributes:
        rate: the learning rate.
        loss_factor: what the loss is multiplied by.
        clip_to: the norm to which gradients are clipped.
        schedule: a function from steps or epochs to a factor of the learning rate, and ``"step"`` or ``"epoch"``.
        left_out: parameters that no optimizer gets.
        still, still_rate: parameters in a group with a learning rate of its own, by default 0.
        optimizes_copy: whether optimizers get the parameters of a copy.
        after_optimizers: functions of this module that run when there are optimizers.
        after_step: functions of this module and of the number of optimizer steps that run after each.
        generator_every, generator_from: the generator of a GAN steps once in so many batches, from that epoch on.
        losses: the loss of each batch.

    """

    def __init__(self, architecture, optimizer):
        super().__init__()
        self.task = architecture.task
        self.net = architecture.build()
        self.optimizer = optimizer
        self.rate = OPTIMIZERS[optimizer][1] * architecture.factor
        self.loss_factor, self.clip_to, self.schedule = 1, None, None
        self.left_out, self.still, self.still_rate, self.optimizes_copy = [], [], 0.0, False
        self.after_optimizers, self.after_step = [], []
        self.generator_every, self.generator_from = 1, 0
        self.losses = []
        self.steps = 0
        self.automatic_optimization = self.task != "generate"

    def training_step(self, batch, batch_idx):
        images, labels = batch
        if self.task == "generate":
            return self._play(images.flatten(1), batch_idx)
        outputs = self.net(images)
        targets = images.flatten(1)
        loss = F.mse_loss(outputs, targets) if self.task == "rebuild" else F.cross_entropy(outputs, labels)
        self.losses.append(float(loss.detach()))
        return self.loss_factor * loss

    def validation_step(self, batch, batch_idx):
        """It does nothing, but Lightning clears gradients before it."""

    def _play(self, real, batch_idx):
        generator, discriminator = self.optimizers()
        fake = self.net["generator"](torch.randn(len(real), 16, dtype=real.dtype))
        scores = self.net["discriminator"](torch.cat([real, fake.detach()]))
        truth = torch.cat([torch.ones_like(scores[: len(real)]), torch.zeros_like(scores[len(real) :])])
        loss = F.binary_cross_entropy_with_logits(scores, truth)
        self.losses.append(float(loss.detach()))
        self._step(discriminator, loss)
        if batch_idx % self.generator_every == 0 and self.current_epoch >= self.generator_from:
            # The same fake images, as the discriminator now sees them.
            scores = self.net["discriminator"](fake)
            self._step(generator, F.binary_cross_entropy_with_logits(scores, torch.ones_like(scores)))

    def _step(self, optimizer, loss):
        self.toggle_optimizer(optimizer)
        optimizer.zero_grad()
        if loss.requires_grad:
            self.manual_backward(self.loss_factor * loss)
        optimizer.step()
        self.untoggle_optimizer(optimizer)

    def on_train_batch_end(self, *args):
        self._schedule_by_hand("step")

    def on_train_epoch_end(self):
        self._schedule_by_hand("epoch")

    def _schedule_by_hand(self, interval):
        if self.task == "generate" and self.schedule and self.schedule[1] == interval:
            for scheduler in self.lr_schedulers():
                scheduler.step()

    def on_before_optimizer_step(self, optimizer):
        if self.clip_to is not None:
            torch.nn.utils.clip_grad_norm_([p for g in optimizer.param_groups for p in g["params"]], self.clip_to)

    def configure_optimizers(self):
        net = copy.deepcopy(self.net) if self.optimizes_copy else self.net
        rest = [p for name, child in self.named_children() if name != "net" for p in child.parameters()]
        parts = [net["generator"], net["discriminator"]] if self.task == "generate" else [net]
        optimizers = [self._optimizer([*part.parameters(), *rest * (part is parts[0])]) for part in parts]
        for optimizer in optimizers:
            optimizer.register_step_post_hook(self._stepped)
        for change in self.after_optimizers:
            change(self)
        if self.schedule is None:
            return optimizers
        factor, interval = self.schedule
        schedulers = [torch.optim.lr_scheduler.LambdaLR(optimizer, factor) for optimizer in optimizers]
        return optimizers, [{"scheduler": scheduler, "interval": interval} for scheduler in schedulers]

    def _optimizer(self, parameters):
        left_out, still = {id(p) for p in self.left_out}, {id(p) for p in self.still}
        groups = [{"params": [p for p in parameters if id(p) not in left_out | still]}]
        if frozen := [p for p in parameters if id(p) in still]:
            groups.append({"params": frozen, "lr": self.still_rate})
        return OPTIMIZERS[self.optimizer][0](groups, lr=self.rate)

    def _stepped(self, *args):
        self.steps += 1
        for change in self.after_step:
            change(self, self.steps)


def quiet_trainer(callbacks, epochs, **arguments):
    """A Trainer that trains on one CPU, and writes and prints nothing."""
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
