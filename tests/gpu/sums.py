# SPDX-License-Identifier: Apache-2.0
"""Every way of summing beside float64 NumPy."""

import warnings
from contextlib import ExitStack, nullcontext
from unittest.mock import patch

import numpy as np
import torch

from lightning_rwc import sums
from tests.gpu.same import assert_same_bits
from tests.oracle import EDGES, NORMS, assert_equal_sums, numpy_piece_sums

FLOATS = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
# What compiled kernels read: a snapshot is never narrower than the weights, except of float64.
COMPILED_PAIRS = [(before, after) for before in FLOATS for after in FLOATS if before == after or before.itemsize > 2]
ALL_PAIRS = [(before, after) for before in FLOATS for after in FLOATS] + [(torch.complex64, torch.complex64)]
SIZES = [0, 1, 5, 1000, 2047, 2048, 2049, 3 * 2048 + 7]
# Pieces, and the length of each.
SHAPES = [(0, 0), (3, 0), (5, 1), (9, 64), (70, 63), (64, 576), (3, 1000), (2, 2048), (3, 2 * 2048 + 5), (1, 70)]


def triton(here, norm):
    """The Triton kernels on the GPU, or in Triton's interpreter."""
    from lightning_rwc.sums import triton_sums

    _both_chunks(here, triton_sums, "_CHUNK", 2, triton_sums.prepare_sums, [norm], COMPILED_PAIRS, _triton_tolerance)


def streamed(here):
    """Weights on the GPU, snapshot in main memory. The rehearsal has streams that do nothing."""
    from lightning_rwc.sums import streamed as module

    with ExitStack() as stack:
        if here.rehearsal:
            for name in ("Stream", "current_stream"):
                stack.enter_context(patch.object(torch.cuda, name, _Stream))
            stack.enter_context(patch.object(torch.cuda, "stream", nullcontext))
        _both_chunks(here, module, "DEVICE_CHUNK", 1000, module.prepare_sums, NORMS, COMPILED_PAIRS, _exact, home="cpu")


def plain(here):
    """PyTorch's operations, as a device without Triton takes them."""
    from lightning_rwc.sums import plain as module

    chunk = "_CPU_CHUNK" if here.rehearsal else "DEVICE_CHUNK"
    # A CPU has another way for real weights.
    with patch.object(module, "_is_real_on_cpu", lambda previous, current: False):
        _both_chunks(here, module, chunk, 1000, module.prepare_sums, NORMS, ALL_PAIRS, _exact)


def chosen(here):
    """All kinds of tensors in one call, each summed in the way that the registry names for it."""
    ways = {
        ("cpu", "cpu"): "lightning_rwc.sums.numba_sums",
        ("cuda", "cuda"): "lightning_rwc.sums.triton_sums",
        ("cpu", "cuda"): "lightning_rwc.sums.streamed",
    }
    homes = [("cpu", "cpu")] if here.rehearsal else list(ways)
    previous, current = [], []
    with warnings.catch_warnings():
        # A way that fails would be replaced by the plain one, with a warning.
        warnings.filterwarnings("error", message="Relative weight change is measured with plain")
        for home, away in homes:
            for before, after in COMPILED_PAIRS:
                p, c = _tensors([5, 3000], before, after, home, away)
                previous += p
                current += c
                assert sums._prepare_for(p[0], c[0]).__module__ == ways[home, away]
        p, c = _tensors([7], torch.complex64, torch.complex64, here.device, here.device)
        previous, current = previous + p, current + c
        assert sums._prepare_for(p[0], c[0]).__module__ == "lightning_rwc.sums.plain"
        for norm in NORMS:
            for pieces in (1, 5, 3000):
                counts = [pieces if len(p) % pieces == 0 else 1 for p in previous]
                _compare(here, sums.prepare_sums, previous, current, norm, True, _triton_tolerance, counts)
    return {"tensors": {"count": len(previous), "ways": len(homes) + 1}}


class _Stream:
    """A stream of a CPU, which does everything at once."""

    def __init__(self, device=None):
        pass

    def record_event(self):
        return None

    def wait_event(self, event):
        pass

    def wait_stream(self, stream):
        pass


