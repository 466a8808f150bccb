# SPDX-License-Identifier: Apache-2.0
from itertools import pairwise

import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn

from lightning_rwc import RelativeWeightChange, RWCCallback
from lightning_rwc.checkpoints import history_of_checkpoints
from tests.helpers import Net, Recorder, images, net, trainer
from tests.oracle import NORMS, numpy_moves, numpy_rwc


class Attention(nn.Module):
    """Two heads of four rows each, queries, keys and values in one weight, and three experts in another."""

    def __init__(self):
        super().__init__()
        self.qkv = nn.Linear(8, 24, bias=False)
        self.experts = nn.Parameter(torch.randn(3, 8, 8))
        self.out = nn.Linear(8, 8)


def change(model):
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return before


def assert_units(found, before, after, norm="l1"):
    """``before`` and ``after`` have an entry for each unit."""
    changes = [numpy_rwc([p], [c], norm) for p, c in zip(before, after, strict=True)]
    rotations = [numpy_moves([p], [c], "rotation") for p, c in zip(before, after, strict=True)]
    np.testing.assert_allclose([*found.changes.values()], changes, rtol=1e-6)
    np.testing.assert_allclose([*found.rotations.values()], rotations, rtol=1e-6)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_units_are_rows(norm, memory_format):
    torch.manual_seed(0)
    model = Net().to(memory_format=memory_format)
    metric = RelativeWeightChange(model, norm=norm, units=["conv2", "fc"])
    before = change(model)
    metric.update(model)
    found = metric.fetch().units
    assert [*found] == ["block.conv2", "fc"]
    for layer, readings in found.items():
        after = model.get_parameter(f"{layer}.weight")
        assert [*readings.changes] == [str(unit) for unit in range(len(after))]
        assert_units(readings, before[f"{layer}.weight"], after, norm)
    # The layers themselves are measured as ever.
    expected = [
        numpy_rwc([before[f"{layer}.weight"]], [model.get_parameter(f"{layer}.weight")], norm) for layer in found
    ]
    np.testing.assert_allclose([*metric.compute().values()][1:], expected, rtol=1e-6)


def test_units_are_heads_parts_and_experts():
    torch.manual_seed(0)
    model = Attention()
    metric = RelativeWeightChange(model, units={"qkv": 4, "experts": 1, "out": 8})
    before = change(model)
    metric.update(model)
    found = metric.fetch().units
    assert {layer: len(readings.changes) for layer, readings in found.items()} == {"qkv": 6, "experts": 3, "out": 1}
    assert_units(found["qkv"], before["qkv.weight"].split(4), model.qkv.weight.split(4))
    assert_units(found["experts"], before["experts"], model.experts)
    assert_units(found["out"], [before["out.weight"]], [model.out.weight])


def test_the_first_expression_that_fits_counts():
    model = Attention()
    metric = RelativeWeightChange(model, units={"qkv": 8, "": 1})
    metric.update(model)
    assert [len(readings.changes) for readings in metric.fetch().units.values()] == [3, 3, 8]


def test_units_of_a_group_have_the_names_of_their_parameters():
    torch.manual_seed(0)
    model = Attention()
    metric = RelativeWeightChange(model, layers=".", group_by=lambda name: "all", units="all")
    before = change(model)
    metric.update(model)
    found = metric.fetch().units["all"]
    names = [f"{name}:{unit}" for name, parameter in model.named_parameters() for unit in range(len(parameter))]
    assert [*found.changes] == names
    rows = [[*before[name]] for name, _ in model.named_parameters()]
    flat = [row for parameter_rows in rows for row in parameter_rows]
    assert_units(found, flat, [row for parameter in model.parameters() for row in parameter])


def test_units_of_weights_whose_rows_are_not_neighbours_in_memory():
    torch.manual_seed(0)
    model = nn.Linear(6, 5)
    model.weight = nn.Parameter(torch.randn(6, 5).T)
    metric = RelativeWeightChange(model, units="")
    for _ in range(2):
        before = change(model)
        metric.update(model)
        assert_units(metric.fetch().units["weight"], before["weight"], model.weight)


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.AdamW])
def test_still_is_the_share_of_units_that_never_fire(optimizer):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 40), nn.ReLU(), nn.Linear(40, 30), nn.ReLU(), nn.Linear(30, 4))
    with torch.no_grad():
        model[0].bias[:20] = -100.0
        model[2].bias[5:20] = -100.0
    metric = RelativeWeightChange(model, movements=["still"])
    optimise = optimizer(model.parameters(), lr=1e-2)
    fired = [torch.zeros(40), torch.zeros(30)]
    for _ in range(50):
        inputs = torch.randn(64, 16)
        first = model[:2](inputs)
        second = model[2:4](first)
        fired = [count + activations.detach().sum(0) for count, activations in zip(fired, (first, second), strict=True)]
        optimise.zero_grad()
        (model[4](second) - inputs[:, :4]).square().mean().backward()
        optimise.step()
    metric.update(model, steps=50)
    found = metric.movement("still")
    expected = [(count == 0).float().mean() for count in fired]
    assert min(expected) >= 0.5
    np.testing.assert_allclose([found["0"], found["2"], found["4"]], [*expected, 0], rtol=1e-12)


