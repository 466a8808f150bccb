# SPDX-License-Identifier: Apache-2.0
"""Relative weight change of two tensors: sums over elements, then a ratio."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_rwc.norms import Norm, definition
from lightning_rwc.options import check_norm


class Sums(NamedTuple):
    """The rows of a tensor of sums, which has one column for each layer.

    The first two are those of the norm. The others are the same for every norm. They tell where the change points, see
    :mod:`lightning_rwc.movement`.

    """

    numerator: Tensor
    denominator: Tensor
    moved: Tensor
    """How many elements changed."""
    dot: Tensor
    """Σ(c − p)·p, the real part for complex weights."""
    squared_change: Tensor
    """Σ|c − p|²."""
    squared_size: Tensor
    """Σ|p|²."""


def is_measurable(tensor: Tensor) -> bool:
    """Whether relative weight change is defined for ``tensor``: dense, and real or complex floating point."""
    return tensor.layout == torch.strided and (tensor.is_floating_point() or tensor.is_complex())


def common_dtype(first: torch.dtype, second: torch.dtype) -> torch.dtype:
    """The dtype that holds the values of both. Unlike ``torch.promote_types`` it takes floats of 8 bits too."""
    if first == second:
        return first
    return torch.promote_types(*(torch.float32 if dtype.itemsize == 1 else dtype for dtype in (first, second)))


def change_sums(previous: Tensor, current: Tensor, norm: Norm = "l1") -> Tensor:
    r"""Take the sums whose ratio is relative weight change.

    Sums add up over chunks, shards, ranks and the parameters of a layer. Ratios do not. So the package adds sums, and
    calls :func:`change_ratio` once at the end.

    Args:
        previous: the earlier weights :math:`p`, of any shape, real or complex floating point.
        current: the present weights :math:`c`, of the same shape.
        norm: see :func:`relative_weight_change`.

    Returns:
        A tensor of shape ``(6,)`` with the rows of :class:`Sums`, float64 (float32 on devices that have no float64).

        ============= ============================= =======================
        norm          numerator                     denominator
        ============= ============================= =======================
        l1            Σ\|c − p\|                    Σ\|p\|
        l2            Σ\|c − p\|²                   Σ\|p\|²
        elementwise   Σ\|c − p\| / \|p\|, p ≠ 0     number of p ≠ 0
        ============= ============================= =======================

    """
    return change_terms(previous.flatten(), current.flatten(), norm).sum(1)


def change_terms(previous: Tensor, current: Tensor, norm: Norm) -> Tensor:
    """The terms of the sums of :func:`change_sums`, of shape ``(6, *previous.shape)``."""
    previous, current = widen(previous), widen(current)
    difference = current - previous
    change, size = difference.abs(), previous.abs()
    numerators, denominators = definition(norm).terms(change, size)
    along = difference * previous.conj()
    dots = along.real if along.is_complex() else along
    moved = (current != previous).to(size)
    return torch.stack(Sums(numerators, denominators.to(size), moved, dots, change.square(), size.square()))


def change_ratio(sums: Tensor, norm: Norm = "l1") -> Tensor:
    """Turn sums into relative weight change.

    Args:
        sums: of shape ``(3, ...)`` or more, with the first rows of :class:`Sums`.
        norm: the norm that they were taken for.

    Returns:
        A tensor of shape ``(...)``, of the dtype of ``sums``.

    """
    numerator, denominator, moved, *_ = sums
    # Squares may underflow, so that a numerator of zero says more than the number of elements that moved.
    moved = moved if definition(norm).is_mean else numerator
    if (root := definition(norm).root) > 1:
        numerator, denominator = numerator ** (1 / root), denominator ** (1 / root)
    ratio = torch.where(denominator > 0, numerator / denominator, torch.where(moved > 0, math.inf, 0.0))
    # What is not finite is nan when it is subtracted from itself.
    return ratio.add(numerator - numerator).add(denominator - denominator)


def relative_weight_change(previous: Tensor, current: Tensor, norm: Norm = "l1") -> Tensor:
    r"""Relative weight change between two states of a layer's weights.

    ================= ============================== =====================================================
    ``norm``          value                          source
    ================= ============================== =====================================================
    ``"l1"``          ‖c − p‖₁ / ‖p‖₁                Agrawal et al., arXiv 2011.06735, equation 1
    ``"l2"``          ‖c − p‖₂ / ‖p‖₂                the update-to-weight ratio of LARS (arXiv 1708.03888)
    ``"elementwise"`` mean of \|cᵢ − pᵢ\| / \|pᵢ\|   what the code published with arXiv 2011.06735 computes
    ================= ============================== =====================================================

    The value is a dimensionless ratio from 0 upwards, without an upper bound. Sums are taken in float64, whatever the
    dtype of the weights (in float32 on devices that have no float64).

    - A layer of zeros that did not move (0/0) has the value 0. One that moved (x/0) has the value ``inf``.
    - A weight that is ``nan`` or infinite, before or after, makes the value ``nan``. So does a sum that overflows. The
      squares of ``"l2"`` hold weights from 1e-150 to 1e150 (1e-18 to 1e18 on devices that have no float64).
    - ``"elementwise"`` leaves out elements that were exactly zero before.
    - An empty layer has the value 0.

    Args:
        previous: the earlier weights :math:`p`, of any shape, real or complex floating point.
        current: the present weights :math:`c`, of the same shape.
        norm: the definition.

    Returns:
        A 0-dim tensor on the device of ``current``, float64 (float32 on devices that have no float64).

    Raises:
        ValueError: if ``norm`` is unknown or the shapes differ.
        TypeError: if a tensor is not a dense tensor of real or complex floating-point numbers.

    Example:
        >>> import torch
        >>> from lightning_rwc import relative_weight_change
        >>> relative_weight_change(torch.tensor([1.0, -2.0, 1.0]), torch.tensor([1.5, -2.0, 0.5]))
        tensor(0.2500, dtype=torch.float64)
        >>> relative_weight_change(torch.zeros(3), torch.ones(3))
        tensor(inf, dtype=torch.float64)

    """
    check_norm(norm)
    if previous.shape != current.shape:
        raise ValueError(
            f"`previous` and `current` must have the same shape, but they have {tuple(previous.shape)} and "
            f"{tuple(current.shape)}."
        )
    for name, tensor in (("previous", previous), ("current", current)):
        if not is_measurable(tensor):
            raise TypeError(
                f"`{name}` must be a dense tensor of real or complex floating-point numbers, but it is {tensor.dtype}, "
                f"{tensor.layout}."
            )
    return change_ratio(change_sums(previous.detach(), current.detach(), norm), norm)


def sums_dtype(device: torch.device) -> torch.dtype:
    """The dtype in which sums are taken on ``device``: float64, or float32 if it has no float64."""
    # Only CPU and CUDA are known to have float64. MPS has not.
    return torch.float64 if device.type in ("cpu", "cuda") else torch.float32


def widen(tensor: Tensor) -> Tensor:
    """The values of ``tensor`` in the dtype in which sums are taken."""
    dtype = sums_dtype(tensor.device)
    return tensor.to(dtype.to_complex() if tensor.is_complex() else dtype)
