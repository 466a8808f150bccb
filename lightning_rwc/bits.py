# SPDX-License-Identifier: Apache-2.0
"""Whether tensors are the same, bit for bit."""

import torch
from torch import Tensor


def flat(tensor: Tensor) -> Tensor:
    """All elements in one dimension, without gaps."""
    return tensor.detach().reshape(-1).contiguous()


def same_bits(previous: Tensor, current: Tensor) -> bool:
    """Whether two tensors are the same, bit for bit.

    Raises:
        RuntimeError: if PyTorch cannot tell, as for sparse tensors.

    """
    if previous.dtype != current.dtype or previous.shape != current.shape:
        return False
    if previous.is_quantized:
        scales = _scales(previous), _scales(current)
        return same_bits(previous.int_repr(), current.int_repr()) and scales[0] == scales[1]
    return torch.equal(flat(previous).view(torch.uint8), flat(current).view(torch.uint8))


def _scales(tensor: Tensor) -> tuple[object, ...]:
    """What the integers of a quantised tensor mean."""
    scheme = tensor.qscheme()
    if scheme in (torch.per_tensor_affine, torch.per_tensor_symmetric):
        return scheme, tensor.q_scale(), tensor.q_zero_point()
    channels = tensor.q_per_channel_scales(), tensor.q_per_channel_zero_points()
    return scheme, tensor.q_per_channel_axis(), *(values.tolist() for values in channels)
