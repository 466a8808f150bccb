# SPDX-License-Identifier: Apache-2.0
"""Relative weight change of an equal number of weights in each layer.

The elementwise mean grows with the size of a layer even if all weights move alike, because a larger layer has smaller
weights to divide by. On an equal number of weights, layers of different size can be compared.

"""

from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor
from typing_extensions import override

from lightning_rwc.functional import relative_weight_change
from lightning_rwc.history import RWCHistory
from lightning_rwc.layers import LayerSelection


class EqualSamples(Callback):
    """Measures the elementwise relative weight change of the same number of weights in each layer, every epoch.

    Args:
        group_by: the layer name of a parameter name.
        count: how many weights of each layer are drawn, once and at random. Smaller layers are measured whole.

    """

    def __init__(self, group_by: Callable[[str], str], count: int = 500) -> None:
        self._selection, self._count = LayerSelection(None, group_by), count
        self._samples: dict[str, Tensor] = {}
        self._rows: list[list[float]] = []
        self._epochs: list[int] = []
        self._steps: list[int] = []

    @property
    def history(self) -> RWCHistory:
        """The table, with layers in definition order."""
        return RWCHistory(list(self._samples), self._epochs, self._steps, self._rows)

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not self._samples:
            self._samples = self._drawn(pl_module)

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        before, self._samples = self._samples, self._drawn(pl_module)
        changes = [relative_weight_change(before[layer], now, "elementwise") for layer, now in self._samples.items()]
        self._rows.append(torch.stack(changes).tolist())
        self._epochs.append(trainer.current_epoch)
        self._steps.append(trainer.global_step - 1)

    @override
    def state_dict(self) -> dict[str, Any]:
        return {"samples": self._samples, "rows": self._rows, "epochs": self._epochs, "steps": self._steps}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._samples, self._rows = dict(state_dict["samples"]), list(state_dict["rows"])
        self._epochs, self._steps = list(state_dict["epochs"]), list(state_dict["steps"])

    def _drawn(self, module: LightningModule) -> dict[str, Tensor]:
        samples = {}
        for layer, parameters in self._selection.find(module).items():
            weights = torch.cat([parameter.detach().flatten() for parameter in parameters.values()])
            chosen = torch.randperm(len(weights), generator=torch.Generator().manual_seed(0))[: self._count]
            samples[layer] = weights[chosen.to(weights.device)].float().cpu()
        return samples
