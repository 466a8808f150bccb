# SPDX-License-Identifier: Apache-2.0
"""What a table of numbers is about, for whoever draws it."""

from typing import NamedTuple


class Quantity(NamedTuple):
    """A quantity that has one number a layer at each measurement."""

    label: str
    """Its name, with the unit in brackets."""
    signed: bool = False
    """Whether it can be negative: then scales are linear around zero, else they are logarithmic."""
    zero: str = "0"
    """What a value of zero means, unless the scale shows it."""
    infinite: str = "inf"
    """What an infinite value means."""


RELATIVE_WEIGHT_CHANGE = Quantity(
    "relative weight change (ratio)", zero="0: did not move", infinite="inf: moved from all zeros"
)
