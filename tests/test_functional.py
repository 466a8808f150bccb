# SPDX-License-Identifier: Apache-2.0
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.stats import spearmanr
from torchmetrics.functional.regression import weighted_mean_absolute_percentage_error

from lightning_rwc import relative_weight_change
from lightning_rwc.depth import depth_correlation
from lightning_rwc.functional import change_ratio, change_sums
from tests.oracle import NORMS, assert_equal_sums, numpy_rwc, numpy_sums

DTYPES = {
    torch.float64: 1e150,
    torch.float32: 3e38,
    torch.float16: 6e4,
    torch.bfloat16: 3e38,
    torch.complex64: 3e38,
    torch.complex128: 1e150,
}


@st.composite
def weights(draw, specials=(0.0,)):
    """Two tensors of one shape and dtype, over all magnitudes that squares in float64 can hold."""
    dtype = draw(st.sampled_from(list(DTYPES)))
    largest = DTYPES[dtype]
    shape = draw(hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=5))
    magnitude = st.floats(math.log10(1 / largest), math.log10(largest)).map(lambda e: 10**e)
    number = st.one_of(st.sampled_from(specials), magnitude, magnitude.map(lambda x: -x))

    def tensor():
        parts = [torch.from_numpy(draw(hnp.arrays(np.float64, shape, elements=number))) for _ in range(2)]
        return (torch.complex(*parts) if dtype.is_complex else parts[0]).to(dtype)

    return tensor(), tensor()


@pytest.mark.parametrize("norm", NORMS)
@given(pair=weights())
@settings(max_examples=200)
def test_equals_numpy(norm, pair):
    previous, current = pair
    expected = numpy_rwc([previous], [current], norm)
    np.testing.assert_allclose(relative_weight_change(previous, current, norm).item(), expected, rtol=1e-12)


@pytest.mark.parametrize("norm", NORMS)
@given(pair=weights(specials=(0.0, math.inf, -math.inf, math.nan)))
@settings(max_examples=200)
def test_non_finite_weights_give_nan(norm, pair):
    expected = numpy_rwc([pair[0]], [pair[1]], norm)
    np.testing.assert_allclose(relative_weight_change(*pair, norm).item(), expected, rtol=1e-12)


@pytest.mark.parametrize("norm", NORMS)
def test_zero_rules(norm):
    zeros, ones = torch.zeros(3, 4), torch.ones(3, 4)
    assert relative_weight_change(zeros, zeros, norm).item() == 0
    assert relative_weight_change(zeros, ones, norm).item() == math.inf
    assert relative_weight_change(ones, zeros, norm).item() == 1
    assert relative_weight_change(torch.empty(0, 4), torch.empty(0, 4), norm).item() == 0


@pytest.mark.parametrize("norm", NORMS)
@given(pair=weights())
@settings(max_examples=200)
def test_sums_equal_numpy(norm, pair):
    sums = change_sums(*pair, norm)
    assert sums.shape == (6,)
    assert_equal_sums(sums[:, None], np.array(numpy_sums(*pair, norm))[:, None])


def test_sums_worked_out_by_hand():
    previous, current = torch.tensor([1.0, -2.0, 3.0]), torch.tensor([1.5, -2.0, 0.0])
    # Changes of 1/2, 0 and −3.
    assert change_sums(previous, current, "l1").tolist() == [3.5, 6, 2, 0.5 - 9, 9.25, 14]
    # A change of 3 + 4i, of which 4i is along i.
    assert change_sums(torch.tensor([1j]), torch.tensor([3 + 5j]), "l1").tolist() == [5, 1, 1, 4, 25, 1]


def test_elementwise_is_the_papers_code_where_no_weight_is_zero():
    a, b = torch.randn(50, 7, dtype=torch.float64), torch.randn(50, 7, dtype=torch.float64)
    expected = np.mean(np.abs(a.numpy() - b.numpy()) / np.abs(a.numpy()))
    np.testing.assert_allclose(relative_weight_change(a, b, "elementwise"), expected, rtol=1e-14)


