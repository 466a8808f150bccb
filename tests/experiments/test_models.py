# SPDX-License-Identifier: Apache-2.0
import pytest
import torch

from lightning_rwc.experiments.classifier import Classifier, layer_name
from lightning_rwc.experiments.groups import paper_groups
from lightning_rwc.experiments.models import ARCHITECTURES, build
from lightning_rwc.layers import LayerSelection

# Layers that the paper and WeightScale would track: counted from the architectures' papers.
LAYERS = {"alexnet": 5 + 1, "resnet18": 17 + 3 + 1, "resnet50": 49 + 4 + 1, "vgg19_bn": 16 + 1}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize(("channels", "classes"), [(1, 10), (3, 100)])
def test_takes_small_images_and_keeps_them_large(architecture, channels, classes):
    model = build(architecture, channels, classes).eval()
    shapes = []
    for module in model.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.register_forward_hook(lambda module, inputs, output: shapes.append(output.shape[-1]))
    assert model(torch.zeros(2, channels, 32, 32)).shape == (2, classes)
    assert shapes[0] == (8 if architecture == "alexnet" else 32)
    layers = [layer_name(f"network.{name}.weight") for name in LayerSelection().find(model)]
    assert len(layers) == LAYERS.get(architecture, len(layers))


def test_unknown_architecture_is_named():
    with pytest.raises(ValueError, match=r"`architecture` must be one of alexnet.*'resnet19'"):
        Classifier(architecture="resnet19")


def groups(architecture):
    model = build(architecture, 1, 10)
    layers = list(LayerSelection().find(model))
    return paper_groups(architecture, layers), layers, dict(model.named_modules())


def test_groups_of_the_paper():
    for block, layers in groups("resnet18")[0].items():
        assert len(layers) == (4 if block == "block 1" else 5)
    found, layers, modules = groups("vgg19_bn")
    convolutions = [layer for layer in layers if isinstance(modules[layer], torch.nn.Conv2d)]
    assert found == {"early": convolutions[:4], "middle": convolutions[4:11], "later": convolutions[11:]}
    found, layers, modules = groups("alexnet")
    convolutions = [layer for layer in layers if isinstance(modules[layer], torch.nn.Conv2d)]
    assert found == {"early": convolutions[:1], "middle": convolutions[1:3], "later": convolutions[3:]}


def test_other_architectures_are_cut_into_three():
    found = paper_groups("xception", list("abcdefgh"))
    assert found == {"early": list("abc"), "middle": list("de"), "later": list("fgh")}
