# SPDX-License-Identifier: Apache-2.0
"""The order of layers, also of those that come and go while a model trains."""

from collections.abc import Sequence


def merged_order(present: Sequence[str], known: Sequence[str]) -> list[str]:
    """The names of ``present`` in their order, and each other one of ``known`` behind the one that it stood behind.

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
