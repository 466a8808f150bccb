# SPDX-License-Identifier: Apache-2.0
import math
from base64 import b64decode
from collections import namedtuple

import numpy as np
import pytest

from lightning_rwc.tensorboard.series import as_table, find_layers

Datum = namedtuple("Datum", "step wall_time value")


def values(table):
    shape = len(table["layers"]), len(table["steps"])
    return np.frombuffer(b64decode(table["values"]), dtype="<f4").reshape(shape)


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ([], {}),
        (["loss/train", "epoch"], {}),
        (["rwc_summary/total"], {}),
        (["rwc_summary/total", "rwc/fc", "rwc/conv10", "rwc/conv9"], {"rwc": ["conv9", "conv10", "fc"]}),
        (["a/b_summary/total", "a/b/x/y", "a/c"], {"a/b": ["x/y"]}),
        (["l2_summary/total", "rwc_summary/total", "rwc/fc", "l2/fc"], {"l2": ["fc"], "rwc": ["fc"]}),
        (
            ["rwc_summary/total", "rwc/fc", "rwc/a", "strength/fc", "val/fc", "val/acc"],
            {"rwc": ["a", "fc"], "strength": ["fc"]},
        ),
    ],
)
def test_measures_are_found_by_their_tags(tags, expected):
    assert find_layers(tags) == expected


def test_names_of_any_length_and_content():
    layers = ["9" * 5000, "<img src=x onerror=alert(1)>", "../..", "x" * 10_000, "a\u202eb\x00", ""]
    tags = ["rwc_summary/total", *(f"rwc/{layer}" for layer in layers)]
    assert set(find_layers(tags)["rwc"]) == set(layers)


def test_layers_come_in_the_order_of_writing():
    # Of the last measurement only a part has been read; the first lost its first layer.
    curves = {
        "z": [Datum(19, 2.0, 1), Datum(29, 3.0, 1)],
        "a": [Datum(9, 1.1, 1), Datum(19, 2.1, 1), Datum(29, 3.1, 1)],
        "m": [Datum(9, 1.2, 1), Datum(19, 2.2, 1)],
    }
    table = as_table({name: curves[name] for name in ("a", "m", "z")}, [])
    assert table["layers"] == ["z", "a", "m"]
    whole = {name: points[:2] if name != "z" else points[:1] for name, points in curves.items()}
    assert as_table({name: whole[name] for name in ("a", "m", "z")}, [])["layers"] == ["z", "a", "m"]


def test_table_has_a_hole_where_a_layer_has_no_point():
    curves = {
        "a": [Datum(9, 1.0, 0.5), Datum(29, 3.0, math.inf)],
        "b": [Datum(19, 2.0, math.nan), Datum(29, 3.1, 1e300)],
    }
    table = as_table(curves, [Datum(9, 1.0, 0.0), Datum(29, 3.0, 2.0)])
    assert table["steps"] == [9, 19, 29]
    assert table["epochs"] == [0, 2, 2]
    np.testing.assert_array_equal(values(table), np.float32([[0.5, np.nan, np.inf], [np.nan, np.nan, np.inf]]))
    assert as_table(curves, [])["epochs"] == [None, None, None]
    assert as_table({}, []) == {"layers": [], "steps": [], "epochs": [], "values": ""}
