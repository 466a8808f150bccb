# SPDX-License-Identifier: Apache-2.0
"""A tiny GPT-2 and Trainers for it. As a program, it trains on two processes and leaves tables in a folder."""

import sys

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.utils.data import SequentialSampler
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainerCallback, TrainingArguments

from lightning_rwc.huggingface import RWCTrainerCallback

STEPS, BATCH = 6, 4


class Sharded(GPT2LMHeadModel):
    """A model that the Trainer neither wraps nor shards, as if transformers had loaded it in shards."""

    is_distributed_loading_by_transformers = True


def gpt2(cls=GPT2LMHeadModel):
    torch.manual_seed(0)
    sizes = {"vocab_size": 24, "n_positions": 8, "n_embd": 16, "n_layer": 2, "n_head": 2}
    dropout = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    return cls(GPT2Config(**sizes, **dropout, bos_token_id=0, eos_token_id=0))


def texts():
    tokens = torch.randint(24, (STEPS * BATCH, 8), generator=torch.Generator().manual_seed(0))
    # The first token is predicted by nobody, and the Trainer divides the loss by the number of labels.
    return [{"input_ids": row, "labels": torch.cat((torch.tensor([-100]), row[1:]))} for row in tokens]


class InOrder(Trainer):
    """It does not shuffle."""

    def _get_train_sampler(self, *args):
        return SequentialSampler(self.train_dataset)


class Weights(TrainerCallback):
    """Keeps a copy of the weights at the start and at the end of every epoch."""

    def __init__(self):
        self.kept = []

    def on_train_begin(self, args, state, control, model, **kwargs):
        self.kept.append({name: value.detach().clone() for name, value in model.state_dict().items()})

    def on_epoch_end(self, args, state, control, model, **kwargs):
        self.on_train_begin(args, state, control, model)


def trainer(*callbacks, folder, model=None, momentum=0.0, **arguments):
    """A quiet Trainer on the CPU, for three epochs of six steps of plain SGD."""
    defaults = {
        "use_cpu": True,
        "num_train_epochs": 3,
        "per_device_train_batch_size": BATCH,
        "max_grad_norm": 0.0,
        "lr_scheduler_type": "constant",
        "report_to": "none",
        "save_strategy": "no",
        "disable_tqdm": True,
    }
    model = gpt2() if model is None else model
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1, momentum=momentum)
    settings = TrainingArguments(output_dir=str(folder), **(defaults | arguments))
    return InOrder(model, settings, train_dataset=texts(), callbacks=[*callbacks], optimizers=(optimizer, None))


def sharded():
    """GPT-2 in FSDP2's shards. accelerate itself makes shards on accelerators only, so this is given to the Trainer."""
    model, mesh = gpt2(Sharded), init_device_mesh("cpu", (2,))
    for module in (*model.transformer.h, model):
        fully_shard(module, mesh=mesh)
    return model


def train(folder, name, model, **arguments):
    """Train on all processes, and save the table."""
    callback, resumed = RWCTrainerCallback(), arguments.pop("resumed", None)
    batches = {"per_device_train_batch_size": BATCH // 2, "save_strategy": "steps", "save_steps": 4}
    run = trainer(callback, folder=folder, model=model, momentum=0.5, **batches | arguments)
    run.train(resume_from_checkpoint=resumed)
    assert callback._metric.spans_ranks
    sharded = [isinstance(parameter, DTensor) for parameter in run.model.parameters()]
    assert sharded == [isinstance(model, Sharded)] * len(sharded)
    if dist.get_rank() == 0:
        callback.history.save(f"{folder}/{name}.npz")


def main(folder):
    """Train with DDP, again from a checkpoint within an epoch, and with FSDP2."""
    dist.init_process_group("gloo")
    assert dist.get_world_size() == 2
    train(folder, "ddp", gpt2())
    train(folder, "resumed", gpt2(), resumed=f"{folder}/checkpoint-4")
    train(folder, "fsdp", sharded(), save_strategy="no")
    assert "lightning" not in sys.modules
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
