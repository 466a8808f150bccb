# SPDX-License-Identifier: Apache-2.0
"""The function and the metric beside float64 NumPy."""

import copy
import itertools

import numpy as np
import torch
from torch import nn

from lightning_rwc import RelativeWeightChange, relative_weight_change
from tests.gpu.same import assert_same_bits
from tests.gpu.sums import EDGES, FLOATS
from tests.oracle import NORMS, numpy_rwc


def function(here):
    """``relative_weight_change`` of all dtypes and norms, and of edges."""
    torch.manual_seed(0)
    for norm, before, after in itertools.product(NORMS, FLOATS, FLOATS):
        p = torch.randn(33, 65, device=here.device)
        c = (p + 0.01 * torch.randn_like(p)).to(after)
        _assert_close(relative_weight_change(p.to(before), c, norm), numpy_rwc([p.to(before)], [c], norm))
    for norm, (before, after) in itertools.product(NORMS, EDGES):
        p, c = (torch.tensor(side, dtype=torch.float64, device=here.device) for side in (before, after))
        with np.errstate(all="ignore"):
            expected = numpy_rwc([p], [c], norm)
        _assert_close(relative_weight_change(p, c, norm), expected)


def updates(here):
    """``RelativeWeightChange`` over several updates."""
    for dtype, norm, relative_to in itertools.product(FLOATS, NORMS, ("previous", "initial")):
        module = _module(here.device, dtype)
        metric, earlier = RelativeWeightChange(module, norm=norm, relative_to=relative_to), _weights(module)
        for _ in range(3):
            _move(module)
            values, total = metric(module), metric.total
            assert values["conv"].device.type == here.device
            expected = {layer: numpy_rwc([earlier[layer]], [c], norm) for layer, c in _weights(module).items()}
            _assert_close([values[layer] for layer in expected], [*expected.values()], rtol=1e-6)
            _assert_close(total, numpy_rwc([*earlier.values()], [*_weights(module).values()], norm), rtol=1e-6)
            if relative_to == "previous":
                earlier = _weights(module)
    _sample_equals_the_cpu(here)
    _restored_and_moved(here)


def snapshot_on_cpu(here):
    """A snapshot in main memory beside one on the device."""
    for dtype, norm in itertools.product(FLOATS, NORMS):
        module = _module(here.device, dtype)
        near, far, twin = (
            RelativeWeightChange(module, norm=norm, snapshot_device=where) for where in (None, "cpu", "cpu")
        )
        for _ in range(3):
            _move(module)
            near.update(module)
            values = []
            for metric in (far, twin):
                metric.update(module)
                values.append(torch.stack([*metric.compute().values()]).cpu())
            here.wait()
            assert all(values.is_pinned() for values in _snapshot(far)) or here.rehearsal
            assert_same_bits(_snapshot(far), _snapshot(near))
            assert_same_bits([values[0]], [values[1]])
            _assert_close(values[0], [*near.compute().values()], rtol=1e-6)


def saved_at_once(here):
    """A state dict that is taken while the copy to main memory may still be under way."""
    module = nn.Linear(here.pick(16384, 64), here.pick(4096, 64), bias=False, device=here.device)
    metric = RelativeWeightChange(module, snapshot_device="cpu")
    with torch.no_grad():
        module.weight.fill_(2)
    metric.update(module)
    here.wait()
    with torch.no_grad():
        module.weight.fill_(3)
    if not here.rehearsal:
        torch.cuda._sleep(500_000_000)  # cycles, so that the update is still queued
    metric.update(module)
    (saved,) = metric.get_extra_state()["snapshot"]["whole"].values()
    stale = int((saved != 3).sum())
    assert not stale, f"{stale} of {saved.numel()} elements of the saved snapshot are from before the update"


def _module(device, dtype):
    """Weights of odd sizes, channels-last, transposed, with gaps in memory, and too small to be aligned."""
    torch.manual_seed(0)
    module = nn.Module()
    module.conv = nn.Conv2d(3, 5, 3, bias=False).to(memory_format=torch.channels_last)
    module.wide = nn.Linear(77, 131)
    module.flat = nn.Parameter(torch.randn(7, 5).t())
    module.gaps = nn.Parameter(torch.randn(6, 10))
    module.large = nn.Linear(301, 97, bias=False)
    module.to(device, dtype)
    module.gaps = nn.Parameter(module.gaps.detach()[:, ::2])
    return module


def _weights(module):
    names = ("conv.weight", "wide.weight", "flat", "gaps", "large.weight")
    return {name.removesuffix(".weight"): module.get_parameter(name).detach().clone() for name in names}


def _move(module):
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(1.02).add_(0.01 * torch.randn_like(parameter))


def _snapshot(metric):
    return [baseline.values for baseline in metric._snapshot._baselines.values()]


def _sample_equals_the_cpu(here):
    module = _module(here.device, torch.float32)
    twin = copy.deepcopy(module).cpu()
    ones, others = (RelativeWeightChange(m, max_elements=300) for m in (module, twin))
    for _ in range(2):
        _move(module)
        twin.load_state_dict(module.state_dict())
        _assert_close([*ones(module).values()], [*others(twin).values()], rtol=1e-6)
        _assert_close([*ones.standard_errors.values()], [*others.standard_errors.values()], rtol=1e-6)


def _restored_and_moved(here):
    module = _module(here.device, torch.float32)
    metric = RelativeWeightChange(module)
    _move(module)
    metric.update(module)
    restored = RelativeWeightChange(module)
    restored.load_state_dict(metric.state_dict())
    _move(module)
    expected = torch.stack([*metric(module).values()])
    assert_same_bits([torch.stack([*restored(module).values()])], [expected])

    there_and_back = RelativeWeightChange(module)
    earlier = _weights(module)
    for device in ("cpu", here.device):
        module.to(device)
        _move(module)
        now = _weights(module)
        values = there_and_back(module)
        for layer, weights in now.items():
            _assert_close(values[layer], numpy_rwc([earlier[layer]], [weights], "l1"), rtol=1e-6)
        earlier = now


def _assert_close(found, expected, rtol=1e-12):
    def numbers(values):
        values = values if isinstance(values, (list, tuple)) else [values]
        return np.array([float(value) for one in values for value in torch.as_tensor(one).flatten().cpu()])

    np.testing.assert_allclose(numbers(found), numbers(expected), rtol=rtol)
