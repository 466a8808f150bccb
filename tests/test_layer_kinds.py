# SPDX-License-Identifier: Apache-2.0
import pandas as pd
import pytest
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
    net = nn.ModuleDict({"stem": nn.Conv2d(1, 4, 3), "block": block, "grouped": grouped, "head": nn.Conv2d(4, 9, 1)})
    expected = {
        "stem": "other",
        "block.up": "point-wise",
        "block.dw.0": "depth-wise",
        "block.se.reduce": "squeeze-excite",
        "block.se.expand": "squeeze-excite",
        "block.down": "point-wise-linear",
        "grouped": "other",
        "head": "other",
    }
    assert layer_kinds(net) == expected
    assert layer_kinds(nn.ModuleDict({"model": net})) == {f"model.{name}": kind for name, kind in expected.items()}
    assert layer_kinds(net, layers=r"block\.se|stem\.w", group_by=2) == {"stem": "other", "block.se": "squeeze-excite"}
    assert layer_kinds(net, group_by=1)["block"] == "other"


def test_kinds_of_efficientnet():
    from torchvision.models import efficientnet_b0

    kinds = layer_kinds(efficientnet_b0())
    # 16 blocks, each with two convolutions of squeeze-and-excitation; the first does not expand.
    counts = {"squeeze-excite": 32, "depth-wise": 16, "point-wise": 15, "point-wise-linear": 16, "other": 3}
    assert pd.Series(kinds).value_counts().to_dict() == counts
    assert [layer for layer, kind in kinds.items() if kind == "other"] == [
        "features.0.0",
        "features.8.0",
        "classifier.1",
    ]
    assert kinds["features.1.0.block.2.0"] == "point-wise-linear"
    assert kinds["features.2.0.block.0.0"] == "point-wise"


def test_patterns():
    assert kinds_by_pattern(["a.pwl", "a.pw", "b"], {"pwl": "x", "pw": "y"}) == {
        "a.pwl": "x",
        "a.pw": "y",
        "b": "other",
    }
    with pytest.raises(ValueError, match=r"`patterns` has an invalid regular expression '\('"):
        kinds_by_pattern(["a"], {"(": "x"})
