# SPDX-License-Identifier: Apache-2.0
"""The kind of each parameter of a module, see :func:`~lightning_rwc.weightscale.layer_kinds.layer_kinds`."""

import re
from collections.abc import Collection, Iterator, Mapping
from typing import TypeAlias

from torch import nn

Modules: TypeAlias = Mapping[str, nn.Module]
Kinds: TypeAlias = dict[str, str]

_SQUEEZE_EXCITE = re.compile(r"squeeze_?(and_?)?excit|^SE_?(Module|Layer|Block)$", re.IGNORECASE)
_SHORTCUT = re.compile(r"(^|\.)(downsample|shortcut|skip)", re.IGNORECASE)
_ATTENTION = re.compile(r"attn|attention", re.IGNORECASE)
_MLP = re.compile(r"mlp|ffn|feed_?forward|^ff$|FF$|^Dense\w*Dense$", re.IGNORECASE)
_HEAD = re.compile(r"(^|\.)((lm_)?head|classifier)$")
_EMBEDDING = re.compile(r"pos(ition)?(al)?_?embed|(class|cls|dist|reg|mask)_token|embeddings?$", re.IGNORECASE)
# How the last one or two parts of a name end inside an attention.
_IN_ATTENTION = {
    kind: re.compile(pattern, re.IGNORECASE)
    for kind, pattern in {
        "query-key-value": r"(to_|w)?qkv(_proj)?|in_proj(_weight)?|c_attn|query_key_value",
        "query": r"(to_|w)?q|q_(proj|lin)(_weight)?|query(_proj|_layer)?",
        "key": r"(to_|w)?k|k_(proj|lin)(_weight)?|key(_proj|_layer)?",
        "value": r"(to_|w)?v|v_(proj|lin)(_weight)?|value(_proj|_layer)?",
        "attention-output": r"(to_|w)?o|to_out(\.0)?|(c_|o_|out_)?proj|out(_lin|put)?|(output\.)?dense",
    }.items()
}


def parameter_kinds(module: nn.Module) -> dict[int, str]:
    """Find the kinds of parameters. Maps the ``id`` of a parameter to its kind, and lacks parameters of no kind."""
    modules = dict(module.named_modules())
    attentions = {name for name, one in modules.items() if _is_attention(name, one)}
    kinds: Kinds = {}
    for name, one in modules.items():
        if _widths(one) and (kind := _kind_in_attention(name, attentions)):
            kinds[name] = kind
    attends = bool(kinds)
    if attends:
        kinds |= _mlps({name: one for name, one in modules.items() if name not in kinds}, modules, attentions)
    kinds |= _convolutions(modules, first="embedding" if attends else "stem")
    kinds |= _other_linear_layers(modules, kinds)
    result = {}
    for name, parameter in module.named_parameters():
        owner, _, own = name.rpartition(".")
        if owner in kinds:
            result[id(parameter)] = kinds[owner]
        elif isinstance(modules[owner], nn.MultiheadAttention) and (kind := _kind_in_attention(name, {owner})):
            result[id(parameter)] = kind
        elif isinstance(modules[owner], nn.Embedding | nn.EmbeddingBag) or _EMBEDDING.search(own):
            result[id(parameter)] = "embedding"
    return result


