# SPDX-License-Identifier: Apache-2.0
from collections import Counter

import pytest
import torch
from torch import nn

from lightning_rwc.weightscale.layer_kinds import kinds_by_pattern, layer_kinds


class SqueezeExcite(nn.Module):
    def __init__(self):
        super().__init__()
        self.reduce, self.expand = nn.Conv2d(8, 2, 1), nn.Conv2d(2, 8, 1)


def test_kinds_of_a_hand_made_net():
    block = nn.ModuleDict(
        {"up": nn.Conv2d(4, 8, 1), "dw": nn.Sequential(nn.Conv2d(8, 8, 3, groups=8)), "se": SqueezeExcite()}
        | {"down": nn.Conv2d(8, 4, 1)}
    )
    grouped = nn.Conv2d(4, 4, 3, groups=2)
    net = nn.ModuleDict({"stem": nn.Conv2d(1, 4, 3), "block": block, "grouped": grouped, "mix": nn.Conv2d(4, 9, 1)})
    net["hidden"], net["last"], net["lstm"] = nn.Linear(9, 9), nn.Linear(9, 2), nn.LSTM(2, 2)
    expected = {
        "stem": "stem",
        "block.up": "point-wise",
        "block.dw.0": "depth-wise",
        "block.se.reduce": "squeeze-excite",
        "block.se.expand": "squeeze-excite",
        "block.down": "point-wise-linear",
        "grouped": "convolution",
        "mix": "1x1",
        "hidden": "linear",
        "last": "head",
        "lstm.weight_ih_l0": "other",
        "lstm.weight_hh_l0": "other",
    }
    assert layer_kinds(net) == expected
    assert layer_kinds(nn.ModuleDict({"model": net})) == {f"model.{name}": kind for name, kind in expected.items()}
    assert layer_kinds(net, layers=r"block\.se|stem\.w", group_by=2) == {"stem": "stem", "block.se": "squeeze-excite"}
    assert layer_kinds(net, group_by=1)["block"] == "other"


# From the papers' tables: blocks of each stage, and what each block holds.
@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("alexnet", {"stem": 1, "convolution": 4, "linear": 2, "head": 1}),
        ("vgg19_bn", {"stem": 1, "convolution": 15, "linear": 2, "head": 1}),
        ("resnet18", {"stem": 1, "convolution": 16, "shortcut": 3, "head": 1}),
        (
            "resnet50",
            {"stem": 1, "bottleneck-in": 16, "convolution": 16, "bottleneck-out": 16, "shortcut": 4, "head": 1},
        ),
        (
            "efficientnet_b0",  # 16 blocks, each with two convolutions of squeeze-and-excitation; the first widens not
            {"stem": 1, "squeeze-excite": 32, "depth-wise": 16, "point-wise": 15, "point-wise-linear": 16}
            | {"1x1": 1, "head": 1},
        ),
        (
            "vit_b_16",  # embeddings of patches and of positions
            {"embedding": 2, "query-key-value": 12, "attention-output": 12, "mlp-in": 12, "mlp-out": 12, "head": 1},
        ),
        (
            "swin_t",  # three linear layers between stages, 12 tables of positions
            {"embedding": 1, "query-key-value": 12, "attention-output": 12, "mlp-in": 12, "mlp-out": 12}
            | {"linear": 3, "other": 12, "head": 1},
        ),
    ],
)
def test_kinds_of_torchvision_models(name, counts):
    from torchvision import models

    with torch.device("meta"):
        assert Counter(layer_kinds(models.get_model(name)).values()) == counts


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("seresnet18", {"stem": 1, "convolution": 16, "squeeze-excite": 16, "shortcut": 3, "head": 1}),
        (
            "vit_tiny_patch16_224",
            {"embedding": 2, "query-key-value": 12, "attention-output": 12, "mlp-in": 12, "mlp-out": 12, "head": 1},
        ),
    ],
)
def test_kinds_of_timm_models(name, counts):
    timm = pytest.importorskip("timm")
    assert Counter(layer_kinds(timm.create_model(name)).values()) == counts


def test_kinds_of_some_layers_of_torchvision():
    from torchvision import models

    with torch.device("meta"):
        resnet, efficientnet = (layer_kinds(models.get_model(name)) for name in ("resnet50", "efficientnet_b0"))
    assert resnet["layer1.0.conv1"] == "bottleneck-in"
    assert resnet["layer1.0.conv3"] == "bottleneck-out"
    assert resnet["layer4.0.downsample.0"] == "shortcut"
    assert efficientnet["features.1.0.block.2.0"] == "point-wise-linear"
    assert efficientnet["features.2.0.block.0.0"] == "point-wise"


