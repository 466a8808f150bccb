# SPDX-License-Identifier: Apache-2.0
import math
from base64 import b64decode
from collections import namedtuple

import numpy as np

from lightning_rwc.tensorboard.series import as_table

Datum = namedtuple("Datum", "step value")


def values(table):
    shape = len(table["layers"]), len(table["steps"])
    return np.frombuffer(b64decode(table["values"]), dtype="<f4").reshape(shape)


def test_table_has_a_hole_where_a_layer_has_no_point():
    curves = {"b": [Datum(9, 0.5), Datum(29, math.inf)], "a": [Datum(19, math.nan), Datum(29, 1e300)]}
    table = as_table(curves, [Datum(9, 0.0), Datum(19, 1.0), Datum(29, 2.0)])
    assert (table["layers"], table["steps"], table["epochs"]) == (["b", "a"], [9, 19, 29], [0, 1, 2])
    np.testing.assert_array_equal(values(table), np.float32([[0.5, np.nan, np.inf], [np.nan, np.nan, np.inf]]))
    assert as_table({}, []) == {"layers": [], "steps": [], "epochs": [], "values": ""}


def test_only_the_steps_of_measurements_are_columns():
    every_step = [Datum(step, 7.0) for step in range(30)]
    table = as_table({"a": [Datum(9, 0.5), Datum(19, 0.25)], "b": every_step}, [Datum(9, 0.0), Datum(19, 1.0)])
    np.testing.assert_array_equal(values(table), np.float32([[0.5, 0.25], [7, 7]]))


def test_the_later_of_two_points_at_one_step_counts():
    epochs = [Datum(9, 0.0), Datum(19, 1.0), Datum(19, 1.0), Datum(29, math.nan)]
    table = as_table({"a": [Datum(9, 1.0), Datum(19, 2.0), Datum(19, 3.0), Datum(29, 4.0)]}, epochs)
    assert (table["steps"], table["epochs"]) == ([9, 19, 29], [0, 1, None])
    np.testing.assert_array_equal(values(table), np.float32([[1, 3, 4]]))
