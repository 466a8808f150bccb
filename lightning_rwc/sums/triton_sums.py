# SPDX-License-Identifier: Apache-2.0
# mypy: disable-error-code="import-not-found, import-untyped"
"""Sums on a CUDA device, compiled by Triton: every weight is read once, before and after, and written once."""

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import torch
import triton.language as tl
from torch import Tensor

from lightning_rwc.functional import Sums
from lightning_rwc.norms import Norm
from lightning_rwc.sums.triton_kernel import block_sums, piece_sums, row_sums

_TYPES = {
    torch.float64: tl.float64,
    torch.float32: tl.float32,
    torch.bfloat16: tl.bfloat16,
    torch.float16: tl.float16,
}
# Elements of a program. They fit into registers, also in float64, and leave some for other programs.
_BLOCK = 2048
# Several pieces share a program, in rows of one of these lengths. Each length is compiled for itself.
_WIDTHS = (64, 256, 1024)
# Programs whose sums are added up at once.
_CHUNK = 4096
# The widest load of a GPU, in bytes.
_VECTOR = 16
# Triton warns from 3.9 on if the option is missing, because its default changes in 3.10.
_OPTIONS = {"num_warps": 8, "enable_fp_fusion": True}


def prepare_sums(
    previous: Sequence[Tensor], current: Sequence[Tensor], pieces: Sequence[int]
) -> Callable[[Norm, bool], Tensor]:
    """As :func:`lightning_rwc.sums.prepare_sums`, for real floating-point tensors on one CUDA device.

    The terms of a norm are float32, or float64 if a tensor is float64. They are summed in float32 over at most 2048
    elements, and in float64 beyond, always in the same order. The other sums are float64. Nothing waits for the device.

    Args:
        previous: the earlier values of each tensor.
        current: the present values, which share no memory with ``previous``.
        pieces: into how many pieces each tensor is cut.

    """
    return _PreparedSums(previous, current, pieces)


class _PreparedSums:
    """What :func:`prepare_sums` returns."""

    def __init__(self, previous: Sequence[Tensor], current: Sequence[Tensor], pieces: Sequence[int]) -> None:
        # Tables have addresses only, so the tensors must live as long as this.
        self._previous, self._current = previous, current
        self._device, self._columns = current[0].device, sum(pieces)
        groups: dict[tuple[torch.dtype, torch.dtype, bool, int | None], list[npt.NDArray[np.int64]]] = {}
        first = 0
        for p, c, count in zip(previous, current, pieces, strict=True):
            before, after, length = p.data_ptr(), c.data_ptr(), p.numel() // max(count, 1)
            width = next((width for width in _WIDTHS if length <= width), None) if count > 1 else None
            # Of each piece that has programs of its own, or of all those that share programs.
            starts = length * np.arange(count if width is None else 1)
            entry = np.empty((len(starts), 5), np.int64)
            entry[:, 0], entry[:, 1] = before + starts * p.itemsize, after + starts * c.itemsize
            entry[:, 2], entry[:, 3], entry[:, 4] = length, first + np.arange(len(starts)), count
            steps = (before, after, length * p.itemsize, length * c.itemsize)[: 2 if count <= 1 else 4]
            aligned = width is None and all(number % _VECTOR == 0 for number in steps)
            groups.setdefault((p.dtype, c.dtype, aligned, width), []).append(entry)
            first += count
        self._groups = {kind: np.concatenate(entries) for kind, entries in groups.items()}
        # Memory that only one stream uses can be freed at any time.
        self.launches: dict[object, list[tuple[Tensor, Tensor]]] = {}
        """For each stream, what the launches of each group read."""

    def __call__(self, norm: Norm, advance: bool) -> Tensor:
        """Sum; see :func:`lightning_rwc.sums.prepare_sums`."""
        rows = len(Sums._fields)
        sums = torch.empty(rows, self._columns, dtype=torch.float64, device=self._device)
        stream = torch.get_device_module(self._device).current_stream(self._device)
        # Triton launches on the current device, whatever device its arguments are on.
        with torch.cuda.device_of(sums):
            if stream not in self.launches:
                self.launches[stream] = [
                    _launch(entries, width, self._device) for (*_, width), entries in self._groups.items()
                ]
            for kind, (table, owners) in zip(self._groups, self.launches[stream], strict=True):
                before_type, after_type, aligned, width = kind
                wide = tl.float64 if torch.float64 in (before_type, after_type) else tl.float32
                types = advance, _TYPES[before_type], _TYPES[after_type], wide
                grid = (len(owners),)
                if width is not None:
                    row_sums(norm)[grid](table, owners, sums, self._columns, *types, _BLOCK, width, **_OPTIONS)
                    continue
                partials = torch.empty(rows, len(owners), dtype=torch.float64, device=self._device)
                block_sums(norm)[grid](table, owners, partials, *types, aligned, _BLOCK, **_OPTIONS)
                piece_sums[len(table), rows](table, partials, sums, len(owners), self._columns, _CHUNK, **_OPTIONS)
        return sums


def _launch(entries: npt.NDArray[np.int64], width: int | None, device: torch.device) -> tuple[Tensor, Tensor]:
    """What programs read, and the row of each program in it.

    A row has the addresses before and after, the length of a piece, the column of the first piece, the first program
    and how many programs there are. Where programs are shared, the last number is that of pieces.

    """
    length, pieces = entries[:, 2], entries[:, 4]
    programs = -(-length // _BLOCK) if width is None else -(-pieces // (_BLOCK // width))
    last = programs if width is None else pieces
    numbers = np.column_stack((entries[:, :4], np.cumsum(programs) - programs, last))
    # A copy from memory that is not pinned may wait for the device.
    table = torch.tensor(numbers, dtype=torch.int64, pin_memory=device.type == "cuda").to(device, non_blocking=True)
    counts = torch.tensor(programs, dtype=torch.int64, pin_memory=device.type == "cuda").to(device, non_blocking=True)
    # Without `output_size` this would wait for the device too.
    return table, torch.repeat_interleave(counts.int(), output_size=int(programs.sum()))
