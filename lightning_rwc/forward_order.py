# SPDX-License-Identifier: Apache-2.0
"""The order in which layers compute, where it is not the order in which they are defined."""

import random
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.func import functional_call
from torch.nn import Module
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lightning_rwc.layers import GroupBy, LayerFilter, LayerSelection, unwrapped


def forward_order(
    module: Module, *inputs: Any, layers: LayerFilter = None, group_by: GroupBy = None, **kwargs: Any
) -> list[str]:
    """The layers of ``module`` in the order in which a forward pass first computes with their parameters.

    Runs ``module(*inputs, **kwargs)`` once, in evaluation mode and without gradients, and notes which operation takes
    which parameter. Weights, buffers, training flags, gradients and random numbers are as before. ``module`` may be on
    the meta device, with inputs there. Where ``fully_shard`` has spread it over ranks its parameters are not seen, and
    the order is that of definition.

    Args:
        module: the module, with a ``forward``. Names are those of the callback if it is what the Trainer trains.
        inputs: what its ``forward`` takes.
        layers: which parameters are tracked, as for :class:`~lightning_rwc.RWCCallback`.
        group_by: how they form layers, as there; a layer of several counts from the first.
        kwargs: further arguments of its ``forward``.

    Returns:
        Names of all layers. Layers that one operation or one recurrent module takes together keep definition order; so
        do those that take no part, which come last.

    Raises:
        ValueError: if ``layers`` or ``group_by`` is wrong, or finds nothing.
        Exception: whatever ``forward`` raises.

    Example:
        >>> class Backwards(torch.nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.head, self.stem = torch.nn.Linear(4, 2), torch.nn.Linear(3, 4)
        ...
        ...     def forward(self, x):
        ...         return self.head(self.stem(x))
        >>> forward_order(Backwards(), torch.zeros(1, 3))
        ['stem', 'head']

    """
    module = unwrapped(module)
    found = LayerSelection(layers, group_by).require(module)
    layers_of = {id(parameter): {layer} for layer, group in found.items() for parameter in group.values()}
    for child in module.modules():
        # Which of its weights a recurrent module takes first depends on the device.
        if isinstance(child, nn.RNNBase | nn.RNNCellBase):
            own = [id(parameter) for parameter in child.parameters() if id(parameter) in layers_of]
            layers_of |= dict.fromkeys(own, set().union(*(layers_of[key] for key in own)))
    uses = _FirstUses(layers_of, [*found])
    # The pass sees copies of the buffers, so that a counter or a cache stays as it is.
    buffers = {name: buffer.clone() for name, buffer in module.named_buffers()}
    with torch.no_grad(), _eager(), _evaluation(module), _same_random_numbers(module), uses:
        functional_call(module, buffers, inputs, kwargs)
    return [*uses.layers, *(layer for layer in found if layer not in uses.layers)]


class _FirstUses(TorchDispatchMode):
    # Such as FlexAttention, which would raise otherwise.
    supports_higher_order_operators = True

    def __init__(self, layers_of: Mapping[int, set[str]], defined: Sequence[str]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # untyped in torch
        self._layers_of = layers_of
        self._places = {layer: place for place, layer in enumerate(defined)}
        self.layers: dict[str, None] = {}

    def __torch_dispatch__(
        self, func: Any, types: Sequence[Any], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        taken: set[str] = set()
        for leaf in tree_leaves((args, kwargs)):
            taken |= self._layers_of.get(id(leaf), set())
        self.layers |= dict.fromkeys(sorted(taken, key=self._places.__getitem__))
        return func(*args, **kwargs)


def _eager() -> AbstractContextManager[Any]:
    # Operations inside compiled code are not seen. There is none before the compiler, slow to import, is there.
    return torch.compiler.set_stance("force_eager") if "torch._dynamo" in sys.modules else nullcontext()


@contextmanager
def _evaluation(module: Module) -> Iterator[None]:
    # Not by `eval()`, which a module may override to change its weights, as adapters do that merge theirs.
    flags = [(child, child.training) for child in module.modules()]
    try:
        for child, _ in flags:
            child.training = False
        yield
    finally:
        for child, training in flags:
            child.training = training


@contextmanager
def _same_random_numbers(module: Module) -> Iterator[None]:
    devices = {parameter.device for parameter in module.parameters() if parameter.device.type == "cuda"}
    python, numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
