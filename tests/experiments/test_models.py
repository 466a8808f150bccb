# SPDX-License-Identifier: Apache-2.0
import pytest
import torch

from lightning_rwc.experiments.classifier import Classifier, layer_name
from lightning_rwc.experiments.groups import paper_groups
from lightning_rwc.experiments.models import ARCHITECTURES, build, check_like
from lightning_rwc.layers import LayerSelection

# Layers that the paper and WeightScale would track: counted from the architectures' papers.
LAYERS = {
    ("alexnet", "authors"): 5 + 3,
    ("alexnet", "modern"): 5 + 1,
    ("resnet18", "authors"): 17 + 3 + 1,
    ("resnet18", "modern"): 17 + 3 + 1,
    ("resnet50", "modern"): 49 + 4 + 1,
    ("vgg19_bn", "authors"): 16 + 1,
    ("vgg19_bn", "modern"): 16 + 1,
}
VERSIONS = [(architecture, like) for architecture, versions in ARCHITECTURES.items() for like in versions]


@pytest.mark.parametrize(("architecture", "like"), VERSIONS)
@pytest.mark.parametrize(("channels", "classes"), [(1, 10), (3, 100)])
def test_takes_small_images_and_keeps_them_large(architecture, like, channels, classes):
    model = build(architecture, channels, classes, like).eval()
    shapes = []
    for module in model.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.register_forward_hook(lambda module, inputs, output: shapes.append(output.shape[-1]))
    assert model(torch.zeros(2, channels, 32, 32)).shape == (2, classes)
    assert shapes[0] == {("alexnet", "authors"): 16, ("alexnet", "modern"): 8}.get((architecture, like), 32)
    layers = [layer_name(f"network.{name}.weight") for name in LayerSelection().find(model)]
    assert len(layers) == LAYERS.get((architecture, like), len(layers))


def weights(architecture):
    model = build(architecture, 1, 10, "authors")
    kinds = torch.nn.Conv2d | torch.nn.Linear
    return {name: module for name, module in model.named_modules() if isinstance(module, kinds)}


def test_the_authors_alexnet_has_the_layers_that_they_had():
    shapes = [tuple(module.weight.shape) for module in weights("alexnet").values()]
    convolutions = [(64, 1, 3, 3), (192, 64, 3, 3), (384, 192, 3, 3), (256, 384, 3, 3), (256, 256, 3, 3)]
    assert shapes == [*convolutions, (4096, 1024), (1024, 4096), (10, 1024)]
    dropouts = [m for m in build("alexnet", 1, 10, "authors").modules() if isinstance(m, torch.nn.Dropout)]
    assert [dropout.p for dropout in dropouts] == [0.5, 0.5]


@pytest.mark.parametrize("architecture", ["alexnet", "resnet18"])
def test_pytorchs_default_initialisation_is_uniform_within_the_root_of_the_inputs(architecture):
    for module in weights(architecture).values():
        limit = module.weight[0].numel() ** -0.5
        assert limit * 0.9 < module.weight.abs().max() <= limit
        if module.weight.numel() > 5000:
            assert module.weight.std().item() == pytest.approx(limit / 3**0.5, rel=0.05)


def test_the_authors_vgg_starts_with_normal_weights():
    for module in weights("vgg19_bn").values():
        outputs = len(module.weight)
        deviation = 0.01 if isinstance(module, torch.nn.Linear) else (2 / (9 * outputs)) ** 0.5
        assert module.weight.std().item() == pytest.approx(deviation, rel=0.1)
        assert module.weight.abs().max() > 2.5 * deviation  # a uniform one would end at 1.7 deviations
        assert not module.bias.any()


def test_by_default_the_authors_network_is_taken_if_it_is_known():
    assert check_like("alexnet", None) == "authors"
    assert check_like("resnet50", None) == "modern"
    with pytest.raises(ValueError, match=r"`like='authors'` is not known for resnet50\. Choose `like='modern'`"):
        check_like("resnet50", "authors")
    with pytest.raises(ValueError, match="`like` must be one of 'authors', 'modern', but got 'mine'"):
        check_like("resnet18", "mine")


def test_unknown_architecture_is_named():
    with pytest.raises(ValueError, match=r"`architecture` must be one of alexnet.*'resnet19'"):
        Classifier(architecture="resnet19")


def groups(architecture, like):
    model = build(architecture, 1, 10, like)
    layers = list(LayerSelection().find(model))
    return paper_groups(architecture, layers), layers, dict(model.named_modules())


@pytest.mark.parametrize("like", ["authors", "modern"])
def test_groups_of_the_paper(like):
    for block, layers in groups("resnet18", like)[0].items():
        assert len(layers) == (4 if block == "block 1" else 5)
    found, layers, modules = groups("vgg19_bn", like)
    convolutions = [layer for layer in layers if isinstance(modules[layer], torch.nn.Conv2d)]
    assert found == {"early": convolutions[:4], "middle": convolutions[4:11], "later": convolutions[11:]}
    found, layers, modules = groups("alexnet", like)
    convolutions = [layer for layer in layers if isinstance(modules[layer], torch.nn.Conv2d)]
    assert found == {"early": convolutions[:1], "middle": convolutions[1:3], "later": convolutions[3:]}


def test_other_architectures_are_cut_into_three():
    found = paper_groups("xception", list("abcdefgh"))
    assert found == {"early": list("abc"), "middle": list("de"), "later": list("fgh")}
