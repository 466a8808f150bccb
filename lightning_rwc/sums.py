# SPDX-License-Identifier: Apache-2.0
"""The hot loop: the sums of every tensor, and the snapshot moved forward, in one pass over memory."""

from collections.abc import Callable, Sequence
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import TypeAlias
from warnings import warn

import torch
from torch import Tensor

from lightning_rwc.functional import Norm, change_sums, common_dtype

# Elements of a chunk. On a CPU as many as stay in its caches from one operation to the next, but no fewer than make an
# operation worth its call; elsewhere fewer, larger launches, though the device may be nearly full.
_L1_CHUNK = 2**19
_CPU_CHUNK = 2**16
_DEVICE_CHUNK = 2**21

# What the compiled sums know.
_COMPILED = {torch.float64, torch.float32, torch.bfloat16, torch.float16}

Sums: TypeAlias = Callable[[Norm, bool], Tensor]
_Prepare: TypeAlias = Callable[[Sequence[Tensor], Sequence[Tensor]], Sums]


def prepare_sums(previous: Sequence[Tensor], current: Sequence[Tensor]) -> Sums:
    """Make ready to sum the change of every tensor, any number of times while they stay where they are.

    On the CPU the sums are compiled by Numba where that is installed, on a CUDA device by Triton; plain operations
    serve elsewhere, and for complex numbers.

    Args:
        previous: the earlier values of each tensor, of one dimension and contiguous.
        current: the present values of each, as long, contiguous, on any device.

    Returns:
        A function of the norm, and of whether to make the present values the earlier ones in the same pass. It returns
        a tensor of shape ``(3, tensors)``, on the CPU only if all of ``current`` are, in the form of
        :func:`~lightning_rwc.functional.change_sums`.

    """
    ways: dict[tuple[torch.device, _Prepare], list[int]] = {}
    for index, (p, c) in enumerate(zip(previous, current, strict=True)):
        ways.setdefault((c.device, _way(p, c)), []).append(index)
    parts = [
        (indices, way([previous[index] for index in indices], [current[index] for index in indices]))
        for (_, way), indices in ways.items()
    ]
    home = next((device for device, _ in ways if device.type != "cpu"), torch.device("cpu"))

    def sums(norm: Norm, advance: bool) -> Tensor:
        columns: dict[int, Tensor] = {}
        for indices, part in parts:
            here = part(norm, advance)
            if len(parts) == 1:
                return here
            columns |= zip(indices, here.to(home).unbind(1), strict=True)
        return torch.stack([columns[index] for index in range(len(columns))], dim=1)

    return sums


def _way(previous: Tensor, current: Tensor) -> _Prepare:
    kinds = previous.device.type, current.device.type
    # Subclasses, of quantised weights for one, need have no memory of their own.
    plain = type(previous) is type(current) is Tensor
    known = plain and _COMPILED.issuperset((previous.dtype, current.dtype))
    known = known and (previous.dtype == current.dtype or previous.dtype.itemsize > 2)
    if kinds == ("cpu", "cpu"):
        return (_numba() if known else None) or _later(_cpu_sums if plain else _device_sums)
    if kinds == ("cuda", "cuda"):
        return (_triton() if known else None) or _later(_device_sums)
    return _later(_streamed_sums if kinds == ("cpu", "cuda") else _device_sums)


@cache
def _later(sums: Callable[[Sequence[Tensor], Sequence[Tensor], Norm, bool], Tensor]) -> _Prepare:
    return lambda previous, current: lambda norm, advance: sums(previous, current, norm, advance)


@cache
def _numba() -> _Prepare | None:
    return _compiled("lightning_rwc.numba_sums", "cpu") if find_spec("numba") else None


@cache
def _triton() -> _Prepare | None:
    return _compiled("lightning_rwc.triton_sums", "cuda") if find_spec("triton") else None


def _compiled(module: str, device: str) -> _Prepare | None:
    # A compiler may be there and fail all the same: no cache folder, an old GPU, no C compiler beside it.
    try:
        prepare: _Prepare = import_module(module).prepare_sums
        prepare([torch.ones(1, device=device)], [torch.ones(1, device=device)])("l1", False)
    except Exception as error:
        warn(f"Relative weight change is measured by plain operations, since {module} fails: {error}", stacklevel=2)
        return None
    return prepare


