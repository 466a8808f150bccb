# SPDX-License-Identifier: Apache-2.0
"""The names under which measurements reach loggers and ``trainer.callback_metrics``."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Tags:
    """Every tag the callback writes, for one ``prefix``.

    ======================================== ======== =======================================================
    tag                                      kind     content
    ======================================== ======== =======================================================
    ``{prefix}/{layer}``                     scalar   relative weight change of one layer
    ``{prefix}_summary/total``               scalar   the whole model, measured as one layer
    ``{prefix}_summary/depth_correlation``   scalar   Spearman's ρ between depth and relative weight change
    ``{prefix}/heatmap``                     image    layers × measurements, every measurement so far
    ``{prefix}/curves``                      image    every layer's curve in one chart, coloured by depth
    ======================================== ======== =======================================================

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
        """The scalar tag of the layer ``name``."""
        return f"{self.prefix}/{name}"

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
