# SPDX-License-Identifier: Apache-2.0
"""Random module trees go through two steps of fit: each works, or is refused at the start with a clear message."""

import random

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from torch import nn
from torch.utils.data import DataLoader

from lightning_rwc import RWCCallback
from tests.helpers import trainer
from tests.oracle import numpy_rwc

TREES = 300
NAMES = ["conv", "a/b", "with space", "größe", "层", "<script>alert(1)</script>", "_private", "$x^2$", "n" * 1000, "%s"]
NAMES += ["\n", "..", "weight_orig", "parametrizations", "_orig_mod", "'", '"', "{}", "-", "0", "\u202e"]
NAMES = [name for name in NAMES if "." not in name]


KINDS = ["float", "float", "double", "bfloat16", "complex", "int", "quantised", "shared", "zeros"]


class Leaf(nn.Module):
    """Parameters of every kind under odd names."""

    def __init__(self, generator, shared):
        super().__init__()
        for name in generator.sample(NAMES, generator.randint(0, 3)):
            shape = tuple(generator.randint(0, 4) for _ in range(generator.randint(0, 4)))
            kind = generator.choice(KINDS)
            if kind == "shared" and shared:
                parameter = generator.choice(shared)
            elif kind in ("int", "quantised"):
                dtype = torch.int64 if kind == "int" else torch.uint8
                parameter = nn.Parameter(torch.ones(shape, dtype=dtype), requires_grad=False)
            else:
                dtypes = {"double": torch.float64, "bfloat16": torch.bfloat16, "complex": torch.complex64}
                parameter = nn.Parameter(torch.randn(shape, dtype=dtypes.get(kind, torch.float32)))
                if kind == "zeros":
                    nn.init.zeros_(parameter)
                shared.append(parameter)
            self.register_parameter(name, parameter)
        if generator.random() < 0.3:
            self.register_buffer("counts", torch.ones(2, dtype=torch.int64))


class Tree(LightningModule):
    """A random tree of modules whose loss pulls at every parameter."""

    def __init__(self, seed):
        super().__init__()
        torch.manual_seed(seed)
        generator = random.Random(seed)
        nodes, shared = [self], []
        for _ in range(generator.randint(1, 6)):
            parent = generator.choice(nodes)
            leaf = Leaf(generator, shared)
            name = generator.choice(NAMES)
            if not hasattr(parent, name) and name not in parent._modules:
                parent.add_module(name, leaf)
                nodes.append(leaf)
        self.sparse = generator.random() < 0.3
        if self.sparse:
            self.embedding = nn.Embedding(5, 2, sparse=True)
        if generator.random() < 0.2:
            self.lazy = nn.LazyLinear(2)

    def training_step(self, batch, batch_idx):
        dense = [p for p in self.parameters() if p.requires_grad and not nn.parameter.is_lazy(p)]
        dense = [p for p in dense if not (self.sparse and p is self.embedding.weight)]
        loss = sum(((p - 1).abs() ** 2).sum().float() for p in dense)
        if self.sparse:
            loss = loss + self.embedding(torch.tensor([1, 2])).square().sum()
        return loss if isinstance(loss, torch.Tensor) else torch.zeros((), requires_grad=True)

    def configure_optimizers(self):
        trainable = [p for p in self.parameters() if p.requires_grad and not nn.parameter.is_lazy(p)]
        return torch.optim.SGD(trainable or [torch.zeros(1, requires_grad=True)], lr=0.01)


def tracked(module):
    """What the default rule says of bare parameters, written another way: every dense floating-point matrix, once."""
    found = {}
    for name, parameter in module.named_parameters():
        matrix = [size for size in parameter.shape if size > 1][1:]
        if (parameter.is_floating_point() or parameter.is_complex()) and matrix:
            found[name] = parameter.detach().clone()
    return found


@pytest.mark.integration
@pytest.mark.parametrize("part", range(10))
def test_random_trees(part, tmp_path):
    worked = refused = 0
    for seed in range(part, TREES, 10):
        module = Tree(seed)
        lazy = any(nn.parameter.is_lazy(p) for p in module.parameters())
        before = {} if lazy else tracked(module)
        # Pictures and event files are slow: one tree in ten gets them.
        loggers = [TensorBoardLogger(tmp_path), CSVLogger(tmp_path)] if seed % 10 == seed // 10 % 10 else False
        callback = RWCCallback()
        run = trainer(callback, RWCCallback(prefix="other"), tmp_path=tmp_path, max_steps=2, logger=loggers)
        data = DataLoader(torch.ones(2, 1))
        if not before:
            with pytest.raises(ValueError, match="no layer to track" if not lazy else "still lazy"):
                run.fit(module, data)
            refused += 1
            continue
        run.fit(module, data)
        after = tracked(module)
        expected = [numpy_rwc([before[name]], [after[name]], "l1") for name in before]
        np.testing.assert_allclose(callback.history.values, [expected], rtol=1e-12)
        assert len(set(callback.history.layers)) == len(expected)
        worked += 1
    assert worked >= 12
    assert refused >= 1
