# SPDX-License-Identifier: Apache-2.0
"""What kind of layer each one is: from a module's structure, or from names."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch.nn import Module

    from lightning_rwc.layers import GroupBy, LayerFilter


def layer_kinds(module: "Module", layers: "LayerFilter" = None, group_by: "GroupBy" = None) -> dict[str, str]:
    """The kinds of the layers of an EfficientNet or its like, found from the module's structure.

    A convolution inside a module whose class name has "SqueezeExcit" is ``"squeeze-excite"``; one with as many groups
    as input channels, more than one, is ``"depth-wise"``. A depth-wise convolution's block is the smallest module that
    also holds a 1×1 convolution; such a one is ``"point-wise"`` before it and ``"point-wise-linear"`` after it. What
    remains (stem, head, classifier, blocks without a depth-wise convolution) is ``"other"``.

    Args:
        module: for example torchvision's or timm's ``efficientnet_b0``, or a LightningModule around one.
        layers: which parameters are tracked, as for :class:`~lightning_rwc.RWCCallback`, so that names are its names.
        group_by: how they form layers, as there; a layer of several kinds is ``"other"``.

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
    r"""The kinds of layers by their names, where there is no module to ask.

    Args:
        layers: names of layers.
        patterns: regular expression to kind; the first that is found in a name wins, and without any it is ``"other"``.

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


def _parents(name: str) -> Iterator[str]:
    while name:
        name = name.rpartition(".")[0]
        yield name
