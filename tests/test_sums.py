# SPDX-License-Identifier: Apache-2.0
import math
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
from tests.oracle import EDGES, NORMS, SUMS, VALUES, assert_equal_sums, numpy_piece_sums, numpy_rwc

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
        monkeypatch.setattr(plain, "_is_real_on_cpu", lambda previous, current: False)
    return request.param


def tensors(sizes, before, after):
    """Earlier and present values, some of which are zero and some of which do not move. Half are not aligned."""
    torch.manual_seed(0)
    previous, current = [], []
    for index, size in enumerate(sizes):
        values = torch.randn(size + 1)
        values[2::5] = 0
        moved = values + 0.01 * torch.randn(size + 1) * (torch.rand(size + 1) < 0.9)
        previous.append(values.to(before)[index % 2 :][:size])
        current.append(moved.to(after)[index % 2 :][:size])
    return previous, current


@pytest.mark.parametrize("advance", [True, False])
@pytest.mark.parametrize("kinds", KINDS, ids=str)
@pytest.mark.parametrize("norm", NORMS)
def test_every_way_equals_numpy(way, norm, kinds, advance):
    before, after = kinds
    previous, current = tensors(SIZES, before, after)
    start = [tensor.clone() for tensor in previous]

    found = prepare_sums(previous, current)(norm, advance)

    assert found.dtype == torch.float64
    assert_equal_sums(found, numpy_piece_sums(start, current, [1] * len(SIZES), norm))
    expected = [numpy_rwc([p], [c], norm) for p, c in zip(start, current, strict=True)]
    np.testing.assert_allclose(change_ratio(found, norm), expected, rtol=1e-12)
    kept = [c.to(before) for c in current] if advance else start
    assert all(torch.equal(p, k) for p, k in zip(previous, kept, strict=True))


# Pieces and their length: those of convolutions and embeddings, one that is longer than a chunk, one that is longer
# than a task, and tensors without elements.
SHAPES = [(64, 576), (3000, 7), (5, 1), (1, 5), (2, 2**17 + 1), (2, 2**18 + 3), (600, 256), (0, 0), (4, 0), (33, 64)]


@pytest.mark.parametrize("advance", [True, False])
@pytest.mark.parametrize("kinds", KINDS, ids=str)
@pytest.mark.parametrize("norm", NORMS)
def test_pieces_equal_numpy(way, norm, kinds, advance):
    before, after = kinds
    previous, current = tensors([count * length for count, length in SHAPES], before, after)
    pieces, start = [count for count, _ in SHAPES], [tensor.clone() for tensor in previous]

    found = prepare_sums(previous, current, pieces)(norm, advance)

    assert_equal_sums(found, numpy_piece_sums(start, current, pieces, norm))
    kept = [c.to(before) for c in current] if advance else start
    assert all(torch.equal(p, k) for p, k in zip(previous, kept, strict=True))


@pytest.mark.parametrize("norm", NORMS)
def test_pieces_of_all_kinds_keep_their_order(way, norm):
    groups = [tensors([12, 0, 30], before, after) for before, after in KINDS]
    # One of each kind after the other.
    previous, current = (
        [tensor for row in zip(*sides, strict=True) for tensor in row] for sides in zip(*groups, strict=True)
    )
    pieces = [count for count in (4, 0, 5) for _ in KINDS]
    found = prepare_sums(previous, current, pieces)(norm, False)
    assert_equal_sums(found, numpy_piece_sums(previous, current, pieces, norm))


@pytest.mark.parametrize("kind", WIDE, ids=str)
@pytest.mark.parametrize("as_pieces", [False, True])
@pytest.mark.parametrize("norm", NORMS)
def test_edges(way, norm, as_pieces, kind):
    previous, current = ([torch.tensor(side, dtype=kind) for side in sides] for sides in zip(*EDGES, strict=True))
    expected = numpy_piece_sums(previous, current, [1] * len(EDGES), norm)
    if as_pieces:
        previous, current = [torch.cat(previous)], [torch.cat(current)]
    pieces = [len(EDGES) // len(previous)] * len(previous)
    assert_equal_sums(prepare_sums(previous, current, pieces)(norm, False), expected)


@pytest.mark.parametrize("decay", [1e-5, 1e-4, 1e-3])
def test_a_layer_that_only_shrinks_does_not_turn(way, decay):
    torch.manual_seed(0)
    previous = torch.randn(300_000)
    current, steps = previous.clone(), 20
    for _ in range(steps):
        current *= 1 - decay
    sums = prepare_sums([previous], [current])("l1", False)[:, 0].tolist()
    dot, squared_change, squared_size = sums[3:]
    # Each step rounds every weight by at most half of its last bit. The sine of the angle is the part across.
    across = math.sqrt(max(squared_change - dot**2 / squared_size, 0) / squared_size)
    assert across < steps * 2**-24


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


def test_an_unknown_norm_raises(way):
    with pytest.raises(ValueError, match=r"`norm` must be one of 'l1', .*, but got 'largest'"):
        prepare_sums([torch.ones(3)], [torch.ones(3)])("largest", True)


FORK = """
import os
import torch
from lightning_rwc.sums import prepare_sums

torch.set_num_threads(2)
measure = prepare_sums([torch.zeros(2**21)], [torch.ones(2**21)])
measure("l1", False)
child = os.fork()
numerator = measure("l1", False)[0].item()
if child != 0:
    assert os.waitpid(child, 0)[1] == 0
print(numerator, flush=True)
if child == 0:
    os._exit(0)
"""


@pytest.mark.integration
@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes cannot be forked here")
def test_a_forked_process_can_measure():
    # The parent has used OpenMP's threads, of which the child has none.
    run = subprocess.run([sys.executable, "-c", FORK], check=True, capture_output=True, text=True, timeout=120)
    assert run.stdout.split() == [str(float(2**21))] * 2


ORDER = f"""
import torch
from lightning_rwc.sums.numba_sums import prepare_sums

torch.manual_seed(0)
for norm in {NORMS}:
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        for numel in (1000, 50001, 300000):
            p = torch.randn(numel) * torch.exp(3 * torch.randn(numel))
            c = p + torch.randn(numel) * torch.exp(8 * torch.randn(numel))
            sums = prepare_sums([p.to(dtype)], [c.to(dtype)], [1])(norm, True)
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