def test_kinds_of_pytorchs_transformer():
    packed = nn.TransformerEncoderLayer(8, 2, 16)
    layer = {"linear1": "mlp-in", "linear2": "mlp-out"}
    encoder = {"self_attn": "query-key-value", "self_attn.out_proj": "attention-output"} | layer
    net = nn.ModuleDict(
        {"words": nn.Embedding(9, 8), "encoder": nn.TransformerEncoder(packed, 2, enable_nested_tensor=False)}
    )
    net["last"] = nn.Linear(8, 30)
    expected = {f"encoder.layers.{i}.{name}": kind for i in range(2) for name, kind in encoder.items()}
    assert layer_kinds(net) == {"words": "embedding"} | expected | {"last": "head"}
    other_widths = nn.MultiheadAttention(8, 2, kdim=4, vdim=6)
    names = {"q_proj_weight": "query", "k_proj_weight": "key", "v_proj_weight": "value"}
    kinds = layer_kinds(nn.ModuleDict({"attention": other_widths}), group_by=lambda name: name)
    assert kinds == {f"attention.{name}": kind for name, kind in names.items()} | {
        "attention.out_proj.weight": "attention-output"
    }


def named(structure):
    """A module of nested modules from a nested dictionary. Lists become an ``nn.ModuleList``."""
    if isinstance(structure, list):
        return nn.ModuleList(map(named, structure))
    return nn.ModuleDict({k: named(v) for k, v in structure.items()}) if isinstance(structure, dict) else structure


class Conv1D(nn.Module):
    def __init__(self, outputs, inputs):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(inputs, outputs))


def test_kinds_by_the_names_of_hugging_face():
    wide, square, narrow = (lambda: nn.Linear(4, 16)), (lambda: nn.Linear(4, 4)), (lambda: nn.Linear(16, 4))
    bert = {
        "attention": {
            "self": {"query": square(), "key": square(), "value": square()},
            "output": {"dense": square()},
        },
        "intermediate": {"dense": wide()},
        "output": {"dense": narrow()},
    }
    gpt2 = {"attn": {"c_attn": Conv1D(12, 4), "c_proj": Conv1D(4, 4)}}
    gpt2["mlp"] = {"c_fc": Conv1D(16, 4), "c_proj": Conv1D(4, 16)}
    llama = {"self_attn": {f"{name}_proj": square() for name in "qkvo"}}
    llama["mlp"] = {"gate_proj": wide(), "up_proj": wide(), "down_proj": narrow()}
    t5 = {"layer": [{"SelfAttention": {name: square() for name in "qkvo"}}, {"feed_forward": {"wi": wide()}}]}
    t5["layer"][1]["feed_forward"]["wo"] = narrow()
    attention = ["query", "key", "value", "attention-output"]
    for block, expected in (
        (bert, [*attention, "mlp-in", "mlp-out"]),
        (gpt2, ["query-key-value", "attention-output", "mlp-in", "mlp-out"]),
        (llama, [*attention, "mlp-in", "mlp-in", "mlp-out"]),
        (t5, [*attention, "mlp-in", "mlp-out"]),
    ):
        net = named({"model": {"embed_tokens": nn.Embedding(9, 4), "layers": [block]}, "lm_head": nn.Linear(4, 9)})
        assert list(layer_kinds(net).values()) == ["embedding", *expected, "head"]


def test_linear_layers_without_attention_are_no_mlp_of_a_transformer():
    net = named({"mlp": {"fc1": nn.Linear(4, 16), "fc2": nn.Linear(16, 4)}, "key": nn.Linear(4, 4)})
    assert layer_kinds(net) == {"mlp.fc1": "linear", "mlp.fc2": "linear", "key": "head"}


def test_patterns():
    assert kinds_by_pattern(["a.pwl", "a.pw", "b"], {"pwl": "x", "pw": "y"}) == {
        "a.pwl": "x",
        "a.pw": "y",
        "b": "other",
    }
    with pytest.raises(ValueError, match=r"`patterns` has an invalid regular expression '\('"):
        kinds_by_pattern(["a"], {"(": "x"})
