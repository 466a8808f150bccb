# SPDX-License-Identifier: Apache-2.0
import copy
import math

import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from torch import nn

from lightning_rwc import RelativeWeightChange, RWCCallback, RWCHistory
from lightning_rwc.checkpoints import history_of_checkpoints
from lightning_rwc.functional import change_sums
from lightning_rwc.movement import MOVEMENTS, moved_share, radial, rotation
from tests.faults.optimizers import Lion
from tests.helpers import LAYERS, Net, Recorder, events, images, net, trainer
from tests.oracle import MOVES, NORMS, numpy_moves

ROUNDING = 2.0**-24


def pair(*, angle, growth=1.0, size=1000, seed=0):
    """Two float64 vectors at ``angle``, the second ``growth`` times as long."""
    rng = np.random.default_rng(seed)
    along, other = np.linalg.qr(rng.normal(size=(size, 2)))[0].T
    return torch.tensor(3 * along), torch.tensor(3 * growth * (math.cos(angle) * along + math.sin(angle) * other))


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("growth", [1.0, 0.9, 2.0, 1.0 + 1e-6])
@pytest.mark.parametrize("angle", [1e-7, 1e-5, 1e-3, 0.5, math.pi / 2, 3.0, math.pi - 1e-7])
def test_angles(angle, growth, norm):
    sums = change_sums(*pair(angle=angle, growth=growth), norm)
    # What double precision can hold beside a growth is 1e-8 of that growth.
    np.testing.assert_allclose(rotation(sums), angle, rtol=1e-6, atol=1e-8 * abs(growth - 1))
    np.testing.assert_allclose(radial(sums), growth - 1, rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize(
    ("before", "after", "angle", "growth", "moved"),
    [
        ([3, 4], [3, 4], 0, 0, 0),
        ([3, 4], [0, 4], math.atan2(3, 4), -0.2, 0.5),
        ([3, 4], [-3, -4], math.pi, 0, 1),
        ([3, 4], [6, 8], 0, 1, 1),
        ([1, 1], [0, 0], math.nan, -1, 1),
        ([0, 0], [0, 0], 0, 0, 0),
        ([0, 0], [0, 1], math.nan, math.inf, 0.5),
        ([1, math.nan], [1, 1], math.nan, math.nan, math.nan),
        ([1, math.nan], [1, math.nan], math.nan, math.nan, math.nan),
        ([1, 1], [1, math.inf], math.nan, math.nan, math.nan),
        ([1, math.inf], [1, math.inf], math.nan, math.nan, math.nan),
        ([0.0], [-0.0], 0, 0, 0),
        ([], [], 0, 0, 0),
    ],
)
def test_edges(before, after, angle, growth, moved):
    sums = change_sums(torch.tensor(before, dtype=torch.float32), torch.tensor(after, dtype=torch.float32))
    found = [rotation(sums), radial(sums), moved_share(sums, torch.tensor(len(before)))]
    np.testing.assert_allclose(found, [angle, growth, moved], rtol=1e-15)


def test_complex_weights_move_like_pairs_of_real_ones():
    torch.manual_seed(0)
    before, after = (torch.randn(100, dtype=torch.complex128) for _ in range(2))
    found, expected = change_sums(before, after), change_sums(torch.view_as_real(before), torch.view_as_real(after))
    np.testing.assert_allclose(rotation(found), rotation(expected), rtol=1e-12)
    np.testing.assert_allclose(radial(found), radial(expected), rtol=1e-12)


@pytest.mark.parametrize("decay", [1e-7, 1e-5, 1e-3])
@pytest.mark.parametrize("size", [9, 100_000])
def test_rounding_explains_what_float32_weights_that_decay_rotate(size, decay):
    torch.manual_seed(0)
    before = torch.randn(size)
    weights, norm = before.clone(), before.double().norm()
    for step in range(1, 2001):
        weights *= 1 - decay
        if step in (1, 10, 469, 2000):
            sums = change_sums(before, weights)
            assert rotation(sums) <= step * ROUNDING
            np.testing.assert_allclose(radial(sums), weights.double().norm() / norm - 1, rtol=1e-6, atol=1e-15)
    # Not because the bound is wide: a learning rate of a millionth rotates more than decay may.
    np.testing.assert_array_less(2000 * ROUNDING, rotation(change_sums(before, before + 1e-3 * torch.randn(size))))


class Block(nn.Module):
    """A residual block between two layers. It is dead if no unit of it fires."""

    def __init__(self, dead):
        super().__init__()
        self.stem, self.inner, self.outer, self.head = (nn.Linear(16, 16) for _ in range(4))
        if dead:
            nn.init.constant_(self.inner.bias, -100.0)

    def forward(self, x):
        x = self.stem(x).relu()
        return self.head(x + self.outer(self.inner(x).relu()))


def muon(parameters):
    return torch.optim.Muon([p for p in parameters if p.ndim == 2], lr=1e-3, weight_decay=0.1)


OPTIMIZERS = {
    "SGD": lambda parameters: torch.optim.SGD(parameters, lr=0.1),
    "SGD with decay": lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9, weight_decay=1e-3),
    "Adam": torch.optim.Adam,
    "AdamW": lambda parameters: torch.optim.AdamW(parameters, lr=1e-3, weight_decay=0.1),
    "NAdam": torch.optim.NAdam,
    "RMSprop": lambda parameters: torch.optim.RMSprop(parameters, lr=1e-3),
    "Adagrad": torch.optim.Adagrad,
    "Lion": lambda parameters: Lion(parameters, lr=1e-3),
    "Muon": muon,
}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_only_a_dead_block_does_not_rotate(optimizer):
    if optimizer == "Muon" and not hasattr(torch.optim, "Muon"):
        pytest.skip("this PyTorch has no Muon")
    steps, still = 20, {}
    for dead in (True, False):
        torch.manual_seed(0)
        model = Block(dead)
        metric, optimise = RelativeWeightChange(model), OPTIMIZERS[optimizer](model.parameters())
        before = copy.deepcopy(model.state_dict())
        for _ in range(steps):
            optimise.zero_grad()
            inputs = torch.randn(64, 16)
            (model(inputs) - inputs.roll(1, 1)).square().mean().backward()
            optimise.step()
        metric.update(model, steps)
        found = metric.movement("rotation")
        still[dead] = [layer for layer, angle in found.items() if angle <= steps * ROUNDING]
        for layer, growth in metric.movement("radial").items():
            start, end = (state[f"{layer}.weight"].double().norm() for state in (before, model.state_dict()))
            np.testing.assert_allclose(growth, end / start - 1, rtol=1e-6, atol=1e-12)
    assert still == {True: ["inner", "outer"], False: []}


