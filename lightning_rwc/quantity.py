# SPDX-License-Identifier: Apache-2.0
"""What the numbers of a table are, so that they can be labelled and drawn."""

from typing import Literal, NamedTuple, TypeAlias, get_args

ScaleName: TypeAlias = Literal["step", "measurement", "auto"]
"""A scale of colours. ``step`` is fixed, for values per optimizer step. ``measurement`` is fixed, for the values
themselves. ``auto`` has limits from the values."""

SCALES = get_args(ScaleName)


class Quantity(NamedTuple):
    """A quantity with one number per layer at each measurement."""

    label: str
    """Name, with the unit in brackets."""
    signed: bool = False
    """Whether values can be negative. If so, scales are linear around zero; by default they are logarithmic."""
    zero: str = "0"
    """What a value of zero means, for the legend of a logarithmic scale."""
    infinite: str = "inf"
    """What an infinite value means, for the legend."""
    share: bool = False
    """Whether values are shares from 0 to 1. If so, scales are linear from 0 to 1."""
    scale: ScaleName = "auto"
    """The scale of colours. Fixed ones are for distances relative to a layer's size, which compare between runs."""

    @property
    def linear(self) -> bool:
        """Whether scales are linear. Zero needs no mark on them."""
        return self.signed or self.share


RWC = "rwc"
"""The name of the table of relative weight change among those of the further measures."""

RELATIVE_WEIGHT_CHANGE = Quantity(
    "relative weight change (ratio)", zero="0: did not move", infinite="inf: moved from all zeros", scale="step"
)
CHANGE_SINCE_START = RELATIVE_WEIGHT_CHANGE._replace(
    label="relative weight change since the start (ratio)", scale="measurement"
)
"""What ``relative_to="initial"`` measures. It adds up over steps, so that a value per step means nothing."""
