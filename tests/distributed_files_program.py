# SPDX-License-Identifier: Apache-2.0
"""Trains on two ranks and saves distributed checkpoints as programs do; started by test_distributed_files.py."""

import sys
from pathlib import Path

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.strategies import ModelParallelStrategy
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict, get_optimizer_state_dict

from lightning_rwc import RWCCallback
from tests.distributed_program import Gather, Model, fit
from tests.helpers import leave_together


def save_others(model, optimizer, folder):
    """Two more steps, as torchtitan and Accelerate save them."""
    gather = Gather()
    for step in (5, 10):
        with torch.no_grad():
            for number, parameter in enumerate(model.parameters()):
                parameter.mul_(1 + (step + number) / 16)
        gather.keep(model)
        weights = get_model_state_dict(model)
        optimizer_state = get_optimizer_state_dict(
            model, optimizer, options=StateDictOptions(flatten_optimizer_state_dict=True)
        )
        train_state = {"step": torch.tensor(step)}
        dcp.save(
            {**weights, "optimizer": optimizer_state, "train_state": train_state},
            checkpoint_id=folder / "torchtitan" / f"step-{step}",
        )
        place = folder / "accelerate" / "checkpoints" / f"checkpoint_{step}"
        dcp.save({"model": weights}, checkpoint_id=place / "pytorch_model_fsdp_0")
        dcp.save({"optimizer": optimizer_state}, checkpoint_id=place / "optimizer_0")
    return gather.states


def main(folder):
    callback, gather = RWCCallback(), Gather()
    saver = ModelCheckpoint(folder / "lightning", filename="{epoch}", save_top_k=-1, save_last=True)
    strategy = ModelParallelStrategy(data_parallel_size=2, tensor_parallel_size=1, process_group_backend="gloo")
    options = {"accelerator": "cpu", "devices": 2, "strategy": strategy, "logger": False}
    trainer = fit("fsdp", folder, [callback, gather, saver], dtype=torch.float32, model=Model, **options)
    assert dist.get_world_size() == 2
    others = save_others(trainer.lightning_module, trainer.optimizers[0], folder)
    if trainer.is_global_zero:
        callback.history.save(folder / "history.npz")
        torch.save({"lightning": gather.states[1:], "others": others}, folder / "whole.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
    leave_together()
