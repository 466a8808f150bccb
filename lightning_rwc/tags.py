# SPDX-License-Identifier: Apache-2.0
"""The names under which measurements reach loggers and ``trainer.callback_metrics``."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import combinations

_LIKE_A_PICTURE = re.compile(r"(heatmap|curves)_*")


@dataclass(frozen=True)
class Tags:
    """Every tag the callback writes, for one ``prefix``.

    ======================================== ======== =======================================================
    tag                                      kind     content
    ======================================== ======== =======================================================
    ``{prefix}/{layer}``                     scalar   relative weight change of one layer
    ``{prefix}_summary/total``               scalar   the whole model, measured as one layer
    ``{prefix}_summary/depth_correlation``   scalar   Spearman's ρ between a layer's place and its value
    ``{prefix}/heatmap``                     image    layers × measurements, every measurement so far
    ``{prefix}/curves``                      image    every layer's curve in one chart, coloured by its place
    ======================================== ======== =======================================================

    A layer that is named ``heatmap`` or ``curves`` itself makes room for the pictures: see :meth:`layer`.

    Args:
        prefix: what the tags start with.

    Example:
        >>> Tags("rwc").layer("encoder.conv1")
        'rwc/encoder.conv1'
        >>> Tags("l2").total
        'l2_summary/total'

    """

    prefix: str = "rwc"

    def layer(self, name: str) -> str:
        """The scalar tag of the layer ``name``.

        Names that read ``heatmap`` or ``curves``, or one of them and underscores, get one underscore more. So no layer
        has the tag of a picture, and no two layers have one tag.

        Example:
            >>> [Tags("rwc").layer(name) for name in ("fc", "heatmap", "heatmap_")]
            ['rwc/fc', 'rwc/heatmap_', 'rwc/heatmap__']

        """
        return f"{self.prefix}/{name}{'_' if _LIKE_A_PICTURE.fullmatch(name) else ''}"

    def layer_of(self, tag: str) -> str | None:
        """The name of the layer whose scalar tag is ``tag``, or ``None`` if it is no layer's tag.

        Example:
            >>> [Tags("rwc").layer_of(tag) for tag in ("rwc/fc", "rwc/heatmap_", "rwc/heatmap", "loss/fc")]
            ['fc', 'heatmap', None, None]

        """
        if not tag.startswith(f"{self.prefix}/"):
            return None
        name = tag[len(self.prefix) + 1 :]
        if not _LIKE_A_PICTURE.fullmatch(name):
            return name
        return name[:-1] if name.endswith("_") else None

    @property
    def total(self) -> str:
        """The scalar tag of the whole model."""
        return f"{self.prefix}_summary/total"

    @property
    def depth_correlation(self) -> str:
        """The scalar tag of the depth correlation."""
        return f"{self.prefix}_summary/depth_correlation"

    @property
    def heatmap(self) -> str:
        """The image tag of the heatmap."""
        return f"{self.prefix}/heatmap"

    @property
    def curves(self) -> str:
        """The image tag of the chart of all curves."""
        return f"{self.prefix}/curves"

    @property
    def roots(self) -> tuple[str, str]:
        """Every tag is one of these, a slash, and more."""
        return self.prefix, f"{self.prefix}_summary"


def find_shared(prefixes: Iterable[str]) -> tuple[str, str] | None:
    """Two of ``prefixes`` under which one tag could stand for two things, or ``None`` if every tag is unique.

    They share tags if a root of one is a root of the other, or continues it behind a slash: ``a`` with a layer ``b/c``
    has the tag of ``a/b`` with a layer ``c``.

    Args:
        prefixes: those of all callbacks of a Trainer, with the names of their further measures, which start tags too.

    Example:
        >>> find_shared(["rwc", "l2", "rwc/l2"])
        ('rwc', 'rwc/l2')
        >>> find_shared(["rwc", "rwc_summary"])
        ('rwc', 'rwc_summary')
        >>> find_shared(["rwc", "rwc2", "strength"])

    """
    for one, other in combinations(prefixes, 2):
        pairs = ((f"{here}/", f"{there}/") for here in Tags(one).roots for there in Tags(other).roots)
        if any(here.startswith(there) or there.startswith(here) for here, there in pairs):
            return one, other
    return None
