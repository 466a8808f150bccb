# SPDX-License-Identifier: Apache-2.0
"""Rules of other tools that look at weights, written out from their definitions. Each returns the layers it reports."""

from itertools import pairwise

import numpy as np


def weight_update_ratio(series):
    """SageMaker Debugger's WeightUpdateRatio, at its defaults, for every step.

    Args:
        series: layer name to the weights at the start and after each batch.

    """
    with np.errstate(all="ignore"):
        return {
            layer
            for layer, weights in series.items()
            if any(
                not 1e-8 <= np.linalg.norm(new - old) / (np.linalg.norm(old) + 1e-9) <= 10
                for old, new in pairwise(weights)
            )
        }


def unchanged_tensor(series):
    """SageMaker Debugger's UnchangedTensor, at its defaults: a tensor that is the same over three steps."""
    return {
        layer
        for layer, weights in series.items()
        if any(
            all(np.allclose(weights[start], later, rtol=1e-5, atol=1e-8) for later in weights[start + 1 : start + 4])
            for start in range(len(weights) - 3)
        )
    }


def deep_checker(series, steps=10):
    """TheDeepChecker's band: the mean log10 of |Δw|₁ / |w|₁ over ten steps lies between −4 and −1."""
    found = set()
    for layer, weights in series.items():
        with np.errstate(all="ignore"):
            logs = [np.log10(np.abs(new - old).sum() / np.abs(old).sum()) for old, new in pairwise(weights)]
            means = [np.mean(logs[start : start + steps]) for start in range(0, len(logs) - steps + 1, steps)]
        if any(not -4 <= mean <= -1 for mean in means):
            found.add(layer)
    return found


OTHERS = {
    "SageMaker ratio": weight_update_ratio,
    "SageMaker unchanged": unchanged_tensor,
    "TheDeepChecker": deep_checker,
}
