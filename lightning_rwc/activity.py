# SPDX-License-Identifier: Apache-2.0
"""The order of units in pictures. Which number a unit has means nothing."""

import numpy as np
import numpy.typing as npt


def by_activity(values: npt.NDArray[np.floating]) -> npt.NDArray[np.intp]:
    """The columns of a table, from the most active one to the one that moved least.

    Activity is the mean logarithm of all values that are not ``nan``. Zero counts as the smallest positive value of the
    table, and infinity as the largest finite one. So a column of zeros is behind all that moved, and a column of
    ``nan`` is the last. Equally active columns keep their order.

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
    activity = np.full(values.shape[1], -np.inf)
    np.divide(logs.sum(axis=0), present.sum(axis=0), where=present.any(axis=0), out=activity)
    return np.argsort(-activity, kind="stable")
