# SPDX-License-Identifier: Apache-2.0
"""Find the kind of each layer from the structure of a module or from the layers' names."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch.nn import Module

    from lightning_rwc.layers import GroupBy, LayerFilter


def layer_kinds(module: "Module", layers: "LayerFilter" = None, group_by: "GroupBy" = None) -> dict[str, str]:
    """Find the kinds of the layers of an EfficientNet, or of a network with similar blocks, from its structure.

    - ``"squeeze-excite"``: a convolution inside a module with "SqueezeExcit" in its class name.
    - ``"depth-wise"``: a convolution with as many groups as input channels, and more than one.
    - ``"point-wise"`` and ``"point-wise-linear"``: a 1×1 convolution before and after the depth-wise convolution of its
      block. The block is the smallest module around the depth-wise convolution that holds a 1×1 convolution too.
    - ``"other"``: the rest, such as stem, head, classifier, and blocks without a depth-wise convolution.

    Args:
        module: for example ``efficientnet_b0`` of torchvision or timm, or a LightningModule that holds it.
        layers: which parameters are tracked, as for :class:`~lightning_rwc.RWCCallback`. Pass the callback's value to
            get the callback's names.
        group_by: how parameters form layers, as for the callback. A layer of several kinds is ``"other"``.

    Returns:
        Layer name to kind, in definition order.

    """
    from torch import nn

    from lightning_rwc.layers import LayerSelection

    modules = dict(module.named_modules())
    kinds, depth_wise, one_by_one = {}, [], []
    for name, conv in modules.items():
        if not isinstance(conv, nn.Conv1d | nn.Conv2d | nn.Conv3d):
            continue
        kinds[name] = "other"
        if any("SqueezeExcit" in type(modules[parent]).__name__ for parent in _parents(name)):
            kinds[name] = "squeeze-excite"
        elif conv.groups == conv.in_channels > 1:
            kinds[name] = "depth-wise"
            depth_wise.append(name)
        elif set(conv.kernel_size) == {1}:
            one_by_one.append(name)
    order = list(kinds)
    for name in depth_wise:
        blocks = ([point for point in one_by_one if block in _parents(point)] for block in _parents(name))
        for point in next(filter(None, blocks), []):
            kinds[point] = "point-wise" if order.index(point) < order.index(name) else "point-wise-linear"
    kind_of = {id(p): kind for name, kind in kinds.items() for p in modules[name].parameters()}
    result = {}
    for layer, parameters in LayerSelection(layers, group_by).find(module).items():
        found = {kind_of.get(id(parameter), "other") for parameter in parameters.values()}
        result[layer] = found.pop() if len(found) == 1 else "other"
    return result


def kinds_by_pattern(layers: Sequence[str], patterns: Mapping[str, str]) -> dict[str, str]:
    r"""Find the kinds of layers from their names, without the module.

    Args:
        layers: names of layers.
        patterns: regular expression to kind. The first expression that matches anywhere in a name decides. A layer that
            none matches is ``"other"``.

    Returns:
        Layer name to kind.

    Raises:
        ValueError: if a regular expression is invalid.

    Example:
        >>> kinds_by_pattern(["b.conv_dw", "b.conv_pwl", "fc"], {r"_dw$": "depth-wise", r"_pwl$": "point-wise-linear"})
        {'b.conv_dw': 'depth-wise', 'b.conv_pwl': 'point-wise-linear', 'fc': 'other'}

    """
    try:
        compiled = [(re.compile(pattern), kind) for pattern, kind in patterns.items()]
    except re.error as error:
        raise ValueError(f"`patterns` has an invalid regular expression {error.pattern!r}: {error}.") from error
    return {layer: next((kind for one, kind in compiled if one.search(layer)), "other") for layer in layers}


def kinds_in_order(layers: Sequence[str], runs: Sequence[str], kinds: Mapping[str, str]) -> list[str]:
    """List the kind of each layer of one run or several.

    Args:
        layers: names of layers. With several runs they are ``run/layer``.
        runs: the run of each layer; ``""`` if there is one run.
        kinds: layer name, with or without its run, to kind. Layers that it does not name are ``"other"``.

    Raises:
        ValueError: if ``kinds`` names none of the layers.

    """
    bare = [layer.removeprefix(f"{run}/") for layer, run in zip(layers, runs, strict=True)]
    found = [kinds.get(layer, kinds.get(name)) for layer, name in zip(layers, bare, strict=True)]
    if not any(found):
        given = ", ".join(map(repr, list(kinds)[:3])) or "nothing"
        raise ValueError(
            f"`kinds` names none of the layers. The layers have names like {bare[0]!r}; `kinds` names {given}."
        )
    return [kind or "other" for kind in found]


def _parents(name: str) -> Iterator[str]:
    while name:
        name = name.rpartition(".")[0]
        yield name
