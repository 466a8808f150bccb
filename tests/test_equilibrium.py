# SPDX-License-Identifier: Apache-2.0
"""Predictions of rotation, compared with simulations and with the formulas of arXiv 2305.17212."""

import json
import math
from decimal import Decimal, localcontext

import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from torch.nn import Parameter

from lightning_rwc import RWCCallback, RWCHistory
from lightning_rwc.equilibrium import EQUILIBRIUM, EquilibriumForecast, predicted_rotation
from lightning_rwc.movement import quantity_of
from tests.helpers import Net, events, images, net, trainer

LAGS = (1, 10, 100, 1000)
SIZE = 2000


class Lion(torch.optim.Optimizer):
    """As those of timm and lion-pytorch, as far as their settings go."""

    def __init__(self, parameters, lr=1e-4, betas=(0.9, 0.99), weight_decay=0.0, **settings):
        super().__init__(parameters, {"lr": lr, "betas": betas, "weight_decay": weight_decay, **settings})


def predict(kind, steps=1, lr=0.1, **settings):
    optimizer = kind([Parameter(torch.ones(2))], lr=lr, **settings)
    return predicted_rotation(optimizer, optimizer.param_groups[0], steps, lr)


# Simulations. Each rule is PyTorch's, timm's or lion-pytorch's, written out for one vector of weights.


def sgd(lr, weight_decay, momentum=0.0, dampening=0.0, nesterov=False, size=SIZE):
    buffer = np.zeros(size)

    def step(w, g):
        nonlocal buffer
        g = g + weight_decay * w
        buffer = momentum * buffer + (1 - dampening) * g
        return w - lr * (g + momentum * buffer if nesterov else buffer)

    return step


def adamw(lr, weight_decay, betas):
    m, v, count = np.zeros(SIZE), np.zeros(SIZE), 0

    def step(w, g):
        nonlocal m, v, count
        count += 1
        m = betas[0] * m + (1 - betas[0]) * g
        v = betas[1] * v + (1 - betas[1]) * g**2
        update = (m / (1 - betas[0] ** count)) / (np.sqrt(v / (1 - betas[1] ** count)) + 1e-12)
        return (1 - lr * weight_decay) * w - lr * update

    return step


def lion(lr, weight_decay, betas):
    m = np.zeros(SIZE)

    def step(w, g):
        nonlocal m
        update = np.sign(betas[0] * m + (1 - betas[0]) * g)
        m = betas[1] * m + (1 - betas[1]) * g
        return (1 - lr * weight_decay) * w - lr * update

    return step


def simulate(step, burn_in, length=2500, scale=1.0, lags=LAGS):
    """The mean angle at each lag for a loss that does not depend on the length of the weights, in radians."""
    random = np.random.default_rng(0)
    w, path = scale * random.normal(size=SIZE), []
    for count in range(burn_in + length):
        g = random.normal(size=SIZE)
        square = w @ w
        g = (g - (g @ w / square) * w) / math.sqrt(square)
        w = step(w, g)
        if count >= burn_in:
            path.append(w / np.linalg.norm(w))
    path = np.array(path)
    chords = {k: np.linalg.norm(path[k::10] - path[:-k:10], axis=1) for k in lags}
    return {k: np.mean(2 * np.arcsin(chord / 2)) for k, chord in chords.items()}


SGD, ADAMW = torch.optim.SGD, torch.optim.AdamW


