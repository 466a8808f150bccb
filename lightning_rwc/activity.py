# SPDX-License-Identifier: Apache-2.0
"""Which units are drawn, and in which order. The number of a unit means nothing."""

import numpy as np
import numpy.typing as npt


def by_activity(values: npt.NDArray[np.floating]) -> npt.NDArray[np.intp]:
    """The columns of a table, from the most active one to the one that moved least.

    Activity is the mean logarithm of all values that are not ``nan``. Zero counts as half the smallest positive value
    of the table, and infinity as the largest finite one. So a column of zeros is behind all that moved, and a column
    of ``nan`` is the last. Equally active columns keep their order.

    Args:
        values: of shape ``(measurements, columns)``.

    Example:
        >>> by_activity(np.array([[0.0, 0.5, 0.25, np.nan], [0.0, 0.125, 0.25, np.nan]]))
        array([1, 2, 0, 3])

    """
    positive = values[np.isfinite(values) & (values > 0)]
    low, high = (positive.min(), positive.max()) if positive.size else (1.0, 1.0)
    present = ~np.isnan(values)
    logs = np.log(np.clip(values, low, high, dtype=np.float64), where=present, out=np.zeros(values.shape))
    logs[values <= 0] = np.log(low) - np.log(2)
    activity = np.full(values.shape[1], -np.inf)
    np.divide(logs.sum(axis=0), present.sum(axis=0), where=present.any(axis=0), out=activity)
    return np.argsort(-activity, kind="stable")


def spread(count: int, most: int) -> npt.NDArray[np.intp]:
    """At most ``most`` of ``count`` positions, evenly spaced, including the first and the last.

    Example:
        >>> spread(9, 3), spread(2, 3)
        (array([0, 4, 8]), array([0, 1]))

    """
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(np.intp))
