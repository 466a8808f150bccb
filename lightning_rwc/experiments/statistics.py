# SPDX-License-Identifier: Apache-2.0
"""Intervals over seeds, tests, and rank correlations. This module knows nothing of runs."""

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

_CONFIDENCE = 0.95
LEVEL = (1 - _CONFIDENCE) / 2
"""The level of one-sided tests. They reject a value exactly when the interval lies beyond it."""


class Interval(NamedTuple):
    """A mean over seeds with its 95 % confidence interval. With one seed the limits are ``nan``."""

    mean: float
    low: float
    high: float


def interval(samples: npt.ArrayLike) -> Interval:
    """Return the mean of the samples, one per seed, with its interval by Student's t.

    Example:
        >>> [round(limit, 3) for limit in interval([1.0, 2.0, 3.0])]
        [2.0, -0.484, 4.484]

    """
    mean, reach = _mean_and_reach(np.asarray(samples, dtype=np.float64))
    return Interval(mean, mean - reach, mean + reach)


def geometric_interval(samples: npt.ArrayLike) -> Interval:
    """Return the geometric mean of positive samples, one per seed, with its interval by Student's t of the logarithms.

    It suits sizes and ratios, whose limits are never negative. If a sample is not positive, all three are ``nan``.

    Example:
        >>> [round(limit, 3) for limit in geometric_interval([0.5, 1.0, 2.0])]
        [1.0, 0.179, 5.595]

    """
    values = np.asarray(samples, dtype=np.float64)
    if not (values > 0).all():
        return Interval(math.nan, math.nan, math.nan)
    return Interval(*np.exp(interval(np.log(values))).tolist())


def correlation_interval(samples: npt.ArrayLike, layers: int | None = None) -> Interval:
    """Return the mean of rank correlations, one per seed, with its interval.

    Fisher's z = artanh ρ of each seed is averaged, and the interval is Student's t of z. All three numbers are turned
    back into correlations. So they stay between −1 and 1, and what they estimate is tanh of the mean z, not the mean ρ.

    Ranks of a few layers leave few possible values of ρ: they lie 12 / (n³ − n) apart for n layers. With ``layers``
    given, a ρ of ±1 counts as half such a step nearer to 0, because its z would be infinite. The interval is widened by
    one step, as an independent error, because seeds that agree in every rank do not show that nothing varies.

    Args:
        samples: the correlation of each seed.
        layers: the number of layers that each correlation is about. Without it, a correlation of ±1 has no interval.

    Example:
        >>> [round(limit, 3) for limit in correlation_interval([0.4, 0.6, 0.7], layers=20)]
        [0.579, 0.106, 0.839]

    """
    values = np.asarray(samples, dtype=np.float64)
    step = 12 / (layers**3 - layers) if layers is not None and layers > 1 else 0.0
    with np.errstate(divide="ignore", invalid="ignore"):
        mean, reach = _mean_and_reach(np.arctanh(np.clip(values, step / 2 - 1, 1 - step / 2)))
        # tanh turns a small step of z into one of ρ that is 1 − ρ² times as long.
        reach = math.hypot(reach, step / (1 - math.tanh(mean) ** 2)) if step else reach
    return Interval(*np.tanh([mean, mean - reach, mean + reach]).tolist())


def p_greater(samples: npt.ArrayLike, value: float = 0.0) -> float:
    """Return the p-value of Student's one-sided test that the mean of the samples is greater than ``value``.

    It is at most :data:`LEVEL` exactly when :func:`interval` lies above ``value``. It is ``nan`` with one sample.

    Example:
        >>> round(p_greater([1.0, 2.0, 3.0]), 4)
        0.0371

    """
    from scipy.stats import t

    samples = np.asarray(samples, dtype=np.float64)
    if len(samples) < 2:
        return math.nan
    with np.errstate(divide="ignore", invalid="ignore"):
        return float(t.sf((samples.mean() - value) / _standard_error(samples), len(samples) - 1))


def p_less(samples: npt.ArrayLike, value: float = 0.0) -> float:
    """Return the p-value of Student's one-sided test that the mean of the samples is less than ``value``.

    Example:
        >>> round(p_less([1.0, 2.0, 3.0]), 4)
        0.9629

    """
    return p_greater(-np.asarray(samples, dtype=np.float64), -value)