def test_still_counts_heads_where_units_are_heads():
    model = Attention()
    metric = RelativeWeightChange(model, units={"qkv": 4}, movements=["still"])
    with torch.no_grad():
        model.qkv.weight[:9] += torch.randn(9, 8)
        model.out.weight[0] += torch.randn(8)
    metric.update(model)
    found = metric.movement("still")
    # Nine rows are two heads and a part of the third.
    np.testing.assert_allclose([found["qkv"], found["experts"], found["out"]], [3 / 6, 1, 7 / 8])
    assert [*metric.fetch().units] == ["qkv"]


def test_units_of_one_element_are_not_still():
    model = nn.Sequential(nn.Linear(1, 8), nn.Linear(8, 4))
    metric = RelativeWeightChange(model, layers=".", group_by=1, movements=["still"])
    change(model)
    metric.update(model)
    found = metric.movement("still")
    assert found["0"].isnan()  # nothing in it can turn
    assert found["1"] == 0  # nor can its biases


def test_a_run_keeps_the_units_of_its_layers(tmp_path):
    recorder, callback = Recorder(), RWCCallback(units=r"block\.")
    trainer(recorder, callback, tmp_path=tmp_path).fit(net(), images())
    assert {*callback.units} == {*callback.unit_rotations} == {"block.conv2"}
    weights = [state["block.conv2.weight"] for state in (recorder.start, *recorder.epochs)]
    changes, rotations = callback.units["block.conv2"], callback.unit_rotations["block.conv2"]
    assert changes.layers == rotations.layers == ["0", "1", "2", "3"]
    assert changes.steps == rotations.steps == callback.history.steps
    for row, (p, c) in enumerate(pairwise(weights)):
        np.testing.assert_allclose(changes.values[row], [numpy_rwc([p[i]], [c[i]], "l1") for i in range(4)], rtol=1e-6)
        expected = [numpy_moves([p[i]], [c[i]], "rotation") for i in range(4)]
        np.testing.assert_allclose(rotations.values[row], expected, rtol=1e-5)


def test_a_layer_with_units_that_appears_later(tmp_path):
    model = nn.Sequential(nn.Linear(3, 2))
    metric = RelativeWeightChange(model, units="")
    model.append(nn.Linear(2, 3))
    metric.update(model)
    assert [*metric.fetch().units] == ["0"]
    before = change(model)
    metric.update(model)
    found = metric.fetch().units
    assert [*found] == ["0", "1"]
    assert_units(found["1"], before["1.weight"], model[1].weight)


def test_many_units_are_announced_before_training(tmp_path):
    class Large(Net):
        def __init__(self):
            super().__init__()
            self.table = nn.Embedding(30_000, 2)

    callback = RWCCallback(units="table")
    with pytest.warns(UserWarning, match=r"selects 30,000 units of 1 layers. Each measurement keeps 960,000 bytes"):
        trainer(callback, tmp_path=tmp_path, max_steps=1).fit(net(Large), images())


@pytest.mark.parametrize(
    ("units", "error", "message"),
    [
        (3, TypeError, "`units` must be None, a regular expression"),
        ([3], TypeError, "`units` must be None, a regular expression"),
        ({3: 1}, TypeError, "`units` must be None, a regular expression"),
        ("(", ValueError, r"`units` has an invalid regular expression '\('"),
        ({"conv": 0}, ValueError, r"`units\['conv'\]` must be at least 1, but got 0"),
        ({"conv": True}, TypeError, r"`units\['conv'\]` must be an int, but got True"),
    ],
)
def test_bad_units_raise_at_construction(units, error, message):
    for make in (RWCCallback, lambda **options: RelativeWeightChange(Net(), **options)):
        with pytest.raises(error, match=message):
            make(units=units)


def test_units_that_do_not_fit_raise_at_the_start_of_fit(tmp_path):
    for units, message in (
        ("norm", r"`units` has 'norm', which fits no layer. The layers are conv1, block.conv2, fc."),
        ({"fc": 3}, r"units of 3 rows in 'fc', but 'fc.weight' has 2 rows, which is not a multiple"),
    ):
        with pytest.raises(ValueError, match=message):
            trainer(RWCCallback(units=units), tmp_path=tmp_path).fit(net(), images())


def test_units_do_not_go_with_samples():
    for options, named in (({"units": "fc"}, r"`units='fc'`"), ({"measures": ["still"]}, "the measure 'still'")):
        with pytest.raises(ValueError, match=rf"`max_elements=1000` does not work with {named}"):
            RWCCallback(max_elements=1000, **options)


def test_saved_weights_tell_which_units_are_still(tmp_path):
    model = nn.Linear(4, 10)
    torch.save(model.state_dict(), tmp_path / "0.pt")
    with torch.no_grad():
        model.weight[:3] += 1
        model.weight[5] *= 0.9  # decays, but does not rotate
    torch.save(model.state_dict(), tmp_path / "1.pt")
    history = history_of_checkpoints(tmp_path, measure="still")
    np.testing.assert_allclose(history.values, [[0.7]])


