# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune

from lightning_rwc.layers import LayerSelection


class Net(nn.Module):
    """One of everything: kernels, biases, norms, two matrices in a module, a parameter of its own."""

    def __init__(self):
        super().__init__()
        self.cls_token = nn.Parameter(torch.ones(1, 1, 4))
        self.scale = nn.Parameter(torch.ones(()))
        self.stem = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4))
        self.blocks = nn.ModuleList(nn.Linear(4, 4) for _ in range(2))
        self.rnn = nn.LSTM(4, 4)
        self.head = nn.Linear(4, 2)


def names(module, **kwargs):
    return {layer: list(parameters) for layer, parameters in LayerSelection(**kwargs).find(module).items()}


def test_default_rule_and_names():
    assert names(Net()) == {
        "cls_token": ["cls_token"],
        "stem.0": ["stem.0.weight"],
        "blocks.0": ["blocks.0.weight"],
        "blocks.1": ["blocks.1.weight"],
        "rnn.weight_ih_l0": ["rnn.weight_ih_l0"],
        "rnn.weight_hh_l0": ["rnn.weight_hh_l0"],
        "head": ["head.weight"],
    }


def test_regular_expressions_replace_the_rule():
    assert list(names(Net(), layers=r"head")) == ["head.weight", "head.bias"]
    assert list(names(Net(), layers=[r"^stem\.0\.bias$", r"blocks.*weight"])) == ["stem.0", "blocks.0", "blocks.1"]


def test_function_of_name_and_parameter():
    found = names(Net(), layers=lambda name, parameter: parameter.ndim == 4 or name == "scale")
    assert list(found) == ["scale", "stem.0"]


def test_grouping_by_depth_and_by_function():
    assert names(Net(), group_by=1) == {
        "cls_token": ["cls_token"],
        "stem": ["stem.0.weight"],
        "blocks": ["blocks.0.weight", "blocks.1.weight"],
        "rnn": ["rnn.weight_ih_l0", "rnn.weight_hh_l0"],
        "head": ["head.weight"],
    }
    found = names(Net(), group_by=lambda name: "head" if "head" in name else "body")
    assert list(found) == ["body", "head"]
    assert len(found["body"]) == 6


def keep_matrices(name, parameter):
    """A filter that a string names."""
    return parameter.ndim == 2


def first_letter(name):
    """A grouping that a string names."""
    return name[0]


def test_functions_by_name():
    assert list(names(Net(), layers="tests.test_layers:keep_matrices"))[-1] == "head"
    assert list(names(Net(), group_by="tests.test_layers:first_letter")) == ["c", "s", "b", "r", "h"]


def test_tied_parameters_count_once_and_frozen_ones_count():
    net = Net()
    net.blocks[1].weight = net.blocks[0].weight
    net.head.weight.requires_grad_(False)
    assert "blocks.1" not in names(net)
    assert "head" in names(net)


def test_names_of_parametrised_pruned_and_compiled_modules():
    net = Net()
    parametrizations.orthogonal(net.blocks[0])
    parametrizations.weight_norm(net.blocks[1])
    prune.l1_unstructured(net.head, "weight", 0.5)
    net.stem = torch.compile(net.stem)
    assert names(net) == {
        "cls_token": ["cls_token"],
        "stem.0": ["stem.0.weight"],
        "blocks.0": ["blocks.0.weight"],
        "blocks.1.weight.original0": ["blocks.1.weight.original0"],
        "blocks.1.weight.original1": ["blocks.1.weight.original1"],
        "rnn.weight_ih_l0": ["rnn.weight_ih_l0"],
        "rnn.weight_hh_l0": ["rnn.weight_hh_l0"],
        "head": ["head.weight"],
    }


def test_names_that_would_coincide_stay_whole():
    net = nn.Module()
    net.a = nn.Linear(2, 2)
    net._orig_mod = nn.Module()
    net._orig_mod.a = nn.Linear(2, 2)
    assert list(names(net)) == ["a", "_orig_mod.a"]


def test_integers_are_not_weights():
    net = Net()
    net.codes = nn.Parameter(torch.ones(4, 4, dtype=torch.uint8), requires_grad=False)
    assert "codes" not in names(net, layers=".*")


def test_a_selection_of_nothing_names_what_exists():
    with pytest.raises(ValueError, match=r"`layers` has the regular expression 'hat', no match.*'head.weight'"):
        LayerSelection(layers=["head", "hat"]).require(Net())
    with pytest.raises(ValueError, match=r"no parameter has two or more dimensions.*'weight', 'bias'.*`layers=`"):
        LayerSelection().require(nn.BatchNorm1d(2))
    with pytest.raises(ValueError, match="no parameter is chosen by `layers`"):
        LayerSelection(layers=lambda name, parameter: False).require(Net())
    with pytest.raises(ValueError, match="floating-point parameters: none"):
        LayerSelection().require(nn.ReLU())
    with pytest.raises(ValueError, match=r"and 180 more"):
        LayerSelection(layers="nothing").require(nn.Sequential(*(nn.Linear(1, 1) for _ in range(100))))


def test_uninitialised_parameters_are_refused():
    with pytest.raises(ValueError, match=r"still lazy: '0.weight', '0.bias'.*Send one batch"):
        LayerSelection().require(nn.Sequential(nn.LazyLinear(2)))
    mixed = nn.Sequential(nn.LazyLinear(2), nn.Linear(2, 2))
    assert names(mixed) == {"1": ["1.weight"]}
    assert list(LayerSelection(layers="^1.weight").require(mixed)) == ["1"]


@pytest.mark.parametrize(
    ("kwargs", "error", "message"),
    [
        ({"layers": "("}, ValueError, r"`layers` has an invalid regular expression '\('"),
        ({"layers": []}, ValueError, "`layers` is an empty list"),
        ({"layers": 3}, TypeError, "`layers` must be .* but got 3"),
        ({"layers": [3]}, TypeError, r"`layers` must be .* but got \[3\]"),
        ({"group_by": 0}, ValueError, "`group_by` must be at least 1.* but got 0"),
        ({"group_by": True}, TypeError, "`group_by` must be .* but got True"),
        ({"group_by": "encoder"}, TypeError, "`group_by` must be .* but got 'encoder'"),
        ({"layers": "tests.nowhere:keep"}, ValueError, "`layers` names the function .* cannot be imported"),
        ({"group_by": "math:nothing"}, ValueError, "`group_by` names the function .* cannot be imported"),
        ({"layers": "math:pi"}, TypeError, "`layers` must name a function, but 'math:pi' is 3.14"),
    ],
)
def test_bad_arguments_are_named(kwargs, error, message):
    with pytest.raises(error, match=message):
        LayerSelection(**kwargs)


def test_group_by_function_must_name_layers():
    with pytest.raises(TypeError, match="`group_by` must return a string, but gave None"):
        LayerSelection(group_by=lambda name: None).require(nn.Linear(2, 2))
