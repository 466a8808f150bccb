# SPDX-License-Identifier: Apache-2.0
"""Find the kind of each layer from the structure of a module or from the layers' names."""

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch.nn import Module

    from lightning_rwc.layers import GroupBy, LayerFilter


def layer_kinds(module: "Module", layers: "LayerFilter" = None, group_by: "GroupBy" = None) -> dict[str, str]:
    """Find the kinds of the layers of a convolutional network or a transformer.

    Convolutions:

    - ``"stem"``: the first convolution. In a network with attention it is ``"embedding"``.
    - ``"shortcut"``: a 1×1 convolution beside a block, in a module named ``downsample``, ``shortcut`` or ``skip``.
    - ``"squeeze-excite"``: a convolution or linear layer inside a squeeze-and-excitation, by the name of its class.
    - ``"depth-wise"``: a convolution with as many groups as input channels, and more than one.
    - ``"point-wise"`` and ``"point-wise-linear"``: a 1×1 convolution before and after the depth-wise convolution of its
      block. The block is the smallest module around the depth-wise convolution that holds a 1×1 convolution too.
    - ``"bottleneck-in"`` and ``"bottleneck-out"``: the same with another convolution that is the only one of its block
      with a larger kernel. A module that holds the stem is no block.
    - ``"1x1"`` and ``"convolution"``: all other convolutions, by their kernel.

    Transformers:

    - ``"query"``, ``"key"``, ``"value"``, ``"query-key-value"`` (packed into one matrix) and ``"attention-output"``: in
      a module with "attn" or "attention" in the name of itself or of its class, by the names that PyTorch, torchvision,
      timm and Hugging Face's Transformers use.
    - ``"mlp-in"`` and ``"mlp-out"``: a linear layer that widens or narrows, in the same block as an attention, or in a
      module with "MLP", "FFN" or "feed forward" in the name of itself or of its class. Networks without attention have
      no such layers.
    - ``"embedding"``: an ``nn.Embedding``, or a parameter named as an embedding of positions or a token.

    All networks:

    - ``"head"``: the last linear layer that has no other kind, and linear layers named ``head``, ``lm_head`` or
      ``classifier``.
    - ``"linear"``: all other linear layers.
    - ``"other"``: the rest.

    Args:
        module: for example ``resnet50``, ``vgg19_bn``, ``efficientnet_b0`` or ``vit_b_16`` of torchvision, or a
            LightningModule that holds it.
        layers: which parameters are tracked, as for :class:`~lightning_rwc.RWCCallback`. Pass the callback's value to
            get the callback's names.
        group_by: how parameters form layers, as for the callback. A layer of several kinds is ``"other"``.

    Returns:
        Layer name to kind, in definition order.

    Example:
        >>> from torch import nn
        >>> layer_kinds(nn.TransformerEncoderLayer(8, 2, 16))  # doctest: +NORMALIZE_WHITESPACE
        {'self_attn': 'query-key-value', 'self_attn.out_proj': 'attention-output', 'linear1': 'mlp-in',
         'linear2': 'mlp-out'}

    """
    from lightning_rwc.layers import LayerSelection
    from lightning_rwc.weightscale.module_kinds import parameter_kinds

    kind_of = parameter_kinds(module)
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


def bare_names(layers: Sequence[str], runs: Sequence[str]) -> list[str]:
    """Take the run off the name of each layer, with arguments as for :func:`kinds_in_order`."""
    return [layer.removeprefix(f"{run}/") for layer, run in zip(layers, runs, strict=True)]


def kinds_in_order(layers: Sequence[str], runs: Sequence[str], kinds: Mapping[str, str]) -> list[str]:
    """List the kind of each layer of one run or several.

    Args:
        layers: names of layers. With several runs they are ``run/layer``.
        runs: the run of each layer; ``""`` if there is one run.
        kinds: layer name, with or without its run, to kind. Layers that it does not name are ``"other"``.

    Raises:
        ValueError: if ``kinds`` names none of the layers.

    """
    bare = bare_names(layers, runs)
    found = [kinds.get(layer, kinds.get(name)) for layer, name in zip(layers, bare, strict=True)]
    if not any(found):
        given = ", ".join(map(repr, list(kinds)[:3])) or "nothing"
        raise ValueError(
            f"`kinds` names none of the layers. The layers have names like {bare[0]!r}; `kinds` names {given}."
        )
    return [kind or "other" for kind in found]
