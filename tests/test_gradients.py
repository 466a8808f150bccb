# SPDX-License-Identifier: Apache-2.0
"""What is seen of gradients equals what NumPy or plain words say of them."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from lightning_rwc.findings.gradients import Gradient, Gradients, gradient_of
from tests.helpers import Opaque


def parameter(*values, dtype=torch.float32):
    """A parameter with this gradient."""
    made = nn.Parameter(torch.ones(len(values), dtype=dtype))
    made.grad = torch.tensor(values, dtype=dtype)
    return made


def look(*parameters):
    return Gradients({"layer": parameters}).fetch()["layer"]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.complex64])
@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ((0, 0), Gradient.ZERO),
        ((0, -1), Gradient.SOME),
        ((1, 2), Gradient.SOME),
        ((0, math.nan), Gradient.NOT_FINITE),
        ((-math.inf, 0), Gradient.NOT_FINITE),
        ((math.inf, 0), Gradient.NOT_FINITE),
        ((), Gradient.ZERO),
    ],
)
def test_a_gradient_of_every_format(values, expected, dtype):
    assert look(parameter(*values, dtype=dtype)).gradient is expected


def test_the_smallest_and_the_largest_numbers():
    info = torch.finfo(torch.float32)
    for value in (info.smallest_normal, 1e-45, info.max, info.min):
        assert look(parameter(0, value)).gradient is Gradient.SOME


def test_layers_of_several_parameters():
    zero, some, odd = parameter(0, 0), parameter(0, 1, dtype=torch.float64), parameter(math.nan, dtype=torch.bfloat16)
    without, frozen = nn.Parameter(torch.ones(2)), parameter(1, 1).requires_grad_(False)
    layers = {
        "zero": [zero, without],
        "some": [zero, some],
        "not finite": [some, odd, zero],
        "missing": [without, frozen],
        "empty": [],
    }
    expected = [Gradient.ZERO, Gradient.SOME, Gradient.NOT_FINITE, Gradient.MISSING, Gradient.MISSING]
    assert [one.gradient for one in Gradients(layers).fetch().values()] == expected
    assert [gradient_of(parameters) for parameters in layers.values()] == expected
    assert Gradients({}).fetch() == {}


@pytest.mark.parametrize("mode", [0.0, 1.0])
def test_a_sparse_gradient(mode):
    embedding = nn.Embedding(9, 3, sparse=True)
    (embedding(torch.tensor([1, 1, 4])) * mode).sum().backward()
    assert embedding.weight.grad.is_sparse
    assert look(embedding.weight).gradient is (Gradient.SOME if mode else Gradient.ZERO)
    # Two that cancel are zero.
    ids, values = torch.tensor([[1, 1]]), torch.tensor([[1.0] * 3, [-1.0] * 3])
    embedding.weight.grad = torch.sparse_coo_tensor(ids, values, (9, 3))
    assert look(embedding.weight).gradient is Gradient.ZERO


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_share_of_elements_with_a_gradient(dtype):
    generator = torch.Generator().manual_seed(0)
    parts = [torch.randn(size, generator=generator).relu().to(dtype) for size in ((7, 5), (3,))]
    parameters = []
    for part in parts:
        parameters.append(nn.Parameter(torch.ones_like(part)))
        parameters[-1].grad = part
    flat = np.concatenate([part.double().numpy().ravel() for part in parts])
    assert look(*parameters, nn.Parameter(torch.ones(5, dtype=dtype))).share == np.mean(flat != 0)
    assert math.isnan(look(parameter(0, 0, dtype=dtype)).share)
    assert math.isnan(look(parameter(0, 1)).share)


def test_a_gradient_with_which_pytorch_cannot_compute_counts_as_some():
    made = nn.Parameter(torch.ones(2))
    made.grad = torch.Tensor._make_wrapper_subclass(Opaque, (2,))
    assert look(made).gradient is Gradient.SOME
    assert look(made, parameter(0)).gradient is Gradient.SOME


def test_later_changes_are_not_seen():
    made = parameter(0, 3)
    gradients = Gradients({"layer": [made]})
    made.grad.zero_()
    made.grad = None
    assert gradients.fetch()["layer"].gradient is Gradient.SOME
