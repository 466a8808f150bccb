# SPDX-License-Identifier: Apache-2.0
"""A part of ``python -m tests.faults``: faults are found in exactly the right layers, and healthy runs are quiet."""

import logging

import numpy as np
import pytest

from tests.faults.faults import FAULTS, HEALTHY, Expected
from tests.faults.others import deep_checker, unchanged_tensor, weight_update_ratio
from tests.faults.runs import CADENCES, cases_of, judge, run
from tests.faults.tables import tables, wrongs

OPTIMIZERS = {"MLP, ReLU": "SGD", "LoRA": "AdamW"}
TRAININGS = [
    *((name, optimizer, case) for name, optimizer in OPTIMIZERS.items() for case in cases_of(name)),
    ("mixture of experts", "Adam", "expert never chosen"),
    ("experts in one tensor", "Adam", "expert never chosen, one tensor"),
    # Such decay turns layers that have no gradient.
    ("MLP, tanh", "Adam, coupled decay", "units that never fire"),
    ("MLP, tanh", "Adam, coupled decay", "healthy"),
    ("GAN", "Adam", "block left out of the optimizer"),
    ("GAN", "Adam", "detached tensor"),
    ("GAN", "Adam", "healthy"),
]


@pytest.fixture(autouse=True)
def _silence():
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)


@pytest.mark.integration
@pytest.mark.parametrize(("name", "optimizer", "case"), TRAININGS)
def test_finds_exactly_the_fault(name, optimizer, case):
    for record in run(name, optimizer, case, epochs=2):
        if record["by"] in CADENCES:
            assert (record["verdict"], record["false"]) == ("exact" if record["expected"] else "quiet", []), record


@pytest.mark.integration
def test_each_fault_should_be_found_and_each_healthy_run_be_quiet():
    records = run("MLP, tanh", "Adam", "detached tensor", epochs=1)
    assert [r["expected"] for r in records] == [[[["no_gradient"], ["net.fc1", "net.fc2"]]]] * len(records)
    assert len(records) == 8
    assert wrongs(records) == []
    assert "| detached tensor | 1 of 1; 1 | 1 of 1; 1 | 1 of 1; 2 | 1 of 1; 10 | 1 of 1; 1 |" in tables(records)
    assert not FAULTS.keys() & HEALTHY.keys()


def test_judge():
    expected = [Expected(("no_gradient", "nothing_moves"), ("a", "b"))]
    exact = judge(expected, [("no_gradient", ("a",), 1), ("no_gradient", ("b",), 3)])
    assert (exact["verdict"], exact["when"], exact["false"]) == ("exact", 3, [])
    part = judge(expected, [("no_gradient", ("a",), 1)])
    assert (part["verdict"], part["false"]) == ("other layers", [])
    more = judge(expected, [("no_gradient", ("a", "b", "c"), 1), ("rounded_away", ("a",), 2)])
    assert (more["verdict"], more["false"]) == ("other layers", [["no_gradient", "c"], ["rounded_away", "a"]])
    assert judge(expected, [])["verdict"] == "missed"
    assert judge([], [("no_gradient", ("a",), 1)])["false"] == [["no_gradient", "a"]]
    # All layers are nan in the end.
    first = judge([Expected(("non_finite",), ("a",))], [("non_finite", ("a",), 2), ("non_finite", ("b",), 3)])
    assert (first["verdict"], first["when"], first["false"]) == ("exact", 2, [])


def test_rules_of_others():
    ones = np.ones((4, 4), np.float32)
    growing = {rate: [ones * (1 + rate) ** step for step in range(11)] for rate in (0, 1e-6, 1e-5, 1e-3, 0.5, 20)}
    # The ratio of norms may be between 1e-8 and 10, a tensor may not be the same to 1e-5 over three steps, and the mean
    # logarithm of the ratio may be between -4 and -1.
    assert weight_update_ratio(growing) == {0, 20}
    assert unchanged_tensor(growing) == {0, 1e-6}
    assert deep_checker(growing) == {0, 1e-6, 1e-5, 0.5, 20}
