# SPDX-License-Identifier: Apache-2.0
"""Estimates from a sample: which elements of a large tensor are kept, and how precise their sums are.

A tensor is cut into strata. A stratum is a run of neighbouring elements, and all strata have nearly the same size. Two
different elements are drawn from each stratum. Each is weighted by the number of elements that it stands for, so that
the sums over the sample estimate the sums over the tensor. The difference between the two elements of a stratum
estimates their variance (Cochran, Sampling Techniques, 3rd edition, sections 5.3 and 6.5).

If few or none of the sampled elements moved, the sample may have missed others that did. :func:`standard_error` allows
for them. If a few sampled elements carry most of the change, the sample cannot tell how precise it is.
:func:`unreliable` detects this.

"""

import math
from collections.abc import Sequence
from itertools import combinations_with_replacement
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_rwc.functional import Sums, change_terms
from lightning_rwc.norms import Norm, definition


class SampleSums(NamedTuple):
    """The rows of a tensor of sums that are estimated from samples, with one column for each layer."""

    numerator: Tensor
    denominator: Tensor
    moved: Tensor
    dot: Tensor
    squared_change: Tensor
    squared_size: Tensor
    """The estimates of the rows of :class:`~lightning_rwc.functional.Sums`."""
    numerator_variance: Tensor
    denominator_variance: Tensor
    numerator_denominator: Tensor
    """The estimated variances of numerator and denominator, and their covariance."""
    moved_variance: Tensor
    dot_dot: Tensor
    dot_squared_change: Tensor
    dot_squared_size: Tensor
    squared_change_squared_change: Tensor
    squared_change_squared_size: Tensor
    squared_size_squared_size: Tensor
    """The estimated variances and covariances of the sums that tell where the change points."""
    squares: Tensor
    cubes: Tensor
    """The sums of the squares and of the cubes of the residuals. A residual is what a sampled element adds to the
    numerator beyond the estimated ratio times what it adds to the denominator."""
    sampled: Tensor
    """The number of sampled elements."""


# The rule of three: if none of n drawn elements moved, then with 95 % confidence at most 3 in n of all elements did.
UNSEEN = 3.0
# Cochran, section 2.15: the normal distribution holds for more elements than this number times the squared skewness.
_COCHRAN = 25.0


class Sample:
    """A fixed choice of elements of a tensor.

    The indices are not stored. A hash computes them whenever they are needed, the same on every device. It does not
    touch the state of any random number generator.

    Args:
        numel: the number of elements of the tensor.
        size: the number of elements to choose. If it is odd, one fewer is chosen. If the tensor has no more than
            this, all are.
        seed: the choice depends on this number.

    """

    def __init__(self, numel: int, size: int, seed: int) -> None:
        self.numel = numel
        self.strata = size // 2 if size < numel else 0
        self.seed = seed

    def _bounds(self, device: torch.device) -> tuple[Tensor, Tensor]:
        strata = torch.arange(self.strata, device=device)
        # Computed as integers and in two parts, because numel × strata may exceed 64 bits.
        length, rest = divmod(self.numel, self.strata)
        starts = strata * length + strata * rest // self.strata
        ends = torch.cat((starts[1:], starts.new_full((1,), self.numel)))
        return starts, ends - starts

    def indices(self, device: torch.device) -> Tensor:
        """The int64 indices into the flattened tensor: the first element of each stratum, then each second one."""
        if not self.strata:
            return torch.arange(self.numel, device=device)
        starts, lengths = self._bounds(device)
        draws = _hash(self.seed, torch.arange(2 * self.strata, device=device)).view(2, -1)
        first = draws[0] % lengths
        # Drawn from the other elements of the stratum.
        second = (first + 1 + draws[1] % (lengths - 1)) % lengths
        return torch.cat((starts + first, starts + second))

    def estimate(self, previous: Tensor, current: Tensor, norm: Norm) -> Tensor:
        """Estimate the sums over the tensor from the sampled values.

        Args:
            previous: the earlier values at :meth:`indices`.
            current: the present values there.
            norm: the definition, see :func:`~lightning_rwc.functional.relative_weight_change`.

        Returns:
            A tensor of shape ``(19,)`` with the rows of :class:`SampleSums`. Only those of
            :class:`~lightning_rwc.functional.Sums` are not 0 if nothing is left out.

        """
        terms = change_terms(previous, current, norm)
        if not self.strata:
            return torch.cat((terms.sum(1), terms.new_zeros(len(SampleSums._fields) - len(terms))))
        lengths = self._bounds(terms.device)[1].to(terms.dtype)
        # The two elements of each stratum.
        pairs = terms.view(len(terms), 2, -1)
        estimates = (pairs.sum(1) * lengths / 2).sum(1)
        spreads = (pairs[:, 0] - pairs[:, 1]) / 2
        numerator, denominator, moved, *rest = spreads
        products = [numerator.square(), denominator.square(), numerator * denominator, moved.square()]
        products += [one * other for one, other in combinations_with_replacement(rest, 2)]
        variances = (torch.stack(products) * (lengths * (lengths - 2))).sum(1)
        ratio = torch.where(estimates[1] > 0, estimates[0] / estimates[1], 0.0)
        residuals = (pairs[0] - ratio * pairs[1]) * lengths / 2
        tails = torch.stack((residuals.square().sum(), residuals.pow(3).sum(), lengths.new_tensor(2 * self.strata)))
        return torch.cat((estimates, variances, tails))


