# SPDX-License-Identifier: Apache-2.0
import random

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune

from lightning_rwc import RWCHistory
from lightning_rwc.depth import depth_correlation
from lightning_rwc.forward_order import forward_order
from lightning_rwc.layers import LayerSelection


class Shuffled(nn.Module):
    """Layers that compute in another order than that of their definition."""

    def __init__(self):
        super().__init__()
        self.positions = nn.Parameter(torch.randn(1, 3, 4))
        self.auxiliary = nn.Linear(4, 4)
        self.head = nn.Linear(4, 2)
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.shared = nn.Linear(4, 4)
        self.norm = nn.BatchNorm1d(3)
        self.rnn = nn.LSTM(4, 4, batch_first=True)
        self.stem = nn.Linear(5, 4)

    def forward(self, x, *, fail=False):
        x = self.stem(x) + self.positions
        x = self.shared(x)
        x = self.attention(x, x, x)[0]
        x = self.norm(self.shared(self.rnn(x)[0]))
        if fail:
            raise ZeroDivisionError
        return self.head(nn.functional.dropout(x, 0.5, training=True))


ORDER = [
    "stem",
    "positions",
    "shared",
    "attention",
    "attention.out_proj",
    "rnn.weight_ih_l0",
    "rnn.weight_hh_l0",
    "head",
    "auxiliary",
]


def test_layers_come_by_first_use_and_unused_ones_last():
    model, batch = Shuffled(), torch.randn(2, 3, 5)
    assert forward_order(model, batch) == ORDER
    assert sorted(ORDER) == sorted(LayerSelection().find(model))
    assert list(LayerSelection().find(model)) != ORDER
    assert forward_order(model.to("meta"), batch.to("meta")) == ORDER
    assert forward_order(model, batch.to("meta"), group_by=1)[:4] == ["stem", "positions", "shared", "attention"]
    assert forward_order(model, batch.to("meta"), layers=["head.weight", "norm"]) == [
        "norm.weight",
        "norm.bias",
        "head",
    ]


def test_parametrised_pruned_and_compiled_layers_have_their_place():
    model = Shuffled()
    parametrizations.orthogonal(model.stem)
    parametrizations.weight_norm(model.shared)
    prune.l1_unstructured(model.head, "weight", 0.5)
    model.auxiliary = torch.nn.parallel.DataParallel(model.auxiliary)
    order = forward_order(model, torch.randn(2, 3, 5))
    assert order == [*ORDER[:-1], "auxiliary.module"]


@pytest.mark.integration
def test_compiled_code_is_seen():
    model = torch.compile(Shuffled(), backend="eager")
    batch = torch.randn(2, 3, 5)
    with torch.no_grad():
        model.eval()(batch)
    assert forward_order(model, batch) == ORDER


class Eccentric(Shuffled):
    """A merge in eval mode, counters, and random numbers of every kind, which `forward_order` must not disturb."""

    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(1))
        self.register_buffer("sums", torch.zeros(1))

    def train(self, mode=True):
        raise AssertionError("modes are nobody's business")

    def forward(self, x, *, fail=False):
        self.calls = self.calls + 1
        self.sums += 1
        random.random()
        np.random.rand()
        torch.rand(1)
        return super().forward(x, fail=fail)


@pytest.mark.parametrize("fail", [False, True])
def test_nothing_is_otherwise_afterwards(fail):
    model = Eccentric()
    model.norm.training = False
    model.head.weight.grad = torch.ones(2, 4)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    buffers = {name: id(buffer) for name, buffer in model.named_buffers()}
    flags = [module.training for module in model.modules()]
    torch.manual_seed(3), random.seed(3), np.random.seed(3)
    expected = torch.rand(1), random.random(), np.random.rand()
    torch.manual_seed(3), random.seed(3), np.random.seed(3)
    if fail:
        with pytest.raises(ZeroDivisionError):
            forward_order(model, torch.zeros(2, 3, 5), fail=True)
    else:
        assert forward_order(model, torch.zeros(2, 3, 5), fail=False) == ORDER
    assert (torch.rand(1), random.random(), np.random.rand()) == expected
    assert [module.training for module in model.modules()] == flags
    assert {name: id(buffer) for name, buffer in model.named_buffers()} == buffers
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert model.head.weight.grad.sum() == 8
    assert torch.is_grad_enabled()
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in model.modules())
    assert torch.utils._python_dispatch._len_torch_dispatch_stack() == 0


def test_a_selection_of_nothing_is_refused():
    with pytest.raises(ValueError, match="matches no parameter"):
        forward_order(Shuffled(), torch.zeros(2, 3, 5), layers="nothing")


def test_a_history_in_the_order_of_computing():
    class Backwards(nn.Module):
        def __init__(self):
            super().__init__()
            self.third, self.second, self.first = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x):
            return self.third(self.second(self.first(x)))

    history = RWCHistory(["third", "second", "first"], epochs=[0], steps=[9], values=[[0.3, 0.2, 0.1]])
    assert depth_correlation([*history.newest().values()]) == -1
    history = history.reordered(forward_order(Backwards(), torch.zeros(1, 4)))
    assert history.layers == ["first", "second", "third"]
    assert depth_correlation([*history.newest().values()]) == 1


def test_equals_the_order_in_which_hooks_see_the_modules_of_coat():
    timm, stats = pytest.importorskip("timm"), pytest.importorskip("scipy.stats")
    with torch.device("meta"):
        model, image = timm.create_model("coat_lite_tiny"), torch.zeros(1, 3, 224, 224)
    order, seen = forward_order(model, image), []
    for name, module in model.named_modules():
        module.register_forward_pre_hook(lambda module, inputs, name=name: seen.append(name))
    model.eval()(image)
    defined = list(LayerSelection().find(model))
    assert order == sorted(defined, key=seen.index)
    assert stats.spearmanr(range(len(defined)), [order.index(layer) for layer in defined])[0] == pytest.approx(
        0.623, abs=0.001
    )
