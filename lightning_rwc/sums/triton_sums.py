# SPDX-License-Identifier: Apache-2.0
# mypy: disable-error-code="import-not-found, import-untyped"
"""Sums on a CUDA device, compiled by Triton: every weight is read once, before and after, and written once."""

from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch
import triton
import triton.language as tl
from torch import Tensor

from lightning_rwc.norms import Norm
from lightning_rwc.sums.triton_kernel import block_sums, tensor_sums

# Addresses before and after, elements, and the column of the result.
_Entry: TypeAlias = tuple[int, int, int, int]

_TYPES = {
    torch.float64: tl.float64,
    torch.float32: tl.float32,
    torch.bfloat16: tl.bfloat16,
    torch.float16: tl.float16,
}
# Elements of a program. They fit into registers, also in float64, and leave some for other programs.
_BLOCK = 2048
# Programs whose sums are added up at once.
_CHUNK = 4096
# The widest load of a GPU, in bytes.
_VECTOR = 16
# Triton warns from 3.9 on if the option is missing, because its default changes in 3.10.
_OPTIONS = {"num_warps": 8, "enable_fp_fusion": True}


def prepare_sums(previous: Sequence[Tensor], current: Sequence[Tensor]) -> Callable[[Norm, bool], Tensor]:
    """As :func:`lightning_rwc.sums.prepare_sums`, for real floating-point tensors on one CUDA device.

    Terms are float32, or float64 if a tensor is float64. They are summed in float32 over at most 2048 elements, and in
    float64 beyond, always in the same order. Nothing waits for the device.

    Args:
        previous: the earlier values of each tensor.
        current: the present values, which share no memory with ``previous``.

    """
    return _PreparedSums(previous, current)


class _PreparedSums:
    """What :func:`prepare_sums` returns."""

    def __init__(self, previous: Sequence[Tensor], current: Sequence[Tensor]) -> None:
        # Tables have addresses only, so the tensors must live as long as this.
        self._previous, self._current = previous, current
        self._device = current[0].device
        self._groups: dict[tuple[torch.dtype, torch.dtype, bool], list[_Entry]] = {}
        for column, (p, c) in enumerate(zip(previous, current, strict=True)):
            before, after = p.data_ptr(), c.data_ptr()
            aligned = before % _VECTOR == after % _VECTOR == 0
            self._groups.setdefault((p.dtype, c.dtype, aligned), []).append((before, after, p.numel(), column))
        # Memory that only one stream uses can be freed at any time.
        self.launches: dict[object, list[tuple[Tensor, Tensor]]] = {}
        """For each stream, what the launches of each group read."""

    def __call__(self, norm: Norm, advance: bool) -> Tensor:
        """Sum; see :func:`lightning_rwc.sums.prepare_sums`."""
        columns = len(self._current)
        sums = torch.empty(3, columns, dtype=torch.float64, device=self._device)
        stream = torch.get_device_module(self._device).current_stream(self._device)
        # Triton launches on the current device, whatever device its arguments are on.
        with torch.cuda.device_of(sums):
            if stream not in self.launches:
                self.launches[stream] = [_launch(entries, self._device) for entries in self._groups.values()]
            for kind, (table, owners) in zip(self._groups, self.launches[stream], strict=True):
                before_type, after_type, aligned = kind
                partials = torch.empty(3, len(owners), dtype=torch.float64, device=self._device)
                wide = tl.float64 if torch.float64 in (before_type, after_type) else tl.float32
                types = _TYPES[before_type], _TYPES[after_type], wide
                arguments = table, owners, partials, advance, *types, aligned, _BLOCK
                block_sums(norm)[(len(owners),)](*arguments, **_OPTIONS)
                tensor_sums[(len(table), 3)](table, partials, sums, len(owners), columns, _CHUNK, **_OPTIONS)
        return sums


def _launch(entries: Sequence[_Entry], device: torch.device) -> tuple[Tensor, Tensor]:
    """The entry, first block and number of blocks of each tensor; and the tensor of each block."""
    rows, blocks = [], 0
    for entry in entries:
        count = triton.cdiv(entry[2], _BLOCK)
        rows.append((*entry, blocks, count))
        blocks += count
    # A copy from memory that is not pinned may wait for the device.
    table = torch.tensor(rows, dtype=torch.int64, pin_memory=device.type == "cuda").to(device, non_blocking=True)
    # Without `output_size` this would wait for the device too.
    return table, torch.repeat_interleave(table[:, 5].int(), output_size=blocks)
