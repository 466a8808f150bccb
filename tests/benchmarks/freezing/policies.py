# SPDX-License-Identifier: Apache-2.0
"""When each block is frozen, and how its learning rate falls until then.

Times are shares of the training, from 0 to 1. The last block is the head, which is never frozen.
"""

import math

import numpy as np
from scipy.optimize import brentq

THRESHOLD, PATIENCE = 0.45, 3
THRESHOLDS = (0.1, 0.2, 0.3, 0.35, 0.4, 0.45, 0.5, 0.6)


def cosine(share):
    """The learning rate at a share of the training, relative to that of its start."""
    return (1 + math.cos(math.pi * share)) / 2


class Fixed:
    """Blocks are frozen at known times.

    Args:
        times: when each block is frozen; 1 for never.
        own_cosine: whether the learning rate of a block falls to 0 at its own time, from a start that is so much higher
            that its sum stays the same (FreezeOut, arXiv 1706.04983). It grows if that time is only a few steps away.
            Otherwise all blocks follow one cosine.

    """

    def __init__(self, times, own_cosine=False):
        self.times, self._own_cosine = list(times), own_cosine

    def rate(self, block, share):
        """The learning rate of a block, relative to that of the start of an ordinary training."""
        if not self._own_cosine:
            return cosine(share)
        time = self.times[block]
        return cosine(share / time) / time if share < time else 0.0

    def frozen(self, share, history):
        """The blocks that are frozen at a share of the training."""
        return {block for block, time in enumerate(self.times) if time < 1 and share >= time}


class Evidence:
    """The longest prefix of blocks is frozen of which each has slowed down.

    A block has slowed down when its rotation per learning rate was below ``threshold`` times its own peak in the last
    ``patience`` measurements. The first measurement is never counted.
    """

    def __init__(self, threshold=THRESHOLD, patience=PATIENCE):
        self._threshold, self._patience = threshold, patience
        self._prefix = 0

    def rate(self, block, share):
        """The learning rate of a block, relative to that of the start of an ordinary training."""
        return cosine(share)

    def frozen(self, share, history):
        """The blocks that are frozen, given the rotation per learning rate: measurements x blocks."""
        self._prefix = max(self._prefix, slowed_prefix(history, self._threshold, self._patience))
        return set(range(self._prefix))


def slowed_prefix(history, threshold, patience):
    """How many blocks from the first on have slowed down, the last block excepted."""
    history = np.asarray(history)
    if len(history) <= patience:
        return 0
    slow = (history[-patience:] < threshold * history.max(axis=0)).all(axis=0)[:-1]
    return len(slow) if slow.all() else int(slow.argmin())


def replayed_saving(history, costs, threshold):
    """What a threshold would have saved in a training in which nothing was frozen."""
    policy, times = Evidence(threshold), np.ones(len(costs))
    for measured in range(1, len(history)):
        new = [block for block in policy.frozen(0, history[:measured]) if times[block] == 1]
        times[new] = measured / len(history)
    return saving(times, costs)


def saving(times, costs):
    """The share of a training's operations that is saved by freezing blocks at ``times``, each after those before it.

    A training step takes three times the operations of the forward pass. A frozen prefix saves two of the three.
    """
    latest, costs = np.maximum.accumulate(times), np.asarray(costs)
    return float(2 / 3 * (costs * (1 - latest)).sum() / costs.sum())


def front_to_back(costs, wanted):
    """Times in even steps that save a wanted share, or as much as even steps can."""
    order = np.linspace(0, 1, len(costs))
    return _with_saving(lambda first: first + (1 - first) * order, costs, wanted)


def cubes(costs, wanted):
    """FreezeOut's times: the cubes of even steps."""
    order = np.linspace(0, 1, len(costs))
    return _with_saving(lambda first: (first + (1 - first) * order) ** 3, costs, wanted)


def shuffled(times, seed):
    """The same times in another order of the blocks, except for the head."""
    return [*np.random.default_rng(seed).permutation(times[:-1]), times[-1]]


def _with_saving(times, costs, wanted):
    low, high = 0.05, 1.0
    if wanted >= saving(times(low), costs):
        return list(times(low))
    return list(times(brentq(lambda first: saving(times(first), costs) - wanted, low, high)))
