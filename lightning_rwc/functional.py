# SPDX-License-Identifier: Apache-2.0
"""The definition of relative weight change: sums over elements, then a ratio."""

import math
from collections.abc import Sequence
from typing import Literal, TypeAlias, get_args

import numpy as np
import torch
from torch import Tensor

Norm: TypeAlias = Literal["l1", "l2", "elementwise"]


def check_norm(norm: str) -> None:
    """Raise ``ValueError`` unless ``norm`` is one of the three definitions."""
    if norm not in get_args(Norm):
        raise ValueError(f"`norm` must be one of {', '.join(map(repr, get_args(Norm)))}, but got {norm!r}.")


def is_measurable(tensor: Tensor) -> bool:
    """Whether relative weight change is defined for ``tensor``: dense, and real or complex floating point."""
    return tensor.layout == torch.strided and (tensor.is_floating_point() or tensor.is_complex())


def common_dtype(first: torch.dtype, second: torch.dtype) -> torch.dtype:
    """The dtype that holds values of both: as ``torch.promote_types``, which refuses floats of 8 bits."""
    if first == second:
        return first
    return torch.promote_types(*(torch.float32 if dtype.itemsize == 1 else dtype for dtype in (first, second)))


def change_sums(previous: Tensor, current: Tensor, norm: Norm = "l1") -> Tensor:
    r"""Sum what relative weight change is the ratio of.

    Sums add up over chunks, shards, ranks, and the parameters of a layer; ratios do not. So everything
    adds these and calls :func:`change_ratio` once.

    Args:
        previous: the earlier weights :math:`p`, of any shape, real or complex floating point.
        current: the later weights :math:`c`, of the same shape.
        norm: the definition, see :func:`relative_weight_change`.

    Returns:
        A tensor of shape ``(3,)``, float64 (float32 where the device has no float64): numerator, denominator,
        and a number that is positive when any weight moved that the denominator does not see.

        ============= ============================= ======================= ========================
        norm          numerator                     denominator             moved
        ============= ============================= ======================= ========================
        l1            Σ\|c − p\|                    Σ\|p\|                  as the numerator
        l2            Σ\|c − p\|²                   Σ\|p\|²                 as the numerator
        elementwise   Σ\|c − p\| / \|p\|, p ≠ 0     number of p ≠ 0         number of p = 0 and c ≠ 0
        ============= ============================= ======================= ========================

    """
    numerators, denominators, moves = change_terms(previous, current, norm)
    numerator = numerators.sum()
    return torch.stack((numerator, denominators.sum(), numerator if moves is numerators else moves.sum()))


def change_terms(previous: Tensor, current: Tensor, norm: Norm) -> tuple[Tensor, Tensor, Tensor]:
    """The terms of the three sums of :func:`change_sums`, each of the shape of ``previous``."""
    previous, current = _widen(previous), _widen(current)
    change, size = (current - previous).abs(), previous.abs()
    if norm == "l1":
        return change, size, change
    if norm == "l2":
        change, size = change.square(), size.square()
        return change, size, change
    from_zero = size == 0
    # An element left out of the mean must still show when it is not finite: 0 × inf and 0 × nan are nan.
    ratios = torch.where(from_zero, 0 * change, change / size)
    return ratios, (~from_zero).to(size), (from_zero & (change != 0)).to(size)


def change_ratio(sums: Tensor, norm: Norm = "l1") -> Tensor:
    """Turn sums into relative weight change.

    Args:
        sums: numerators, denominators and moves as :func:`change_sums` gives them, of shape ``(3, ...)``.
        norm: the definition that they were summed for.

    Returns:
        A tensor of shape ``(...)``, of the dtype of ``sums``.

    """
    numerator, denominator, moved = sums
    if norm == "l2":
        numerator, denominator = numerator.sqrt(), denominator.sqrt()
    ratio = torch.where(denominator > 0, numerator / denominator, torch.where(moved > 0, math.inf, 0.0))
    return torch.where(torch.isfinite(numerator) & torch.isfinite(denominator), ratio, math.nan)


