# SPDX-License-Identifier: Apache-2.0
"""Fair times, honest memory, and the machine they were taken on."""

import ctypes
import gc
import os
import platform
import time
from importlib.metadata import distributions
from pathlib import Path

import numpy as np
import torch

_PACKAGES = {"lightning", "lightning-rwc", "numba", "numpy", "tensorboard", "torch", "torchvision", "triton"}
_SWEPT = 2**25  # elements


def interleaved(ways, repeats, change=lambda: None, wait=None):
    """Milliseconds of every way, taken in turns, so that a slow minute of the machine hits them all.

    Args:
        ways: functions to time, by name.
        repeats: how many rounds, after one to warm up. Each begins with another way.
        change: called once a round, so that every way finds the weights changed once since its last call.
        wait: called before the clock is read, for a device that works on its own.

    """
    names, times = list(ways), {name: [] for name in ways}
    swept = torch.zeros(_SWEPT)
    for turn in range(repeats + 1):
        change()
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            # Between two measurements training pushes weights out of the caches, and so must what is before this.
            swept.add_(1) if wait is None else wait()
            start = time.perf_counter()
            ways[name]()
            if wait is not None:
                wait()
            times[name].append(1e3 * (time.perf_counter() - start))
    return {name: taken[1:] for name, taken in times.items()}


def summary(times):
    """The middle and the best of ``times``."""
    return {"ms": float(np.median(times)), "fastest ms": min(times)}


def extra_memory(way, change):
    """How far ``way`` raises memory above what is there before, by the kernel's high-water mark; the larger of two."""
    if not Path("/proc/self/clear_refs").exists():
        return {}
    rises = []
    for _ in range(2):
        change()
        gc.collect()
        # Freed memory that the process still holds would hide what the way takes.
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
        resident = _kib("/proc/self/status", "VmRSS")
        way()
        rises.append((_kib("/proc/self/status", "VmHWM") - resident) / 1024)
    return {"extra MiB": max(rises)}


def has_memory(gib):
    """Whether so much memory is free, as far as the system tells."""
    return not Path("/proc/meminfo").exists() or _kib("/proc/meminfo", "MemAvailable") > gib * 2**20


def machine():
    """What the figures depend on."""
    return {
        "cpu": _line("/proc/cpuinfo", "model name") or platform.processor(),
        "cores": os.cpu_count(),
        "load before": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "torch threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "system": platform.platform(),
        "python": platform.python_version(),
        **{found.name: found.version for found in distributions() if found.name in _PACKAGES},
    }


def _kib(file, key):
    return int(_line(file, key).split()[0])


def _line(file, key):
    lines = Path(file).read_text().splitlines() if Path(file).exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(key)), "")
