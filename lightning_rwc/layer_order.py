# SPDX-License-Identifier: Apache-2.0
"""The order of layers when some of them come and go while a model trains."""

from collections.abc import Sequence


def merged_order(present: Sequence[str], known: Sequence[str]) -> list[str]:
    """Merge two lists of layer names.

    Args:
        present: the layers of the model now, in order.
        known: the layers of earlier measurements, in order.

    Returns:
        The names of ``present`` in their order. Each name that only ``known`` has follows the same present layer as
        it does in ``known``.

    Example:
        >>> merged_order(["stem", "conv", "new", "fc"], known=["conv", "old", "fc"])
        ['stem', 'conv', 'old', 'new', 'fc']

    """
    there = {*present}
    behind: dict[str | None, list[str]] = {}
    last = None
    for name in known:
        if name in there:
            last = name
        else:
            behind.setdefault(last, []).append(name)
    order = behind.get(None, [])
    for name in present:
        order += [name, *behind.get(name, ())]
    return order
