# SPDX-License-Identifier: Apache-2.0
"""The same on a CUDA device."""

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from tests.benchmarks.measure import changing, stack
from tests.benchmarks.peers import ours, tracked
from tests.benchmarks.timing import interleaved, summary


def cuda(repeats, quick):
    """A measurement on a GPU, beside the copy bandwidth of its memory."""
    if not torch.cuda.is_available():
        yield "cuda", "there is no CUDA device", {}
        return
    for name, layers, size in (("100 M", 24, 2048), ("1 B", 60, 4096))[: 1 if quick else 2]:
        for dtype in (torch.float32, torch.bfloat16):
            title = f"{name} {str(dtype).removeprefix('torch.')}"
            if torch.cuda.mem_get_info()[0] > 4.5 * layers * size**2 * dtype.itemsize:
                yield title, "", _beside_copy(stack(layers, size, size, dtype, "cuda"), repeats)
            else:
                yield title, "left out: the device has too little free memory", {}
            torch.cuda.empty_cache()

    rows = {f"{layers:,} layers": _launched(stack(layers, 64, 64, device="cuda")) for layers in (10, 1000)}
    rows["1,000 layers"]["times 10 layers"] = rows["1,000 layers"]["kernels"] / rows["10 layers"]["kernels"]
    yield "launches", "of one measurement", rows


def _beside_copy(module, repeats):
    weights = tracked(module)
    count, width = sum(w.numel() for w in weights), weights[0].itemsize
    source, target = (torch.zeros(count, dtype=weights[0].dtype, device="cuda") for _ in range(2))
    ways = {"bound": lambda: target.copy_(source), "ours": ours(module)}
    times = interleaved(ways, repeats, changing(module), torch.cuda.synchronize)
    # A copy reads and writes once; a measurement reads twice and writes once.
    rows = {"bound": summary([1.5 * taken for taken in times["bound"]]), "ours": summary(times["ours"])}
    for row in rows.values():
        row |= {"times bound": row["ms"] / rows["bound"]["ms"], "GB/s": 3e-6 * count * width / row["ms"]}
    torch.cuda.reset_peak_memory_stats()
    held = torch.cuda.memory_allocated()
    ways["ours"]()
    rows["ours"]["extra MiB"] = (torch.cuda.max_memory_allocated() - held) / 2**20
    return rows


def _launched(module):
    measure = ours(module)
    measure()
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiled:
        measure()
        torch.cuda.synchronize()
    names = [event.name for event in profiled.events() if event.device_type == DeviceType.CUDA]
    copies = [name for name in names if name.startswith("Memcpy")]
    return {
        "kernels": sum(not name.startswith(("Memcpy", "Memset")) for name in names),
        "copies to host": sum("DtoH" in name for name in copies),
        "other copies": sum("DtoH" not in name for name in copies),
    }