def _convolutions(modules: Modules, first: str) -> Kinds:
    kinds: Kinds = {}
    depth_wise: list[str] = []
    larger: list[str] = []
    one_by_one: list[str] = []
    for name, conv in modules.items():
        if not isinstance(conv, nn.Conv1d | nn.Conv2d | nn.Conv3d):
            continue
        point = set(conv.kernel_size) == {1}
        kinds[name] = "1x1" if point else "convolution"
        if _in_squeeze_excite(name, modules):
            kinds[name] = "squeeze-excite"
        elif conv.groups == conv.in_channels > 1:
            kinds[name] = "depth-wise"
            depth_wise.append(name)
        elif len(kinds) == 1:
            kinds[name] = first
        elif point and _SHORTCUT.search(name):
            kinds[name] = "shortcut"
        else:
            (one_by_one if point else larger).append(name)
    order = list(kinds)
    for name in (*larger, *depth_wise):  # a block's depth-wise convolution decides last
        blocks = (block for block in _parents(name) if any(block in _parents(one) for one in one_by_one))
        block = next(blocks, None)
        # A network or a stage of it is no block.
        if block is None or (name in larger and sum(block in _parents(one) for one in (order[0], *larger)) > 1):
            continue
        before, after = (
            ("point-wise", "point-wise-linear") if name in depth_wise else ("bottleneck-in", "bottleneck-out")
        )
        for one in one_by_one:
            if block in _parents(one):
                kinds[one] = before if order.index(one) < order.index(name) else after
    return kinds


def _mlps(candidates: Modules, modules: Modules, attentions: Collection[str]) -> Kinds:
    blocks = _innermost_blocks(modules, attentions)
    kinds = {}
    for name, one in candidates.items():
        widths, parents = _widths(one), list(_parents(name))
        named = any(_MLP.search(part) for parent in parents[:-1] for part in _names(parent, modules[parent]))
        if widths and widths[0] != widths[1] and (named or not blocks.isdisjoint(parents)):
            kinds[name] = "mlp-in" if widths[0] < widths[1] else "mlp-out"
    return kinds


def _innermost_blocks(modules: Modules, attentions: Collection[str]) -> set[str]:
    """Find the blocks of a transformer: elements of a list of modules that hold an attention, and no such element."""
    blocks = set()
    for attention in attentions:
        for name in _parents(attention):
            around = modules[name.rpartition(".")[0]] if name else None
            layer = isinstance(modules[name], nn.TransformerEncoderLayer | nn.TransformerDecoderLayer)
            if layer or isinstance(around, nn.ModuleList | nn.Sequential):
                blocks.add(name)
                break
    holders = {parent for block in blocks for parent in _parents(block)}
    return blocks - holders


def _other_linear_layers(modules: Modules, kinds: Kinds) -> Kinds:
    rest = [name for name, one in modules.items() if _widths(one) and name not in kinds]
    found = {name: "squeeze-excite" for name in rest if _in_squeeze_excite(name, modules)}
    rest = [name for name in rest if name not in found]
    return found | {name: "head" if name == rest[-1] or _HEAD.search(name) else "linear" for name in rest}


def _kind_in_attention(name: str, attentions: Collection[str]) -> str | None:
    inside = next((parent for parent in _parents(name) if parent in attentions), None)
    if inside is None:
        return None
    parts = name.removeprefix(inside).strip(".").split(".")
    if any(_MLP.search(part) for part in parts):
        return None
    ends = (parts[-1], ".".join(parts[-2:]))
    return next((kind for kind, pattern in _IN_ATTENTION.items() if any(map(pattern.fullmatch, ends))), None)


def _is_attention(name: str, module: nn.Module) -> bool:
    # A whole network may have "attention" in its name.
    named = bool(name) and any(_ATTENTION.search(part) for part in _names(name, module))
    return isinstance(module, nn.MultiheadAttention) or (named and not _widths(module))


def _in_squeeze_excite(name: str, modules: Modules) -> bool:
    return any(_SQUEEZE_EXCITE.search(type(modules[parent]).__name__) for parent in _parents(name))


def _names(name: str, module: nn.Module) -> tuple[str, str]:
    return name.rpartition(".")[2], type(module).__name__


def _widths(module: nn.Module) -> tuple[int, int] | None:
    """How many inputs and outputs a linear layer has. Other modules have none."""
    if isinstance(module, nn.Linear):
        return module.in_features, module.out_features
    if type(module).__name__ == "Conv1D":  # Hugging Face's linear layer of GPT-2, whose weight is transposed
        inputs, outputs = next(module.parameters()).shape
        return inputs, outputs
    return None


def _parents(name: str) -> Iterator[str]:
    while name:
        name = name.rpartition(".")[0]
        yield name
