# SPDX-License-Identifier: Apache-2.0
"""Checks at the start of a training: errors and warnings."""

from collections import Counter
from collections.abc import Iterable, Sequence

from torch.nn import Module

from lightning_rwc.layers import Layers, LayerSelection
from lightning_rwc.messages import rank_zero_warn
from lightning_rwc.tags import Tags, find_shared
from lightning_rwc.training import Training
from lightning_rwc.units import UnitColumns, UnitSelection

# A value and its standard error, of a change and of a rotation, as float64.
_BYTES_A_UNIT = 32
_MANY_UNITS = 20_000


def refuse_shared_tags(prefixes: Sequence[Sequence[str]]) -> None:
    """Raise ``ValueError`` if two callbacks could write to the same tag.

    Args:
        prefixes: for each callback, its prefix, and the prefixes of its measures.

    """
    own = [prefix for prefix, *_ in prefixes]
    if repeated := [prefix for prefix in own if own.count(prefix) > 1]:
        raise ValueError(f"Two RWCCallbacks have `prefix={repeated[0]!r}`: give each its own prefix.")
    if pair := find_shared(prefix for one in prefixes for prefix in one):
        if pair[0] == pair[1]:
            raise ValueError(
                f"Two RWCCallbacks have tags that start with {pair[0]!r}: give one of them another `prefix`."
            )
        raise ValueError(
            f"Two RWCCallbacks have tags that start with {pair[0]!r} and with {pair[1]!r}, which can be the same. "
            "Give one of them a `prefix` that is not the other's with a slash or `_summary` added."
        )


def require_layers(training: Training, selection: LayerSelection, units: UnitSelection, strip_prefix: str) -> None:
    """Raise if there is nothing to track, or if ranks do not track the same layers. This is a collective.

    Raises:
        Exception: on a rank where the selection fails, the error of the selection.
        ValueError: on the other ranks.

    """
    error: Exception | None = None
    answer = ""
    try:
        layers = selection.require(training.module)
        units.require(layers)
        _require_tags(layers, strip_prefix)
        answer = repr({layer: [*parameters] for layer, parameters in layers.items()})
    except Exception as raised:
        error = raised
    # A rank that is about to raise must take part too.
    agreed = training.agrees(answer)
    if error is not None:
        raise error
    if not agreed:
        raise ValueError(
            "The ranks do not track the same layers: `layers` and `group_by` must select the same on every rank. "
            "If you pass a function, it must not depend on the rank or on the rank's part of a parameter."
        )


def _require_tags(layers: Iterable[str], strip_prefix: str) -> None:
    """Raise unless tags without ``strip_prefix`` are shorter, and still tell layers apart."""
    names = [*layers]
    if strip_prefix and not any(name.startswith(strip_prefix) for name in names):
        raise ValueError(
            f"`strip_prefix={strip_prefix!r}` is at the start of no layer's name. The first one is {names[0]!r}."
        )
    tags = {name: Tags("", strip_prefix).layer(name) for name in names}
    taken = Counter(tags.values())
    if shared := next((name for name, tag in tags.items() if taken[tag] > 1), None):
        raise ValueError(
            f"With `strip_prefix={strip_prefix!r}` the layer {shared!r} would have the tag of another one. Choose a "
            "shorter prefix."
        )


def warn_of_many_units(columns: UnitColumns) -> None:
    """Warn if the tables of units will be large."""
    if columns.count > _MANY_UNITS:
        rank_zero_warn(
            f"`units` selects {columns.count:,} units of {len(columns.layers)} layers. Each measurement keeps "
            f"{columns.count * _BYTES_A_UNIT:,} bytes of them in memory and adds half of that to every checkpoint. "
            "Select fewer layers, or measure less often."
        )


def hint_if_nothing_learns(layers: Layers, module: Module) -> None:
    """Warn if no tracked layer requires gradients, but other parameters do.

    If no parameter does, training raises an error, or else ``nothing_trainable`` is found.

    """
    if any(parameter.requires_grad for parameters in layers.values() for parameter in parameters.values()):
        return
    if learning := [name for name, parameter in module.named_parameters() if parameter.requires_grad]:
        rank_zero_warn(
            f"None of the {len(layers)} tracked layers requires gradients, so their relative weight change will be 0. "
            f"The model trains {len(learning)} other parameters, such as {learning[0]!r}. Track them with `layers=`."
        )
