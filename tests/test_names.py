# SPDX-License-Identifier: Apache-2.0
import pytest
import torchvision

from lightning_rwc.layers import LayerSelection
from lightning_rwc.names import blocks, shared_prefix, shortened, shown


@pytest.mark.parametrize("model", ["vit_b_16", "resnet50", "efficientnet_b0", "swin_t", "densenet121"])
def test_no_two_layers_of_a_model_look_alike(model):
    layers = [*LayerSelection().find(getattr(torchvision.models, model)())]
    names = shown([f"trainer.module.wrapped.net.{layer}" for layer in layers])
    assert len({*names}) == len(names)
    assert max(map(len, names)) <= 48
    assert all(name.split(".")[-1] == layer.split(".")[-1] for name, layer in zip(names, layers, strict=True))


def test_names_that_would_become_equal_get_numbers():
    names = [f"a{'x' * 60}{middle}{'y' * 60}" for middle in "bc"]
    assert [name[-2:] for name in shown(["fc", *names])] == ["fc", "#1", "#2"]
    assert max(map(len, shown(names))) <= 48
    assert shown([]) == []
    assert shown(["net.fc"]) == ["net.fc"]


def test_the_last_part_of_a_name_is_never_shared():
    assert shared_prefix(["a.b", "a.b.c"]) == "a."
    assert shown(["a.b", "a.b.c"]) == ["b", "b.c"]
    assert shown(["a", "a.b"]) == ["a", "a.b"]


def test_what_cannot_be_drawn_is_replaced():
    assert shortened("a\n.\x00b") == "a\N{REPLACEMENT CHARACTER}.\N{REPLACEMENT CHARACTER}b"


def test_blocks_of_well_known_models():
    layers = [*LayerSelection().find(torchvision.models.resnet18())]
    expected = ["conv1", *(f"layer{stage}.{block}" for stage in (1, 2, 3, 4) for block in (0, 1)), "fc"]
    assert [*dict.fromkeys(blocks(layers))] == expected
    layers = [f"net.{layer}" for layer in LayerSelection().find(torchvision.models.vit_b_16())]
    expected = ["conv_proj", "encoder", *(f"encoder.layers.encoder_layer_{i}" for i in range(12)), "heads"]
    assert [*dict.fromkeys(blocks(layers))] == [f"net.{block}" for block in expected]