@pytest.mark.parametrize(
    ("rule", "kind", "settings", "burn_in"),
    [
        (sgd, SGD, {"lr": 0.1, "weight_decay": 0.02}, 1500),
        (sgd, SGD, {"lr": 0.1, "weight_decay": 0.002, "momentum": 0.9}, 1500),
        (sgd, SGD, {"lr": 0.05, "weight_decay": 0.2, "momentum": 0.9}, 500),  # oscillates
        (sgd, SGD, {"lr": 0.1, "weight_decay": 0.01, "momentum": 0.8, "dampening": 0.5}, 1500),
        (sgd, SGD, {"lr": 0.1, "weight_decay": 0.004, "momentum": 0.9, "nesterov": True}, 1500),
        (sgd, SGD, {"lr": 0.2, "weight_decay": 0.2, "momentum": 0.5, "nesterov": True}, 500),
        (adamw, ADAMW, {"lr": 0.02, "weight_decay": 0.1, "betas": (0.9, 0.999)}, 2500),
        (adamw, ADAMW, {"lr": 0.01, "weight_decay": 0.5, "betas": (0.5, 0.99)}, 1500),
        (lion, Lion, {"lr": 0.02, "weight_decay": 0.1, "betas": (0.9, 0.99)}, 2500),
        (lion, Lion, {"lr": 0.01, "weight_decay": 0.5, "betas": (0.95, 0.98)}, 1500),
        (lion, Lion, {"lr": 0.01, "weight_decay": 0.5, "betas": (0.9, 0.5)}, 1500),
    ],
)
def test_simulations_turn_as_predicted(rule, kind, settings, burn_in):
    measured = simulate(rule(**settings), burn_in)
    for steps, angle in measured.items():
        assert predict(kind, steps, **settings) == pytest.approx(angle, rel=0.03), steps


def test_before_equilibrium_long_weights_turn_less_and_short_ones_more():
    settings = {"lr": 0.1, "weight_decay": 0.02}
    length = (0.1 * SIZE / (2 * 0.02)) ** 0.25 / math.sqrt(SIZE)  # at which growth and decay balance

    def ratio(scale, **changed):
        changed = {**settings, **changed}
        return simulate(sgd(**changed), 0, 21, scale * length, lags=(1,))[1] / predict(SGD, **changed)

    assert ratio(1) == pytest.approx(1, rel=0.02)
    assert ratio(2) == pytest.approx(1 / 4, rel=0.05)  # gradients are half as large, and turn a vector twice as long
    assert ratio(0.5) > 2
    # A new learning rate changes the ratio by the root of its factor, until the length has followed.
    assert ratio(1, lr=0.1 / 9) == pytest.approx(1 / 3, rel=0.05)
    assert ratio(1, lr=0.1 * 1.21) == pytest.approx(1.1, rel=0.05)


@pytest.mark.parametrize("decay", [1e-4, 1e-8, 1e-15])
def test_one_step_turns_as_in_the_paper(decay):
    lr = 0.1
    settings = {"lr": lr, "weight_decay": decay / lr}
    for momentum in (0.0, 0.5, 0.9):
        expected = math.sqrt(2 * decay / (1 + momentum))
        assert predict(SGD, momentum=momentum, **settings) == pytest.approx(expected, rel=1e-3)
    for momentum in (0.5, 0.9):  # not in the paper: mean square of a step over that of the weights
        step = (1 + momentum) ** 2 + momentum**4 / (1 - momentum**2)
        expected = math.sqrt(2 * decay * (1 - momentum) * step)
        assert predict(SGD, momentum=momentum, nesterov=True, **settings) == pytest.approx(expected, rel=1e-3)
    for b1 in (0.0, 0.5, 0.9):
        expected = math.sqrt(2 * decay * (1 - b1) / (1 + b1))
        assert predict(ADAMW, betas=(b1, 0.999), **settings) == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("betas", [(0.9, 0.99), (0.95, 0.98), (0.9, 0.999)])
def test_one_step_of_lion_turns_almost_as_in_the_paper(betas):
    b1, b2 = betas
    paper = math.sqrt(math.pi * 1e-9) * math.sqrt((1 - b1) ** 2 + b1**2 * (1 - b2) / (1 + b2))
    # The paper takes the part of a sign that is linear in the gradient, so that its weights are a little shorter.
    assert 0.97 * paper < predict(Lion, lr=1e-4, weight_decay=1e-5, betas=betas) < paper


@pytest.mark.parametrize("steps", [1, 2, 3, 100, 10_000])
@pytest.mark.parametrize("decay", ["0.04", "1e-3", "1e-6", "1e-12"])
@pytest.mark.parametrize("kind", [SGD, ADAMW])
def test_autocorrelations_of_many_steps(kind, decay, steps):
    """Compare with the Yule-Walker equations, solved with 60 digits."""
    with localcontext() as context:
        context.prec = 60
        memory, h = Decimal("0.9"), Decimal(decay)
        phi1, phi2 = (1 + memory - h, -memory) if kind is SGD else (memory + 1 - h, -memory * (1 - h))
        rho = [Decimal(1), phi1 / (1 - phi2)]
        while len(rho) <= steps:
            rho.append(phi1 * rho[-1] + phi2 * rho[-2])
        drop = float(1 - rho[steps])
    settings = {"momentum": 0.9} if kind is SGD else {"betas": (0.9, 0.999)}
    angle = predict(kind, steps, lr=1.0, weight_decay=float(decay), **settings)
    assert 2 * math.sin(angle / 2) ** 2 == pytest.approx(drop, rel=1e-9)