def standard_error(sums: Tensor, norm: Norm) -> Tensor:
    """The standard error of relative weight changes.

    In about 95 % of reliable cases, the true value is within ±2 standard errors.

    - If few sampled elements carry the change, the error allows for one and a half more of them. For a count k of moved
      elements this gives k ± 2 √(k + 2.25). Its upper end is close to that of the exact 95 % interval.
    - If no sampled element moved, then with 95 % confidence at most 3 in n elements of the layer did. The error assumes
      that each of them moved by the layer's average weight, and is half of the change that they would make: half of 3/n
      for ``"l1"``, half of √(3/n) for ``"l2"``. It is ``inf`` if the sampled weights are all zero.
    - The error is 0 for a value that is not an estimate, and if all sampled elements moved in the same proportion. It
      is ``nan`` for an estimate that is infinite or ``nan``.

    Args:
        sums: of shape ``(19, ...)`` with the rows of :class:`SampleSums`; or of shape ``(6, ...)`` with those of
            :class:`~lightning_rwc.functional.Sums`, for layers that are not sampled.
        norm: the norm for which they were taken.

    Returns:
        A tensor of shape ``(...)``.

    """
    if len(sums) == len(Sums._fields):
        return torch.zeros_like(sums[0])
    of = SampleSums(*sums)
    ratio = of.numerator / of.denominator
    variance = of.numerator_variance - 2 * ratio * of.numerator_denominator + ratio.square() * of.denominator_variance
    # What one of the elements that carry the change contributes: the mean of residuals, weighted by their squares.
    carried = torch.where(of.squares > 0, of.cubes / of.squares, 0.0)
    error = (variance.clamp_min(0) + (UNSEEN / 2 * carried).square()).sqrt() / of.denominator
    unseen = torch.where(of.denominator > 0, UNSEEN / of.sampled, math.inf)
    if (root := definition(norm).root) > 1:
        # The derivative of the root of the ratio.
        error, unseen = error * ratio ** (1 / root - 1) / root, unseen ** (1 / root)
    return torch.where(of.sampled == 0, 0.0, torch.where(of.numerator == 0, unseen / 2, error))


def unreliable(sums: Tensor) -> Tensor:
    """Whether a few sampled elements carry most of an estimate, so that its standard error cannot be trusted.

    This is Cochran's rule: an interval of ±2 standard errors can be trusted if the number of elements is more than
    25 times their squared skewness. If an element either moved by a fixed amount or not at all, 25 must have moved.

    Args:
        sums: as for :func:`standard_error`.

    Returns:
        A boolean tensor of shape ``(...)``. False if nothing was sampled or no sampled element moved.

    """
    if len(sums) == len(Sums._fields):
        return torch.zeros_like(sums[0], dtype=torch.bool)
    of = SampleSums(*sums)
    # The squared skewness over the number of elements; nan where nothing differs.
    return _COCHRAN * (of.cubes / of.squares.pow(1.5)).square() > 1


def _hash(seed: int, counter: Tensor) -> Tensor:
    # SplitMix64 (Steele, Lea and Flood, 2014) in signed integers that wrap around. The result has 62 bits.
    x = counter * _signed(0x9E3779B97F4A7C15) + _signed(seed * 0xD1342543DE82EF95)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        x = (x ^ _shift(x, shift)) * _signed(factor)
    return _shift(x ^ _shift(x, 31), 2)


def _shift(x: Tensor, bits: int) -> Tensor:
    # Masks the sign bits that torch's shift fills in.
    return torch.bitwise_and(x >> bits, 2 ** (64 - bits) - 1)


def _signed(number: int) -> int:
    number %= 2**64
    return number - 2**64 if number >= 2**63 else number


def sample_sizes(sizes: Sequence[int], most: int | None) -> list[int]:
    """The number of elements to keep of each of a layer's tensors.

    Args:
        sizes: the numbers of elements of the tensors.
        most: if they are more than this in total, about this many are kept. ``None`` keeps all.

    """
    total = sum(sizes)
    if most is None or total <= most:
        return [*sizes]
    return [min(size, max(2, most * size // total)) for size in sizes]
