# SPDX-License-Identifier: Apache-2.0
"""The names of measurements in loggers and in ``trainer.callback_metrics``."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import combinations

# TensorBoard's writer adds the second part to the tag of a text.
_LIKE_OURS = re.compile(r"(heatmap(_hover)?|curves|findings(/text_summary)?)_*")


@dataclass(frozen=True)
class Tags:
    """Every tag that the callback writes, for one ``prefix``.

    ======================================== ======== ===========================================================
    tag                                      kind     content
    ======================================== ======== ===========================================================
    ``{prefix}/{layer}``                     scalar   relative weight change of one layer
    ``{prefix}_summary/total``               scalar   the whole model, measured as one layer
    ``{prefix}_summary/depth_correlation``   scalar   Spearman's ρ between a layer's depth and its value
    ``{prefix}_summary/epoch``               scalar   the epoch of the measurement
    ``{prefix}_summary/layers``              text     the layers and measures, for the RWC tab of TensorBoard only
    ``{prefix}_summary/units/{layer}``       tensor   change and rotation of each unit of a layer, for that tab only
    ``{prefix}/heatmap``                     image    layers × measurements, every measurement so far
    ``{prefix}/heatmap_hover``               page     the heatmap, with the numbers under the pointer (W&B, MLflow)
    ``{prefix}/curves``                      image    every layer's curve in one chart, coloured by depth
    ``{prefix}/findings``                    text     what is wrong with the training, in words
    ``{prefix}_{measure}/{layer}``           scalar   a further measure of one layer
    ``{prefix}_{measure}/heatmap``           image    the heatmap of a further measure
    ``{prefix}_{measure}/curves``            image    the curves of a further measure
    ``{prefix}_units/{layer}/change``        image    relative weight change of units × measurements of one layer
    ``{prefix}_units/{layer}/rotation``      image    the rotations of the same units
    ======================================== ======== ===========================================================

    A layer that is itself named ``heatmap``, ``heatmap_hover``, ``curves`` or ``findings`` gets another tag: see
    :meth:`layer`.

    Args:
        prefix: what the tags start with.
        strip: what tags leave out at the start of a layer's name.

    Example:
        >>> Tags("rwc").layer("encoder.conv1")
        'rwc/encoder.conv1'
        >>> Tags("l2").total
        'l2_summary/total'
        >>> Tags("rwc").measure("strength").layer("encoder.conv1")
        'rwc_strength/encoder.conv1'
        >>> Tags("rwc", strip="model.model.").layer("model.model.encoder.conv1")
        'rwc/encoder.conv1'

    """

    prefix: str = "rwc"
    strip: str = ""

    def layer(self, name: str) -> str:
        """The scalar tag of the layer ``name``.

        A name that is ``heatmap``, ``heatmap_hover``, ``curves`` or ``findings``, or one of them followed by
        underscores, gets one more underscore. So does ``findings/text_summary``, which is what TensorBoard makes of the
        tag of findings. So no layer has the tag of a picture, a page or a text, and no two layers have the same tag.

        Example:
            >>> [Tags("rwc").layer(name) for name in ("fc", "heatmap", "heatmap_")]
            ['rwc/fc', 'rwc/heatmap_', 'rwc/heatmap__']

        """
        name = self._stripped(name)
        return f"{self.prefix}/{name}{'_' if _LIKE_OURS.fullmatch(name) else ''}"

    def layer_of(self, tag: str) -> str:
        """The name of the layer that has ``tag``, as tags have it: without what they leave out.

        Example:
            >>> [Tags("rwc").layer_of(tag) for tag in ("rwc/fc", "rwc/heatmap_", "rwc/heatmap__")]
            ['fc', 'heatmap', 'heatmap_']

        """
        name = tag.removeprefix(f"{self.prefix}/")
        return name[:-1] if name.endswith("_") and _LIKE_OURS.fullmatch(name) else name

    def measure(self, name: str) -> "Tags":
        """The tags of the further measure ``name``."""
        return Tags(f"{self.prefix}_{name}", self.strip)

    def unit_change(self, layer: str) -> str:
        """The image tag of the relative weight changes of the units of ``layer``.

        Example:
            >>> Tags("rwc").unit_change("encoder.conv1")
            'rwc_units/encoder.conv1/change'

        """
        return f"{self.units}/{self._stripped(layer)}/change"

    def unit_rotation(self, layer: str) -> str:
        """The image tag of the rotations of the units of ``layer``."""
        return f"{self.units}/{self._stripped(layer)}/rotation"

    def _stripped(self, layer: str) -> str:
        return layer.removeprefix(self.strip) or layer

    def unit_values(self, layer: str) -> str:
        """The tag under which the RWC tab of TensorBoard finds the units of ``layer``."""
        return f"{self.prefix}_summary/units/{layer}"

    @property
    def units(self) -> str:
        """What the tags of all pictures of units start with."""
        return f"{self.prefix}_units"

    @property
    def total(self) -> str:
        """The scalar tag of the whole model."""
        return f"{self.prefix}_summary/total"

    @property
    def depth_correlation(self) -> str:
        """The scalar tag of the depth correlation."""
        return f"{self.prefix}_summary/depth_correlation"

    @property
    def epoch(self) -> str:
        """The scalar tag of the epoch."""
        return f"{self.prefix}_summary/epoch"

    @property
    def layers(self) -> str:
        """The tag of what the RWC tab of TensorBoard needs to know."""
        return f"{self.prefix}_summary/layers"

    @property
    def heatmap(self) -> str:
        """The image tag of the heatmap."""
        return f"{self.prefix}/heatmap"

    @property
    def heatmap_hover(self) -> str:
        """The tag of the heatmap as a page."""
        return f"{self.prefix}/heatmap_hover"

    @property
    def curves(self) -> str:
        """The image tag of the chart of all curves."""
        return f"{self.prefix}/curves"

    @property
    def findings(self) -> str:
        """The text tag of the findings."""
        return f"{self.prefix}/findings"

    @property
    def roots(self) -> tuple[str, str]:
        """Every tag starts with one of these and a slash, except those of further measures and pictures of units."""
        return self.prefix, f"{self.prefix}_summary"


def find_shared(prefixes: Iterable[str]) -> tuple[str, str] | None:
    """Two of ``prefixes`` that could give one tag to two things, or ``None`` if every tag is unique.

    Two prefixes can share a tag if a root of one is a root of the other, or continues it after a slash. For example,
    ``a`` with a layer ``b/c`` and ``a/b`` with a layer ``c`` have the same tag.

    Args:
        prefixes: those of all callbacks of a Trainer, those of the :meth:`Tags.measure` of each further measure, and
            the :attr:`Tags.units` of callbacks that measure units.

    Example:
        >>> find_shared(["rwc", "l2", "rwc/l2"])
        ('rwc', 'rwc/l2')
        >>> find_shared(["rwc", Tags("rwc").measure("summary").prefix])
        ('rwc', 'rwc_summary')
        >>> find_shared(["rwc", "rwc2", "rwc_strength"])

    """
    for one, other in combinations(prefixes, 2):
        pairs = ((f"{here}/", f"{there}/") for here in Tags(one).roots for there in Tags(other).roots)
        if any(here.startswith(there) or there.startswith(here) for here, there in pairs):
            return one, other
    return None
