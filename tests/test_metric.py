# SPDX-License-Identifier: Apache-2.0
import copy
import functools
import gc
import math
import pickle
import weakref

import numpy as np
import pytest
import torch
from lightning.fabric import Fabric
from torch import nn
from torch.testing._internal.two_tensor import TwoTensor

from lightning_rwc import RelativeWeightChange
from lightning_rwc.layers import LayerSelection
from tests.oracle import NORMS, numpy_rwc


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3), nn.Flatten(), nn.Linear(16, 2))


def move(module, seed):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.05)


def expected(before, after, norm, names=("0", "2", "4")):
    return {name: numpy_rwc([before[f"{name}.weight"]], [after[f"{name}.weight"]], norm) for name in names}


def values(result):
    return {name: value.item() for name, value in result.items()}


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("relative_to", ["previous", "initial"])
def test_every_update_equals_numpy(norm, relative_to):
    model = net()
    metric = RelativeWeightChange(model, norm=norm, relative_to=relative_to)
    states = [copy.deepcopy(model.state_dict())]
    for seed in range(4):
        move(model, seed)
        states.append(copy.deepcopy(model.state_dict()))
        metric.update(model)
        base = states[0] if relative_to == "initial" else states[-2]
        assert values(metric.compute()) == pytest.approx(expected(base, states[-1], norm), rel=1e-12)


@pytest.mark.parametrize("norm", NORMS)
def test_a_group_and_the_total_are_measured_as_one_layer(norm):
    model = net()
    metric = RelativeWeightChange(model, norm=norm, group_by=lambda name: "conv" if name[0] in "02" else "fc")
    before = copy.deepcopy(model.state_dict())
    move(model, 1)
    after = model.state_dict()
    conv, fc = ["0.weight", "2.weight"], ["4.weight"]
    metric.update(model)
    assert values(metric.compute()) == pytest.approx(
        {
            "conv": numpy_rwc([before[n] for n in conv], [after[n] for n in conv], norm),
            "fc": numpy_rwc([before[n] for n in fc], [after[n] for n in fc], norm),
        },
        rel=1e-12,
    )
    whole = numpy_rwc([before[n] for n in conv + fc], [after[n] for n in conv + fc], norm)
    assert metric.total.item() == pytest.approx(whole, rel=1e-12)


def test_elementwise_counts_the_zeros_it_leaves_out():
    model = net()
    with torch.no_grad():
        model[0].weight[0] = 0
        model[4].weight.zero_()
    metric = RelativeWeightChange(model, norm="elementwise")
    move(model, 1)
    before_fc = metric(model)["4"].item()
    assert before_fc == math.inf
    assert metric.left_out == {"0": 9, "2": 0, "4": 32}
    metric(model)
    assert metric.left_out == {"0": 0, "2": 0, "4": 0}


def test_forward_is_update_and_compute():
    model = net()
    metric = RelativeWeightChange(model)
    before = copy.deepcopy(model.state_dict())
    move(model, 1)
    assert values(metric(model)) == pytest.approx(expected(before, model.state_dict(), "l1"), rel=1e-12)
    assert set(values(metric(model)).values()) == {0.0}


def test_reset_forgets_the_measurement_and_keeps_the_snapshot():
    model = net()
    metric = RelativeWeightChange(model)
    before = copy.deepcopy(model.state_dict())
    metric.update(model)
    metric.reset()
    with pytest.warns(UserWarning, match="called before the ``update``"):
        assert metric.compute() == {}
    move(model, 1)
    metric.update(model)
    assert values(metric.compute()) == pytest.approx(expected(before, model.state_dict(), "l1"), rel=1e-12)


def test_pickled_and_copied_metrics_go_on_from_their_snapshot():
    model = net()
    metric = RelativeWeightChange(model)
    twins = [pickle.loads(pickle.dumps(metric)), copy.deepcopy(metric), metric.clone()]
    move(model, 1)
    truth = values(metric(model))
    for twin in twins:
        assert values(twin(model)) == truth