@pytest.mark.parametrize("name", MOVES)
def test_groups_are_measured_as_one_vector(name):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(30, 20), nn.Linear(20, 10), nn.Linear(10, 5))
    before = [p.detach().clone() for p in model.parameters()]
    metric = RelativeWeightChange(model, layers=".", group_by=lambda parameter: "2" if parameter[0] == "2" else "rest")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter) * (torch.rand_like(parameter) < 0.5))
    metric.update(model)
    after = [*model.parameters()]
    expected = [numpy_moves(before[part], after[part], name) for part in (slice(4), slice(4, 6))]
    np.testing.assert_allclose([*metric.movement(name).values()], expected, rtol=1e-6)


def test_bfloat16_rounds_most_small_updates_away():
    torch.manual_seed(0)
    model = nn.Linear(200, 100, bias=False, dtype=torch.bfloat16)
    metric, optimizer = RelativeWeightChange(model), torch.optim.SGD(model.parameters(), lr=1e-3)
    before = model.weight.detach().clone()
    for _ in range(5):
        model(torch.randn(8, 200, dtype=torch.bfloat16)).square().mean().backward()
        optimizer.step()
    metric.update(model)
    share = np.mean(before.float().numpy() != model.weight.detach().float().numpy())
    assert 0 < share < 0.5
    np.testing.assert_allclose(metric.movement("moved")["weight"], share, rtol=1e-12)


