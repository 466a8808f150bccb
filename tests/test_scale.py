# SPDX-License-Identifier: Apache-2.0
from itertools import pairwise

import numpy as np
import pytest
from colorspacious import cspace_convert, deltaE
from matplotlib import colormaps
from matplotlib.colors import to_rgb

from lightning_rwc.cells import LOOKS, Cell
from lightning_rwc.movement import quantity_of
from lightning_rwc.quantity import CHANGE_SINCE_START, RELATIVE_WEIGHT_CHANGE, Quantity
from lightning_rwc.scale import FIXED, auto_limits, scale_of, spans

VISIONS = [None, "protanomaly", "deuteranomaly", "tritanomaly"]
# Two colours whose difference in CAM02-UCS is above this are told apart at a glance; 1 is just noticeable.
CLEAR = 15


def seen(colours, vision):
    colours = np.asarray(colours, dtype=float)
    if vision is None:
        return colours
    space = {"name": "sRGB1+CVD", "cvd_type": vision, "severity": 100}
    return np.clip(cspace_convert(colours, space, "sRGB1"), 0, 1)


@pytest.mark.parametrize("vision", VISIONS)
def test_colours_of_neighbouring_ticks_differ_whatever_colours_a_reader_sees(vision):
    for ticks in FIXED.values():
        logs = np.log([tick.value for tick in ticks])
        shares = (logs - logs[0]) / (logs[-1] - logs[0])
        colours = seen(colormaps["viridis"](shares)[:, :3], vision)
        assert min(deltaE(one, other, input_space="sRGB1") for one, other in pairwise(colours)) > CLEAR


@pytest.mark.parametrize("vision", VISIONS)
def test_what_is_lost_looks_like_no_value_and_no_other_cell(vision):
    lost = seen(to_rgb(LOOKS[Cell.NOT_FINITE].fill), vision)
    values = seen(colormaps["viridis"](np.linspace(0, 1, 64))[:, :3], vision)
    others = seen([to_rgb(look.fill) for kind, look in LOOKS.items() if kind != Cell.NOT_FINITE], vision)
    assert min(deltaE(lost, other, input_space="sRGB1") for other in [*values, *others]) > CLEAR


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        ([], []),
        ([0], [1]),
        ([99], [100]),
        ([9, 19, 29], [10, 10, 10]),
        ([4, 14, 24], [5, 10, 10]),  # a run that was resumed in the middle of its first interval
        ([1009, 1019], [10, 10]),  # a history that began late
        ([9, 9, 19], [1, 1, 10]),
    ],
)
def test_spans_are_the_steps_between_measurements(steps, expected):
    assert spans(steps).tolist() == expected


def test_distances_relative_to_size_have_fixed_scales():
    assert scale_of(RELATIVE_WEIGHT_CHANGE) == scale_of(quantity_of("rotation")) == "step"
    assert scale_of(CHANGE_SINCE_START) == "measurement"
    assert scale_of(RELATIVE_WEIGHT_CHANGE, "auto") == "auto"
    assert scale_of(Quantity("anything"), "step") == "auto"


def test_limits_of_values():
    assert auto_limits(np.arange(101.0)[1:]) == pytest.approx((2.98, 98.02))  # 2 and 98 % of the way from 1 to 100
    assert auto_limits(np.array([2.0, 2.0])) == (2 / 3, 6)
    assert auto_limits(np.empty(0)) == (1e-6, 1)