def holm(p_values: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Return Holm's adjusted p-values.

    If each of m hypotheses is rejected whose adjusted p-value is at most α, the probability to reject any true one is
    at most α. A ``nan`` stays ``nan`` and counts in m: its test was planned, too.

    Example:
        >>> holm([0.01, 0.04, 0.03]).round(2).tolist()
        [0.03, 0.06, 0.06]

    """
    values = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(values)
    adjusted = np.empty_like(values)
    adjusted[order] = np.minimum(np.maximum.accumulate(values[order] * np.arange(len(values), 0, -1)), 1)
    return adjusted


def spearman(x: npt.ArrayLike, y: npt.ArrayLike) -> float:
    """Return Spearman's ρ. It is ``nan`` if all values of a variable are equal. Pairs with a ``nan`` are left out.

    Example:
        >>> round(spearman([1, 2, 3, 4], [0.1, 0.2, 0.4, 0.3]), 6)
        0.8

    """
    return float(_rank_correlations(x, y)[0, 1])


def partial_spearman(x: npt.ArrayLike, y: npt.ArrayLike, given: npt.ArrayLike) -> float:
    """Return Spearman's ρ of ``x`` and ``y`` with ``given`` held fixed.

    It is the correlation of what is left of the ranks of both after their linear regression on the ranks of ``given``.
    It is ``nan`` if nothing is left of one of them, as when both have the same order. Triples with a ``nan`` are left
    out.

    Example:
        >>> round(partial_spearman([1, 2, 3, 4], [1, 2, 4, 3], given=[2, 1, 4, 3]), 6)
        0.666667

    """
    r = _rank_correlations(x, y, given)
    left = np.array([1 - r[0, 2] ** 2, 1 - r[1, 2] ** 2])
    # Exact fits leave rounding errors. Ranks cannot leave so little.
    if not (left > 1e-12).all():
        return math.nan
    return float(np.clip((r[0, 1] - r[0, 2] * r[1, 2]) / np.sqrt(left.prod()), -1, 1))


def depth_and_size(changes: npt.ArrayLike, sizes: npt.ArrayLike) -> dict[str, float]:
    """Return the rank correlations of relative weight change with the depth and with the size of layers.

    Logarithms of sizes would give the same, because ranks are all that counts.

    Args:
        changes: the relative weight change of each layer, from the first layer to the last.
        sizes: the number of weights of each layer.

    Returns:
        ρ with ``"depth"``, ``"size"``, ``"depth given size"`` and ``"size given depth"``.

    Example:
        >>> {name: round(rho, 2) for name, rho in depth_and_size([0.1, 0.2, 0.4, 0.3], [10, 5, 30, 20]).items()}
        {'depth': 0.8, 'size': 0.8, 'depth given size': 0.67, 'size given depth': 0.67}

    """
    depths = np.arange(len(np.asarray(changes)))
    return {
        "depth": spearman(depths, changes),
        "size": spearman(sizes, changes),
        "depth given size": partial_spearman(depths, changes, sizes),
        "size given depth": partial_spearman(sizes, changes, depths),
    }


def _rank_correlations(*variables: npt.ArrayLike) -> npt.NDArray[np.float64]:
    from scipy.stats import rankdata

    table = np.array(variables, dtype=np.float64)
    ranks = rankdata(table[:, ~np.isnan(table).any(axis=0)], axis=1)
    if ranks.shape[1] < 2:
        return np.full((len(table), len(table)), np.nan)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.corrcoef(ranks))


def _mean_and_reach(values: npt.NDArray[np.float64]) -> tuple[float, float]:
    from scipy.stats import t

    if len(values) < 2 or not np.isfinite(values).all():
        return float(values.mean()), math.nan
    return float(values.mean()), float(t.ppf(1 - LEVEL, len(values) - 1) * _standard_error(values))


def _standard_error(values: npt.NDArray[np.float64]) -> float:
    return float(values.std(ddof=1) / math.sqrt(len(values)))
