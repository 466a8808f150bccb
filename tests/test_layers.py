# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune

from lightning_rwc.layers import LayerSelection


class Net(nn.Module):
    """Kernels, biases, norms, a module with two matrices, and parameters of the network itself."""

    def __init__(self):
        super().__init__()
        self.cls_token = nn.Parameter(torch.ones(1, 1, 4))
        self.positions = nn.Parameter(torch.ones(1, 3, 4))
        self.scale = nn.Parameter(torch.ones(()))
        self.stem = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4))
        self.blocks = nn.ModuleList(nn.Linear(4, 4) for _ in range(2))
        self.rnn = nn.LSTM(4, 4)
        self.head = nn.Linear(4, 2)


def names(module, **kwargs):
    return {layer: list(parameters) for layer, parameters in LayerSelection(**kwargs).find(module).items()}


def test_default_rule_and_names():
    assert names(Net()) == {
        "positions": ["positions"],
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
        "positions": ["positions"],
        "stem": ["stem.0.weight"],
        "blocks": ["blocks.0.weight", "blocks.1.weight"],
        "rnn": ["rnn.weight_ih_l0", "rnn.weight_hh_l0"],
        "head": ["head.weight"],
    }
    found = names(Net(), group_by=lambda name: "head" if "head" in name else "body")
    assert list(found) == ["body", "head"]
    assert len(found["body"]) == 6


def keep_matrices(name, parameter):
    """A filter that a test refers to by a string."""
    return parameter.ndim == 2


def first_letter(name):
    """A grouping that a test refers to by a string."""
    return name[0]


def test_functions_by_name():
    assert list(names(Net(), layers="tests.test_layers:keep_matrices"))[-1] == "head"
    assert list(names(Net(), group_by="tests.test_layers:first_letter")) == ["p", "s", "b", "r", "h"]


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
        "positions": ["positions"],
        "stem.0": ["stem.0.weight"],
        "blocks.0": ["blocks.0.weight"],
        "blocks.1": ["blocks.1.weight.original1"],  # original0 is the norm of each row
        "rnn.weight_ih_l0": ["rnn.weight_ih_l0"],
        "rnn.weight_hh_l0": ["rnn.weight_hh_l0"],
        "head": ["head.weight"],
    }


class Scale(nn.Module):
    """A norm's scale and shift, in the shapes of modules for images and tokens."""

    def __init__(self, *shape):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(shape))
        self.bias = nn.Parameter(torch.zeros(shape))


class Attention(nn.Module):
    """Scales in the shapes of vision transformers, and a table that is not a scale."""

    def __init__(self):
        super().__init__()
        self.logit_scale = nn.Parameter(torch.ones(3, 1, 1))
        self.temperature = nn.Parameter(torch.ones(1, 4, 1, 1))
        self.table = nn.Parameter(torch.ones(9, 3))
        self.proj = nn.Linear(4, 4)


def narrow():
    """Modules whose weights are layers at any size. Here each has at most one dimension larger than 1."""
    modules = {
        "head": nn.Linear(60, 1),
        "wide": nn.Linear(1, 5),
        "depthwise": nn.Conv2d(8, 8, 1, groups=8),
        "temporal": nn.Conv1d(8, 1, 1),
        "attention over channels": nn.Conv1d(1, 1, 3),
        "upsample": nn.ConvTranspose2d(1, 4, 1),
        "table": nn.Embedding(1, 4),
        "pairs": nn.Bilinear(1, 1, 4),
        "cell": nn.GRUCell(1, 1),
    }
    return nn.ModuleDict(modules)


def test_a_vector_is_no_layer_whatever_its_shape():
    net = nn.ModuleDict({"norm": Scale(4, 1, 1), "grn": Scale(1, 1, 1, 4), "attn": Attention()})
    net["conv"] = nn.Conv2d(4, 4, 1, groups=4)
    net["conv"].gain = nn.Parameter(torch.ones(4, 1, 1, 1))  # as in timm's nfnet
    net["old"] = nn.utils.weight_norm(nn.Conv1d(2, 3, 5))
    net["new"] = parametrizations.weight_norm(nn.Conv1d(2, 3, 5))
    expected = {
        "attn.table": ["attn.table"],
        "attn.proj": ["attn.proj.weight"],
        "conv": ["conv.weight"],
        "old": ["old.weight_v"],
        "new": ["new.weight.original1"],
    }
    assert names(net) == expected
    assert names(net.state_dict()) == expected
    # `layers` can still select them, and their names do not change.
    chosen = ["norm.weight", "attn.logit_scale", "conv.gain"]
    assert list(names(net, layers=[rf"^{name}$" for name in chosen])) == ["norm", *chosen[1:]]


def test_weights_of_known_modules_are_layers_whatever_their_sizes():
    expected = [name for name in narrow() if name != "cell"] + ["cell.weight_ih", "cell.weight_hh"]
    assert list(names(narrow())) == expected
    assert list(names(narrow().state_dict())) == expected
    for module, weight in ((nn.LSTM(1, 1), "weight_hh_l0"), (nn.MultiheadAttention(1, 1), "in_proj_weight")):
        assert weight in [name for found in (names(module), names(module.state_dict())) for name in found]


def test_a_row_is_named_after_its_module_only_if_it_is_its_weight_or_bias():
    net = nn.ModuleDict({"attn": nn.MultiheadAttention(4, 2), "norm": nn.BatchNorm2d(4)})
    assert list(names(net)) == ["attn", "attn.out_proj"]
    assert list(names(net, layers=r"in_proj_bias|norm")) == ["attn.in_proj_bias", "norm.weight", "norm.bias"]
    assert list(names(net, layers=r"norm.bias")) == ["norm"]


@pytest.mark.parametrize("model", ["coat_lite_tiny", "edgenext_xx_small", "swinv2_tiny_window8_256", "test_nfnet"])
def test_families_of_timm_whose_scales_have_many_dimensions(model):
    timm = pytest.importorskip("timm")
    if model not in timm.list_models():
        pytest.skip("this timm does not have it yet")
    net = timm.create_model(model)
    kernels = {
        f"{name}.weight"
        for name, module in net.named_modules()
        if isinstance(module, nn.Linear | nn.modules.conv._ConvNd)
    }
    many = {name: parameter for name, parameter in net.named_parameters() if parameter.ndim >= 2}
    vectors = {name for name, parameter in many.items() if max(parameter.shape) == parameter.numel()} - kernels
    assert vectors
    assert {name for found in names(net).values() for name in found} == {*many} - vectors


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
    with pytest.raises(ValueError, match=r"`layers` pattern 'hat' matches no parameter\. The model.*'head.weight'"):
        LayerSelection(layers=["head", "hat"]).require(Net())
    with pytest.raises(ValueError, match=r"no parameter has two or more dimensions larger than 1.*'weight'"):
        LayerSelection().require(nn.BatchNorm1d(2))
    with pytest.raises(ValueError, match=r"no parameter is selected by `layers`.*Select some of them with `layers=`"):
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
        ({"layers": "math:pi"}, TypeError, "`layers` must name a function, but 'math:pi' names 3.14"),
    ],
)
def test_bad_arguments_are_named(kwargs, error, message):
    with pytest.raises(error, match=message):
        LayerSelection(**kwargs)


def test_group_by_function_must_name_layers():
    with pytest.raises(TypeError, match="`group_by` must return a string, but returned None for 'weight'"):
        LayerSelection(group_by=lambda name: None).require(nn.Linear(2, 2))
