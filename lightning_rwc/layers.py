# SPDX-License-Identifier: Apache-2.0
"""Which parameters are tracked, and how each layer is named."""

import re
import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pkgutil import resolve_name
from typing import Any, NamedTuple, TypeAlias, cast

from torch import Tensor, nn
from torch.nn import DataParallel, Module, Parameter
from torch.nn.modules.conv import _ConvNd
from torch.nn.parallel import DistributedDataParallel
from torch.nn.parameter import is_lazy

from lightning_rwc.functional import is_measurable
from lightning_rwc.shards import local

# `str` must come before `Callable`: LightningCLI would take a regular expression for a function otherwise, and fail to
# save its import path. YAML therefore names a function as the string "package.module:function".
LayerFilter: TypeAlias = str | Sequence[str] | Callable[[str, Parameter], bool] | None
GroupBy: TypeAlias = int | str | Callable[[str], str] | None
Layers: TypeAlias = dict[str, dict[str, Parameter]]

_FUNCTION_NAME = re.compile(r"[\w.]+:[\w.]+")
# torch.compile, FSDP and activation checkpointing insert these components into names.
_WRAPPERS = {"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
_PARAMETRIZATION = re.compile(r"(^|\.)parametrizations\.[^.]+$")
# PyTorch's names of weights: in its modules, and as `prune`, `spectral_norm` and `weight_norm` rename them.
_WEIGHT = re.compile(
    r"weight(_orig|_v|\.original1)?|(in|q|k|v)_proj_weight|weight_(ih|hh|hr)(_l\d+(_reverse)?)?",
)
# The weights of these modules are matrices or kernels at any size.
_MATRIX_MODULES = (
    nn.Linear,
    nn.Bilinear,
    nn.Embedding,
    nn.EmbeddingBag,
    nn.MultiheadAttention,
    nn.RNNBase,
    nn.RNNCellBase,
    _ConvNd,
)
_NAMES_IN_ERROR = 20
_DESCRIBED = 3


class FoundLayers(dict[str, dict[str, Parameter]]):
    """The layers that :class:`LayerSelection` found. Maps layer names to parameter names to parameters.

    Attributes:
        modules: maps a parameter's name to its module if the parameter is the module's ``weight``. Bare parameters,
            pruned or parametrised weights and the parameters of a state dict have no entry.
        root: returns the module in which they were found, or None if that is gone or was a state dict.

    """

    def __init__(self, root: Module | None = None) -> None:
        super().__init__()
        self.root: Callable[[], Module | None] = (lambda: None) if root is None else weakref.ref(root)
        self.modules: weakref.WeakValueDictionary[str, Module] = weakref.WeakValueDictionary()


class LayerSelection:
    r"""Finds the tracked parameters of a module and groups them into layers.

    By default, every parameter with two or more dimensions larger than 1 is a layer. This includes kernels and
    matrices. It excludes biases, norm scales, temperatures and class tokens, even those of shape ``(C, 1, 1)``.

    The weights of linear, convolution, embedding, recurrent and attention modules are layers at any size, such as those
    of ``nn.Linear(60, 1)`` and of a depth-wise 1×1 convolution. A state dict has no modules. There, a parameter with
    two or more dimensions is a layer at any size if its name is one that PyTorch gives to weights (``weight``,
    ``weight_ih_l0``, ``in_proj_weight``) and there is no ``bias`` of the same shape next to it.

    A layer has the name of the module, ``encoder.conv1``, if its weight or bias is the only tracked parameter of that
    module. Otherwise it has the name of the parameter, ``attn.logit_scale``. Names leave out the components that
    ``torch.compile``, ``torch.nn.utils.parametrize`` and ``torch.nn.utils.prune`` insert.

    Layers are in definition order. The order in which they compute may differ: see
    :func:`~lightning_rwc.forward_order.forward_order`. A tied parameter counts once, under its first name. Frozen
    parameters are tracked.

    Args:
        layers: which parameters are tracked, instead of the default rule. A regular expression selects the parameters
            in whose names it is found (``r"encoder.*\.weight$"``), and a list selects those of any of its expressions.
            A function of name and parameter returns whether to track it.
        group_by: how parameters form layers. An int ``n`` puts parameters into one layer if the first ``n`` components
            of their modules' names are the same: with 1, each child of the model is a layer. A function maps a
            parameter's name to its layer's name. By default every tracked parameter is a layer. In YAML, write a
            function for ``layers`` or ``group_by`` as ``package.module:function``.

    Raises:
        TypeError: if an argument has the wrong type.
        ValueError: if a regular expression is invalid, a named function is not found, or ``group_by`` is below 1.

    Example:
        >>> from torch import nn
        >>> net = nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3))
        >>> {layer: list(parameters) for layer, parameters in LayerSelection().find(net).items()}
        {'0': ['0.weight'], '2': ['2.weight']}

    """

    def __init__(self, layers: LayerFilter = None, group_by: GroupBy = None) -> None:
        layers, group_by = _resolve("layers", layers), _resolve("group_by", group_by)
        self._keep = layers if callable(layers) else None
        self._patterns = None if layers is None or callable(layers) else _compile(layers)
        if isinstance(group_by, bool) or not (group_by is None or isinstance(group_by, int) or callable(group_by)):
            raise TypeError(
                "`group_by` must be None, an int, a function from parameter name to layer name, or the string "
                f"'package.module:function' that names one, but got {group_by!r}."
            )
        if isinstance(group_by, int) and group_by < 1:
            raise ValueError(
                f"`group_by` must be at least 1, which makes each child of the model a layer, but got {group_by}."
            )
        self._group_by = group_by

    def find(self, module: Module | Mapping[str, Tensor]) -> FoundLayers:
        """Find the layers of a module or a state dict, in definition order.

        Tied parameters of a state dict count separately.

        """
        tracked = [found for found in _named_parameters(module) if self._tracks(found)]
        layers = FoundLayers(module if isinstance(module, Module) else None)
        for layer, found in zip(self._layer_names(tracked), tracked, strict=True):
            layers.setdefault(layer, {})[found.name] = found.parameter
            if found.owner is not None and found.raw.rpartition(".")[2] == "weight":
                layers.modules[found.name] = found.owner
        return layers

    def nbytes(self, module: Module) -> int:
        """The bytes that the tracked parameters of ``module`` take on this rank."""
        layers = self.find(module).values()
        return sum(local(parameter).nbytes for parameters in layers for parameter in parameters.values())

    def require(self, module: Module | Mapping[str, Tensor]) -> FoundLayers:
        """Find the layers like :meth:`find`, but raise if the selection cannot work.

        Raises:
            ValueError: if nothing is tracked, a regular expression matches no parameter, or parameters are still
                uninitialised. The message names the parameters of the model.
            TypeError: if a ``group_by`` function returns something other than a string.

        """
        everything = list(_named_parameters(module))
        if lazy := [found.name for found in everything if self._names(found) and is_lazy(found.parameter)]:
            raise ValueError(
                f"Relative weight change needs initialised parameters, but these are still lazy: {_listing(lazy)}. "
                "Send one batch through the model before training. Lightning's sanity check does this if you leave it "
                "on (`Trainer(num_sanity_val_steps=2)`) and have a validation loop."
            )
        measurable = [found.name for found in everything if is_measurable(found.parameter)]
        existing = f"The model has the floating-point parameters: {_listing(measurable)}."
        for pattern in self._patterns or ():
            if not any(pattern.search(name) for name in measurable):
                raise ValueError(f"`layers` pattern {pattern.pattern!r} matches no parameter. {existing}")
        layers = self.find(module)
        if not layers:
            rule = "has two or more dimensions larger than 1" if self._keep is None else "is selected by `layers`"
            raise ValueError(
                f"There is no layer to track: no parameter {rule}. {existing} Select some of them with `layers=`."
            )
        return layers

    def _names(self, found: "_Found") -> bool:
        return self._patterns is None or any(pattern.search(found.name) for pattern in self._patterns)

    def _tracks(self, found: "_Found") -> bool:
        if is_lazy(found.parameter) or not is_measurable(found.parameter):
            return False
        if self._keep is not None:
            return bool(self._keep(found.name, found.parameter))
        return self._names(found) and (self._patterns is not None or found.is_matrix)

    def _layer_names(self, tracked: Sequence["_Found"]) -> list[str]:
        if callable(self._group_by):
            names = [self._group_by(found.name) for found in tracked]
            for found, name in zip(tracked, names, strict=True):
                if not isinstance(name, str):
                    raise TypeError(f"`group_by` must return a string, but returned {name!r} for {found.name!r}.")
            return names
        if self._group_by is not None:
            return [_grouped(found, self._group_by) for found in tracked]
        siblings = Counter(found.module for found in tracked)
        names = [
            found.module if found.module and found.stands_for_module and siblings[found.module] == 1 else found.name
            for found in tracked
        ]
        taken = Counter(names)
        return [name if taken[name] == 1 else found.raw for name, found in zip(names, tracked, strict=True)]


def _grouped(found: "_Found", depth: int) -> str:
    parts = found.module.split(".")
    # A parameter such as `class_token` belongs to no child of its module, and is not all of it.
    is_bare = not found.module or (len(parts) < depth and not found.stands_for_module)
    return found.name if is_bare else ".".join(parts[:depth])


def described(layers: FoundLayers) -> dict[str, str]:
    """What each layer is: its modules' classes and its parameters' shapes.

    Example:
        >>> net = nn.Sequential(nn.Linear(3, 2))
        >>> described(LayerSelection().find(net))
        {'0': 'Linear 2×3'}

    """
    return {
        layer: ", ".join(
            f"{type(layers.modules[name]).__name__ if name in layers.modules else 'Parameter'} "
            f"{'×'.join(map(str, parameter.shape))}"
            for name, parameter in [*parameters.items()][:_DESCRIBED]
        )
        + (f" and {len(parameters) - _DESCRIBED} more" if len(parameters) > _DESCRIBED else "")
        for layer, parameters in layers.items()
    }


class _Found(NamedTuple):
    module: str
    name: str
    raw: str
    parameter: Parameter
    owner: Module | None
    """The module that uses the parameter, or ``None`` in a state dict."""
    bias: Tensor | None
    """The ``bias`` of the same module, if there is one."""

    @property
    def attribute(self) -> str:
        """The parameter's name within its module."""
        return self.name[len(self.module) :].removeprefix(".")

    @property
    def is_weight(self) -> bool:
        """Whether PyTorch gives this name to weights."""
        return _WEIGHT.fullmatch(self.attribute) is not None

    @property
    def stands_for_module(self) -> bool:
        """Whether the layer takes the module's name if it has no other parameter of this module."""
        return self.is_weight or self.attribute == "bias"

    @property
    def is_matrix(self) -> bool:
        """Whether the default rule tracks the parameter."""
        shape = self.parameter.shape
        if sum(size > 1 for size in shape) >= 2:
            return True
        if len(shape) < 2 or not self.is_weight:
            return False
        if self.owner is not None:
            return isinstance(self.owner, _MATRIX_MODULES)
        return self.bias is None or self.bias.shape != shape


def _named_parameters(module: Module | Mapping[str, Tensor]) -> Iterator[_Found]:
    modules: dict[str, Module] = {}
    if isinstance(module, Module):
        module = unwrapped(module)
        masks = {name for name, _ in module.named_buffers() if name.endswith("_mask")}
        raw = dict(module.named_parameters())
        modules = dict(module.named_modules())
    else:
        masks = {name for name in module if f"{name.removesuffix('_mask')}_orig" in module and name.endswith("_mask")}
        raw = {name: cast(Parameter, tensor) for name, tensor in module.items() if name not in masks}
    readable = {name: _readable(name, masks) for name in raw}
    taken = Counter(short for _, short in readable.values())
    for name, parameter in raw.items():
        path, dot, _ = name.rpartition(".")
        names = readable[name] if taken[readable[name][1]] == 1 else (path, name)
        owner = modules.get(_PARAMETRIZATION.sub("", path))
        yield _Found(*names, name, parameter, owner, raw.get(f"{path}{dot}bias"))


def unwrapped(module: Module) -> Module:
    """The user's module, without the wrappers that put a prefix before every name."""
    while isinstance(module, DataParallel | DistributedDataParallel) or type(module).__name__ == "_FabricModule":
        module = cast(Module, module.module)
    return module


def _readable(name: str, masks: set[str]) -> tuple[str, str]:
    pruned = name.endswith("_orig") and f"{name.removesuffix('_orig')}_mask" in masks
    *modules, last = name.split(".")
    path = [*(module for module in modules if module not in _WRAPPERS), last.removesuffix("_orig") if pruned else last]
    own = 1
    if len(path) >= 3 and path[-3] == "parametrizations":
        # `conv.parametrizations.weight.original` is the weight of `conv`.
        del path[-3]
        path, own = (path[:-1], 1) if path[-1] == "original" else (path, 2)
    return ".".join(path[:-own]), ".".join(path)


def _resolve(argument: str, value: Any) -> Any:
    if not (isinstance(value, str) and _FUNCTION_NAME.fullmatch(value)):
        return value
    try:
        function = resolve_name(value)
    except (ImportError, AttributeError) as error:
        raise ValueError(
            f"`{argument}` names the function {value!r}, which cannot be imported: {error}. "
            "Check the name, and that Python finds the module."
        ) from error
    if not callable(function):
        raise TypeError(f"`{argument}` must name a function, but {value!r} names {function!r}.")
    return function


def _compile(layers: str | Sequence[str]) -> list[re.Pattern[str]]:
    patterns = [layers] if isinstance(layers, str) else layers
    if not isinstance(patterns, Iterable) or not all(isinstance(pattern, str) for pattern in patterns):
        raise TypeError(
            "`layers` must be None, a regular expression, a list of regular expressions, or a function of name and "
            f"parameter, but got {layers!r}."
        )
    if not patterns:
        raise ValueError(
            "`layers` is an empty list, which tracks nothing. Leave it out to track all kernels and matrices."
        )
    return [_compile_one(pattern) for pattern in patterns]


def _compile_one(pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except re.error as error:
        raise ValueError(f"`layers` has an invalid regular expression {pattern!r}: {error}.") from error


def _listing(names: Sequence[str]) -> str:
    shown = ", ".join(map(repr, names[:_NAMES_IN_ERROR])) or "none"
    more = len(names) - _NAMES_IN_ERROR
    return f"{shown} and {more} more" if more > 0 else shown
