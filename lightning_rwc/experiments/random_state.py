# SPDX-License-Identifier: Apache-2.0
"""The random numbers of an interrupted training, which dropout draws."""

from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from typing_extensions import override


class RandomState(Callback):
    """Makes a training that is resumed between two epochs draw the random numbers that it would have drawn."""

    def __init__(self) -> None:
        self._loaded: dict[str, Any] | None = None

    @override
    def state_dict(self) -> dict[str, Any]:
        cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
        return {"cpu": torch.get_rng_state(), "cuda": cuda}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._loaded = state_dict

    @override
    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if self._loaded is None:
            return
        torch.set_rng_state(self._loaded["cpu"].cpu())
        if len(self._loaded["cuda"]) == torch.cuda.device_count():
            torch.cuda.set_rng_state_all([state.cpu() for state in self._loaded["cuda"]])
        self._loaded = None
        # Without an interruption, the iterator of this epoch begins after the checkpoint, and draws a number.
        iter(trainer.train_dataloader or ())