def test_still_knows_how_many_steps_a_measurement_has(tmp_path):
    """Decay rounds the weights of dead units in each step, more in an epoch than one step explains."""

    class HalfDead(Net):
        def __init__(self):
            super().__init__()
            self.hidden, self.out = nn.Linear(64, 30), nn.Linear(30, 1)
            nn.init.constant_(self.hidden.bias[:15], -1e6)

        def loss(self, batch):
            return self.out(self.hidden(batch[0].flatten(1)).relu()).square().mean()

        def configure_optimizers(self):
            return torch.optim.AdamW([*self.hidden.parameters(), *self.out.parameters()], lr=0.01, weight_decay=0.1)

    saver = ModelCheckpoint(tmp_path, filename="{epoch}", save_top_k=-1, save_on_train_epoch_end=True)
    recorder, callback = Recorder(), RWCCallback(layers="hidden.weight", measures=["still"])
    fit = trainer(recorder, callback, saver, tmp_path=tmp_path, enable_checkpointing=True)
    fit.fit(net(HalfDead), images(batches=60))
    p, c = (state["hidden.weight"] for state in recorder.epochs[:2])
    dead = [numpy_moves([p[unit]], [c[unit]], "rotation") for unit in range(15)]
    assert 2.0**-24 < max(dead) < 60 * 2.0**-24
    assert callback.histories["still"].values.tolist() == [[0.5]] * 3
    paths = [tmp_path / f"epoch={epoch}.ckpt" for epoch in range(3)]
    saved = history_of_checkpoints(paths, layers="hidden.weight", measure="still")
    assert saved.values.tolist() == [[0.5]] * 2


def test_units_of_a_parameter_that_grows():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 4))
    metric = RelativeWeightChange(model, units="", movements=["still"])
    change(model)
    metric.update(model)
    for layer in model:
        layer.weight.data = torch.randn(2 * len(layer.weight), layer.in_features)
    metric.update(model)  # takes a new baseline
    before = change(model)
    metric.update(model)
    for layer, readings in metric.fetch().units.items():
        assert_units(readings, before[f"{layer}.weight"], model[int(layer)].weight)


def test_units_of_a_parameter_without_a_baseline_are_not_measured():
    torch.manual_seed(0)
    model = nn.ModuleDict({"body": nn.Sequential(nn.Linear(3, 2))})
    metric = RelativeWeightChange(model, group_by=1, units="", movements=["still"])
    model["body"].append(nn.Linear(2, 3))
    change(model)
    metric.update(model)
    found = metric.fetch(["still"])
    assert np.isnan([*found.units["body"].changes.values()]).tolist() == [False] * 2 + [True] * 3
    assert np.isnan([*found.units["body"].rotations.values()]).tolist() == [False] * 2 + [True] * 3
    assert found.movements["still"].values["body"] == 0


def test_a_layer_that_has_gone_has_no_still_units():
    model = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 4))
    metric = RelativeWeightChange(model, movements=["still"])
    metric.update(model)
    del model[1]
    metric.update(model)
    assert [*metric.movement("still")] == ["0"]


def test_steps_add_up_until_the_snapshot_moves():
    """A measurement that fails before it has moved the snapshot leaves its steps to the next one."""
    fail = False

    def layers(name, parameter):
        if fail:
            raise ZeroDivisionError("not today")
        return parameter.ndim == 2

    model = nn.Sequential(nn.Linear(30, 20))
    metric = RelativeWeightChange(model, layers=layers, movements=["still"])
    with torch.no_grad():
        for _ in range(100):
            model[0].weight *= 1 - 1e-4
    fail = True
    model.append(nn.Linear(2, 2))  # so that layers are selected anew
    with pytest.raises(ZeroDivisionError):
        metric.update(model, steps=99)
    assert not metric.has_advanced
    fail = False
    metric.update(model, steps=1)
    assert metric.has_advanced
    assert metric.movement("rotation")["0"] > 2.0**-24
    assert metric.movement("still")["0"] == 1


@pytest.mark.parametrize(("again", "message"), [({"": 2}, r"`units` was {'conv': 1} and is {'': 2}"), (None, "is {}")])
def test_other_units_after_a_resume_begin_new_tables(tmp_path, again, message):
    saver = ModelCheckpoint(tmp_path, every_n_train_steps=12, filename="{step}", save_top_k=-1)
    trainer(RWCCallback(units="conv"), saver, tmp_path=tmp_path, enable_checkpointing=True).fit(net(), images())
    callback = RWCCallback(units=again)
    with pytest.warns(UserWarning, match=message):
        trainer(callback, tmp_path=tmp_path).fit(net(), images(), ckpt_path=tmp_path / "step=12.ckpt")
    assert {layer: len(table.layers) for layer, table in callback.units.items()} == (
        {"conv1": 2, "block.conv2": 2, "fc": 1} if again else {}
    )
    for table in callback.units.values():
        assert np.isnan(table.values).all(1).tolist() == [True, False, False]
