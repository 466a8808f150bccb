# SPDX-License-Identifier: Apache-2.0
"""Tensors that must be the same, bit for bit."""

import torch


def assert_same_bits(ones, others):
    """Raise unless each tensor of ``ones`` has the bits of its counterpart in ``others``."""
    for index, (one, other) in enumerate(zip(ones, others, strict=True)):
        assert one.dtype == other.dtype, f"tensor {index}: {one.dtype} and {other.dtype}"
        assert torch.equal(_bits(one), _bits(other)), f"tensor {index} has other bits"


def _bits(tensor):
    # Unlike numbers, nan equals itself then, and 0 does not equal -0.
    return (
        tensor.detach()
        .cpu()
        .contiguous()
        .view({1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[tensor.itemsize])
    )
