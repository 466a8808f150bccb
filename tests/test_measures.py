# SPDX-License-Identifier: Apache-2.0
import math
import warnings

import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from torch import nn
from torch.nn import Parameter

from lightning_rwc import RWCCallback
from lightning_rwc.measures import LayerFluctuation, Measure, MeasureTables, NodeStrength, node_strengths
from lightning_rwc.quantity import Quantity
from tests.helpers import LAYERS, Recorder, events, images, net, trainer
from tests.oracle import numpy_strengths

EVERYTHING = ("rwc", "strength", "fluctuation")


class LargestWeight(Measure):
    """What a user might add."""

    name = "largest"
    quantity = Quantity("largest absolute weight")

    def __call__(self, layers):
        return {layer: max(p.abs().max() for p in group.values()) for layer, group in layers.items()}


class Broken(LargestWeight):
    name = "broken"

    def __call__(self, layers):
        raise ZeroDivisionError("not today")


def weights_of(model):
    return [parameter.detach() for parameter in model.parameters() if parameter.ndim >= 2]


def assert_strengths(model, expected):
    for found, values in zip(node_strengths(weights_of(model)), expected, strict=True):
        np.testing.assert_allclose(found, np.asarray(values), rtol=1e-6, atol=1e-6)


def test_strengths_of_dense_layers():
    model = nn.Sequential(nn.Linear(5, 4), nn.Linear(4, 3), nn.Linear(3, 2))
    assert_strengths(model, numpy_strengths([weight.numpy() for weight in weights_of(model)]))


def test_strengths_of_convolutions_and_of_a_linear_layer_behind_flattened_channels():
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.Conv2d(3, 4, 5), nn.Flatten(), nn.Linear(4 * 6, 2))
    first, second, linear = (weight.numpy().astype(np.float64) for weight in weights_of(model))
    expected = [
        [first[c].sum() + second[:, c].sum() for c in range(3)],
        [second[c].sum() + linear[:, 6 * c : 6 * c + 6].sum() for c in range(4)],
        linear.sum(1),
    ]
    assert_strengths(model, expected)


