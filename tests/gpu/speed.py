# SPDX-License-Identifier: Apache-2.0
"""How long a measurement takes on a GPU."""

import gc

import torch
from torch import nn
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from lightning_rwc import RelativeWeightChange
from tests.benchmarks.cuda import cuda
from tests.benchmarks.timing import interleaved, summary
from tests.gpu.here import NotHere

# Layers, and rows and columns of each.
_SIZES = {"25 M": (24, 1024, 1024), "100 M": (24, 2048, 2048), "1 B": (60, 4096, 4096), "4 B": (60, 8192, 8192)}
_SMALL = (24, 64, 64)
_ROUNDS = 9


class _Stack(nn.Module):
    """Layers whose weights are parts of one tensor, so that an addition of the same size needs no copy of them."""

    def __init__(self, layers, rows, columns, dtype, device):
        super().__init__()
        self.flat = torch.empty(layers * rows * columns, dtype=dtype, device=device).uniform_(-0.05, 0.05)
        for index, part in enumerate(self.flat.split(rows * columns)):
            self.register_parameter(f"layer{index}", nn.Parameter(part.view(rows, columns), requires_grad=False))


def beside_addition(here, size):
    """A measurement and ``p.add_(c)``, in turns, by the clock and by the time of the kernels alone."""
    layers, *shape = here.pick(_SIZES[size], _SMALL)
    rows = {}
    for dtype in (torch.float32, torch.bfloat16):
        name = _name(layers, shape, dtype)
        needed = 3.2 * layers * shape[0] * shape[1] * dtype.itemsize
        if not here.rehearsal and torch.cuda.mem_get_info()[0] < needed:
            rows[name] = {"left out": f"needs {needed / 2**30:.0f} GiB of free memory"}
            continue
        rows[name] = _beside_addition(here, _Stack(layers, *shape, dtype, here.device))
        gc.collect()
        if not here.rehearsal:
            torch.cuda.empty_cache()
    if all("left out" in row for row in rows.values()):
        raise NotHere("the GPU has too little free memory")
    return rows


def _beside_addition(here, module):
    metric, target = RelativeWeightChange(module), torch.zeros_like(module.flat)

    def measure():
        metric.update(module)
        return metric.fetch()

    def change():
        module.flat.mul_(1.01)

    ways = {"addition": lambda: target.add_(module.flat), "ours": measure}
    times = interleaved(ways, here.pick(_ROUNDS, 2), change, None if here.rehearsal else here.wait)
    ours, addition = summary(times["ours"])["ms"], summary(times["addition"])["ms"]
    change()
    kernels = {name: _kernel_ms(here, way) for name, way in ways.items()}
    moved = 3 * module.flat.nbytes
    return {
        "addition ms": addition,
        "ours ms": ours,
        "ours / addition": ours / addition,
        "addition, kernels ms": kernels["addition"],
        "ours, kernels ms": kernels["ours"],
        "kernels / addition": kernels["ours"] / kernels["addition"] if kernels["addition"] else 0.0,
        "GB/s": 1e-6 * moved / ours,
        "extra MiB": _extra_mib(here, measure),
    }


def _kernel_ms(here, way):
    """The time that the GPU spends in the kernels of ``way``, without gaps; the median of five calls."""
    if here.rehearsal:
        return 0.0
    totals = []
    for _ in range(5):
        here.wait()
        with profile(activities=[ProfilerActivity.CUDA]) as profiled:
            way()
            here.wait()
        kernels = [event for event in profiled.events() if event.device_type == DeviceType.CUDA]
        totals.append(1e-3 * sum(event.time_range.elapsed_us() for event in kernels))
    return sorted(totals)[2]


def _extra_mib(here, way):
    if here.rehearsal:
        return 0.0
    torch.cuda.reset_peak_memory_stats()
    held = torch.cuda.memory_allocated()
    way()
    here.wait()
    return (torch.cuda.max_memory_allocated() - held) / 2**20


def beside_copies(here):
    """A measurement with the snapshot in main memory, and copies of as many bytes to the GPU and back."""
    layers, *shape = here.pick(_SIZES["100 M"], _SMALL)
    rows = {}
    for dtype in (torch.float32, torch.bfloat16):
        module = _Stack(layers, *shape, dtype, here.device)
        metric = RelativeWeightChange(module, snapshot_device="cpu")
        pinned = torch.empty(len(module.flat), dtype=dtype, pin_memory=not here.rehearsal)
        target = torch.empty_like(module.flat)
        ways = {
            "copies": lambda p=pinned, t=target: (t.copy_(p, non_blocking=True), p.copy_(t, non_blocking=True)),
            "ours": lambda metric=metric, module=module: (metric.update(module), metric.fetch()),
        }
        change = lambda module=module: module.flat.mul_(1.01)  # noqa: E731
        times = interleaved(ways, here.pick(_ROUNDS, 2), change, None if here.rehearsal else here.wait)
        ours, copies = summary(times["ours"])["ms"], summary(times["copies"])["ms"]
        rows[_name(layers, shape, dtype)] = {
            "copies ms": copies,
            "ours ms": ours,
            "ours / copies": ours / copies,
            "extra MiB on the GPU": _extra_mib(here, ways["ours"]),
        }
    return rows


def _name(layers, shape, dtype):
    return f"{layers * shape[0] * shape[1] / 1e6:,.1f} M {str(dtype).removeprefix('torch.')}"


def benchmarks(here):
    """The section ``cuda`` of the benchmarks."""
    rows = {}
    for title, note, figures in cuda(_ROUNDS, False):
        here.needs_cuda()
        rows |= {f"{title}, {row}": columns for row, columns in figures.items()} or {title: {"note": note}}
    return rows
