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
from torch.nn.utils import parametrizations, prune

from lightning_rwc import RelativeWeightChange, RWCCallback
from lightning_rwc.layers import LayerSelection
from lightning_rwc.measure_tables import MeasureTables
from lightning_rwc.measures import AdapterChange, LayerFluctuation, Measure, NodeStrength
from lightning_rwc.node_strengths import node_strengths
from lightning_rwc.quantity import Quantity
from tests.helpers import LAYERS, Recorder, events, images, net, trainer
from tests.oracle import numpy_strengths

EVERYTHING = ("strength", "fluctuation")


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


def test_strengths_are_undefined_where_the_next_weight_has_other_inputs():
    # Fused queries, keys and values, of a width that 3 divides and of one that it does not; a concatenation; what only
    # a convolution could reshape. An imaginary weight makes the one before it undefined too.
    for pair in [((36, 12), (12, 12)), ((48, 16), (16, 16)), ((3, 2, 1, 1), (5, 6, 1, 1)), ((4, 3), (5, 8))]:
        first, last = (torch.randn(shape) for shape in pair)
        found = node_strengths([first, last])
        assert found[0].shape == (len(first),)
        assert found[0].isnan().all()
        np.testing.assert_allclose(found[1], last.flatten(1).sum(1), rtol=1e-4, atol=1e-6)
    assert all(found.isnan().all() for found in node_strengths([torch.randn(1, 2), torch.randn(3, 1) * 1j]))


def test_vectors_are_a_unit_an_element_and_stand_in_no_chain():
    first, vector, number, last = torch.randn(4, 2), torch.randn(4), torch.randn(()), torch.randn(3, 4)
    for found, values in zip(
        node_strengths([first, vector, number, last]),
        [first.sum(1) + last.sum(0), vector, number.reshape(1), last.sum(1)],
        strict=True,
    ):
        np.testing.assert_allclose(found, values, rtol=1e-5, atol=1e-6)


class Conv1D(nn.Module):
    """Stands for the class of this name in Hugging Face's transformers, a linear layer of weights (inputs, outputs)."""

    __module__ = "transformers.pytorch_utils"

    def __init__(self, outputs, inputs):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(inputs, outputs))


def strengths_in(model):
    """The strengths of every unit, by layer; also as the measures sum them up, through what the callback gives them."""
    layers = RelativeWeightChange(model).tracked(model)
    parameters = {name: parameter for group in layers.values() for name, parameter in group.items()}
    found = node_strengths([*parameters.values()], [layers.modules.get(name) for name in parameters])
    by_layer = dict(zip(layers, found, strict=True))
    means, spreads = NodeStrength()(layers), LayerFluctuation()(layers)
    for layer, strengths in by_layer.items():
        np.testing.assert_allclose(means[layer], np.mean(strengths.numpy()), rtol=1e-9)
        np.testing.assert_allclose(spreads[layer], np.std(strengths.numpy()), rtol=1e-9)
    return by_layer


def assert_chain(model, dense):
    """The strengths of ``model`` are those of a chain of ``dense`` matrices (outputs, inputs)."""
    for found, values in zip(strengths_in(model).values(), numpy_strengths(dense), strict=True):
        np.testing.assert_allclose(found, values, rtol=1e-5, atol=1e-5)


def dense(convolution):
    """A convolution's kernel sums as a matrix (outputs, inputs), from what it makes of ones at one input channel."""
    size = max(convolution.kernel_size)
    columns = []
    for channel in range(convolution.in_channels):
        image = torch.zeros(1, convolution.in_channels, size, size)
        image[0, channel] = 1
        if not convolution.transposed:
            columns.append(nn.functional.conv2d(image, convolution.weight, groups=convolution.groups)[0, :, 0, 0])
        else:
            # A single pixel leaves the whole kernel behind.
            image = image[..., :1, :1]
            spread = nn.functional.conv_transpose2d(image, convolution.weight, groups=convolution.groups)
            columns.append(spread[0].sum((1, 2)))
    return torch.stack(columns, 1).detach().double().numpy()


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_strengths_around_a_transposed_convolution(groups):
    transposed = nn.ConvTranspose2d(4, 12, 3, groups=groups)
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3), transposed, nn.Conv2d(12, 4, 3, groups=groups), nn.ConvTranspose2d(4, 4, 3)
    )
    assert_chain(model, [dense(layer) for layer in model])


