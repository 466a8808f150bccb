# SPDX-License-Identifier: Apache-2.0
"""Where a layer moved: quantities of a measurement that do not depend on the norm.

The change of a layer has a part along its weights, which is decay or growth, and a part across them, which is rotation.
Both follow from three sums that add up like those of a norm: Σ(c − p)·p, Σ|c − p|² and Σ|p|².

"""

from collections.abc import Callable, Sequence
from itertools import combinations_with_replacement
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_rwc.functional import Sums
from lightning_rwc.quantity import RELATIVE_WEIGHT_CHANGE, Quantity
from lightning_rwc.sampling import UNSEEN, SampleSums

# Beyond this, Σ|c|² is what rounding leaves of the difference of two equal numbers.
_NOTHING_LEFT = 1e-14
# A weight in float32 is rounded by at most this fraction of itself.
ROUNDING = 2.0**-24
"""How far a step may rotate float32 weights by rounding alone, in radians."""


class Evidence(NamedTuple):
    """What a measurement knows of its layers."""

    sums: Tensor
    """The rows of :class:`~lightning_rwc.functional.Sums` or :class:`~lightning_rwc.sampling.SampleSums`."""
    elements: Tensor
    """How many elements each layer has."""
    units: Sequence[Tensor]
    """For each layer the sums of its units of more than one element, if they were asked for."""
    steps: int
    """How many optimizer steps were taken since the snapshot."""


class Movement(NamedTuple):
    """A quantity of each layer that follows from a measurement."""

    name: str
    quantity: Quantity
    value: Callable[[Evidence], Tensor]
    standard_error: Callable[[Evidence], Tensor]
    needs_units: bool = False


def rotation(sums: Tensor) -> Tensor:
    r"""The angle between the weights before and after, in radians.

    It is atan2(‖d⊥‖, p·c / ‖p‖), where d⊥ is the part of the change d = c − p across p: ‖d⊥‖² = Σd² − (Σd·p)² / Σp².
    A layer that decays or grows keeps its direction, so its angle is 0. In float32, rounding explains an angle of up to
    k · 2⁻²⁴ after k steps, because each step rounds each weight by at most 2⁻²⁴ of itself.

    The angle is 0 if nothing moved, and ``nan`` if all weights were or became zero, or one of them is not finite.

    Args:
        sums: of shape ``(6, ...)`` or more, with the first rows of :class:`~lightning_rwc.functional.Sums`.

    Returns:
        Angles from 0 to π, of shape ``(...)``.

    Example:
        >>> from lightning_rwc.functional import change_sums
        >>> rotation(change_sums(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 3.0])))
        tensor(1.5708, dtype=torch.float64)
        >>> rotation(change_sums(torch.tensor([1.0, 2.0]), torch.tensor([0.9, 1.8]))) < 1e-7
        tensor(True)

    """
    _, _, moved, dot, squared_change, squared_size, *_ = sums
    size = squared_size.sqrt()
    along = dot / size
    across = (squared_change - along.square()).clamp_min(0).sqrt()
    present = squared_size + 2 * dot + squared_change
    angle = torch.atan2(across, size + along)
    return _with_still(torch.where(present > _NOTHING_LEFT * squared_size, angle, torch.nan), moved, squared_change)


def radial(sums: Tensor) -> Tensor:
    """How much the weights grew: ‖c‖₂ / ‖p‖₂ − 1. It is negative if they shrank.

    It is 0 if nothing moved, ``inf`` if all weights were zero and some moved, and ``nan`` if a weight is not finite.

    Args:
        sums: as for :func:`rotation`.

    Returns:
        Numbers from −1 upwards, of shape ``(...)``.

    Example:
        >>> from lightning_rwc.functional import change_sums
        >>> radial(change_sums(torch.tensor([3.0, 4.0]), torch.tensor([0.0, 4.0])))
        tensor(-0.2000, dtype=torch.float64)

    """
    _, _, moved, dot, squared_change, squared_size, *_ = sums
    # Of the square. The root of 1 + a small number would lose its digits.
    growth = ((2 * dot + squared_change) / squared_size).clamp_min(-1)
    return _with_still(growth / ((1 + growth).sqrt() + 1), moved, squared_change, from_zero=squared_size == 0)


def moved_share(sums: Tensor, elements: Tensor) -> Tensor:
    """The share of elements that changed, from 0 to 1. It is 0 for an empty layer, and ``nan`` beside a ``nan``.

    Args:
        sums: as for :func:`rotation`.
        elements: how many elements each layer has.

    """
    of = Sums(*sums[: len(Sums._fields)])
    return torch.where(of.squared_change.isfinite(), of.moved / elements.clamp_min(1), torch.nan)


def still_share(units: Tensor, steps: int) -> Tensor:
    """The share of units that did not rotate, from 0 to 1, or ``nan`` if there is no unit.

    Leave out units of one element, because a single number cannot turn.

    Args:
        units: the sums of the units of a layer, of shape ``(6, units)``.
        steps: how many optimizer steps were taken. Rounding explains a rotation of float32 weights of up to ``steps`` ·
            2⁻²⁴. It explains more where sums are float32, and then this finds no unit that decays.

    """
    return (rotation(units) <= max(steps, 1) * ROUNDING).to(units).mean()


