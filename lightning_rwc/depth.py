# SPDX-License-Identifier: Apache-2.0
"""How relative weight change goes with depth."""

import math
from collections.abc import Sequence

import numpy as np


def depth_correlation(values: Sequence[float]) -> float:
    """Spearman's rank correlation between the depth of a layer and its relative weight change.

    It states the finding of arXiv 2011.06735, that later layers change more than earlier ones, as one number: +1 if
    every layer changes more than all layers before it, −1 if every layer changes less. Ties share their mean rank.

    Args:
        values: one relative weight change for each layer, from the first layer to the last. A history has them in
            definition order; :func:`~lightning_rwc.forward_order.forward_order` gives the order of computation.
            ``nan`` values are left out.

    Returns:
        ρ in [−1, 1], or ``nan`` if there are fewer than two layers or all values are equal.

    Example:
        >>> round(depth_correlation([0.1, 0.2, 0.4, 0.3]), 6)
        0.8

    """
    present = np.array(values, dtype=np.float64)
    present = present[~np.isnan(present)]
    distinct, inverse, counts = np.unique(present, return_inverse=True, return_counts=True)
    if len(distinct) < 2:
        return math.nan
    # Pearson's correlation of ranks and depths, each less its mean.
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse] - (len(present) + 1) / 2
    depths = np.arange(len(ranks)) - (len(ranks) - 1) / 2
    return float(depths @ ranks / np.sqrt((depths @ depths) * (ranks @ ranks)))