@pytest.mark.parametrize(("groups", "outputs"), [(6, 6), (3, 6), (6, 12), (2, 4)])
def test_strengths_before_a_convolution_in_groups(groups, outputs):
    model = nn.Sequential(nn.Conv2d(1, 6, 3), nn.Conv2d(6, outputs, 3, groups=groups))
    # A convolution in groups is one whose other weights are zero.
    whole = np.zeros((outputs, 6, 3, 3))
    for unit, kernel in enumerate(model[1].weight.detach().numpy()):
        first = unit // (outputs // groups) * (6 // groups)
        whole[unit, first : first + 6 // groups] = kernel
    expected = model[0].weight.detach().numpy().sum((1, 2, 3)) + whole.sum((0, 2, 3))
    assert_strengths(model, [expected, whole.sum((1, 2, 3))])


def test_layers_that_do_not_fit_have_incoming_weights_only():
    weights = [torch.randn(5, 2), torch.randn(3, 7), torch.randn(4), torch.randn(()), torch.randn(1, 1) * 1j]
    nothing = torch.full((1,), math.nan)
    expected = [weights[0].sum(1), weights[1].sum(1), weights[2], weights[3].reshape(1), nothing]
    for found, values in zip(node_strengths(weights), expected, strict=True):
        np.testing.assert_allclose(found, values, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_measures_of_a_group_of_parameters(dtype):
    weights = [torch.randn(40, 30), torch.randn(20, 40), torch.randn(10, 20)]
    names = ["a", "b", "c"]
    parameters = {name: Parameter(weight.to(dtype)) for name, weight in zip(names, weights, strict=True)}
    layers = {"first": {"a": parameters["a"], "b": parameters["b"]}, "last": {"c": parameters["c"]}}
    a, b, c = numpy_strengths([parameters[name].detach().double().numpy() for name in names])
    for layer, strengths in (("first", [*a, *b]), ("last", c)):
        mean = sum(strengths) / len(strengths)
        spread = math.sqrt(sum((s - mean) ** 2 for s in strengths) / len(strengths))
        assert NodeStrength()(layers)[layer].item() == pytest.approx(mean, rel=1e-9)
        assert LayerFluctuation()(layers)[layer].item() == pytest.approx(spread, rel=1e-9)


def test_tables_tags_and_pictures_of_a_run(tmp_path):
    callback, recorder = RWCCallback(measures=(*EVERYTHING, LargestWeight())), Recorder()
    logger = TensorBoardLogger(tmp_path)
    fit = trainer(callback, recorder, tmp_path=tmp_path, logger=logger)
    fit.fit(net(), images())
    assert list(callback.histories) == [*EVERYTHING, "largest"]
    assert callback.histories["rwc"] is callback.history
    log = events(logger.log_dir)
    expected = {name: np.empty((3, 3)) for name in callback.histories}
    for epoch, state in enumerate(recorder.epochs):
        conv1, conv2, fc = (state[f"{layer}.weight"].double().numpy() for layer in LAYERS)
        # Sums over kernels, and over the 16 pixels of each flattened channel, make a chain of matrices.
        chain = [conv1.sum((2, 3)), conv2.sum((2, 3)), fc.reshape(2, 4, 16).sum(2)]
        strengths = [*numpy_strengths(chain)]
        expected["strength"][epoch] = [np.mean(s) for s in strengths]
        expected["fluctuation"][epoch] = [np.std(s) for s in strengths]
        expected["largest"][epoch] = [np.abs(weight).max() for weight in (conv1, conv2, fc)]
    for name in ("strength", "fluctuation", "largest"):
        table = callback.histories[name]
        assert (table.layers, table.epochs, table.steps) == (LAYERS, callback.history.epochs, callback.history.steps)
        np.testing.assert_allclose(table.values, expected[name], rtol=1e-6)
        for layer, curve in zip(LAYERS, expected[name].T, strict=True):
            scalars = log.Scalars(f"{name}/{layer}")
            assert [event.step for event in scalars] == callback.history.steps
            np.testing.assert_allclose([event.value for event in scalars], curve, rtol=1e-6)
            assert fit.callback_metrics[f"{name}/{layer}"].item() == pytest.approx(curve[-1], rel=1e-6)
    pictures = {f"{prefix}/{kind}" for prefix in callback.histories for kind in ("heatmap", "curves")}
    assert set(log.Tags()["images"]) == pictures


def test_training_is_the_same_and_tables_survive_a_resume(tmp_path):
    recorders, runs = (Recorder(), Recorder()), (RWCCallback(measures=EVERYTHING), RWCCallback(measures=EVERYTHING))
    trainer(recorders[0], tmp_path=tmp_path).fit(net(), images())
    saver = ModelCheckpoint(tmp_path, filename="{epoch}", save_top_k=-1)
    trainer(runs[0], recorders[1], saver, tmp_path=tmp_path, enable_checkpointing=True).fit(net(), images())
    trainer(runs[1], tmp_path=tmp_path).fit(net(), images(), ckpt_path=tmp_path / "epoch=1.ckpt")
    for alone, watched in zip(recorders[0].batches, recorders[1].batches, strict=True):
        assert all(torch.equal(alone[name], watched[name]) for name in alone)
    for name in EVERYTHING:
        np.testing.assert_array_equal(runs[1].histories[name].values, runs[0].histories[name].values)
        assert runs[1].histories[name].epochs == [0, 1, 2]


def test_a_measure_added_at_a_resume_begins_there(tmp_path):
    saver = ModelCheckpoint(tmp_path, filename="{epoch}", save_top_k=-1)
    trainer(RWCCallback(), saver, tmp_path=tmp_path, enable_checkpointing=True).fit(net(), images())
    callback = RWCCallback(measures=("rwc", "strength"))
    trainer(callback, tmp_path=tmp_path).fit(net(), images(), ckpt_path=tmp_path / "epoch=1.ckpt")
    assert callback.histories["strength"].epochs == [2]
    assert callback.history.epochs == [0, 1, 2]


def test_a_measure_that_fails_warns_once_and_training_goes_on(tmp_path):
    callback = RWCCallback(measures=("rwc", Broken(), "strength"))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer(callback, tmp_path=tmp_path).fit(net(), images())
    assert sum("measure 'broken' failed with ZeroDivisionError: not today" in str(w.message) for w in caught) == 1
    assert np.isnan(callback.histories["broken"].values).all()
    assert callback.histories["broken"].values.shape == callback.history.values.shape
    assert np.isfinite(callback.histories["strength"].values).all()


@pytest.mark.parametrize(
    ("measures", "error", "message"),
    [
        ("rwc", TypeError, "sequence of names"),
        (("rwc", 3), TypeError, "sequence of names"),
        (("rwc", "strenght"), ValueError, "'strenght'.*'strength', 'fluctuation'"),
        (("strength",), ValueError, "must contain 'rwc'"),
        (("rwc", "strength", NodeStrength()), ValueError, "names that differ"),
        (("rwc", "rwc"), ValueError, "names that differ"),
    ],
)
def test_bad_measures_are_refused_at_construction(measures, error, message):
    with pytest.raises(error, match=message):
        RWCCallback(measures=measures)
    with pytest.raises(error, match=message):
        MeasureTables(measures)


def test_two_callbacks_cannot_have_one_measure(tmp_path):
    pair = RWCCallback(measures=("rwc", "strength")), RWCCallback(prefix="l2", norm="l2", measures=("rwc", "strength"))
    with pytest.raises(ValueError, match="tags that start with 'strength'"):
        trainer(*pair, tmp_path=tmp_path).fit(net(), images())