@pytest.mark.parametrize("kind", ["Gaussian", "some move", "few move", "decay"])
def test_samples_cover_the_whole(kind):
    """Two standard errors hold the true value in about 95 of 100 networks, and in fewer if a few elements carry it."""
    inside = dict.fromkeys(["rotation", "radial", "moved"], 0)
    for seed in range(100):
        torch.manual_seed(seed)
        model = nn.Linear(100, 200, bias=False)
        sampled, whole = (RelativeWeightChange(model, max_elements=most) for most in (1000, None))
        with torch.no_grad():
            noise = 0.3 * model.weight.std() * torch.randn_like(model.weight)
            chosen = {"some move": 0.3, "few move": 0.01}.get(kind, 1.0)
            change = noise * (torch.rand_like(noise) < chosen) if kind != "decay" else -0.01 * model.weight
            model.weight.add_(change)
        names = [*inside]
        sampled.update(model)
        whole.update(model)
        estimates, truths = sampled.fetch(names).movements, whole.fetch(names).movements
        for name in names:
            value, error = estimates[name].values["weight"], estimates[name].standard_errors["weight"]
            truth = truths[name].values["weight"]
            assert truths[name].standard_errors["weight"] == 0
            inside[name] += abs(value - truth) <= 2 * error + 1e-7
    assert min(inside.values()) >= (75 if kind == "few move" else 88), inside


def test_a_sample_that_has_not_moved_may_have_missed_what_has():
    model = nn.Linear(100, 100, bias=False)
    metric = RelativeWeightChange(model, max_elements=1000)
    metric.update(model)
    found = metric.fetch(["rotation", "radial", "moved"]).movements
    assert [found[name].values["weight"] for name in found] == [0, 0, 0]
    # At most 3 of 1,000 elements moved, with 95 % confidence: half of what they could make.
    errors = [found[name].standard_errors["weight"] for name in found]
    np.testing.assert_allclose(errors, [math.sqrt(0.003) / 2, 0.0015, 0.0015], rtol=1e-9)


def test_estimates_of_weights_that_are_nan_have_no_error():
    model = nn.Linear(100, 100, bias=False)
    metric = RelativeWeightChange(model, max_elements=1000)
    with torch.no_grad():
        model.weight.fill_(math.nan)
    metric.update(model)
    for readings in metric.fetch(["rotation", "radial", "moved"]).movements.values():
        assert math.isnan(readings.values["weight"])
        assert math.isnan(readings.standard_errors["weight"])


@pytest.mark.parametrize("relative_to", ["previous", "initial"])
def test_a_run_writes_movements_like_relative_weight_change(tmp_path, relative_to):
    logger = TensorBoardLogger(tmp_path, "logs")
    recorder, names = Recorder(), [*MOVES]
    callback = RWCCallback(relative_to=relative_to, measures=[*names, "strength"])
    fit = trainer(recorder, callback, tmp_path=tmp_path, logger=logger)
    fit.fit(net(), images())
    states = [recorder.start, *recorder.epochs]
    written = events(logger.log_dir)
    assert [*callback.histories] == ["rwc", *names, "strength"]
    for name in names:
        befores = states[:1] * 3 if relative_to == "initial" else states[:-1]
        expected = [
            [numpy_moves([before[f"{layer}.weight"]], [after[f"{layer}.weight"]], name) for layer in LAYERS]
            for before, after in zip(befores, states[1:], strict=True)
        ]
        history = callback.histories[name]
        assert history.layers == LAYERS
        np.testing.assert_allclose(history.values, expected, rtol=1e-5, atol=1e-12)
        for column, layer in enumerate(LAYERS):
            points = written.Scalars(f"rwc_{name}/{layer}")
            assert [point.step for point in points] == history.steps
            np.testing.assert_allclose([point.value for point in points], history.values[:, column], rtol=1e-6)
            np.testing.assert_allclose(fit.callback_metrics[f"rwc_{name}/{layer}"], history.values[-1, column])
        assert {f"rwc_{name}/heatmap", f"rwc_{name}/curves"} <= {*written.Tags()["images"]}


