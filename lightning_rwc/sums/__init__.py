# SPDX-License-Identifier: Apache-2.0
"""The hot loop: sum the change of every tensor and move the snapshot forward, in one pass over memory.

There are several ways to do so, one module each. ``WAYS`` lists them. A module has a function ``prepare_sums`` with the
arguments and the result of :func:`prepare_sums` here. A kernel for another device is one more module and one more line.

"""

from collections.abc import Callable, Sequence
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import NamedTuple, TypeAlias
from warnings import warn

import numpy as np
import torch
from torch import Tensor

from lightning_rwc.functional import sums_dtype
from lightning_rwc.norms import Norm
from lightning_rwc.sums import plain
from lightning_rwc.sums.pieces import columns_of

PreparedSums: TypeAlias = Callable[[Norm, bool], Tensor]
_Prepare: TypeAlias = Callable[[Sequence[Tensor], Sequence[Tensor], Sequence[int]], PreparedSums]

# What compiled kernels can read.
_COMPILED_DTYPES = {torch.float64, torch.float32, torch.bfloat16, torch.float16}


class Way(NamedTuple):
    """A way to sum, and the tensors that it is for."""

    module: str
    previous: str
    """The type of device of the earlier values."""
    current: str
    """The type of device of the present values."""
    compiler: str | None = None
    """The package that compiles its kernel, if it has one."""


# The first way that fits a pair of tensors is used. If none fits, `plain` is.
WAYS = (
    Way("lightning_rwc.sums.numba_sums", "cpu", "cpu", compiler="numba"),
    Way("lightning_rwc.sums.triton_sums", "cuda", "cuda", compiler="triton"),
    Way("lightning_rwc.sums.streamed", "cpu", "cuda"),
)


def prepare_sums(
    previous: Sequence[Tensor], current: Sequence[Tensor], pieces: Sequence[int] | None = None
) -> PreparedSums:
    """Prepare to sum the change of every tensor, any number of times while the tensors stay where they are.

    Args:
        previous: the earlier values of each tensor, one-dimensional and contiguous.
        current: the present values of each, of the same length, contiguous, on any device.
        pieces: into how many equal consecutive pieces each tensor is cut, of which each has sums of its own. The number
            may be 0 if the tensor is empty. If None, each tensor is one piece.

    Returns:
        A function of the norm, and of whether to overwrite the earlier values with the present ones in the same pass.
        It returns a tensor of shape ``(6, sum(pieces))`` with the rows of :class:`~lightning_rwc.functional.Sums`. That
        is on the CPU only if all of ``current`` are.

    """
    pieces = [1] * len(previous) if pieces is None else pieces
    groups: dict[tuple[torch.device, _Prepare], list[int]] = {}
    for index, (p, c) in enumerate(zip(previous, current, strict=True)):
        groups.setdefault((c.device, _prepare_for(p, c)), []).append(index)
    parts = [
        prepare(
            [previous[index] for index in indices],
            [current[index] for index in indices],
            [pieces[index] for index in indices],
        )
        for (_, prepare), indices in groups.items()
    ]
    if len(parts) == 1:
        return parts[0]
    home = next((device for device, _ in groups if device.type != "cpu"), torch.device("cpu"))
    columns = columns_of(pieces)
    order = [columns[index] for indices in groups.values() for index in indices]
    place = torch.from_numpy(np.argsort(np.concatenate(order))).to(home)

    def sums(norm: Norm, advance: bool) -> Tensor:
        here = [part(norm, advance).to(home, sums_dtype(home)) for part in parts]
        return torch.cat(here, dim=1)[:, place]

    return sums


def _prepare_for(previous: Tensor, current: Tensor) -> _Prepare:
    devices = previous.device.type, current.device.type
    fitting = [way for way in WAYS if devices == (way.previous, way.current)]
    if not _can_compile(previous, current):
        fitting = [way for way in fitting if way.compiler is None]
    return next(filter(None, map(_load, fitting)), plain.prepare_sums)


def _can_compile(previous: Tensor, current: Tensor) -> bool:
    # Subclasses, such as quantised weights, may have no memory of their own.
    known = type(previous) is type(current) is Tensor and _COMPILED_DTYPES.issuperset((previous.dtype, current.dtype))
    return known and (previous.dtype == current.dtype or previous.dtype.itemsize > 2)


@cache
def _load(way: Way) -> _Prepare | None:
    if way.compiler is not None and find_spec(way.compiler) is None:
        return None
    # A compiler may be installed and fail all the same: no cache folder, an old GPU, no C compiler.
    try:
        prepare: _Prepare = import_module(way.module).prepare_sums
        if way.compiler is not None:
            ones = [torch.ones(1, device=way.previous)], [torch.ones(1, device=way.current)]
            prepare(*ones, [1])("l1", False)
    except Exception as error:
        warn(
            f"Relative weight change is measured with plain PyTorch operations, because {way.module} fails: {error}",
            stacklevel=2,
        )
        return None
    return prepare
