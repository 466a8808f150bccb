# SPDX-License-Identifier: Apache-2.0
import math
from base64 import b64decode
from collections import namedtuple

import numpy as np
import pytest

from lightning_rwc.tensorboard.series import as_table, find_epochs, find_layers, written_by_callback

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
        (
            ["rwc_summary/total", "rwc/fc", "rwc/heatmap_", "rwc/heatmap", "rwc/curves__"],
            {"rwc": ["curves_", "fc", "heatmap"]},
        ),
        (["rwc_summary/total", "rwc/heatmap_", "strength/heatmap_"], {"rwc": ["heatmap"], "strength": ["heatmap"]}),
        (
            ["x/y-rwc_summary/total", "x/y-rwc/fc", "x/y-my/measure/fc", "x/y-loss/fc", "x/y-loss/all"],
            {"x/y-rwc": ["fc"], "x/y-my/measure": ["fc"]},
        ),
        (  # somebody logs under the name of a measure
            ["rwc_summary/total", "rwc/a", "rwc/b", "strength/a", "strength/b", "strength/own", "val/a", "val/own"],
            {"rwc": ["a", "b"], "strength": ["a", "b"]},
        ),
        (["rwc_summary/total", "rwc_summary/depth_correlation", "rwc/total"], {"rwc": ["total"]}),
    ],
)
def test_measures_are_found_by_their_tags(tags, expected):
    assert find_layers(tags) == expected


def test_names_of_any_length_and_content():
    layers = ["9" * 5000, "<img src=x onerror=alert(1)>", "../..", "x" * 10_000, "a\u202eb\x00", ""]
    tags = ["rwc_summary/total", *(f"rwc/{layer}" for layer in layers)]
    assert set(find_layers(tags)["rwc"]) == set(layers)


def test_only_what_was_written_with_the_total_is_a_layer():
    total = [Datum(9, 1.5, 1.0), Datum(19, 2.5, 1.0), Datum(29, 3.5, 1.0)]
    layers = {
        "always": [Datum(9, 1.1, 1.0), Datum(19, 2.1, 1.0), Datum(29, 3.1, 1.0)],
        "at once": [Datum(9, 1.5, 1.0)],
        "added": [Datum(29, 3.2, 1.0)],
        "ahead": [Datum(9, 1.3, 1.0), Datum(19, 2.3, 1.0), Datum(29, 3.3, 1.0), Datum(39, 4.3, 1.0)],
        "removed": [Datum(9, 1.2, 1.0)],
    }
    others = {
        "every step": [Datum(step, 0.1 * step, 1.0) for step in range(30)],
        "other steps": [Datum(step, 0.1 * step, 1.0) for step in (7, 14, 21)],
        "epoch end": [Datum(9, 1.6, 1.0), Datum(19, 2.6, 1.0), Datum(29, 3.6, 1.0)],
        "empty": [],
    }
    assert written_by_callback(layers | others, total) == layers
    assert written_by_callback(layers | others, []) == layers | others


def test_the_epoch_is_that_of_the_same_logger():
    tags = ["epoch", "my-epoch", "rwc/epoch", "my/epoch", "last_epoch"]
    assert find_epochs(tags, "rwc") == "epoch"
    assert find_epochs(tags, "my-rwc") == "my-epoch"
    assert find_epochs(tags, "your-rwc") == "epoch"
    assert find_epochs(tags[1:], "my/rwc") is None


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
