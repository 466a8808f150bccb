# SPDX-License-Identifier: Apache-2.0
"""A part of ``python -m tests.rates``: what is said of learning rates that are right and wrong."""

import logging

import pytest

from tests.rates import runs
from tests.rates.replay import mark, replay


@pytest.mark.integration
def test_only_a_learning_rate_that_is_far_too_high_is_told(monkeypatch):
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    monkeypatch.setattr(runs, "FACTORS", (1, 1000))
    marked = mark([runs.train(("MLP, tanh", "Adam", "digits", 0))])
    assert [run["about"]["healthy"] for run in marked] == [True, False]
    assert [run["about"]["above"] for run in marked] == [1, 1000]
    for cadence in runs.CADENCES:
        assert replay(marked[0], cadence) == {}
        assert list(replay(marked[1], cadence)) == ["learning_rate_high"]
    # The callback itself said the same.
    assert all("learning_rate_high" in kinds for kinds in marked[1]["about"]["kinds"].values())


def test_a_run_is_healthy_if_it_reaches_95_percent_of_the_best_in_its_group():
    def group(*qualities):
        about = {"architecture": "CNN", "data": "digits", "start": 0.1}
        return [{"about": about | {"quality": q, "factor": 10.0**n}} for n, q in enumerate(qualities)]

    marked = mark([group(0.5, 0.96, 1.0, 0.94), group(0.3, 0.2, 0.3, 0.1)])
    # The second group never learns.
    assert [run["about"]["healthy"] for run in marked] == [False, True, True, False]
    assert [run["about"]["above"] for run in marked] == [0.01, 0.1, 1, 10]
    assert [run["about"]["below"] for run in marked] == [10, 1, 0.1, 0.01]
