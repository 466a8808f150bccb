# SPDX-License-Identifier: Apache-2.0
"""Trains on several processes and checks the history against NumPy; started by test_distributed.py, once a case."""

import sys
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.loggers import Logger
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.utils.data import DataLoader

from lightning_rwc import RelativeWeightChange, RWCCallback
from tests.helpers import expected_table, leave_together
from tests.oracle import MOVES, numpy_moves, numpy_rwc, numpy_strengths

# Four rows are two units, which three ranks cannot share without cutting one.
UNITS = {r"net\.2": 2, "": 1}
WEIGHTS = ["net.0", "net.2", "net.4", "net.5", "head"]


class Model(LightningModule):
    """Shapes that two ranks cannot share evenly: seven rows, five, and one, which leaves a rank with nothing.

    The first layer has 420 elements, enough for a sample of 256.

    """

    def __init__(self, case):
        super().__init__()
        torch.manual_seed(0)
        self.case = case
        self.net = nn.Sequential(
            nn.Linear(60, 7), nn.ReLU(), nn.Linear(7, 4), nn.ReLU(), nn.Linear(4, 1), nn.Linear(1, 5)
        )
        self.head = nn.Linear(5, 3)

    def configure_model(self):
        if self.case == "fsdp":
            mesh = self.device_mesh["data_parallel"]
            for layer in (*self.net, self.net, self.head):
                if list(layer.parameters()):
                    fully_shard(layer, mesh=mesh)
        elif self.case == "partly sharded":
            fully_shard(self.net, mesh=self.device_mesh["data_parallel"])
        elif self.case == "hybrid":
            mesh = dist.init_device_mesh("cpu", (2, 2), mesh_dim_names=("replicate", "shard"))
            fully_shard(self.net, mesh=mesh)
            fully_shard(self.head, mesh=mesh)
        elif self.case == "2-D":
            plan = {"net.2": ColwiseParallel(), "net.4": RowwiseParallel()}
            parallelize_module(self, self.device_mesh["tensor_parallel"], plan)
            fully_shard(self.net, mesh=self.device_mesh["data_parallel"])
            fully_shard(self.head, mesh=self.device_mesh["data_parallel"])

    def loss(self, batch):
        return self.head(self.net(batch)).square().mean()

    def training_step(self, batch, batch_idx):
        loss = self.loss(batch)
        self.log("loss", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        self.loss(batch)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.5, weight_decay=0.1)


class Cut(Model):
    """No gradient gets past the head."""

    def loss(self, batch):
        return (self.head(self.net(batch) * 0 + 1) - 1).square().mean()


class Gather(Callback):
    """Keeps the whole weights of all ranks, at the start and at the end of every epoch."""

    def __init__(self):
        self.states = []

    def keep(self, module):
        for child in module.modules():
            if hasattr(child, "reshard"):
                child.reshard()
        state = {}
        for name, parameter in module.named_parameters():
            whole = parameter.full_tensor() if isinstance(parameter, DTensor) else parameter
            state[name] = whole.detach().clone()
        self.states.append(state)

    def on_train_start(self, trainer, pl_module):
        self.keep(pl_module)

    def on_train_epoch_end(self, trainer, pl_module):
        self.keep(pl_module)


class FailingOnOneRank(Logger):
    """A logger that breaks on the one rank that logs."""

    name, version = "failing", 0

    def log_metrics(self, metrics, step=None):
        if any(key.startswith("rwc") for key in metrics) and dist.get_rank() == 0:
            raise OSError("disk full")

    def log_hyperparams(self, *args, **kwargs):
        pass


def strategy(case, processes):
    if case == "ddp":
        return DDPStrategy(process_group_backend="gloo")
    # By default Lightning makes one data-parallel group of one rank, in which nothing is sharded.
    tensor_parallel = 2 if case == "2-D" else 1
    return ModelParallelStrategy(
        data_parallel_size=processes // tensor_parallel,
        tensor_parallel_size=tensor_parallel,
        process_group_backend="gloo",
        save_distributed_checkpoint=False,
    )


def fit(case, folder, callbacks, *, dtype, ckpt_path=None, model=Model, **options):
    """Train ``model(case)`` on four equal batches for three epochs, under the Trainer's ``options``."""
    torch.manual_seed(0)
    loader = DataLoader(torch.randn(2, 60, dtype=dtype).repeat(4, 1), batch_size=2)
    trainer = Trainer(
        max_epochs=3,
        callbacks=callbacks,
        enable_checkpointing=any(isinstance(callback, ModelCheckpoint) for callback in callbacks),
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        default_root_dir=folder,
        **options,
    )
    trainer.fit(model(case).to(dtype), loader, loader, ckpt_path=ckpt_path)
    assert trainer.world_size == options["devices"]
    return trainer


