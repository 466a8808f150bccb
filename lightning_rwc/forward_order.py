# SPDX-License-Identifier: Apache-2.0
"""The order in which layers compute, which may differ from the order in which they are defined."""

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
    """List the layers of ``module`` in the order in which a forward pass first uses their parameters.

    This calls ``module(*inputs, **kwargs)`` once, in evaluation mode and without gradients, and records which operation
    uses which parameter. Weights, buffers, training flags, gradients and random number generators stay as they are. The
    module and its inputs may be on the meta device. If ``fully_shard`` has sharded the module, its parameters cannot be
    seen and the result is the definition order.

    Args:
        module: the module to run. Pass the LightningModule to get the same names as the callback.
        inputs: positional arguments of its ``forward``.
        layers: which parameters are tracked, see :class:`~lightning_rwc.layers.LayerSelection`.
        group_by: how parameters form layers, see there. A layer of several parameters takes the position of the first
            that is used.
        kwargs: keyword arguments of its ``forward``.

    Returns:
        The names of all layers. Unused layers come last. Layers that share one operation or one recurrent module keep
        definition order, and so do the unused ones.

    Raises:
        TypeError: if ``layers`` or ``group_by`` has the wrong type.
        ValueError: if ``layers`` or ``group_by`` is invalid or selects nothing.
        Exception: anything that ``forward`` raises.

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
        # The device decides which of its weights a recurrent module uses first.
        if isinstance(child, nn.RNNBase | nn.RNNCellBase):
            own = [id(parameter) for parameter in child.parameters() if id(parameter) in layers_of]
            layers_of |= dict.fromkeys(own, set().union(*(layers_of[key] for key in own)))
    uses = _FirstUses(layers_of, [*found])
    # The forward pass gets copies of the buffers, so that it cannot change a counter or a cache.
    buffers = {name: buffer.clone() for name, buffer in module.named_buffers()}
    with torch.no_grad(), _eager(), _evaluation(module), _same_random_numbers(module), uses:
        functional_call(module, buffers, inputs, kwargs)
    return [*uses.layers, *(layer for layer in found if layer not in uses.layers)]


class _FirstUses(TorchDispatchMode):
    # Otherwise higher-order operators raise, such as FlexAttention.
    supports_higher_order_operators = True

    def __init__(self, layers_of: Mapping[int, set[str]], defined: Sequence[str]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # untyped in torch
        self._layers_of = layers_of
        self._positions = {layer: position for position, layer in enumerate(defined)}
        self.layers: dict[str, None] = {}

    def __torch_dispatch__(
        self, func: Any, types: Sequence[Any], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        taken: set[str] = set()
        for leaf in tree_leaves((args, kwargs)):
            taken |= self._layers_of.get(id(leaf), set())
        self.layers |= dict.fromkeys(sorted(taken, key=self._positions.__getitem__))
        return func(*args, **kwargs)


def _eager() -> AbstractContextManager[Any]:
    # Operations inside compiled code cannot be seen. Without the compiler, slow to import, there is no compiled code.
    return torch.compiler.set_stance("force_eager") if "torch._dynamo" in sys.modules else nullcontext()


@contextmanager
def _evaluation(module: Module) -> Iterator[None]:
    # Without `eval()`, because some adapters override it to merge their weights.
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