def test_the_module_is_neither_kept_nor_changed():
    model = net()
    before = copy.deepcopy(model.state_dict())
    metric = RelativeWeightChange(model)
    metric(model)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    gone = [weakref.ref(thing) for thing in (model, *model.parameters())]
    assert metric.is_of(model)
    del model
    gc.collect()
    assert [reference() for reference in gone] == [None] * len(gone)
    again = net()
    assert not metric.is_of(again)
    assert list(metric(again)) == metric.layers


@pytest.mark.parametrize("root", [nn.Linear(3, 3), net()], ids=["itself", "hook"])
def test_a_module_that_owns_a_weight_or_is_hooked_is_let_go(root):
    root = copy.deepcopy(root)
    root.register_buffer("hooked", torch.zeros(1))
    last = [*root.modules()][-1]
    last.register_forward_hook(functools.partial(lambda owner, *args: None, root))
    metric = RelativeWeightChange(root)
    metric.update(root)
    gone = [weakref.ref(thing) for thing in (root, *root.parameters())]
    del root, last
    gc.collect()
    assert [reference() for reference in gone] == [None] * len(gone)


def test_short_lived_wrappers_change_nothing(monkeypatch):
    model = net()
    metric, searches = RelativeWeightChange(model), []
    find = LayerSelection.find
    monkeypatch.setattr(LayerSelection, "find", lambda *args: searches.append(args) or find(*args))

    class Wrapper(nn.Module):
        def __init__(self):
            super().__init__()
            self.module, self.cycle = model, [self]

    for seed in range(3):
        before = copy.deepcopy(model.state_dict())
        move(model, seed)
        metric.update(nn.parallel.DataParallel(model))
        assert values(metric.compute()) == pytest.approx(expected(before, model.state_dict(), "l1"), rel=1e-12)
        gc.collect()
    # Once for the parameters, which every rank sees: a collective depends on it, but not on the garbage collector.
    assert len(searches) == 1
    metric.tracked(Wrapper())
    metric._agreed = True
    gc.collect()
    metric.tracked(model)
    assert metric._agreed
    assert len(searches) == 1


def test_layers_that_come_and_go():
    model = net()
    metric = RelativeWeightChange(model)
    model.append(nn.Linear(2, 2))
    assert list(metric(model)) == ["0", "2", "4"]
    before = copy.deepcopy(model.state_dict())
    move(model, 1)
    after = copy.deepcopy(model.state_dict())
    assert values(metric(model)) == pytest.approx(expected(before, after, "l1", ("0", "2", "4", "5")), rel=1e-12)
    model[4] = nn.Identity()
    assert list(metric(model)) == ["0", "2", "5"]
    assert metric.layers == ["0", "2", "4", "5"]


def test_a_layer_of_new_shape_starts_anew():
    model = net()
    metric = RelativeWeightChange(model)
    model[4] = nn.Linear(16, 3)
    assert list(metric(model)) == ["0", "2"]
    assert math.isfinite(metric.total.item())
    assert list(metric(model)) == ["0", "2", "4"]


def test_another_dtype_is_compared_in_common_precision():
    model = net()
    metric = RelativeWeightChange(model)
    before = copy.deepcopy(model.state_dict())
    model.bfloat16()
    got = values(metric(model))
    assert got == pytest.approx(expected(before, model.state_dict(), "l1"), rel=1e-12)


def test_weights_made_wider_lose_nothing():
    model = net().bfloat16()
    metric = RelativeWeightChange(model)
    model.float()
    move(model, 1)
    metric(model)
    assert set(values(metric(model)).values()) == {0.0}


def test_nothing_waits_for_the_device():
    """On the meta device there are no values: whatever asked for one on the host would raise."""
    with torch.device("meta"):
        model = net()
    for norm in NORMS:
        metric = RelativeWeightChange(model, norm=norm)
        metric.update(model)
        result = metric.compute()
        assert list(result) == ["0", "2", "4"]
        assert {value.device.type for value in (*result.values(), metric.total)} == {"meta"}
        with pytest.raises(RuntimeError, match="meta"):
            metric.total.item()