def test_strengths_of_huggingface_conv1d_and_of_embeddings():
    model = nn.Sequential(nn.Embedding(9, 4), Conv1D(8, 4), Conv1D(4, 8), nn.Linear(4, 4))
    table, up, down, head = (layer.weight.detach().double().numpy() for layer in model)
    assert_chain(model, [table.T, up.T, down.T, head])
    # A table of positions is as large as the one of words is wide, and does not follow it.
    assert strengths_in(nn.Sequential(nn.Embedding(9, 4), nn.Embedding(4, 4)))["0"].isnan().all()


@pytest.mark.parametrize("width", [12, 16])
def test_strengths_around_attention(width):
    model = nn.Sequential(
        nn.Linear(5, width), nn.MultiheadAttention(width, 2), nn.Linear(width, 3 * width), nn.Linear(width, width)
    )
    found = strengths_in(model)
    assert list(found) == ["0", "1", "1.out_proj", "2", "3"]
    assert all(found[layer].isnan().all() for layer in ("0", "1", "2"))
    into, out = model[1].out_proj.weight.detach(), model[2].weight.detach()
    np.testing.assert_allclose(found["1.out_proj"], into.sum(1) + out.sum(0), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found["3"], model[3].weight.detach().sum(1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("names", [("query", "key", "value"), ("q_proj", "k_proj", "v_proj"), ("to_q", "to_k", "to_v")])
def test_projections_side_by_side_are_no_chain(names):
    projections = nn.ModuleDict({name: nn.Linear(4, 4) for name in names})
    adapted = nn.ModuleDict({"base_layer": nn.Linear(4, 4), "lora_A": nn.ModuleDict({"default": nn.Linear(4, 4)})})
    model = nn.ModuleDict({"stem": nn.Linear(4, 4), "attn": projections, "out": nn.Linear(4, 4), "adapted": adapted})
    means = NodeStrength()(LayerSelection().find(model))
    assert len(means) == 7
    assert all(value.isnan() for value in means.values())
    del model["adapted"]
    assert NodeStrength()(LayerSelection().find(model))["out"].item() == pytest.approx(
        model["out"].weight.sum().item() / 4, rel=1e-5
    )


@pytest.mark.parametrize(
    "recurrent", [nn.LSTM(4, 4), nn.GRU(4, 1), nn.RNNCell(4, 4), nn.LSTM(4, 4, bidirectional=True)]
)
def test_strengths_around_recurrent_layers(recurrent):
    model = nn.Sequential(nn.Linear(3, 4), recurrent, nn.Linear(4, 2))
    *before, last = strengths_in(model).values()
    assert len(before) >= 3
    assert all(strengths.isnan().all() for strengths in before)
    np.testing.assert_allclose(last, model[2].weight.detach().sum(1), rtol=1e-5, atol=1e-6)


def test_strengths_are_undefined_for_what_no_module_multiplies_by_as_it_stands():
    masked, scaled = nn.Linear(4, 4), nn.Linear(4, 4)
    prune.l1_unstructured(masked, "weight", 0.5)
    parametrizations.weight_norm(scaled)
    bare = nn.Module()
    bare.weight, bare.table = nn.Parameter(torch.randn(4, 4)), nn.Parameter(torch.randn(4, 4))
    for odd in (masked, scaled, bare, nn.Bilinear(4, 4, 4)):
        *undefined, last = strengths_in(nn.Sequential(nn.Linear(4, 4), odd, nn.Linear(4, 4))).values()
        assert all(strengths.isnan().all() for strengths in undefined)
        assert last.isfinite().all()


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
    assert list(callback.histories) == ["rwc", *EVERYTHING, "largest"]
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
            scalars = log.Scalars(f"rwc_{name}/{layer}")
            assert [event.step for event in scalars] == callback.history.steps
            np.testing.assert_allclose([event.value for event in scalars], curve, rtol=1e-6)
            assert fit.callback_metrics[f"rwc_{name}/{layer}"].item() == pytest.approx(curve[-1], rel=1e-6)
    prefixes = ("rwc", "rwc_strength", "rwc_fluctuation", "rwc_largest")
    pictures = {f"{prefix}/{kind}" for prefix in prefixes for kind in ("heatmap", "curves")}
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
    callback = RWCCallback(measures=["strength"])
    trainer(callback, tmp_path=tmp_path).fit(net(), images(), ckpt_path=tmp_path / "epoch=1.ckpt")
    assert callback.histories["strength"].epochs == [2]
    assert callback.history.epochs == [0, 1, 2]


def test_a_measure_that_fails_warns_once_and_training_goes_on(tmp_path):
    callback = RWCCallback(measures=(Broken(), "strength"))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer(callback, tmp_path=tmp_path).fit(net(), images())
    assert sum("measure 'broken' failed with ZeroDivisionError: not today" in str(w.message) for w in caught) == 1
    assert np.isnan(callback.histories["broken"].values).all()
    assert callback.histories["broken"].values.shape == callback.history.values.shape
    assert np.isfinite(callback.histories["strength"].values).all()


def named(name):
    measure = NodeStrength()
    measure.name = name
    return measure


@pytest.mark.parametrize(
    ("measures", "error", "message"),
    [
        ("strength", TypeError, "sequence of names"),
        (("strength", 3), TypeError, "sequence of names"),
        (("strenght",), ValueError, "'strenght'.*'strength', 'fluctuation'"),
        (("rwc", "strength"), ValueError, "'rwc'.*always measured: leave it out"),
        (("strength", NodeStrength()), ValueError, "different names"),
        ((named("rwc"),), ValueError, "not 'rwc'"),
        ((named(" "),), ValueError, "not blank"),
    ],
)
def test_bad_measures_are_refused_at_construction(measures, error, message):
    with pytest.raises(error, match=message):
        RWCCallback(measures=measures)
    with pytest.raises(error, match=message):
        MeasureTables(measures)


def test_two_callbacks_can_have_one_measure(tmp_path):
    pair = RWCCallback(measures=["strength"]), RWCCallback(prefix="l2", norm="l2", measures=["strength"])
    fit = trainer(*pair, tmp_path=tmp_path)
    fit.fit(net(), images())
    assert {"rwc_strength/fc", "l2_strength/fc"} <= set(fit.callback_metrics)
    np.testing.assert_array_equal(pair[0].histories["strength"].values, pair[1].histories["strength"].values)


def test_a_measure_cannot_take_the_tags_of_another_callback(tmp_path):
    pair = RWCCallback(measures=["strength"]), RWCCallback(prefix="rwc_strength")
    with pytest.raises(ValueError, match="tags that start with 'rwc_strength'"):
        trainer(*pair, tmp_path=tmp_path).fit(net(), images())


@pytest.mark.parametrize("odd", [torch.ones(1), torch.tensor(1j)])
def test_a_measure_that_gives_no_numbers_is_nan(odd, tmp_path):
    class Odd(Measure):
        name, quantity = "odd", Quantity("odd")

        def __call__(self, layers):
            return dict.fromkeys(layers, odd)

    callback = RWCCallback(measures=[Odd()])
    with pytest.warns(UserWarning, match="measure 'odd' failed with TypeError") as caught:
        trainer(callback, tmp_path=tmp_path).fit(net(), images())
    assert len([w for w in caught if "odd" in str(w.message)]) == 1
    assert np.isnan(callback.histories["odd"].values).all()
    assert (callback.history.values > 0).all()


class Adapted(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = torch.nn.Embedding(10, 6)
        self.conv = torch.nn.Conv2d(1, 4, 3)
        self.fc = torch.nn.Linear(6, 5)


def adapted(**options):
    peft = pytest.importorskip("peft", reason="peft makes the adapters")
    torch.manual_seed(0)
    config = peft.LoraConfig(r=2, lora_alpha=3, target_modules=["embed", "conv", "fc"], **options)
    model = peft.get_peft_model(Adapted(), config)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter)
    return model


def base_name(layer):
    return f"base_model.model.{layer}.base_layer"


def test_what_adapters_add_is_the_norm_of_their_product_over_that_of_the_base():
    model = adapted(use_rslora=True)
    values = AdapterChange()(LayerSelection().find(model))
    assert {*values} == {base_name(layer) for layer in ("embed", "conv", "fc")}
    for layer in ("embed", "conv", "fc"):
        module = model.get_submodule(f"base_model.model.{layer}")
        if layer == "embed":
            first, second = module.lora_embedding_A["default"], module.lora_embedding_B["default"]
        else:
            first, second = module.lora_A["default"].weight, module.lora_B["default"].weight
        first, second, weight = (
            t.detach().double().numpy().reshape(len(t), -1) for t in (first, second, module.base_layer.weight)
        )
        expected = np.linalg.norm(3 / np.sqrt(2) * second @ first) / np.linalg.norm(weight)
        assert values[base_name(layer)].item() == pytest.approx(expected, rel=1e-6)


def test_a_layer_of_several_adapted_matrices_adds_their_squares():
    model = adapted()
    found = AdapterChange()(LayerSelection().find(model))
    added, sizes = 0.0, 0.0
    for layer in ("embed", "conv", "fc"):
        size = np.square(model.get_submodule(base_name(layer)).weight.detach().double().numpy()).sum()
        added += found[base_name(layer)].item() ** 2 * size
        sizes += size
    (value,) = AdapterChange()(LayerSelection(group_by=1).find(model)).values()
    assert value.item() == pytest.approx(np.sqrt(added / sizes), rel=1e-6)


def test_adapters_that_are_merged_or_disabled_have_no_value():
    model = adapted()
    model.merge_adapter()
    assert AdapterChange()(LayerSelection().find(model)) == {}
    model.unmerge_adapter()
    with model.disable_adapter():
        assert AdapterChange()(LayerSelection().find(model)) == {}
    assert len(AdapterChange()(LayerSelection().find(model))) == 3


def test_active_adapters_add_up():
    model = adapted()
    model.add_adapter("other", model.peft_config["default"])
    for name, parameter in model.named_parameters():
        if ".other" in name:
            torch.nn.init.normal_(parameter)
    model.base_model.set_adapter(["default", "other"])
    fc = model.get_submodule("base_model.model.fc")
    with torch.no_grad():
        product = sum(3 / 2 * fc.lora_B[name].weight @ fc.lora_A[name].weight for name in ("default", "other"))
    weight = fc.base_layer.weight.detach()
    expected = np.linalg.norm(product.double().numpy()) / np.linalg.norm(weight.double().numpy())
    assert AdapterChange()(LayerSelection().find(model))[base_name("fc")].item() == pytest.approx(expected, rel=1e-6)
    model.base_model.set_adapter("other")
    only_factors = AdapterChange()(LayerSelection("lora_").find(model))
    firsts = ("embed.lora_embedding_A.other", "conv.lora_A.other", "fc.lora_A.other")
    assert {*only_factors} == {f"base_model.model.{first}" for first in firsts}


def test_dora_and_models_without_adapters_have_no_value():
    assert {*AdapterChange()(LayerSelection().find(adapted(use_dora=True)))} == set()
    assert AdapterChange()(LayerSelection().find(Adapted())) == {}
    assert AdapterChange()(LayerSelection().find(Adapted().state_dict())) == {}


def test_what_adapters_add_grows_from_zero(tmp_path):
    peft = pytest.importorskip("peft", reason="peft makes the adapters")
    model = net()
    model = peft.inject_adapter_in_model(peft.LoraConfig(r=2, lora_alpha=2, target_modules=["fc"]), model)
    callback = RWCCallback(measures=["adapter"])
    before = AdapterChange()(LayerSelection().find(model))
    assert [value.item() for value in before.values()] == [0]
    trainer(callback, tmp_path=tmp_path).fit(model, images())
    table = callback.histories["adapter"]
    base = table.layers.index("fc.base_layer")
    assert (table.values[:, base] > 0).all()
    assert np.isnan(np.delete(table.values, base, axis=1)).all()
