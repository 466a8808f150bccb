# SPDX-License-Identifier: Apache-2.0
"""The callback in a Trainer on the GPU."""

import numpy as np
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_rwc import RWCCallback
from tests.gpu.here import folder
from tests.gpu.same import assert_same_bits
from tests.helpers import BATCHES, Net, Recorder, expected_table, images, net, trainer


class Momentum(Net):
    """A network whose optimizer has a state."""

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)


class Noisy(Momentum):
    """The same with random numbers."""

    def loss(self, batch):
        return super().loss([nn.functional.dropout(batch[0], 0.2)])


def like_cpu(here):
    """A training in float64, in which the devices themselves differ by less than 1e-6."""
    histories = []
    for device in (here.device, "cpu"):
        rwc = RWCCallback()
        _fit(device, net(), rwc, precision="64-true")
        histories.append(rwc.history)
    there, on_cpu = histories
    assert (there.layers, there.steps, there.epochs) == (on_cpu.layers, on_cpu.steps, on_cpu.epochs)
    np.testing.assert_allclose(there.values, on_cpu.values, rtol=1e-6)
    difference = np.abs(there.values / on_cpu.values - 1).max()
    return {"history": {"largest relative difference": float(difference)}}


def like_numpy(here):
    """The callback's settings, in float32."""
    settings = [
        {},
        {"norm": "l2"},
        {"norm": "elementwise"},
        {"relative_to": "initial"},
        {"snapshot_device": "cpu"},
        {"snapshot_device": "cpu", "norm": "l2", "relative_to": "initial"},
    ]
    for setting in settings:
        _assert_like_numpy(here, net(), RWCCallback(**setting))
    channels_last = net().to(memory_format=torch.channels_last)
    _assert_like_numpy(here, channels_last, RWCCallback())
    rwc, recorder = RWCCallback(every_n_train_steps=1), Recorder()
    _fit(here.device, net(), rwc, recorder)
    expected = expected_table([recorder.start, *recorder.batches])
    np.testing.assert_allclose(rwc.history.values, expected, rtol=1e-6)


def same_training(here):
    """Weights after every step, losses and the state of random numbers, with and without the callback."""
    runs = []
    for callbacks in ([], [RWCCallback()], [RWCCallback(every_n_train_steps=1, snapshot_device="cpu")]):
        recorder = Recorder()
        fit = _fit(here.device, net(Noisy), *callbacks, recorder, deterministic=True)
        states = [weights for state in [*recorder.batches, *recorder.epochs] for weights in state.values()]
        randoms = torch.get_rng_state() if here.rehearsal else torch.cuda.get_rng_state()
        runs.append((states, fit.callback_metrics["loss"], randoms))
    for states, loss, randoms in runs[1:]:
        assert_same_bits(states, runs[0][0])
        assert_same_bits([loss], [runs[0][1]])
        assert torch.equal(randoms, runs[0][2])


def resume(here):
    """Runs that go on from checkpoints at the end and in the middle of an epoch."""
    for setting in ({}, {"every_n_train_steps": 4}, {"relative_to": "initial"}, {"snapshot_device": "cpu"}):
        with folder() as path:
            saver = ModelCheckpoint(path, every_n_train_steps=4, save_top_k=-1)
            whole = RWCCallback(**setting)
            _fit(here.device, net(Momentum), whole, saver, data=_same_batches(), **_RESUMED)
            saved = sorted(path.glob("*.ckpt"))
            assert len(saved) == 3 * BATCHES // 4
            for file in saved:
                again = RWCCallback(**setting)
                _fit(here.device, net(Momentum), again, data=_same_batches(), ckpt_path=file, **_RESUMED)
                np.testing.assert_array_equal(again.history.steps, whole.history.steps)
                np.testing.assert_array_equal(again.history.values, whole.history.values)


def precisions(here):
    """Lightning's precisions. A CPU runs `16-mixed` as `bf16-mixed`, and has no `16-true`."""
    for precision in ("32-true", "bf16-true", "16-mixed", "bf16-mixed", *here.pick(["16-true"], [])):
        _assert_like_numpy(here, net(), RWCCallback(), precision=precision)
        _assert_like_numpy(here, net(), RWCCallback(snapshot_device="cpu"), precision=precision)


def compiled(here):
    """The whole module compiled, and a part of it."""
    backend = here.pick("inductor", "eager")
    _assert_like_numpy(here, torch.compile(net(), backend=backend), RWCCallback())
    part = net()
    part.block["conv2"] = torch.compile(part.block["conv2"], backend=backend)
    rwc, recorder = RWCCallback(), Recorder()
    _fit(here.device, part, rwc, recorder)
    states = [_plain_names(state) for state in (recorder.start, *recorder.epochs)]
    np.testing.assert_allclose(rwc.history.values, expected_table(states), rtol=1e-6)


_RESUMED = {"deterministic": True, "enable_checkpointing": True}


def _fit(device, module, *callbacks, data=None, ckpt_path=None, **kwargs):
    with folder() as path:
        torch.manual_seed(0)
        fit = trainer(*callbacks, tmp_path=path, accelerator=device, **kwargs)
        fit.fit(module, data or images(), ckpt_path=ckpt_path)
        return fit


def _assert_like_numpy(here, module, rwc, **kwargs):
    recorder = Recorder()
    _fit(here.device, module, rwc, recorder, **kwargs)
    states = [_plain_names(state) for state in (recorder.start, *recorder.epochs)]
    expected = expected_table(states, rwc._metric.norm, rwc._metric.relative_to)
    np.testing.assert_allclose(rwc.history.values, expected, rtol=1e-6)


def _plain_names(state):
    return {name.replace("_orig_mod.", ""): weights for name, weights in state.items()}


def _same_batches():
    """Batches that are all alike, because Lightning does not restore the position inside an epoch of a plain loader."""
    batch = next(iter(images()))[0]
    return DataLoader(TensorDataset(batch.repeat(BATCHES, 1, 1, 1)), batch_size=4)