def test_without_float64_sums_are_float32(monkeypatch):
    for module in ("functional", "sums.plain"):
        monkeypatch.setattr(f"lightning_rwc.{module}.sums_dtype", lambda device: torch.float32)
    monkeypatch.setattr("lightning_rwc.sums.WAYS", ())
    monkeypatch.setattr("lightning_rwc.sums.plain._is_real_on_cpu", lambda previous, current: False)
    model = net()
    for norm in NORMS:
        metric = RelativeWeightChange(model, norm=norm)
        before = copy.deepcopy(model.state_dict())
        move(model, 1)
        result = metric(model)
        assert {value.dtype for value in result.values()} == {torch.float32}
        assert values(result) == pytest.approx(expected(before, model.state_dict(), norm), rel=1e-5)


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match=r"`norm` must be one of .* but got 'linf'"):
        RelativeWeightChange(net(), norm="linf")
    with pytest.raises(ValueError, match="`relative_to` must be one of 'previous', 'initial', but got 'last'"):
        RelativeWeightChange(net(), relative_to="last")
    with pytest.raises(ValueError, match="matches no parameter"):
        RelativeWeightChange(net(), layers="encoder")


def test_in_a_fabric_loop():
    fabric = Fabric(accelerator="cpu", devices=1)
    model = net()
    metric = RelativeWeightChange(model)
    wrapped, optimizer = fabric.setup(model, torch.optim.SGD(model.parameters(), lr=0.1))
    of_wrapped = RelativeWeightChange(wrapped)
    before = copy.deepcopy(model.state_dict())
    for _ in range(3):
        optimizer.zero_grad()
        fabric.backward(wrapped(torch.ones(2, 1, 6, 6)).square().mean())
        optimizer.step()
    got = values(metric(wrapped))
    assert got == pytest.approx(expected(before, model.state_dict(), "l1"), rel=1e-12)
    assert np.all(np.array(list(got.values())) > 0)
    assert values(of_wrapped(wrapped)) == got


def test_a_module_wrapped_later_keeps_its_names():
    model = net()
    metric = RelativeWeightChange(model)
    move(model, 1)
    assert list(metric(nn.DataParallel(torch.compile(model, backend="eager")))) == ["0", "2", "4"]


def test_tensors_without_memory_of_their_own():
    """Quantised and other wrapped weights have no address to read from."""
    inside = torch.randn(4, 6)
    model = nn.Linear(6, 4)
    model.weight = nn.Parameter(TwoTensor(inside, inside.clone()))
    metric = RelativeWeightChange(model)
    with torch.no_grad():
        model.weight.mul_(1.5)
    assert metric(model)["weight"].sum().item() == pytest.approx(0.5)
    assert metric(model)["weight"].sum().item() == 0


def test_weights_with_gaps_and_weights_that_move():
    storage = torch.randn(6, 10)
    model = nn.Linear(5, 6)
    model.weight = nn.Parameter(storage[:, ::2])
    metric = RelativeWeightChange(model)
    for factor in (1.5, 2.0):
        with torch.no_grad():
            model.weight.mul_(factor)
        assert metric(model)["weight"].item() == pytest.approx(factor - 1, rel=1e-6)
    before = model.weight.detach().clone()
    model.weight.data = torch.randn(6, 5)
    assert metric(model)["weight"].item() == pytest.approx(numpy_rwc([before], [model.weight], "l1"), rel=1e-12)
    before = model.weight.detach().clone()
    model.weight.data = model.weight.data.t().contiguous().t()
    with torch.no_grad():
        model.weight.mul_(3)
    assert metric(model)["weight"].item() == pytest.approx(2, rel=1e-6)


def test_a_snapshot_of_another_version_is_left_alone():
    model = net()
    metric, state = RelativeWeightChange(model), RelativeWeightChange(model).get_extra_state()
    move(model, 1)
    with pytest.warns(UserWarning, match="version 2, but this version of lightning-rwc reads version 1"):
        metric.set_extra_state(state | {"version": 2})
    assert all(value > 0 for value in metric(model).values())