def run(case, processes, folder, callbacks, ckpt=None, logger=False, model=Model):
    # Several ranks add up gradients in another order than one process: in double precision that is not seen.
    dtype = torch.float64 if case in ("ddp", "fsdp", "2-D") else torch.float32
    return fit(
        case if processes > 1 else None,
        folder,
        callbacks,
        dtype=dtype,
        ckpt_path=ckpt,
        accelerator="cpu",
        devices=processes,
        strategy=strategy(case, processes) if processes > 1 else "auto",
        logger=logger,
        model=model,
    )


def check(callback, states, norm, relative_to):
    np.testing.assert_allclose(
        callback.history.values, expected_table(states, norm, relative_to, callback.history.layers), rtol=1e-6
    )


def main(case, processes, norm, relative_to, folder):
    measures = ("strength", "fluctuation")
    callback, gather = RWCCallback(norm=norm, relative_to=relative_to, measures=measures), Gather()
    grouped = RWCCallback(
        norm=norm, relative_to=relative_to, group_by="tests.distributed_program:halves", prefix="group"
    )
    sampled, moving = sampling(norm, relative_to), movements(norm, relative_to)
    logger = FailingOnOneRank() if processes > 1 else False
    trainer = run(case, processes, folder, [callback, grouped, moving, *sampled, gather], logger=logger)
    assert callback.history.layers == WEIGHTS
    check(callback, gather.states, norm, relative_to)
    for strength, fluctuation, state in zip(
        callback.histories["strength"].values, callback.histories["fluctuation"].values, gather.states[1:], strict=True
    ):
        units = numpy_strengths([state[f"{name}.weight"].double().numpy() for name in WEIGHTS])
        np.testing.assert_allclose(strength, [np.mean(s) for s in units], rtol=1e-6)
        np.testing.assert_allclose(fluctuation, [np.std(s) for s in units], rtol=1e-6, atol=1e-12)
    for estimate in sampled:
        check_estimate(estimate.history, callback.history)
    check_memory(case, callback)
    finder = RWCCallback()
    run(case, processes, folder, [finder], model=Cut)
    # The third epoch is the first that ends after ten steps. Lightning clears gradients, and validates, before its end.
    assert [(one.kind, one.layers, one.step) for one in finder.findings] == [("no_gradient", (*WEIGHTS[:-1],), 11)]
    if case == "fsdp" and processes > 1:
        check_sharded_later()
    check_movements(moving, gather.states, norm, relative_to)
    bases = [gather.states[0]] * 3 if relative_to == "initial" else gather.states[:-1]
    for row, before, after in zip(grouped.history.values, bases, gather.states[1:], strict=True):
        for value, layer in zip(row, grouped.history.layers, strict=True):
            names = [f"{name}.weight" for name in WEIGHTS if halves(name) == layer]
            expected = numpy_rwc([before[name] for name in names], [after[name] for name in names], norm)
            np.testing.assert_allclose(value, expected, rtol=1e-6)
    if trainer.is_global_zero:
        callback.history.save(folder / f"{processes}.npz")
    if processes > 1:
        without = Gather()
        plain = run(case, processes, folder, [without])
        assert trainer.callback_metrics["loss"] == plain.callback_metrics["loss"]
        for with_callback, alone in zip(gather.states, without.states, strict=True):
            assert all(torch.equal(with_callback[name], weight) for name, weight in alone.items())
        resume(case, processes, norm, relative_to, folder, [callback, moving, *sampled])


def sampling(norm, relative_to):
    if norm == "elementwise":
        return []
    return [RWCCallback(norm=norm, relative_to=relative_to, max_elements=256, prefix="sampled")]


def movements(norm, relative_to):
    measures = [*MOVES, "still", *(["equilibrium"] if relative_to == "previous" else [])]
    return RWCCallback(norm=norm, relative_to=relative_to, measures=measures, units=UNITS, prefix="moving")


def tables(callback):
    return [*callback.histories.values(), *callback.units.values(), *callback.unit_rotations.values()]