def _cpu_sums(previous: Sequence[Tensor], current: Sequence[Tensor], norm: Norm, advance: bool) -> Tensor:
    return torch.stack(
        [
            _l1_sums(p, c, advance)
            if norm == "l1" and not (p.is_complex() or c.is_complex())
            else _chunk_sums(p, c, norm, advance, _CPU_CHUNK)
            for p, c in zip(previous, current, strict=True)
        ],
        dim=1,
    )


def _l1_sums(previous: Tensor, current: Tensor, advance: bool) -> Tensor:
    # Differences of weights that are near each other are exact in their own precision, and torch sums float32 in
    # pairs within a chunk: Python's floats, which are float64, only add up the chunks.
    dtype = common_dtype(common_dtype(previous.dtype, current.dtype), torch.float32)
    scratch = torch.empty(2, min(len(previous), _L1_CHUNK), dtype=dtype)
    in_place = advance and previous.dtype == current.dtype == dtype
    numerator = denominator = 0.0
    for p, c in zip(previous.split(_L1_CHUNK), current.split(_L1_CHUNK), strict=True):
        size, change = scratch[:, : len(p)]
        if in_place:
            # What the snapshot held is about to be overwritten: as scratch it spares the caches another array.
            denominator += torch.abs(p, out=size).sum().item()
            numerator += p.sub_(c).abs_().sum().item()
        else:
            size.copy_(p)
            numerator += change.copy_(c).sub_(size).abs_().sum().item()
            denominator += size.abs_().sum().item()
        if advance:
            p.copy_(c)
    return torch.tensor([numerator, denominator, numerator], dtype=torch.float64)


def _device_sums(previous: Sequence[Tensor], current: Sequence[Tensor], norm: Norm, advance: bool) -> Tensor:
    pairs = zip(previous, current, strict=True)
    return torch.stack([_chunk_sums(p, c, norm, advance, _DEVICE_CHUNK) for p, c in pairs], dim=1)


def _chunk_sums(previous: Tensor, current: Tensor, norm: Norm, advance: bool, chunk: int) -> Tensor:
    sums = []
    for p, c in zip(previous.split(chunk), current.split(chunk), strict=True):
        sums.append(change_sums(p.to(c.device), c, norm))
        if advance:
            p.copy_(c)
    return torch.stack(sums).sum(0)


def _streamed_sums(previous: Sequence[Tensor], current: Sequence[Tensor], norm: Norm, advance: bool) -> Tensor:
    """Sums on a CUDA device, of a snapshot in pinned memory: copies in both directions pass while others are summed."""
    device = current[0].device
    here, inward, outward = torch.cuda.current_stream(device), torch.cuda.Stream(device), torch.cuda.Stream(device)
    most = min(max(map(len, previous)), _DEVICE_CHUNK)
    dtype = max((p.dtype for p in previous), key=lambda kind: kind.itemsize)
    buffers = [torch.empty(most, dtype=dtype, device=device) for _ in range(2)]
    free = [here.record_event() for _ in buffers]
    sums, turn = [], 0
    for p, c in zip(previous, current, strict=True):
        parts = []
        for before, after in zip(p.split(_DEVICE_CHUNK), c.split(_DEVICE_CHUNK), strict=True):
            near = buffers[turn].view(p.dtype)[: len(before)]
            with torch.cuda.stream(inward):
                inward.wait_event(free[turn])
                near.copy_(before, non_blocking=True)
            here.wait_stream(inward)
            parts.append(change_sums(near, after, norm))
            free[turn] = here.record_event()
            if advance:
                with torch.cuda.stream(outward):
                    outward.wait_stream(inward)
                    before.copy_(after, non_blocking=True)
            turn = 1 - turn
        sums.append(torch.stack(parts).sum(0))
    # So whoever waits for the sums waits for the snapshot too.
    here.wait_stream(outward)
    return torch.stack(sums, dim=1)
