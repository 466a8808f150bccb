# SPDX-License-Identifier: Apache-2.0
"""Which layers of a model can be compared with one another."""

from collections.abc import Sequence
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
from torch import nn
from torch.nn import Module
from torch.optim import Optimizer

from lightning_rwc.findings.facts import NamedLayers

Norms: TypeAlias = Literal["none", "batch", "layer"]

_EMBEDDINGS = (nn.Embedding, nn.EmbeddingBag)
# Norms that stand right behind a layer. Those of transformers stand before one.
_NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm)


class Kinds(NamedTuple):
    """What is known of the layers of a model besides their weights."""

    numbers: npt.NDArray[np.intp] = np.zeros(0, dtype=np.intp)
    """For each layer, the number of its kind. Layers of one kind have weights of as many dimensions, are all embeddings
    or none of them, and belong to one optimizer."""
    groups: npt.NDArray[np.intp] = np.zeros(0, dtype=np.intp)
    """For each layer, the position of its parameter group among those of all optimizers; -1 if it has none."""
    is_sgd: bool = False
    """Whether all optimizers are SGD, whose steps are as long as gradients."""
    norms: Norms = "none"
    """``"batch"`` if a batch norm or a group norm stands behind most layers, so that the size of their weights does not
    matter; ``"layer"`` if there are layer norms."""


def kinds_of(module: Module, layers: NamedLayers, optimizers: Sequence[Optimizer]) -> Kinds:
    """The kinds of ``layers`` of ``module``, in their order. A layer without parameters is of a kind of its own."""
    embedded, before_norm = set(), set()
    leaves = [one for one in module.modules() if not any(one.children())]
    for one, following in zip(leaves, [*leaves[1:], None], strict=True):
        own = {id(parameter) for parameter in one.parameters(recurse=False)}
        embedded |= own if isinstance(one, _EMBEDDINGS) else set()
        before_norm |= own if isinstance(following, _NORMS) else set()
    groups = [(number, group) for number, one in enumerate(optimizers) for group in one.param_groups]
    places = {id(parameter): place for place, (_, group) in enumerate(groups) for parameter in group["params"]}
    numbers: dict[tuple[int, bool, int], int] = {}
    rows = []
    for parameters in layers.values():
        first = next(iter(parameters.values()), None)
        place = places.get(id(first), -1)
        kind = -1 if first is None else first.ndim, id(first) in embedded, groups[place][0] if place >= 0 else -1
        rows.append((numbers.setdefault(kind, len(numbers)), place, id(first) in before_norm))
    table = np.array(rows, dtype=np.intp).reshape(-1, 3)
    is_sgd = all("SGD" in {base.__name__ for base in type(one).__mro__} for one in optimizers)
    names = {type(one).__name__ for one in leaves}
    # Transformers have their own classes of norms.
    layer: Norms = "layer" if any(name.endswith(("LayerNorm", "RMSNorm")) for name in names) else "none"
    norms: Norms = "batch" if 2 * table[:, 2].sum() > len(rows) else layer
    return Kinds(table[:, 0], table[:, 1], is_sgd, norms)
