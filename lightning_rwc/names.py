# SPDX-License-Identifier: Apache-2.0
"""Names of layers for pictures: short, and still different from one another."""

import re
from collections import Counter
from collections.abc import Sequence
from itertools import takewhile

LONGEST = 48
_GAP = "…"
_NUMBER = re.compile(r"\d")


def shown(names: Sequence[str]) -> list[str]:
    """The names for a picture: without the modules that all of them begin with, and without most of long ones.

    A name of more than 48 characters keeps its last two parts and all parts with a number, such as those of blocks. If
    names became equal, they get numbers.

    Example:
        >>> shown(["net.encoder.0.attention", "net.encoder.1.attention"])
        ['0.attention', '1.attention']
        >>> shown(["model.encoder.layers.encoder_layer_11.self_attention.out_proj", "model.head"])
        ['….encoder_layer_11.self_attention.out_proj', 'head']

    """
    start = len(shared_prefix(names))
    rest = [name[start:] for name in names]
    short = [shortened(name) for name in rest]
    taken = Counter(map(shortened, {*rest}))
    return [one if taken[one] == 1 else f"{one[: LONGEST - 6]}#{number}" for number, one in enumerate(short)]


def shared_prefix(names: Sequence[str]) -> str:
    """The modules that all ``names`` begin with, with the dot after them. Each name keeps its last part.

    Example:
        >>> shared_prefix(["net.body.conv", "net.body.fc"]), shared_prefix(["net.conv"])
        ('net.body.', '')

    """
    if len(names) < 2:
        return ""
    modules = [name.split(".")[:-1] for name in names]
    return "".join(f"{parts[0]}." for parts in takewhile(lambda parts: len({*parts}) == 1, zip(*modules, strict=False)))


def shortened(name: str) -> str:
    """A printable form of ``name`` of at most 48 characters, if its last two parts and its numbers leave room."""
    parts = printable(name).split(".")
    droppable = [part for part, text in enumerate(parts[:-2]) if not _NUMBER.search(text)]
    text = ".".join(parts)
    while len(text) > LONGEST and droppable:
        # Parts next to each other leave one gap.
        middle = droppable.pop(len(droppable) // 2)
        parts[middle] = _GAP
        text = re.sub(rf"({_GAP}\.)+", f"{_GAP}.", ".".join(parts))
    half = LONGEST // 2
    return text if len(text) <= LONGEST else f"{text[: half - 1]}{_GAP}{text[-half:]}"


def printable(name: str) -> str:
    """``name`` without characters that cannot be drawn."""
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in name)


def blocks(names: Sequence[str]) -> list[str]:
    """The block of each layer: its name up to the first numbers in it, or else its first part.

    Layers with a number as their last part, like those of an ``nn.Sequential``, belong to the block of their parent.
    What all names begin with is no block.

    Example:
        >>> blocks(["layers.0.attention.q", "layers.1.experts.3.up", "layer1.0.conv1", "features.3", "head"])
        ['layers.0', 'layers.1', 'layer1.0', 'features', 'head']

    """
    prefix = shared_prefix(names)
    found = []
    for name in names:
        parts = name[len(prefix) :].split(".")
        numbered = [bool(_NUMBER.search(part)) for part in parts[:-1]]
        start = numbered.index(True) if True in numbered else 0
        end = next((part for part in range(start + 1, len(numbered)) if not numbered[part]), max(len(numbered), 1))
        found.append(prefix + ".".join(parts[: end if any(numbered) else 1]))
    return found