@pytest.mark.parametrize("steps", [1, 2, 30, 400])
@pytest.mark.parametrize("settings", [{"dampening": 0.3}, {"nesterov": True}, {"nesterov": True, "momentum": 0.3}])
def test_autocorrelations_from_the_response_to_one_gradient(settings, steps):
    settings = {"lr": 0.5, "weight_decay": 0.02, "momentum": 0.95, **settings}
    step, w, response = sgd(**settings, size=1), np.zeros(1), []
    for count in range(8000):
        w = step(w, np.ones(1) * (count == 0))
        response.append(w[0])
    response = np.array(response)
    rho = response[steps:] @ response[:-steps] / (response @ response)
    assert math.cos(predict(SGD, steps, **settings)) == pytest.approx(rho, abs=1e-12)


@pytest.mark.parametrize("steps", [1, 7, 300])
@pytest.mark.parametrize("betas", [(0.9, 0.99), (0.0, 0.9), (0.99, 0.9)])
def test_autocorrelations_of_signs(betas, steps):
    b1, b2 = betas
    weights = np.concatenate([[1 - b1], b1 * (1 - b2) * b2 ** np.arange(4000)])  # of the gradients in one update
    r = [weights[j:] @ weights[: len(weights) - j] / (weights @ weights) for j in range(3000)]
    signs = 2 / math.pi * np.arcsin(np.minimum(r, 1))
    d = 0.999
    sums = [sum(signs[abs(m)] * d ** abs(k - m) for m in range(-2999, 3000)) for k in (0, steps)]
    assert math.cos(predict(Lion, steps, lr=0.01, weight_decay=0.1, betas=betas)) == pytest.approx(sums[1] / sums[0])


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        (SGD, {"weight_decay": 0}),
        (SGD, {"weight_decay": 0.1, "momentum": 1.0}),  # the buffer never forgets
        (SGD, {"weight_decay": 50.0, "momentum": 0.5}),  # weights diverge
        (ADAMW, {"weight_decay": 0}),
        (ADAMW, {"amsgrad": True}),
        (torch.optim.Adam, {"weight_decay": 0.1}),
        (torch.optim.NAdam, {"weight_decay": 0.1, "decoupled_weight_decay": True}),
        (torch.optim.RAdam, {"weight_decay": 0.1, "decoupled_weight_decay": True}),
        (torch.optim.RMSprop, {"weight_decay": 0.1}),
        (Lion, {"weight_decay": 0}),
        (Lion, {"weight_decay": 0.1, "caution": True}),
        (Lion, {"weight_decay": 0.1, "corrected_weight_decay": True}),
    ],
)
def test_unknown_equilibria_are_nan(kind, settings):
    assert math.isnan(predict(kind, **settings))


def test_nothing_is_predicted_without_steps_or_for_other_settings_under_a_known_name():
    assert math.isnan(predict(ADAMW, steps=0))
    optimizer = SGD([Parameter(torch.ones(2))], lr=0.1, momentum=0.9, weight_decay=0.1)
    group = optimizer.param_groups[0]
    assert math.isnan(predicted_rotation(optimizer, {**group, "decoupled_weight_decay": True}, 1, 0.1))
    assert math.isnan(predicted_rotation(optimizer, {"lr": 0.1, "weight_decay": 0.1}, 1, 0.1))
    lion = Lion([Parameter(torch.ones(2))], weight_decay=0.1)
    lion.decoupled_wd = True  # lion-pytorch's option
    assert math.isnan(predicted_rotation(lion, lion.param_groups[0], 1, 0.1))


