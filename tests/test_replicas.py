# SPDX-License-Identifier: Apache-2.0
"""Weights that are not the same on all ranks are found, and nothing else is taken for it."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy, SingleDeviceStrategy
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import fp16_compress_hook
from torch.distributed.algorithms.ddp_comm_hooks.post_localSGD_hook import PostLocalSGDState, post_localSGD_hook
from torch.distributed.algorithms.ddp_comm_hooks.powerSGD_hook import PowerSGDState, powerSGD_hook
from torch.nn.parallel import DistributedDataParallel

from lightning_rwc import replicas
from lightning_rwc.findings.certain import CERTAIN, Scene
from lightning_rwc.findings.facts import LayerFacts
from lightning_rwc.findings.gradients import Gradient, Look
from lightning_rwc.replicas import Difference, allowed_to_differ, difference, fingerprint, marks, no_marks
from lightning_rwc.trainer_state import has_replicas

ROOT = Path(__file__).parent.parent
DTYPES = [
    torch.float64,
    torch.float32,
    torch.bfloat16,
    torch.float16,
    torch.float8_e4m3fn,
    torch.float8_e5m2,
    torch.complex64,
    torch.complex128,
]


def random(dtype, *shape):
    generator = torch.Generator().manual_seed(0)
    if dtype.is_complex:
        return torch.randn(*shape, dtype=dtype, generator=generator)
    return torch.randn(*shape, generator=generator).to(dtype)


def numpy_bits(tensor):
    """The bits of every element, as integers of its width. A complex number is two elements."""
    size = tensor.element_size() // (2 if tensor.is_complex() else 1)
    memory = tensor.reshape(-1).view(torch.uint8).numpy()
    return memory.view(f"<u{size}"), 8 * size


def expected(tensor):
    """The fingerprint by Python's integers, which have any number of digits."""
    bits, width = numpy_bits(tensor)

    def signed(number, width):
        return (number + 2 ** (width - 1)) % 2**width - 2 ** (width - 1)

    mixed = [x ^ (x >> width // 2) for x in bits.tolist()]
    return signed(sum(signed(y * (2 * y + 1), width) for y in mixed), 64)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_fingerprint_is_a_sum_over_bits(dtype, monkeypatch):
    tensor = random(dtype, 33, 7)
    assert fingerprint(tensor).item() == expected(tensor)
    monkeypatch.setattr(replicas, "_CPU_CHUNK", 50)
    assert fingerprint(tensor).item() == expected(tensor)
    assert fingerprint(tensor[:0]).item() == 0
    assert fingerprint(tensor[3, 3]).item() == expected(tensor[3, 3])


def test_a_large_sum_wraps_around():
    tensor = torch.full((2**16,), -1.5e300, dtype=torch.float64)
    assert fingerprint(tensor).item() == expected(tensor)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_one_bit_makes_another_fingerprint(dtype):
    tensor = random(dtype, 40)
    before = fingerprint(tensor).item()
    memory = tensor.view(torch.uint8)
    others = set()
    for bit in range(8 * tensor.element_size()):
        memory[5 * tensor.element_size() + bit // 8] ^= 1 << bit % 8
        others.add(fingerprint(tensor).item())
        memory[5 * tensor.element_size() + bit // 8] ^= 1 << bit % 8
    assert len(others) == 8 * tensor.element_size()
    assert before not in others
    assert fingerprint(tensor).item() == before


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_two_signs_do_not_cancel(dtype):
    tensor = random(dtype, 100)
    other = tensor.clone()
    other[[3, 8]] = (-other.to(torch.complex128 if dtype.is_complex else torch.float64)[[3, 8]]).to(dtype)
    assert fingerprint(other) != fingerprint(tensor)


def test_one_digit_up_and_one_down_do_not_cancel():
    tensor = random(torch.float32, 100)
    other = tensor.clone()
    bits = other.view(torch.int32)
    bits[3] += 1
    bits[8] -= 1
    assert bits.sum() == tensor.view(torch.int32).sum()
    assert fingerprint(other) != fingerprint(tensor)


def test_a_fingerprint_depends_neither_on_order_nor_on_layout():
    tensor = random(torch.float32, 6, 5, 3, 2)
    one = fingerprint(tensor)
    shuffled = tensor.flatten()[torch.randperm(180, generator=torch.Generator().manual_seed(1))]
    strided = torch.empty(6, 5, 3, 4)[..., ::2].copy_(tensor)
    for same in (shuffled, tensor.to(memory_format=torch.channels_last), tensor.permute(3, 1, 0, 2), strided):
        assert fingerprint(same) == one
    complex_ = random(torch.complex64, 8)
    assert fingerprint(complex_.conj()) == fingerprint(complex_.conj().resolve_conj())


def compare(monkeypatch, states, left_out=(), not_finite=(), failed=()):
    """What the ranks find that have the ``states``: layer name to tensors."""
    order, total = [*states[0]], 0
    monkeypatch.setattr(replicas, "ranks", lambda: len(states))
    for rank, state in enumerate(states):
        monkeypatch.setattr(replicas, "rank", lambda rank=rank: rank)
        layers = {layer: {f"{layer}.{i}": tensor for i, tensor in enumerate(state[layer])} for layer in order}
        total = total + (no_marks(len(order)) if rank in failed else marks(layers, order, left_out))
    return difference(total, order, not_finite)


def states(count):
    def state():
        return {"a": [random(torch.float32, 4, 5)], "b": [random(torch.float16, 3), random(torch.complex64, 3)]}

    return [state() for _ in range(count)]


@pytest.mark.parametrize("count", [2, 3, 8, 1000])
def test_ranks_that_differ(count, monkeypatch):
    ranks = states(count)
    assert compare(monkeypatch, ranks) is None
    ranks[1]["b"][1][2] += 1e-6j
    odd = () if count == 2 else (1,)
    assert compare(monkeypatch, ranks) == Difference(("b",), odd, count)
    ranks[0]["a"][0][0, 0] = 1.0
    odd = (0, 1) if count > 4 else ()
    assert compare(monkeypatch, ranks) == Difference(("a", "b"), odd, count)


def test_a_rank_that_cannot_look_makes_no_finding(monkeypatch):
    ranks = states(3)
    ranks[1]["a"][0][0, 0] = 1.0
    assert compare(monkeypatch, ranks, failed=[0]) is None


def test_layers_that_are_not_finite_are_left_out(monkeypatch):
    ranks = states(3)
    for rank in range(3):
        ranks[rank]["a"][0].view(torch.int32)[0, 0] = 0x7FC00001 + rank
    assert compare(monkeypatch, ranks, not_finite={"a"}) is None
    ranks[1]["b"][0][0] = 1.0
    assert compare(monkeypatch, ranks, not_finite={"a"}) == Difference(("b",), (), 3)


def test_parameters_that_may_differ_are_left_out(monkeypatch):
    class Wrapped(torch.Tensor):
        """As a tensor that holds no plain numbers."""

    ranks = states(2)
    shared = random(torch.float32, 3)
    for rank, state in enumerate(ranks):
        state["a"] += [shared, torch.full((2,), float(rank)).as_subclass(Wrapped)]
    assert compare(monkeypatch, ranks) is None
    for state in ranks:
        state["a"].append(torch.rand(3))
    assert compare(monkeypatch, ranks, left_out={id(state["a"][-1]) for state in ranks}) is None
    assert compare(monkeypatch, ranks) == Difference(("a",), (), 2)


def test_parameters_that_ddp_ignores():
    model = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.Linear(2, 2)))
    model.scale = nn.Parameter(torch.ones(2))
    assert allowed_to_differ(model) == set()
    # DDP itself asks for `.scale` when it reduces, and for `scale` when it broadcasts.
    for own in ("scale", ".scale"):
        DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(model, ["1.0.weight", own])
        assert allowed_to_differ(model) == {id(model[1][0].weight), id(model.scale)}


def trainer(strategy, *hooks):
    strategy.model = SimpleNamespace(_comm_hooks=[*hooks])
    return SimpleNamespace(strategy=strategy)


def test_which_strategies_have_replicas():
    power = PowerSGDState(process_group=None)
    local = PostLocalSGDState(process_group=None, subgroup=None, start_localSGD_iter=1)
    assert has_replicas(trainer(DDPStrategy()))
    # Compression loses digits of the gradients, but the same ones on all ranks.
    assert has_replicas(trainer(DDPStrategy(), (powerSGD_hook, power)))
    assert has_replicas(trainer(DDPStrategy(), (fp16_compress_hook, None)))
    assert not has_replicas(trainer(DDPStrategy(), (post_localSGD_hook, local)))
    options = {"ddp_comm_state": local, "ddp_comm_hook": post_localSGD_hook}
    assert not has_replicas(trainer(DDPStrategy(model_averaging_period=4, **options)))
    assert not has_replicas(trainer(ModelParallelStrategy()))
    assert not has_replicas(trainer(SingleDeviceStrategy()))


@pytest.mark.parametrize(
    ("odd", "world_size", "said"),
    [
        ((), 2, "'a' and 'b' do not have the same weights on all 2 ranks."),
        ((3,), 8, "'a' and 'b' have other weights on rank 3 than on the rest of 8."),
        ((3, 5), 8, "'a' and 'b' have other weights on ranks 3, 5 than on the rest of 8."),
        ((*range(20),), 64, "'a' and 'b' have other weights on 20 ranks than on the rest of 64."),
    ],
)
def test_what_is_said(odd, world_size, said):
    [rule] = [rule for rule in CERTAIN if rule.kind == "replicas_differ"]
    facts = [LayerFacts(name, 0.1, 0.1, 0.0, 1.0, [], [], Look(Gradient.SOME)) for name in "abc"]
    scene = Scene(facts, 1, True, False, True, True, (), difference=Difference(("a", "b"), odd, world_size))
    assert rule.suspects(scene) == facts[:2]
    assert rule.message(scene, facts[:2], 1).startswith(said)


@pytest.mark.integration
@pytest.mark.parametrize("case", ["ddp", "special", "resume", "failure", "three", "fsdp"])
def test_trainings(case, tmp_path):
    if case == "fsdp" and not hasattr(torch.cpu.Stream, "record_event"):
        pytest.skip("fully_shard of this torch runs on GPUs only")
    command = [sys.executable, "-m", "tests.replicas_program", case, str(tmp_path)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=480, check=False)
    assert done.returncode == 0, done.stderr[-5000:]
