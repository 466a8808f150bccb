# SPDX-License-Identifier: Apache-2.0
"""The sums of a CUDA device, here in Triton's interpreter on the CPU, and compiled for GPUs that need not be there."""

import os
import pickle
from concurrent.futures import ProcessPoolExecutor
from importlib.util import find_spec
from multiprocessing import get_context

import pytest
import torch

from tests.oracle import EDGES, NORMS, assert_equal_sums, numpy_piece_sums

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not installed"),
]

F64, F32, BF16, F16 = torch.float64, torch.float32, torch.bfloat16, torch.float16
KINDS = [(F64, F64), (F32, F32), (BF16, BF16), (F16, F16), (F32, BF16), (F64, F32)]
BLOCK = 2048


@pytest.fixture(scope="module")
def interpreter():
    """A process in which kernels run on the CPU: Triton asks for that once, when it is imported."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("TRITON_INTERPRET", "1")
            pool.submit(os.getpid).result()
        yield pool


@pytest.fixture
def measure(interpreter):
    def call(previous, states, norm, advance, pieces=None):
        task = pickle.dumps((previous, states, norm, advance, pieces or [1] * len(previous)))
        return pickle.loads(interpreter.submit(_measure, task).result())

    return call


def _measure(task):
    """At each of the states that the same tensors go through the sums, and the snapshot after each."""
    from lightning_rwc.sums import triton_sums

    # So that the sums of a few blocks are more than one chunk.
    triton_sums._CHUNK = 2
    previous, states, norm, advance, pieces = pickle.loads(task)
    current, results = states[0], []
    prepared = triton_sums.prepare_sums(previous, current, pieces)
    for state in states:
        for tensor, values in zip(current, state, strict=True):
            tensor.copy_(values)
        sums = prepared(norm, advance)
        results.append((sums, [tensor.clone() for tensor in previous]))
    return pickle.dumps((results, len(prepared.launches)))


def check(sums, previous, current, norm, rtol=1e-6, pieces=None):
    assert sums.dtype == torch.float64
    assert sums.is_contiguous()
    assert_equal_sums(sums, numpy_piece_sums(previous, current, pieces or [1] * len(previous), norm), rtol)


def bits(tensor):
    return tensor.view({2: torch.int16, 4: torch.int32, 8: torch.int64}[tensor.itemsize])


@pytest.mark.parametrize("advance", [True, False])
@pytest.mark.parametrize("kinds", KINDS, ids=str)
@pytest.mark.parametrize("norm", NORMS)
def test_equals_numpy(measure, norm, kinds, advance):
    torch.manual_seed(0)
    before, after = kinds
    previous = [torch.randn(size).to(before) for size in (0, 1, 5, 1000, BLOCK, 3 * BLOCK + 7)]
    current = [(tensor + 0.01 * torch.randn(len(tensor))).to(after) for tensor in previous]
    for tensor in previous:
        tensor[2::3] = 0

    [(sums, kept)], _ = measure(previous, [current], norm, advance)

    check(sums, previous, current, norm, rtol=1e-12 if before == F64 else 1e-6)
    expected = [tensor.to(before) for tensor in current] if advance else previous
    assert all(torch.equal(bits(k), bits(e)) for k, e in zip(kept, expected, strict=True))


@pytest.mark.parametrize("norm", NORMS)
def test_many_tensors_of_all_kinds_keep_their_order(measure, norm):
    torch.manual_seed(0)
    sizes = torch.randint(0, 50, (60,)).tolist()
    kinds = [KINDS[index % len(KINDS)] for index in range(60)]
    # Of half of them the memory is not aligned for wide loads.
    starts = torch.randint(0, 2, (60,)).tolist()
    values = [[torch.randn(start + size) for start, size in zip(starts, sizes, strict=True)] for _ in range(3)]
    previous, *states = [
        [tensor.to(kind[time > 0])[start:] for tensor, kind, start in zip(tensors, kinds, starts, strict=True)]
        for time, tensors in enumerate(values)
    ]

    [(first, kept), (second, last)], launches = measure(previous, states, norm, True)

    check(first, previous, states[0], norm)
    check(second, kept, states[1], norm)
    assert all(torch.equal(p, c.to(p.dtype)) for p, c in zip(last, states[1], strict=True))
    assert launches == 1


@pytest.mark.parametrize("kind", [F32, F64], ids=str)
@pytest.mark.parametrize("norm", NORMS)
def test_edges(measure, norm, kind):
    previous, current = ([torch.tensor(side, dtype=kind) for side in sides] for sides in zip(*EDGES, strict=True))
    [(sums, kept)], _ = measure(previous, [current], norm, True)
    check(sums, previous, current, norm)
    assert all(torch.equal(bits(k), bits(c)) for k, c in zip(kept, current, strict=True))


@pytest.mark.parametrize("advance", [True, False])
@pytest.mark.parametrize("norm", NORMS)
def test_pieces(measure, norm, advance):
    torch.manual_seed(0)
    # Pieces and their length: rows of every width, pieces of one block and of several, and tensors without elements.
    shapes = [(5, 1), (9, 64), (70, 63), (64, 576), (100, 77), (3, 1000), (2, 2048), (3, 2 * BLOCK + 5), (3, 0), (0, 0)]
    pieces = [count for count, _ in 2 * shapes]
    previous, current = [], []
    for index, (count, length) in enumerate(2 * shapes):
        before, after = KINDS[index % len(KINDS)]
        # Of every third pair the memory is not aligned, and of the others not every piece.
        start = index % 3 == 0
        values = torch.randn(count * length + start)
        values[::7] = 0
        moved = values + 0.01 * torch.randn(len(values)) * (torch.rand(len(values)) < 0.9)
        previous.append(values.to(before)[start:])
        current.append(moved.to(after)[start:])

    [(sums, kept)], _ = measure(previous, [current], norm, advance, pieces)

    check(sums, previous, current, norm, pieces=pieces)
    expected = [c.to(p.dtype) for p, c in zip(previous, current, strict=True)] if advance else previous
    assert all(torch.equal(bits(k), bits(e)) for k, e in zip(kept, expected, strict=True))


@pytest.mark.parametrize("kind", [F32, F64], ids=str)
@pytest.mark.parametrize("norm", NORMS)
def test_edges_of_pieces(measure, norm, kind):
    previous, current = ([torch.tensor(sides, dtype=kind).flatten()] for sides in zip(*EDGES, strict=True))
    [(sums, _)], _ = measure(previous, [current], norm, True, [len(EDGES)])
    check(sums, previous, current, norm, pieces=[len(EDGES)])


@pytest.mark.parametrize("capability", [75, 80, 90])
@pytest.mark.parametrize("norm", NORMS)
def test_compiles(norm, capability, tmp_path, monkeypatch):
    # Nothing is compiled that is found in the cache.
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource
    from triton.language import bfloat16, float32

    from lightning_rwc.sums import triton_sums

    def compiled(kernel, constants, types):
        signature = {name: types.get(name, "constexpr") for name in kernel.arg_names}
        target = GPUTarget("cuda", capability, 32)
        return triton.compile(ASTSource(kernel, signature, constants), target, triton_sums._OPTIONS).asm

    types = {"table": "*i64", "owners": "*i32", "partials": "*fp64"}
    constants = {
        "advance": True,
        "before_type": float32,
        "after_type": bfloat16,
        "wide": float32,
    }
    code = compiled(triton_sums.block_sums(norm), {**constants, "aligned": True, "block": BLOCK}, types)
    assert code["cubin"]
    # Sixteen bytes at once.
    assert "ld.global.v4.b32" in code["ptx"]
    assert "st.global.v4.b32" in code["ptx"]
    types |= {"sums": "*fp64", "blocks": "i32", "columns": "i32"}
    assert compiled(triton_sums.piece_sums, {"chunk": 4096}, types)["cubin"]
    for width in triton_sums._WIDTHS:
        constants |= {"block": BLOCK, "width": width}
        assert compiled(triton_sums.row_sums(norm), constants, types)["cubin"]