def test_settings_that_do_not_matter():
    class Mine(torch.optim.AdamW):
        pass

    plain = predict(ADAMW, weight_decay=0.1)
    assert plain > 0
    assert predict(Mine, weight_decay=0.1) == plain
    assert predict(ADAMW, weight_decay=0.1, maximize=True) == plain
    assert predict(ADAMW, weight_decay=0.1, fused=True) == plain
    assert predict(SGD, weight_decay=0.1, dampening=0.5) == predict(SGD, weight_decay=0.1)
    assert predict(SGD, weight_decay=0.1, maximize=True) == predict(SGD, weight_decay=0.1)
    if "decoupled_weight_decay" in ADAMW([Parameter(torch.ones(1))]).param_groups[0]:  # since PyTorch 2.7
        assert predict(torch.optim.Adam, weight_decay=0.1, decoupled_weight_decay=True) == plain


def two_groups(rates=(0.1, 0.2), **settings):
    weights = [Parameter(torch.ones(2)) for _ in rates]
    groups = [{"params": [weight], "lr": rate} for weight, rate in zip(weights, rates, strict=True)]
    return weights, SGD(groups, **{"weight_decay": 0.01, "momentum": 0.9, **settings})


def step(forecast, optimizer, rates):
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
    forecast.note(optimizer)


def test_forecast_takes_the_mean_learning_rate_of_each_group():
    weights, optimizer = two_groups()
    forecast = EquilibriumForecast([optimizer])
    assert math.isnan(forecast.of(weights[:1]))  # no step yet
    for first, second in ((0.1, 0.3), (0.3, 0.3), (0.2, 0.0)):
        step(forecast, optimizer, (first, second))
    assert forecast.of(weights[:1]) == pytest.approx(predict(SGD, 3, lr=0.2, momentum=0.9, weight_decay=0.01))
    assert forecast.of(weights) == pytest.approx(forecast.of(weights[:1]))  # both have the mean 0.2
    step(forecast, optimizer, (0.2, 1.0))
    assert math.isnan(forecast.of(weights))
    assert math.isnan(forecast.of([weights[0], Parameter(torch.ones(2))]))
    assert math.isnan(forecast.of([]))
    forecast.restart()
    step(forecast, optimizer, (0.4, 0.4))
    assert forecast.of(weights) == pytest.approx(predict(SGD, 1, lr=0.4, momentum=0.9, weight_decay=0.01))


def test_forecast_takes_learning_rates_that_are_tensors():
    weight = Parameter(torch.ones(2))
    rate = torch.tensor(0.25)
    optimizer = ADAMW([weight], lr=rate, weight_decay=0.1)
    forecast = EquilibriumForecast([optimizer])
    forecast.note(optimizer)
    rate.fill_(0.75)  # as schedulers do
    forecast.note(optimizer)
    assert forecast.of([weight]) == pytest.approx(predict(ADAMW, 2, lr=0.5, weight_decay=0.1))
    assert optimizer.param_groups[0]["lr"] is rate
    json.dumps(forecast.state_dict())


def test_each_optimizer_has_steps_of_its_own():
    (first, second), (one, other) = zip(*[two_groups(rates=(0.1,)) for _ in range(2)], strict=True)
    forecast = EquilibriumForecast([one, other])
    for _ in range(6):
        step(forecast, one, [0.1])
    step(forecast, other, [0.1])
    step(forecast, two_groups()[1], [0.1, 0.1])  # unknown to the forecast
    assert forecast.of(first) == pytest.approx(predict(SGD, 6, momentum=0.9, weight_decay=0.01))
    assert forecast.of(second) == pytest.approx(predict(SGD, 1, momentum=0.9, weight_decay=0.01))
    other.add_param_group({"params": first})
    step(forecast, other, [0.1, 0.1])
    assert math.isnan(forecast.of(first))  # two optimizers move it
    assert forecast.of(second) == pytest.approx(predict(SGD, 2, momentum=0.9, weight_decay=0.01))


def test_groups_that_are_added_later_count_their_own_steps():
    weights, optimizer = two_groups()
    forecast = EquilibriumForecast([optimizer])
    step(forecast, optimizer, (0.1, 0.1))
    late = Parameter(torch.ones(2))
    optimizer.add_param_group({"params": [late], "lr": 0.1})
    assert math.isnan(forecast.of([late]))
    step(forecast, optimizer, (0.1, 0.1, 0.1))
    assert forecast.of([late]) == pytest.approx(predict(SGD, 1, momentum=0.9, weight_decay=0.01))
    assert forecast.of(weights) == pytest.approx(predict(SGD, 2, momentum=0.9, weight_decay=0.01))