def relative_weight_change(previous: Tensor, current: Tensor, norm: Norm = "l1") -> Tensor:
    r"""Relative weight change between two states of a layer's weights.

    ================= ============================== =====================================================
    ``norm``          value                          source
    ================= ============================== =====================================================
    ``"l1"``          ‖c − p‖₁ / ‖p‖₁                Agrawal et al., arXiv 2011.06735, equation 1
    ``"l2"``          ‖c − p‖₂ / ‖p‖₂                the update-to-weight ratio of LARS (arXiv 1708.03888)
    ``"elementwise"`` mean of \|cᵢ − pᵢ\| / \|pᵢ\|   what the code published with arXiv 2011.06735 computes
    ================= ============================== =====================================================

    The value is a dimensionless ratio from 0 upwards, without upper bound. All sums are taken in float64
    (float32 on devices that have no float64), whatever the dtype of the weights.

    - Nothing there and nothing moved (0/0): 0. Something moved from an all-zero layer (x/0): ``inf``.
    - A weight that is ``nan`` or infinite, before or after: ``nan``; so too where a sum overflows. The squares of
      ``"l2"`` hold weights from 1e-150 to 1e150 (1e-18 to 1e18 on devices without float64).
    - ``"elementwise"`` leaves elements whose previous value is exactly zero out of the mean.
    - An empty layer: 0.

    Args:
        previous: the earlier weights :math:`p`, of any shape, real or complex floating point.
        current: the later weights :math:`c`, of the same shape.
        norm: the definition.

    Returns:
        A 0-dim tensor on the device of ``current``, float64 (float32 where the device has no float64).

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
            f"`previous` and `current` must have one shape, but got {tuple(previous.shape)} and {tuple(current.shape)}."
        )
    for name, tensor in (("previous", previous), ("current", current)):
        if not is_measurable(tensor):
            raise TypeError(
                f"`{name}` must be a dense tensor of real or complex floating-point numbers, "
                f"but got {tensor.dtype}, {tensor.layout}."
            )
    return change_ratio(change_sums(previous.detach(), current.detach(), norm), norm)


def depth_correlation(values: Sequence[float]) -> float:
    """Spearman's rank correlation between the place of a layer and its relative weight change.

    The finding of arXiv 2011.06735, that later layers change more than earlier ones, as one number: +1 when
    every layer changes more than all before it, −1 when it changes less. Ties share their mean rank.

    Args:
        values: one relative weight change a layer, from the first to the last: in definition order, as a history has
            them, or in the order of :func:`~lightning_rwc.forward_order.forward_order`. ``nan`` values are left out.

    Returns:
        ρ in [−1, 1], or ``nan`` where it is undefined: fewer than two layers, or all alike.

    Example:
        >>> round(depth_correlation([0.1, 0.2, 0.4, 0.3]), 6)
        0.8

    """
    present = np.array(values, dtype=np.float64)
    present = present[~np.isnan(present)]
    distinct, inverse, counts = np.unique(present, return_inverse=True, return_counts=True)
    if len(distinct) < 2:
        return math.nan
    # Pearson's correlation of the ranks, both less their mean.
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse] - (len(present) + 1) / 2
    depths = np.arange(len(ranks)) - (len(ranks) - 1) / 2
    return float(depths @ ranks / np.sqrt((depths @ depths) * (ranks @ ranks)))


def sums_dtype(device: torch.device) -> torch.dtype:
    """The dtype in which sums are taken on ``device``: float64, or float32 where there is none."""
    # Only CPU and CUDA are known to have float64; MPS, for one, has not.
    return torch.float64 if device.type in ("cpu", "cuda") else torch.float32


def _widen(tensor: Tensor) -> Tensor:
    dtype = sums_dtype(tensor.device)
    return tensor.to(dtype.to_complex() if tensor.is_complex() else dtype)
