# SPDX-License-Identifier: Apache-2.0
"""Estimates from a sample: which elements of a large tensor are kept, and how far off their sums may be.

A tensor is cut into strata, runs of nearly equally many neighbouring elements, and two different elements are drawn
from each. With every element weighted by how many it stands for, the sums of the sample estimate those of the tensor,
and the difference of the two elements of a stratum tells how much they vary (Cochran, Sampling Techniques, 3rd edition,
sections 5.3 and 6.5).

Where few sampled elements moved, or none, others may have been missed: :func:`standard_error` allows for them. Where a
few of them carry most of the change, the sample does not tell how far off it is: :func:`unreliable` says so.

"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_rwc.functional import Norm, change_terms

ROWS = 9
"""How many sums a sample has, see :meth:`Sample.sums`."""

# "The rule of three": with 95 % confidence no more than 3 in n elements are as none of n drawn elements is.
_UNSEEN = 3.0
# Cochran, section 2.15: from so many elements on, times the squared skewness, the normal distribution serves.
_COCHRAN = 25.0


class Sample:
    """A fixed choice of elements of a tensor.

    Nothing is stored but numbers: the elements are found anew by a hash whenever they are wanted, the same on every
    device, without a random number generator whose state could matter to anyone.

    Args:
        numel: how many elements the tensor has.
        size: how many are chosen, one fewer if it is odd; all if there are no more.
        seed: what the choice depends on.

    """

    def __init__(self, numel: int, size: int, seed: int) -> None:
        self.numel = numel
        self.strata = size // 2 if size < numel else 0
        self.seed = seed

    def _bounds(self, device: torch.device) -> tuple[Tensor, Tensor]:
        strata = torch.arange(self.strata, device=device)
        # As integers, in two parts, because numel × strata may be beyond 64 bits.
        length, rest = divmod(self.numel, self.strata)
        starts = strata * length + strata * rest // self.strata
        ends = torch.cat((starts[1:], starts.new_full((1,), self.numel)))
        return starts, ends - starts

    def indices(self, device: torch.device) -> Tensor:
        """The chosen places in the flattened tensor: int64, the first of every stratum, then the second of each."""
        if not self.strata:
            return torch.arange(self.numel, device=device)
        starts, lengths = self._bounds(device)
        draws = _hash(self.seed, torch.arange(2 * self.strata, device=device)).view(2, -1)
        first = draws[0] % lengths
        # Another one: as if drawn from those that are left.
        second = (first + 1 + draws[1] % (lengths - 1)) % lengths
        return torch.cat((starts + first, starts + second))

    def sums(self, previous: Tensor, current: Tensor, norm: Norm) -> Tensor:
        """Estimate the sums over the tensor from the sampled values.

        Args:
            previous: the earlier values at :meth:`indices`.
            current: the present ones.
            norm: the definition, see :func:`~lightning_rwc.functional.relative_weight_change`.

        Returns:
            A tensor of shape ``(9,)``: estimates of the sums of :func:`~lightning_rwc.functional.change_sums`; the
            estimated variances of numerator and denominator, and their covariance; the sums of the squares and of the
            cubes of the residuals, which are what each sampled element adds to the numerator beyond the estimated ratio
            times what it adds to the denominator; and the number of sampled elements. All but the first three are 0 if
            nothing is left out.

        """
        terms = torch.stack(change_terms(previous, current, norm))
        if not self.strata:
            return torch.cat((terms.sum(1), terms.new_zeros(ROWS - 3)))
        lengths = self._bounds(terms.device)[1].to(terms.dtype)
        pairs = terms.view(3, 2, -1)
        estimates = (pairs.sum(1) * lengths / 2).sum(1)
        numerators, denominators = (pairs[:2, 0] - pairs[:2, 1]) / 2
        spread = lengths * (lengths - 2)
        products = torch.stack((numerators.square(), denominators.square(), numerators * denominators))
        ratio = torch.where(estimates[1] > 0, estimates[0] / estimates[1], 0.0)
        residuals = (pairs[0] - ratio * pairs[1]) * lengths / 2
        tails = torch.stack((residuals.square().sum(), residuals.pow(3).sum(), lengths.new_tensor(2 * self.strata)))
        return torch.cat((estimates, (products * spread).sum(1), tails))


def standard_error(sums: Tensor, norm: Norm) -> Tensor:
    """The standard error of relative weight changes: ±2 of it cover the truth in about 95 % of reliable cases.

    - Where few sampled elements carry the change, the error allows for one and a half more of them. For a count k of
      moved elements this is k ± 2 √(k + 2.25), whose upper end is close to that of the exact 95 % interval.
    - Where no sampled element moved, with 95 % confidence no more than 3 in n elements of the layer did. The error is
      half of what they amount to if each moved as far as the layer's average weight is large: half of 3/n for ``"l1"``,
      of √(3/n) for ``"l2"``. It is ``inf`` if the sampled weights are all zero.
    - 0 is for values that are not estimates, and for estimates where all sampled elements moved in one proportion. An
      estimate that is infinite or ``nan`` has the error ``nan``.

    Args:
        sums: for each layer what :meth:`Sample.sums` gives, added up, of shape ``(9, ...)``; or ``(3, ...)``, the sums
            of layers that are not sampled.
        norm: the definition that they were summed for.

    Returns:
        A tensor of shape ``(...)``.

    """
    if len(sums) < ROWS:
        return torch.zeros_like(sums[0])
    numerator, denominator, _, var_numerator, var_denominator, covariance, squares, cubes, count = sums
    ratio = numerator / denominator
    variance = var_numerator - 2 * ratio * covariance + ratio.square() * var_denominator
    # What one of the elements that carry the change contributes: the mean of residuals, weighted by their squares.
    carried = torch.where(squares > 0, cubes / squares, 0.0)
    error = (variance.clamp_min(0) + (_UNSEEN / 2 * carried).square()).sqrt() / denominator
    unseen = torch.where(denominator > 0, _UNSEEN / count, math.inf)
    if norm == "l2":
        error, unseen = error / (2 * ratio.sqrt()), unseen.sqrt()
    return torch.where(count == 0, 0.0, torch.where(numerator == 0, unseen / 2, error))


def unreliable(sums: Tensor) -> Tensor:
    """Whether a few sampled elements carry so much of an estimate that its standard error means little.

    The rule is Cochran's: an interval of ±2 standard errors may be trusted if there are more than 25 times as many
    elements as the square of their skewness. For elements that either moved or did not, 25 must have moved.

    Args:
        sums: as for :func:`standard_error`.

    Returns:
        A boolean tensor of shape ``(...)``. False where nothing was sampled, or no sampled element moved.

    """
    if len(sums) < ROWS:
        return torch.zeros_like(sums[0], dtype=torch.bool)
    squares, cubes = sums[6], sums[7]
    # The squared skewness over the number of elements; nan where nothing differs.
    return _COCHRAN * (cubes / squares.pow(1.5)).square() > 1


def _hash(seed: int, counter: Tensor) -> Tensor:
    # SplitMix64 (Steele, Lea and Flood, 2014) in signed integers that wrap around; the result has 62 bits.
    x = counter * _signed(0x9E3779B97F4A7C15) + _signed(seed * 0xD1342543DE82EF95)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        x = (x ^ _shift(x, shift)) * _signed(factor)
    return _shift(x ^ _shift(x, 31), 2)


def _shift(x: Tensor, bits: int) -> Tensor:
    # Without the sign, which torch's own shift drags along.
    return torch.bitwise_and(x >> bits, 2 ** (64 - bits) - 1)


def _signed(number: int) -> int:
    number %= 2**64
    return number - 2**64 if number >= 2**63 else number


def sample_sizes(sizes: Sequence[int], most: int | None) -> list[int]:
    """How many elements of each of a layer's tensors of ``sizes`` are kept if there are more than ``most`` in all."""
    total = sum(sizes)
    if most is None or total <= most:
        return [*sizes]
    return [min(size, max(2, most * size // total)) for size in sizes]
