# SPDX-License-Identifier: Apache-2.0
import os
import subprocess
import sys
from typing import get_args

import numpy as np
import pytest
import torch

from lightning_rwc import norms, sums
from lightning_rwc.functional import change_ratio
from lightning_rwc.sums import Way, plain, prepare_sums
from tests.oracle import NORMS, SUMS, VALUES, numpy_rwc

WIDE = [torch.float64, torch.float32]
HALF = [torch.bfloat16, torch.float16]
KINDS = [(kind, kind) for kind in [*WIDE, *HALF, torch.complex64]] + [(torch.float32, torch.bfloat16)]
SIZES = [2**19 + 1, 3, 0, 1000, 1, 2**18]


@pytest.fixture(params=["compiled", "plain", "device"])
def way(request, monkeypatch):
    """Numba's sums, those of a CPU without Numba, and those of a device without Triton, here on the CPU."""
    if request.param == "compiled":
        assert sums._load(sums.WAYS[0]) is not None
    else:
        monkeypatch.setattr(sums, "WAYS", ())
    if request.param == "device":
        monkeypatch.setattr(plain, "_can_be_narrow", lambda previous, current: False)
    return request.param


@pytest.mark.parametrize("advance", [True, False])
@pytest.mark.parametrize("kinds", KINDS, ids=str)
@pytest.mark.parametrize("norm", NORMS)
def test_every_way_equals_numpy(way, norm, kinds, advance):
    torch.manual_seed(0)
    before, after = kinds
    previous = [torch.randn(size).to(before) for size in SIZES]
    current = [(tensor + 0.01 * torch.randn(len(tensor))).to(after) for tensor in previous]
    start = [tensor.clone() for tensor in previous]

    ratios = change_ratio(prepare_sums(previous, current)(norm, advance), norm)

    expected = [numpy_rwc([p], [c], norm) for p, c in zip(start, current, strict=True)]
    # Without Numba, l1 sums of up to 2**19 elements are float32.
    rtol = 1e-6 if (way, norm) == ("plain", "l1") else 1e-12
    np.testing.assert_allclose(ratios, expected, rtol=rtol)
    kept = [c.to(before) for c in current] if advance else start
    assert all(torch.equal(p, k) for p, k in zip(previous, kept, strict=True))


@pytest.mark.parametrize("norm", NORMS)
def test_edges(way, norm):
    inf, nan, tiny = torch.inf, torch.nan, 1e-30
    pairs = [
        ([0, 0], [0, 0]),
        ([0, 0], [0, 1]),
        ([1, 0], [1, 1]),
        ([1, nan], [1, 1]),
        ([0, 1], [nan, 1]),
        ([0, 1], [inf, 1]),
        ([inf, 1], [inf, 1]),
        ([tiny, tiny], [tiny, 2 * tiny]),
    ]
    previous, current = ([torch.tensor(side).float() for side in sides] for sides in zip(*pairs, strict=True))
    expected = [numpy_rwc([p], [c], norm) for p, c in zip(previous, current, strict=True)]
    np.testing.assert_allclose(change_ratio(prepare_sums(previous, current)(norm, False), norm), expected, rtol=1e-6)


@pytest.mark.parametrize("openmp", [True, False])
def test_sums_do_not_depend_on_threads(openmp, monkeypatch):
    numba_sums = pytest.importorskip("lightning_rwc.sums.numba_sums")
    if not openmp:
        monkeypatch.setattr(numba_sums, "_openmp", lambda: None)
    elif numba_sums._openmp() is None:
        pytest.skip("PyTorch does not bring GNU's OpenMP here")
    torch.manual_seed(0)
    sizes = [2**25 + 5, 1, 2**21, *[1000] * 600]
    previous, current = ([torch.randn(size) for size in sizes] for _ in range(2))
    measure = prepare_sums(previous, current)
    threads = torch.get_num_threads()
    results = []
    try:
        for count in (1, 2, 5):
            torch.set_num_threads(count)
            results += [measure("l1", False) for _ in range(5)]
    finally:
        torch.set_num_threads(threads)
    expected = [numpy_rwc([p], [c], "l1") for p, c in zip(previous, current, strict=True)]
    np.testing.assert_allclose(change_ratio(results[0], "l1"), expected, rtol=1e-12)
    assert all(torch.equal(result, results[0]) for result in results)


def test_small_changes_of_a_large_bfloat16_layer_are_not_lost(way):
    torch.manual_seed(0)
    previous = torch.randn(2**22).bfloat16()
    current = previous.clone()
    current[::97] *= 1.01
    ratio = change_ratio(prepare_sums([previous], [current])("l1", False), "l1")
    np.testing.assert_allclose(ratio, [numpy_rwc([previous], [current], "l1")], rtol=1e-6)


def test_a_compiler_that_fails_is_named_and_replaced(monkeypatch):
    with pytest.warns(UserWarning, match="plain PyTorch operations, because no_such_module fails: No module named"):
        assert sums._load(Way("no_such_module", "cpu", "cpu", compiler="torch")) is None


def test_every_norm_has_an_oracle():
    assert list(norms.NORMS) == list(get_args(norms.Norm)) == NORMS == list(VALUES) == list(SUMS)


@pytest.mark.parametrize("norm", NORMS)
def test_a_definition_can_be_compiled_anywhere(norm):
    code = norms.definition(norm).terms.__code__
    # Numba and Triton would keep the value that a global had at first.
    assert code.co_names == code.co_freevars == ()


@pytest.mark.parametrize("prepare", [prepare_sums, plain.prepare_sums])
def test_an_unknown_norm_raises(prepare):
    with pytest.raises(ValueError, match=r"`norm` must be one of 'l1', .*, but got 'largest'"):
        prepare([torch.ones(3)], [torch.ones(3)])("largest", True)


ORDER = f"""
import torch
from lightning_rwc.sums.numba_sums import prepare_sums

torch.manual_seed(0)
for norm in {NORMS}:
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        for numel in (1000, 50001, 300000):
            p = torch.randn(numel) * torch.exp(3 * torch.randn(numel))
            c = p + torch.randn(numel) * torch.exp(8 * torch.randn(numel))
            sums = prepare_sums([p.to(dtype)], [c.to(dtype)])(norm, True)
            print(*(value.hex() for value in sums[:, 0].tolist()))
"""


@pytest.mark.integration
def test_compiled_sums_are_the_same_to_the_bit_in_a_process_that_finds_them_compiled(tmp_path):
    pytest.importorskip("numba")
    command, environment = [sys.executable, "-c", ORDER], os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)}
    runs = [
        subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout for _ in range(2)
    ]
    assert len(runs[0].splitlines()) == 9 * len(NORMS)
    assert runs[0] == runs[1]