def test_an_interval_continues_after_a_resume():
    weights, optimizer = two_groups()
    forecast = EquilibriumForecast([optimizer])
    for _ in range(3):
        step(forecast, optimizer, (0.1, 0.3))
    state = json.loads(json.dumps(forecast.state_dict()))
    weights, optimizer = two_groups()
    forecast = EquilibriumForecast([optimizer])
    forecast.load_state_dict(state)
    step(forecast, optimizer, (0.5, 0.3))
    for weight, rate in zip(weights, (0.2, 0.3), strict=True):
        assert forecast.of([weight]) == pytest.approx(predict(SGD, 4, lr=rate, momentum=0.9, weight_decay=0.01))


def test_an_interval_is_unknown_if_the_groups_are_others_after_a_resume():
    _, optimizer = two_groups()
    forecast = EquilibriumForecast([optimizer])
    step(forecast, optimizer, (0.1, 0.1))
    weights, optimizer = two_groups(rates=(0.1,))
    other = EquilibriumForecast([optimizer])
    other.load_state_dict(forecast.state_dict())
    step(other, optimizer, [0.1])
    assert math.isnan(other.of(weights))
    other.restart()
    step(other, optimizer, [0.1])
    assert other.of(weights) > 0


def adamw_angle(decay, steps):
    """The recursion of AdamW's autocorrelation, for its default betas."""
    root = 1 - decay
    rho = [1, (root + 0.9) / (1 + 0.9 * root)]
    for _ in range(steps - 1):
        rho.append((root + 0.9) * rho[-1] - 0.9 * root * rho[-2])
    return math.acos(rho[steps])


@pytest.mark.integration
def test_a_run_records_rotation_over_prediction(tmp_path):
    class Decaying(Net):
        def configure_optimizers(self):
            optimizer = torch.optim.AdamW(self.parameters(), lr=0.01, weight_decay=0.5)
            return [optimizer], [torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)]

    callback = RWCCallback(measures=["rotation", "equilibrium"])
    saver = ModelCheckpoint(tmp_path, every_n_train_steps=12, filename="{step}", save_top_k=-1)
    logger = TensorBoardLogger(tmp_path, "logs")
    fit = trainer(callback, saver, tmp_path=tmp_path, enable_checkpointing=True, logger=logger)
    fit.fit(net(Decaying), images())
    # The learning rate of each epoch of six steps.
    expected = [adamw_angle(0.01 * 0.5**epoch * 0.5, 6) for epoch in range(3)]
    rotations = callback.histories["rotation"].values
    np.testing.assert_allclose(
        callback.histories["equilibrium"].values, rotations / np.array(expected)[:, None], rtol=1e-6
    )

    logged = [point.value for point in events(logger.log_dir).Scalars("rwc_equilibrium/fc")]
    np.testing.assert_allclose(logged, callback.histories["equilibrium"].values[:, -1], rtol=1e-6)

    resumed = RWCCallback(measures=["rotation", "equilibrium"])
    trainer(resumed, tmp_path=tmp_path).fit(net(Decaying), images(), ckpt_path=tmp_path / "step=12.ckpt")
    np.testing.assert_array_equal(resumed.histories["equilibrium"].values, callback.histories["equilibrium"].values)


def test_equilibrium_is_unknown_without_decay_and_from_the_initial_weights(tmp_path):
    callback = RWCCallback(measures=["equilibrium"])
    trainer(callback, tmp_path=tmp_path, max_epochs=1).fit(net(), images())
    assert [*callback.histories] == ["rwc", "equilibrium"]
    assert np.isnan(callback.histories["equilibrium"].values).all()
    with pytest.raises(ValueError, match=r"`measures` has 'equilibrium', .* but `relative_to='initial'`"):
        RWCCallback(measures=["equilibrium"], relative_to="initial")


