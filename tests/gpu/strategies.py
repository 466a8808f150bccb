# SPDX-License-Identifier: Apache-2.0
"""The callback under strategies of several devices, on one GPU or on all. The rehearsal has CPUs, and gloo."""

from contextlib import contextmanager, nullcontext
from importlib.util import find_spec
from unittest.mock import patch

import numpy as np
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.strategies import DDPStrategy, DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy
from torch import nn
from torch.distributed.tensor import DTensor

from lightning_rwc import RWCCallback, start
from tests.distributed_program import fit
from tests.gpu.here import NotHere
from tests.gpu.same import assert_same_bits
from tests.helpers import expected_table


def ddp(here, devices):
    """DDP on one device, or on all."""
    count = _count(here, devices)
    return _verified(here, "ddp", lambda: DDPStrategy(process_group_backend=_backend(here)), count)


def fsdp2(here, devices):
    """FSDP2 on one device, or on all."""
    count = _count(here, devices)

    def strategy():
        return ModelParallelStrategy(
            data_parallel_size=count,
            tensor_parallel_size=1,
            process_group_backend=_backend(here),
            save_distributed_checkpoint=False,
        )

    return _verified(here, "fsdp", strategy, count)


def fsdp1(here):
    """FSDP1, which the callback refuses. On one GPU it shards nothing."""
    if here.rehearsal:
        # Lightning has no FSDP1 on CPUs, so this rehearses what is around it.
        _probed(here, lambda: DDPStrategy(process_group_backend="gloo"))
    here.needs_cuda()
    return _probed(here, lambda: FSDPStrategy(auto_wrap_policy={nn.Linear}, state_dict_type="full"))


def deepspeed(here, stage):
    """DeepSpeed, which the callback refuses."""
    if find_spec("deepspeed") is None:
        raise NotHere("needs CUDA and the package deepspeed")
    here.needs_cuda()
    return _probed(here, lambda: DeepSpeedStrategy(stage=int(stage), allgather_bucket_size=2**20))


class Gather(Callback):
    """Keeps the whole weights, at the start and at the end of every epoch."""

    def __init__(self):
        self.states = []

    def keep(self, trainer, module):
        for child in module.modules():
            if hasattr(child, "reshard"):
                child.reshard()
        with _whole_weights(trainer, module):
            self.states.append({_clean(name): _whole(weights) for name, weights in module.named_parameters()})

    def on_train_start(self, trainer, pl_module):
        self.keep(trainer, pl_module)

    def on_train_epoch_end(self, trainer, pl_module):
        self.keep(trainer, pl_module)


def _verified(here, case, strategy, devices):
    """The history beside NumPy's, training beside one without the callback, and a run that goes on."""
    for setting in ({"norm": "l2", "relative_to": "initial"}, {"norm": "elementwise"}):
        rwc, gather = RWCCallback(**setting), Gather()
        _fit(here, case, strategy(), devices, [rwc, gather])
        _assert_like_numpy(rwc, gather.states, **setting)

    # In the middle of an epoch of four steps.
    saver = ModelCheckpoint(here.folder, every_n_train_steps=6, filename="saved", save_top_k=-1)
    rwc, gather, alone, again = RWCCallback(), Gather(), Gather(), RWCCallback()
    _fit(here, case, strategy(), devices, [rwc, gather, saver])
    _assert_like_numpy(rwc, gather.states)
    _fit(here, case, strategy(), devices, [alone])
    for with_callback, without in zip(gather.states, alone.states, strict=True):
        assert_same_bits([*with_callback.values()], [*without.values()])
    _fit(here, case, strategy(), devices, [again], ckpt_path=here.folder / "saved.ckpt")
    np.testing.assert_array_equal(again.history.values, rwc.history.values)
    return {"ranks": {"count": devices, "backend": _backend(here)}}


def _probed(here, strategy):
    """The history beside NumPy's, with the refusal lifted."""
    devices, rwc, gather = here.pick(torch.cuda.device_count(), 1), RWCCallback(), Gather()
    with patch.object(start, "_UNVERIFIED_STRATEGIES", set()):
        # These keep float32 weights, whatever the module has.
        _fit(here, None, strategy(), devices, [rwc, gather], dtype=torch.float32)
    _assert_like_numpy(rwc, gather.states)
    return {"ranks": {"count": devices, "sharded": devices > 1, "layers": ", ".join(rwc.history.layers)}}


def _assert_like_numpy(rwc, states, norm="l1", relative_to="previous"):
    layers = [_clean(layer) for layer in rwc.history.layers]
    assert len(rwc.history) == len(states) - 1
    np.testing.assert_allclose(
        rwc.history.values, expected_table(states, norm, relative_to, layers), rtol=1e-6, err_msg=f"layers {layers}"
    )


def _fit(here, case, strategy, devices, callbacks, dtype=torch.float64, ckpt_path=None):
    trained_on = {"accelerator": here.device, "devices": devices, "strategy": strategy, "logger": False}
    fit(case, here.folder, callbacks, dtype=dtype, ckpt_path=ckpt_path, **trained_on)


def _count(here, devices):
    count = 1 if devices == "one" else here.pick(torch.cuda.device_count(), 2)
    if devices == "all" and count == 1:
        raise NotHere("needs several GPUs")
    return count


def _backend(here):
    return here.pick("nccl", "gloo")


@contextmanager
def _whole_weights(trainer, module):
    if isinstance(trainer.strategy, FSDPStrategy):
        from torch.distributed.fsdp import FullyShardedDataParallel

        whole = FullyShardedDataParallel.summon_full_params(trainer.strategy.model, writeback=False)
    elif isinstance(trainer.strategy, DeepSpeedStrategy):
        from deepspeed.zero import GatheredParameters

        whole = GatheredParameters([*module.parameters()])
    else:
        whole = nullcontext()
    with whole:
        yield


def _whole(weights):
    weights = weights.full_tensor() if isinstance(weights, DTensor) else weights
    return weights.detach().cpu().clone()


def _clean(name):
    """``name`` without the names of wrappers."""
    parts = name.split(".")
    return ".".join(part for part in parts if part not in ("_fsdp_wrapped_module", "_forward_module", "module"))