def _exact(before, after):
    return 1e-12


def _triton_tolerance(before, after):
    # Blocks are summed in float32, unless a tensor is float64.
    return 1e-12 if torch.float64 in (before, after) else 1e-6


def _both_chunks(here, module, name, small, prepare, norms, pairs, tolerance, home=None):
    """Compare with the real size of a chunk, and with one so small that there are many chunks."""
    _compare_all(here, prepare, norms, pairs, tolerance, here.pick([*SIZES, 2**22 + 3], SIZES[:6]), home)
    sizes, pieces = [count * length for count, length in SHAPES], [count for count, _ in SHAPES]
    _compare_all(here, prepare, norms, pairs[: here.pick(None, 5)], tolerance, sizes, home, pieces)
    with patch.object(module, name, small):
        _compare_all(here, prepare, norms, pairs[: here.pick(None, 5)], tolerance, SIZES, home)
        _compare_all(here, prepare, norms, pairs[: here.pick(None, 2)], tolerance, sizes, home, pieces)
    for norm in norms:
        for kind in (torch.float32, torch.float64):
            previous, current = (
                [torch.tensor(side, dtype=kind, device=device) for side in sides]
                for sides, device in zip(zip(*EDGES, strict=True), (home or here.device, here.device), strict=True)
            )
            _compare(here, prepare, _pinned(previous), current, norm, True, tolerance)


def _compare_all(here, prepare, norms, pairs, tolerance, sizes, home, pieces=None):
    for norm in norms:
        for before, after in pairs:
            for advance in (True, False):
                tensors = _tensors(sizes, before, after, home or here.device, here.device)
                _compare(here, prepare, *tensors, norm, advance, tolerance, pieces)


def _tensors(sizes, before, after, home, away):
    """Earlier values at ``home`` and present ones ``away``. Of every second pair the memory is not aligned."""
    generator = torch.Generator().manual_seed(0)
    previous, current = [], []
    for index, size in enumerate(sizes):
        values = torch.randn(size + 1, generator=generator)
        values[2::3] = 0
        moved = values + 0.01 * torch.randn(size + 1, generator=generator)
        start = index % 2
        previous.append(values.to(home, before)[start : size + start])
        current.append(moved.to(away, after)[start : size + start])
    return _pinned(previous) if home != away else previous, current


def _pinned(tensors):
    if not torch.cuda.is_available() or tensors[0].is_cuda:
        return tensors
    # Into the same place of a pinned tensor, so that what is not aligned stays so.
    pinned = []
    for tensor in tensors:
        whole = torch.empty(tensor.storage_offset() + len(tensor), dtype=tensor.dtype, pin_memory=True)
        pinned.append(whole[tensor.storage_offset() :].copy_(tensor))
    return pinned


def _compare(here, prepare, previous, current, norm, advance, tolerance, pieces=None):
    """Compare sums and snapshot with NumPy, at two states that the same tensors go through."""
    pieces = pieces or [1] * len(previous)
    prepared = prepare(previous, current, pieces)
    for _ in range(2):
        expected = numpy_piece_sums(previous, current, pieces, norm)
        kept = [(c.cpu().to(p.dtype) if advance else p.cpu().clone()) for p, c in zip(previous, current, strict=True)]
        here.wait()
        found = prepared(norm, advance)
        here.wait()
        assert found.dtype == torch.float64
        assert found.shape == expected.shape
        ends = np.cumsum(pieces)
        for p, c, end, count in zip(previous, current, ends, pieces, strict=True):
            what = f"{norm}, {p.dtype} on {p.device}, {c.dtype} on {c.device}, {count} pieces of {len(p)} elements"
            columns = slice(end - count, end)
            try:
                assert_equal_sums(found[:, columns].cpu(), expected[:, columns], tolerance(p.dtype, c.dtype))
            except AssertionError as error:
                raise AssertionError(f"{what}: {error}") from error
        if not previous[0].is_complex():
            assert_same_bits([p for p in previous if not p.is_complex()], [k for k in kept if not k.is_complex()])
        for tensor in current:
            tensor.mul_(1.01)