def test_pictures_show_the_prediction(tmp_path):
    class Decaying(Net):
        def configure_optimizers(self):
            groups = [{"params": self.fc.parameters(), "lr": 0.01}, {"params": self.block.parameters()}]
            return torch.optim.AdamW([*groups, {"params": self.conv1.parameters()}], lr=0.001, weight_decay=0.5)

    callback = RWCCallback(measures=["rotation", "equilibrium"])
    fit = trainer(callback, tmp_path=tmp_path, logger=CSVLogger(tmp_path))
    fit.fit(net(Decaying), images())
    tables = callback._recorder.measures
    expected = tables.expected(callback.histories["rotation"])
    found = callback.histories["rotation"].plot_curves(quantity_of("rotation"), expected)
    dashed = [line for line in found.axes[0].get_lines() if line.get_linestyle() == "--"]
    # Two learning rates make two lines.
    heights = sorted(float(line.get_ydata()[-1]) for line in dashed)
    np.testing.assert_allclose(heights, [adamw_angle(rate * 0.5, 6) for rate in (0.001, 0.01)], rtol=1e-5)
    (one,) = (
        line
        for line in callback.histories["equilibrium"]
        .plot_curves(EQUILIBRIUM.quantity, tables.expected(callback.histories["equilibrium"]))
        .axes[0]
        .get_lines()
        if line.get_linestyle() == "--"
    )
    np.testing.assert_allclose(one.get_ydata(), 1)
    assert tables.expected(callback.history) is None


class Odd(torch.optim.AdamW):
    """Somebody's optimizer: of three betas, or with groups that have no learning rate."""

    def __init__(self, parameters, lr=0.1, rates=True):
        super().__init__(parameters, lr=lr, weight_decay=0.1)
        for group in self.param_groups:
            group["betas"] = (0.9, 0.99, 0.999)
            if not rates:
                del group["lr"]

    def step(self, closure=None):
        return closure()


@pytest.mark.parametrize("rates", [True, False])
def test_an_optimizer_of_another_kind_has_no_prediction_and_does_no_harm(tmp_path, rates):
    class Model(Net):
        def configure_optimizers(self):
            return Odd(self.parameters(), rates=rates)

    callback = RWCCallback(measures=["equilibrium"])
    trainer(callback, tmp_path=tmp_path, max_epochs=2).fit(net(Model), images())
    assert callback.history.values.tolist() == [[0.0] * 3] * 2
    assert np.isnan(callback.histories["equilibrium"].values).all()


def test_groups_that_go_leave_nothing_to_predict():
    weights = [Parameter(torch.ones(2)) for _ in range(2)]
    optimizer = torch.optim.AdamW([{"params": [weight]} for weight in weights], lr=0.1, weight_decay=0.1)
    forecast = EquilibriumForecast([optimizer])
    forecast.note(optimizer)
    del optimizer.param_groups[0]
    forecast.note(optimizer)
    assert all(math.isnan(forecast.of([weight])) for weight in weights)
    forecast.restart()
    forecast.note(optimizer)
    assert forecast.of([weights[1]]) == pytest.approx(adamw_angle(0.01, 1))


def test_a_second_fit_follows_its_own_optimizers(tmp_path):
    class Decaying(Net):
        def configure_optimizers(self):
            return torch.optim.AdamW(self.parameters(), lr=0.01, weight_decay=0.5)

    callback = RWCCallback(measures=["rotation", "equilibrium"])
    fit = trainer(callback, tmp_path=tmp_path, max_epochs=1)
    module = net(Decaying)
    fit.fit(module, images())
    fit.fit_loop.max_epochs = 2
    fit.fit(module, images())
    rotations, ratios = (callback.histories[name].values for name in ("rotation", "equilibrium"))
    assert len(ratios) == 2
    np.testing.assert_allclose(ratios, rotations / adamw_angle(0.005, 6), rtol=1e-6)


def test_one_line_for_layers_alike_beside_a_failed_measurement():
    history = RWCHistory(["a", "b"], range(3), range(3), [[0.1, 0.2], [math.nan] * 2, [0.1, 0.2]])
    expected = np.array([[0.3, 0.3], [math.nan] * 2, [0.3, 0.3]])
    lines = history.plot_curves(quantity_of("rotation"), expected).axes[0].get_lines()
    (dashed,) = [line for line in lines if line.get_linestyle() == "--"]
    np.testing.assert_allclose(dashed.get_ydata(), expected[:, 0], rtol=1e-6)
