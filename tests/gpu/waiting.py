# SPDX-License-Identifier: Apache-2.0
"""What waits for the GPU: in a measurement, only the one copy of its results."""

import time
from contextlib import contextmanager

import torch
from lightning.pytorch.loggers import CSVLogger
from torch import nn
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from lightning_rwc import RelativeWeightChange, RWCCallback
from tests.benchmarks.measure import changing, stack
from tests.gpu.here import folder
from tests.helpers import images, net, trainer

# The profiler itself calls cudaDeviceSynchronize when it ends.
_WAITS = ("cudaStreamSynchronize", "cudaEventSynchronize")
# Settings of the metric. All except the sample promise one copy.
_SETTINGS = {
    "l1": {},
    "l2": {"norm": "l2"},
    "elementwise": {"norm": "elementwise"},
    "initial": {"relative_to": "initial"},
    "groups": {"group_by": 1},
    'snapshot_device="cpu"': {"snapshot_device": "cpu"},
    "max_elements=1024": {"max_elements": 1024},
}


def measurement(here):
    """Synchronisations and copies of a measurement, as PyTorch and its profiler see them."""
    rows, problems = {}, []
    for name, setting in _SETTINGS.items():
        module = _mixed(here.device)
        metric, change = RelativeWeightChange(module, **setting), changing(module)
        metric.update(module)
        metric.fetch()
        change()
        error = _error_of_waiting(here, lambda metric=metric, module=module: metric.update(module))
        change()
        rows[name] = _profiled(here, lambda metric=metric, module=module: (metric.update(module), metric.fetch()))
        rows[name]["waits before the copy"] = error or "no"
        if name.startswith("max_elements"):
            continue
        if error:
            problems.append(f"{name}: {error}")
        if rows[name]["copies to host"] != 1 and not (setting.get("snapshot_device") or here.rehearsal):
            problems.append(f"{name}: {rows[name]['copies to host']} copies to the host")
    here.needs_cuda()
    assert not problems, "\n".join(problems)
    return rows


def busy(here):
    """How long the call takes while the GPU sleeps. A call that waits would take as long as the sleep."""
    module = _mixed(here.device)
    metric = RelativeWeightChange(module)
    metric.update(module)
    metric.fetch()
    here.wait()
    here.needs_cuda()
    start = time.perf_counter()
    torch.cuda._sleep(2_000_000_000)
    metric.update(module)
    queued = time.perf_counter() - start
    metric.fetch()
    done = time.perf_counter() - start
    assert queued < done / 4, f"the call took {queued:.3f} s, and the GPU was busy for {done:.3f} s"
    return {"measurement": {"queued after ms": 1e3 * queued, "results after ms": 1e3 * done}}


def callback(here):
    """Copies to the host in 20 steps of a Trainer, with a measurement after each, and without."""
    rows = {}
    for name, callbacks in (("without", []), ("with", [RWCCallback(every_n_train_steps=1, heatmap=False)])):
        with folder() as path:
            fit = trainer(
                *callbacks,
                tmp_path=path,
                accelerator=here.device,
                max_steps=20,
                max_epochs=-1,
                logger=CSVLogger(path),
                log_every_n_steps=1000,
            )
            module = net()
            rows[name] = _profiled(here, lambda fit=fit, module=module: fit.fit(module, images()))
    here.needs_cuda()
    return rows


def _mixed(device):
    """Weights of three precisions."""
    parts = [stack(5, 64, 96, dtype, device) for dtype in (torch.float32, torch.bfloat16, torch.float64)]
    return nn.Sequential(*parts)


def _error_of_waiting(here, action):
    """What PyTorch says if ``action`` waits for the GPU."""
    with _no_waiting(here):
        try:
            action()
        except RuntimeError as error:
            return str(error).partition("\n")[0]
    return None


@contextmanager
def _no_waiting(here):
    if here.rehearsal:
        yield
        return
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def _profiled(here, action):
    """Kernels, copies and waits during ``action``."""
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (not here.rehearsal)
    here.wait()
    with profile(activities=activities) as profiled:
        action()
    here.wait()
    events = profiled.events()
    on_gpu = [event.name for event in events if event.device_type == DeviceType.CUDA]
    calls = [event.name for event in events if event.device_type == DeviceType.CPU]
    return {
        "kernels": sum(not name.startswith(("Memcpy", "Memset")) for name in on_gpu),
        "copies to host": sum("DtoH" in name for name in on_gpu),
        "copies to GPU": sum("HtoD" in name for name in on_gpu),
        "waits": sum(name in _WAITS for name in calls),
    }
