# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
import torch

from lightning_rwc.functional import change_ratio
from lightning_rwc.sums import layer_sums
from tests.oracle import numpy_rwc


@pytest.mark.parametrize("norm", ["l1", "l2", "elementwise"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.complex64])
def test_layers_of_many_tensors_over_chunk_boundaries(norm, dtype):
    torch.manual_seed(0)
    shapes = [[(2**16 + 1,), (3,)], [(300, 500)], [(0, 4), (4, 0)], [], [(2**17,), (1, 1, 2**16)]]
    previous = [[torch.randn(shape).to(dtype) for shape in layer] for layer in shapes]
    current = [[tensor + 0.01 * torch.randn(tensor.shape).to(dtype) for tensor in layer] for layer in previous]
    before = [[tensor.clone() for tensor in layer] for layer in previous]

    ratios = change_ratio(layer_sums(previous, current, norm), norm)

    expected = [numpy_rwc(p, c, norm) if p else 0.0 for p, c in zip(before, current, strict=True)]
    np.testing.assert_allclose(ratios, expected, rtol=1e-12)


def test_channels_last_weights():
    torch.manual_seed(0)
    previous = torch.randn(8, 4, 3, 3)
    current = torch.randn(8, 4, 3, 3).to(memory_format=torch.channels_last)
    ratio = change_ratio(layer_sums([[previous]], [[current]], "l1"), "l1")
    np.testing.assert_allclose(ratio, [numpy_rwc([previous], [current], "l1")], rtol=1e-12)


def test_small_changes_of_a_large_bfloat16_layer_are_not_lost():
    torch.manual_seed(0)
    previous = torch.randn(2**22).bfloat16()
    current = previous.clone()
    current[::97] *= 1.01
    ratio = change_ratio(layer_sums([[previous.clone()]], [[current]], "l1"), "l1")
    np.testing.assert_allclose(ratio, [numpy_rwc([previous], [current], "l1")], rtol=1e-12)