def test_elementwise_leaves_out_zeros():
    previous, current = torch.tensor([0.0, 0.0, 2.0]), torch.tensor([5.0, 0.0, 3.0])
    assert relative_weight_change(previous, current, "elementwise").item() == 0.5
    assert change_sums(previous, current, "elementwise").tolist() == [0.5, 1, 2, 2, 26, 4]


def test_squares_that_underflow_are_no_change():
    previous = torch.full((3,), 1e-200, dtype=torch.float64)
    assert relative_weight_change(previous, 1.1 * previous, "l2").item() == 0
    assert relative_weight_change(previous, 1.1 * previous, "l1").item() == pytest.approx(0.1)


def test_l1_is_torchmetrics_weighted_mape():
    previous, current = torch.randn(1000), torch.randn(1000)
    expected = weighted_mean_absolute_percentage_error(current, previous)
    torch.testing.assert_close(relative_weight_change(previous, current).float(), expected)


def test_l1_of_one_sgd_step_worked_out_by_hand():
    weight = torch.tensor([[1.0, -2.0]], requires_grad=True)
    before = weight.detach().clone()
    (weight * torch.tensor([[3.0, 4.0]])).sum().backward()
    torch.optim.SGD([weight], lr=0.1).step()
    # lr · ‖g‖₁ / ‖w‖₁ = 0.1 · 7 / 3
    assert relative_weight_change(before, weight).item() == pytest.approx(0.7 / 3, rel=1e-6)


@pytest.mark.parametrize("norm", NORMS)
def test_strided_and_expanded_tensors(norm):
    torch.manual_seed(0)
    a, b = torch.randn(6, 8), torch.randn(6, 8)
    expected = numpy_rwc([a.t()[::2]], [b.t()[::2]], norm)
    np.testing.assert_allclose(relative_weight_change(a.t()[::2], b.t()[::2], norm), expected, rtol=1e-12)
    expanded = torch.randn(1, 8).expand(6, 8)
    expected = numpy_rwc([expanded], [b], norm)
    np.testing.assert_allclose(relative_weight_change(expanded, b, norm), expected, rtol=1e-12)


@pytest.mark.parametrize("norm", NORMS)
def test_sums_of_parts_give_the_ratio_of_the_whole(norm):
    torch.manual_seed(0)
    p, c = torch.randn(100), torch.randn(100)
    parts = sum(change_sums(a, b, norm) for a, b in zip(p.split(7), c.split(7), strict=True))
    np.testing.assert_allclose(change_ratio(parts, norm), numpy_rwc([p], [c], norm), rtol=1e-12)


def test_bad_input_is_named():
    x = torch.ones(2)
    with pytest.raises(ValueError, match=r"`norm` must be one of 'l1', 'l2', 'elementwise', but got 'largest'"):
        relative_weight_change(x, x, "largest")
    with pytest.raises(ValueError, match=r"the same shape, but they have \(2,\) and \(3,\)"):
        relative_weight_change(x, torch.ones(3))
    with pytest.raises(TypeError, match=r"`current` must be .* floating-point numbers, but it is torch.int64"):
        relative_weight_change(x, torch.ones(2, dtype=torch.long))
    with pytest.raises(TypeError, match=r"`previous` .* torch.sparse_coo"):
        relative_weight_change(x.to_sparse(), x)


@given(st.lists(st.floats(0, 10).map(lambda x: round(x, 1)), min_size=2, max_size=30))
def test_depth_correlation_equals_scipy(values):
    if len(set(values)) == 1:
        assert math.isnan(depth_correlation(values))
    else:
        expected = spearmanr(range(len(values)), values).statistic
        assert depth_correlation(values) == pytest.approx(expected, abs=1e-12)


def test_depth_correlation_of_what_is_not_a_number():
    assert depth_correlation([0.1, math.nan, 0.2, math.inf]) == pytest.approx(1)
    assert math.isnan(depth_correlation([0.1, math.nan]))
    assert math.isnan(depth_correlation([]))