@pytest.mark.parametrize("at", [6, 12])
def test_a_resumed_run_has_the_same_movements(tmp_path, at):
    names = [*MOVES, "still"]

    def fit(*callbacks, **options):
        callback = RWCCallback(measures=names, units="conv")
        trainer(callback, *callbacks, tmp_path=tmp_path, enable_checkpointing=bool(callbacks)).fit(
            net(), images(), **options
        )
        return callback

    once = fit()
    saver = ModelCheckpoint(tmp_path, every_n_train_steps=at, filename="{step}", save_top_k=-1)
    fit(saver)
    again = fit(ckpt_path=tmp_path / f"step={at}.ckpt")
    tables = {"rwc", *names}
    assert {*again.histories} == tables
    pairs = [(again.histories[name], once.histories[name]) for name in tables]
    pairs += [(again.units[layer], once.units[layer]) for layer in ("conv1", "block.conv2")]
    pairs += [(again.unit_rotations[layer], once.unit_rotations[layer]) for layer in ("conv1", "block.conv2")]
    for resumed, whole in pairs:
        assert (resumed.layers, resumed.steps) == (whole.layers, whole.steps)
        np.testing.assert_array_equal(resumed.values, whole.values)


@pytest.mark.parametrize("relative_to", ["previous", "initial"])
@pytest.mark.parametrize("name", [*MOVES, "still"])
def test_saved_weights_have_the_movements_of_the_callback(tmp_path, name, relative_to):
    saver = ModelCheckpoint(tmp_path, filename="{epoch}", save_top_k=-1, save_on_train_epoch_end=True)
    callback = RWCCallback(measures=[name], relative_to=relative_to)
    start = {"state_dict": net().state_dict()}
    torch.save(start["state_dict"], tmp_path / "start.pt")
    trainer(callback, saver, tmp_path=tmp_path, enable_checkpointing=True).fit(net(), images())
    # The file of the start has no step, so all files are numbered. No unit of this network is near the bound.
    paths = [tmp_path / "start.pt", *(tmp_path / f"epoch={epoch}.ckpt" for epoch in range(3))]
    found = history_of_checkpoints(paths, measure=name, relative_to=relative_to)
    assert isinstance(found, RWCHistory)
    np.testing.assert_allclose(found.values, callback.histories[name].values, rtol=1e-9)


def test_a_failed_measurement_leaves_nan(tmp_path, monkeypatch):
    callback = RWCCallback(measures=["rotation"], units="fc")
    measure = RelativeWeightChange.measure

    def fail_once(metric, module, *args):
        if len(callback.history) == 2:
            raise RuntimeError("not today")
        measure(metric, module, *args)

    monkeypatch.setattr(RelativeWeightChange, "measure", fail_once)
    with pytest.warns(UserWarning, match="not today"):
        trainer(callback, tmp_path=tmp_path).fit(net(), images())
    for table in (callback.histories["rotation"], callback.units["fc"], callback.unit_rotations["fc"]):
        assert np.isnan(table.values).all(1).tolist() == [False, True, False]


def test_unknown_movements():
    with pytest.raises(ValueError, match=r"`measures` has 'angle', but must have names of \['rotation', .*'strength'"):
        RWCCallback(measures=["angle"])
    with pytest.raises(ValueError, match=r"`measure` must be one of \['rwc', 'rotation', .*, but got 'angle'"):
        history_of_checkpoints(["a.pt", "b.pt"], measure="angle")
    with pytest.raises(ValueError, match=r"`movements` must have names of \['rotation', .*, but has 'angle'"):
        RelativeWeightChange(Net(), movements=["angle"])
    metric = RelativeWeightChange(Net())
    with pytest.raises(ValueError, match="'angle'"):
        metric.movement("angle")
    with pytest.raises(ValueError, match=r"needs `movements=\['still'\]` at construction"):
        metric.movement("still")


def test_every_movement_is_documented_by_name():
    assert [*MOVEMENTS] == [*MOVES, "still"]
