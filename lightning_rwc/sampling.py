# SPDX-License-Identifier: Apache-2.0
"""Estimates from a sample: which elements of a large tensor are kept, and how far off their sums may be.

A tensor is cut into strata, runs of nearly equally many neighbouring elements, and two different elements are drawn
from each. With every element weighted by how many it stands for, the sums of the sample estimate those of the tensor,
and the difference of the two elements of a stratum tells how much they vary (Cochran, Sampling Techniques, 3rd edition,
sections 5.3 and 6.5).

"""

from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_rwc.functional import Norm, change_terms


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
            A tensor of shape ``(6,)``: estimates of the sums of :func:`~lightning_rwc.functional.change_sums`, then the
            estimated variances of numerator and denominator, and their covariance.

        """
        terms = torch.stack(change_terms(previous, current, norm))
        if not self.strata:
            return torch.cat((terms.sum(1), terms.new_zeros(3)))
        lengths = self._bounds(terms.device)[1].to(terms.dtype)
        pairs = terms.view(3, 2, -1)
        estimates = (pairs.sum(1) * lengths / 2).sum(1)
        numerators, denominators = (pairs[:2, 0] - pairs[:2, 1]) / 2
        spread = lengths * (lengths - 2)
        products = torch.stack((numerators.square(), denominators.square(), numerators * denominators))
        return torch.cat((estimates, (products * spread).sum(1)))


def standard_error(sums: Tensor, norm: Norm) -> Tensor:
    """The standard error of relative weight changes, to first order.

    Args:
        sums: for each layer what :meth:`Sample.sums` gives, added up, of shape ``(6, ...)``.
        norm: the definition that they were summed for.

    Returns:
        A tensor of shape ``(...)``; 0 where nothing was sampled or nothing moved.

    """
    numerator, denominator, _, var_numerator, var_denominator, covariance = sums
    ratio = numerator / denominator
    variance = var_numerator - 2 * ratio * covariance + ratio.square() * var_denominator
    error = variance.clamp_min(0).sqrt() / denominator
    if norm == "l2":
        error = error / (2 * ratio.sqrt())
    return torch.where((numerator == 0) | (variance == 0), 0.0, error)


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
