# SPDX-License-Identifier: Apache-2.0
"""What it costs to compare two saved models: ``lightning-rwc diff``."""

import os
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from safetensors.torch import save_file

from lightning_rwc.weight_diff import diff_checkpoints
from tests.benchmarks.timing import summary

_BLOCK = 2**24
_SIDE = 4096


def diff(repeats, quick):
    """two saved models compared, beside reading both files once"""
    matrices = 8 if quick else 64
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder, f"{name}.safetensors") for name in ("base", "tuned")]
        _write(files, matrices)
        size = sum(file.stat().st_size for file in files) / 2**30
        diff_checkpoints(*files)  # compiles the kernel
        ways = {
            "read, then the other": lambda: _read(files),
            "read, both at once": lambda: _read_at_once(files),
            "diff": lambda: diff_checkpoints(*files),
        }
        for title, before in (("from disk", lambda: _forget(files)), ("from the page cache", lambda: _read(files))):
            times = {way: [] for way in ways}
            peaks = dict.fromkeys(ways, 0.0)
            names = [*ways]
            for turn in range(repeats):
                for way in names[turn % len(names) :] + names[: turn % len(names)]:
                    before()
                    peak = _Peak()
                    start = time.perf_counter()
                    with peak:
                        ways[way]()
                    times[way].append(1e3 * (time.perf_counter() - start))
                    peaks[way] = max(peaks[way], peak.mib)
            rows = {way: summary(taken) for way, taken in times.items()}
            fastest = min(columns["ms"] for way, columns in rows.items() if way != "diff")
            for way, columns in rows.items():
                columns["times read"] = columns["ms"] / fastest
                columns["extra MiB"] = peaks[way]
            yield title, f"{2 * matrices} bfloat16 matrices of {_SIDE}², {size:.1f} GiB", rows


def _write(files, matrices):
    generator = torch.Generator().manual_seed(0)
    weights = torch.empty(_SIDE, _SIDE).uniform_(-0.05, 0.05, generator=generator)
    for number, file in enumerate(files):
        # Storage that is shared would be refused, so each matrix is one of its own.
        changed = (weights * (1 + 0.01 * number)).bfloat16()
        save_file({f"layers.{index}.weight": changed.clone() for index in range(matrices)}, file)
        with file.open("rb") as handle:
            os.fsync(handle.fileno())


def _read(files):
    for file in files:
        _read_one(file)


def _read_at_once(files):
    with ThreadPoolExecutor(len(files)) as pool:
        list(pool.map(_read_one, files))


def _read_one(file):
    buffer = bytearray(_BLOCK)
    with file.open("rb", buffering=0) as handle:
        while handle.readinto(buffer):
            pass


def _forget(files):
    """Take the files out of the page cache."""
    for file in files:
        with file.open("rb") as handle:
            os.posix_fadvise(handle.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


class _Peak:
    """How far memory that is no page of a file rises, looked at every few milliseconds."""

    def __enter__(self):
        self.mib, self._start, self._done = 0.0, _anonymous(), threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()

    def __exit__(self, *_):
        self._done.set()
        self._thread.join()

    def _watch(self):
        while not self._done.wait(0.005):
            self.mib = max(self.mib, (_anonymous() - self._start) / 1024)


def _anonymous():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))
