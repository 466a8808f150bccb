# SPDX-License-Identifier: Apache-2.0
"""The counting of ``python -m tests.rates.spoilt``, on trainings that are made up."""

import pytest
import torch
from torch import nn

from lightning_rwc import Finding
from tests.faults import networks
from tests.rates.spoils import EVENT, SPOILS, candidates
from tests.rates.spoilt import false_alarms, judge, plan, table

LAYERS = [f"net.fc{number}" for number in range(1, 7)]
PERTURBED, SCALED, DEEP, BATCH = (
    "weights perturbed once by 30%",
    "weights × 100 at the start",
    "deep stack of tanh",
    "one batch × 1,000",
)


def run(epoch=(), step=(), quality=0.9):
    """A training of which this was told at each cadence: kind, step, and the numbers of layers from 1."""
    found = {
        by: [Finding(kind, tuple(f"net.fc{number}" for number in layers), 0, at, "…") for kind, at, layers in told]
        for by, told in (("epoch", epoch), ("step", step))
    }
    return {"layer": "net.fc2", "layers": LAYERS, "quality": quality, "found": found}


@pytest.mark.parametrize(
    ("title", "told", "verdict"),
    [
        (SCALED, [("out_of_line", 30, [2])], "right"),
        (SCALED, [("out_of_line", 30, [2, 3])], "named"),
        (SCALED, [("no_gradient", 30, [1, 2])], "named"),
        (SCALED, [("out_of_line", 30, [3])], "nothing"),
        (SCALED, [], "nothing"),
        (PERTURBED, [("burst", EVENT - 1, [2])], "right"),
        # It cannot have been told before it happened.
        (PERTURBED, [("burst", EVENT - 20, [2])], "nothing"),
        # What moves after it is a consequence.
        (PERTURBED, [("burst", EVENT, [2]), ("burst", EVENT + 1, [3])], "right"),
        (BATCH, [("burst", EVENT, [1, 3, 4, 5])], "right"),
        (BATCH, [("burst", EVENT, [1, 3])], "named"),
        (DEEP, [("vanishing", 30, [1, 2, 3, 4])], "right"),
        (DEEP, [("vanishing", 30, [1])], "named"),
        (DEEP, [("vanishing", 30, [1, 2, 6])], "named"),
        (DEEP, [("vanishing", 30, [2, 3])], "nothing"),
    ],
)
def test_what_is_found(title, told, verdict):
    record = judge(title, run(step=told), run())
    assert (record["epoch"], record["step"]) == ("nothing", verdict)


def test_what_is_told_of_the_twin_too_is_not_found():
    told = [("out_of_line", 30, [2])]
    assert judge(SCALED, run(step=told), run(step=told))["step"] == "nothing"
    assert false_alarms(run(step=told)) == {"step": ["out_of_line"]}
    assert false_alarms(run(epoch=[("no_gradient", 9, [1])])) == {}


def test_the_table_counts_trainings():
    right, other = [("out_of_line", 30, [2])], [("no_gradient", 30, [2])]
    records = [
        judge(SCALED, run(right, right, quality=0.86), run(quality=0.9)),
        judge(SCALED, run([], right, quality=0.8), run(quality=0.9)),
        judge(SCALED, run(other, right, quality=0.4), run(quality=0.4)),
        judge(PERTURBED, run(), run()),
    ]
    # The third twin does not learn.
    assert table(records).splitlines() == [
        "|  | trainings | epoch: right | epoch: named | epoch: nothing "
        "| step: right | step: named | step: nothing | learn |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
        f"| {SCALED} | 3 | 1 | 1 | 1 | 3 | 0 | 0 | 1 of 2 |",
        f"| {PERTURBED} | 1 | 0 | 0 | 1 | 0 | 0 | 1 | 1 of 1 |",
    ]


def test_each_kind_is_spoilt_and_gradients_are_scaled_for_sgd_only():
    assert {spoil.kind for spoil in SPOILS.values()} == {"vanishing", "out_of_line", "burst"}
    used = {optimizer for title, _, optimizer, _ in plan(1) if title.startswith(("gradient", "deep"))}
    assert used == {"SGD", "SGD, momentum, decay"}


def test_layers_that_start_at_zero_are_not_spoilt():
    net = nn.Sequential(*(nn.Linear(2, 2) for _ in range(3)), nn.Conv1d(1, 1, 1))
    nn.init.zeros_(net[1].weight)
    assert candidates({str(number): {"weight": layer.weight} for number, layer in enumerate(net)}) == ["0", "2"]


def test_a_deep_stack_has_as_many_layers_as_it_says():
    net = networks.deep(10, nn.Tanh, has_norm=True)
    assert [name for name, module in net.named_children() if isinstance(module, nn.Linear)] == [
        f"fc{number}" for number in range(1, 11)
    ]
    assert net(torch.zeros(3, 1, 8, 8)).shape == (3, 10)