def check_movements(callback, states, norm, relative_to):
    """Movements of layers, and changes and rotations of units, equal NumPy."""
    if relative_to == "previous":
        # The autocorrelation of w[t+1] = (1 + 0.5 − 0.005) w[t] − 0.5 w[t−1] + noise after the four steps of an epoch.
        rho = [1, 1.495 / 1.5]
        for _ in range(3):
            rho.append(1.495 * rho[-1] - 0.5 * rho[-2])
        rotations = callback.histories["rotation"].values
        np.testing.assert_allclose(callback.histories["equilibrium"].values, rotations / np.arccos(rho[4]), rtol=1e-6)
    for row, after in enumerate(states[1:]):
        start = 0 if relative_to == "initial" else row
        for column, layer in enumerate(WEIGHTS):
            weights = states[start][f"{layer}.weight"], after[f"{layer}.weight"]
            for name in MOVES:
                found = callback.histories[name].values[row, column]
                np.testing.assert_allclose(found, numpy_moves(*([w] for w in weights), name), rtol=1e-6, atol=1e-7)
            pairs = [*zip(*(weight.split(2 if layer == "net.2" else 1) for weight in weights), strict=True)]
            changes = [numpy_rwc([p], [c], norm) for p, c in pairs]
            rotations = [numpy_moves([p], [c], "rotation") for p, c in pairs]
            np.testing.assert_allclose(callback.units[layer].values[row], changes, rtol=1e-6)
            np.testing.assert_allclose(callback.unit_rotations[layer].values[row], rotations, rtol=1e-6, atol=1e-7)
            steps = 4 * (row + 1 - start)
            # A single number, as in a row of `net.5`, cannot turn.
            still = np.mean(np.array(rotations) <= steps * 2.0**-24) if weights[0].shape[1] > 1 else np.nan
            np.testing.assert_allclose(callback.histories["still"].values[row, column], still)


def check_estimate(estimate, exact):
    assert (estimate.standard_errors[:, 0] > 0).all()
    assert (np.abs(estimate.values[:, 0] - exact.values[:, 0]) < 4 * estimate.standard_errors[:, 0]).all()
    assert (estimate.standard_errors[:, 1:] == 0).all()
    np.testing.assert_allclose(estimate.values[:, 1:], exact.values[:, 1:], rtol=1e-12)


def check_memory(case, callback):
    """Each rank keeps its part of every layer, and all ranks together one model."""
    kept = [baseline.values.numel() for baseline in callback._metric._snapshot._baselines.values()]
    sizes = [7 * 60, 4 * 7, 4, 5, 3 * 5]
    if case in ("ddp", "fsdp") and dist.is_initialized():
        everyone = [None] * dist.get_world_size()
        dist.all_gather_object(everyone, kept)
        assert np.sum(everyone, axis=0).tolist() == sizes
        if case == "ddp":
            assert np.ptp(everyone, axis=0).max() <= 1
        else:
            # The layer of one row leaves every rank but the first with nothing.
            assert [parts[2] for parts in everyone] == [4, *[0] * (len(everyone) - 1)]


def check_sharded_later():
    """A metric of plain weights goes on when they are sharded, and one of sampled weights begins anew."""
    for max_elements, value in ((None, 0.5), (256, 0.0)):
        model = nn.Linear(60, 7)
        dist.broadcast(model.weight.data, 0)
        metric = RelativeWeightChange(model, max_elements=max_elements)
        with torch.no_grad():
            model.weight.mul_(1.5)
        fully_shard(model)
        np.testing.assert_allclose(metric(model)["weight"], value, rtol=1e-6)
        with torch.no_grad():
            model.weight.mul_(1.5)
        np.testing.assert_allclose(metric(model)["weight"], 0.5, rtol=1e-6)


def resume(case, processes, norm, relative_to, folder, whole):
    saver = ModelCheckpoint(folder / "saved", every_n_train_steps=6, filename="{step}", save_top_k=-1)

    def callbacks():
        plain = RWCCallback(norm=norm, relative_to=relative_to)
        return [plain, movements(norm, relative_to), *sampling(norm, relative_to)]

    run(case, processes, folder, [*callbacks(), saver])
    resumed = callbacks()
    run(case, processes, folder, resumed, ckpt=folder / "saved" / "step=6.ckpt")
    for again, once in zip(resumed, whole, strict=True):
        assert again.history.epochs == once.history.epochs
        for mine, other in zip(tables(again), tables(once), strict=False):
            np.testing.assert_array_equal(mine.values, other.values)
        np.testing.assert_array_equal(again.history.standard_errors, once.history.standard_errors)


def halves(name):
    """A grouping that joins sharded and replicated parameters where a case has both."""
    return "ends" if name.startswith(("net.0", "head")) else "middle"


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4], Path(sys.argv[5]))
    leave_together()
