# SPDX-License-Identifier: Apache-2.0
"""Whether standard errors of samples tell how far off they are, for changes of all kinds."""

import numpy as np
import torch

from lightning_rwc.functional import change_ratio
from lightning_rwc.sampling import Sample, standard_error, unreliable
from tests.oracle import numpy_rwc

_ROWS, _COLUMNS, _SAMPLED = 1000, 1000, 4096


def _dense(rng):
    return 1e-3 * rng.normal(size=(_ROWS, _COLUMNS))


def _log_normal(sigma):
    return lambda rng: 1e-5 * np.exp(sigma * rng.normal(size=(_ROWS, _COLUMNS)))


def _hot_row(rng):
    change = np.zeros((_ROWS, _COLUMNS))
    change[rng.integers(_ROWS)] = 0.01 * rng.normal(size=_COLUMNS)
    return change


def _few(share):
    def change(rng):
        moved = rng.random((_ROWS, _COLUMNS)) < share
        return moved * 0.01 * rng.normal(size=moved.shape)

    return change


def _hot_element(rng):
    change = _dense(rng)
    change[rng.integers(_ROWS), rng.integers(_COLUMNS)] = 1000.0
    return change


_CHANGES = {
    "Gaussian": _dense,
    "log-normal, σ = 1": _log_normal(1),
    "log-normal, σ = 3": _log_normal(3),
    "one hot row": _hot_row,
    "few, 4 in the sample": _few(4 / _SAMPLED),
    "few, 1 in the sample": _few(1 / _SAMPLED),
    "few, 0.1 in the sample": _few(0.1 / _SAMPLED),
    "Gaussian, one hot element": _hot_element,
}


def sampling(repeats, quick):
    """How often ±2 standard errors cover the truth, and how often they are called unreliable."""
    matrices, samples = 20, 10 if quick else 50
    note = f"{matrices * samples:,} samples of {_SAMPLED:,} of {_ROWS * _COLUMNS:,} Gaussian weights"
    results = {norm: {} for norm in ("l1", "l2")}
    for name, changes in _CHANGES.items():
        rng, runs = np.random.default_rng(0), {norm: [] for norm in results}
        for _ in range(matrices):
            before = torch.from_numpy(0.05 * rng.normal(size=_ROWS * _COLUMNS))
            after = before + torch.from_numpy(changes(rng)).flatten()
            truths = {norm: numpy_rwc([before], [after], norm) for norm in results}
            for seed in rng.integers(2**31, size=samples).tolist():
                sample = Sample(len(before), _SAMPLED, seed)
                chosen = sample.indices(before.device)
                for norm, truth in truths.items():
                    sums = sample.estimate(before[chosen], after[chosen], norm)
                    value, error = change_ratio(sums[:3], norm).item(), standard_error(sums, norm).item()
                    runs[norm].append(
                        (abs(value - truth) <= 2 * error, unreliable(sums).item(), value == 0, error / truth)
                    )
        for norm, table in results.items():
            covered, warned, unseen, errors = np.array(runs[norm]).T
            table[name] = {
                "covered %": 100 * covered.mean(),
                "warned %": 100 * warned.mean(),
                "nothing seen %": 100 * unseen.mean(),
                "error, % of the truth": 100 * np.median(errors),
            }
    for norm, table in results.items():
        yield norm, note, table