def _with_still(value: Tensor, moved: Tensor, squared_change: Tensor, from_zero: Tensor | None = None) -> Tensor:
    if from_zero is not None:
        value = torch.where(from_zero, torch.inf, value)
    value = torch.where(moved > 0, value, 0.0)
    return torch.where(torch.isfinite(squared_change) & torch.isfinite(moved), value, torch.nan)


def _rotation_error(evidence: Evidence) -> Tensor:
    # The angle is that of the point (x, y) = (Σp² + Σd·p, √(Σd²·Σp² − (Σd·p)²)).
    _, _, _, dot, change, size, *_ = evidence.sums
    x, y = size + dot, (change * size - dot.square()).clamp_min(0).sqrt()
    slopes = [(-2 * dot, size, change)[i] / (2 * y) * x - (1, 0, 1)[i] * y for i in range(3)]
    error = _by_delta(evidence, [slope / (x.square() + y.square()) for slope in slopes])
    # With no rotation in the sample the slopes are infinite, and there is no spread.
    error = torch.where(y > 0, error, 0.0)
    return _with_unseen(evidence, error, lambda share: share.sqrt())


def _radial_error(evidence: Evidence) -> Tensor:
    _, _, _, dot, change, size, *_ = evidence.sums
    squared = 1 + (2 * dot + change) / size
    scale = 1 / (2 * squared.sqrt() * size)
    return _with_unseen(evidence, _by_delta(evidence, [2 * scale, scale, (1 - squared) * scale]), lambda share: share)


def _moved_error(evidence: Evidence) -> Tensor:
    if len(evidence.sums) == len(Sums._fields):
        return torch.zeros_like(evidence.sums[0])
    of = SampleSums(*evidence.sums)
    # As for a norm, the error allows for one and a half more elements of the sample.
    unseen = torch.where(of.sampled > 0, UNSEEN / 2 / of.sampled, 0.0)
    return ((of.moved_variance / evidence.elements.clamp_min(1).square()).clamp_min(0) + unseen.square()).sqrt()


def _by_delta(evidence: Evidence, slopes: Sequence[Tensor]) -> Tensor:
    """The standard error of a function of Σd·p, Σd² and Σp², whose derivatives by these are ``slopes``."""
    if len(evidence.sums) == len(Sums._fields):
        return torch.zeros_like(evidence.sums[0])
    variance = torch.zeros_like(evidence.sums[0])
    names = ("dot", "squared_change", "squared_size")
    for (i, one), (j, other) in combinations_with_replacement(enumerate(names), 2):
        covariance = getattr(SampleSums(*evidence.sums), f"{one}_{other}")
        variance += (1 if i == j else 2) * slopes[i] * slopes[j] * covariance
    return variance.clamp_min(0).sqrt()


def _with_unseen(evidence: Evidence, error: Tensor, effect: Callable[[Tensor], Tensor]) -> Tensor:
    """Where no sampled element moved, half of what the elements that may have been missed would make."""
    if len(evidence.sums) == len(Sums._fields):
        return error
    of = SampleSums(*evidence.sums)
    unseen = torch.where(of.squared_size > 0, effect(UNSEEN / of.sampled) / 2, torch.inf)
    return torch.where(of.sampled == 0, 0.0, torch.where(of.moved == 0, unseen, error))


def _exact(evidence: Evidence) -> Tensor:
    return torch.zeros_like(evidence.sums[0])


def _still(evidence: Evidence) -> Tensor:
    return torch.stack([still_share(units, evidence.steps) for units in evidence.units])


MOVEMENTS = {
    movement.name: movement
    for movement in (
        Movement(
            "rotation",
            Quantity("rotation (radians)", zero="0: did not rotate", scale="step"),
            lambda evidence: rotation(evidence.sums),
            _rotation_error,
        ),
        Movement(
            "radial",
            Quantity("growth of the norm (ratio)", signed=True),
            lambda evidence: radial(evidence.sums),
            _radial_error,
        ),
        Movement(
            "moved",
            Quantity("share of elements that changed", share=True),
            lambda evidence: moved_share(evidence.sums, evidence.elements),
            _moved_error,
        ),
        Movement(
            "still",
            Quantity("share of units that did not rotate", share=True),
            _still,
            _exact,
            needs_units=True,
        ),
    )
}
"""The movements that ``measures=`` takes by name."""


def check_movements(names: Sequence[str]) -> bool:
    """Raise ``ValueError`` unless each name is a movement, and return whether one of them needs units."""
    if unknown := [name for name in names if name not in MOVEMENTS]:
        raise ValueError(f"`movements` must have names of {[*MOVEMENTS]}, but has {unknown[0]!r}.")
    return any(MOVEMENTS[name].needs_units for name in names)


def quantity_of(measure: str) -> Quantity:
    """What the numbers of ``"rwc"`` or of a movement are."""
    return MOVEMENTS[measure].quantity if measure in MOVEMENTS else RELATIVE_WEIGHT_CHANGE
