# SPDX-License-Identifier: Apache-2.0
import math
from base64 import b64decode
from collections import namedtuple

import numpy as np

from lightning_rwc.quantity import Quantity
from lightning_rwc.tensorboard.series import as_table, as_unit_table

Datum = namedtuple("Datum", "step value")


def values(table):
    shape = len(table["layers"]), len(table["steps"])
    return np.frombuffer(b64decode(table["values"]), dtype="<f4").reshape(shape)


def test_table_has_a_hole_where_a_layer_has_no_point():
    curves = {"b": [Datum(9, 0.5), Datum(29, math.inf)], "a": [Datum(19, math.nan), Datum(29, 1e300)]}
    table = as_table(curves, [Datum(9, 0.0), Datum(19, 1.0), Datum(29, 2.0)])
    assert (table["layers"], table["steps"], table["epochs"]) == (["b", "a"], [9, 19, 29], [0, 1, 2])
    np.testing.assert_array_equal(values(table), np.float32([[0.5, np.nan, np.inf], [np.nan, np.nan, np.inf]]))
    assert as_table({}, []) == {"layers": [], "steps": [], "epochs": [], "spans": [], "values": "", "cells": ""}


def kinds(table):
    return np.frombuffer(b64decode(table["cells"]), dtype=np.uint8).reshape(len(table["layers"]), len(table["steps"]))


def test_each_cell_has_a_kind_by_its_value_and_the_cause_since_its_step():
    steps = (9, 19, 49)
    rows = {"a": [math.nan, 0.5, 0.0], "b": [0.0, 0.0, 0.0], "c": [math.inf, 0.1, math.nan], "d": [0.1, 0.2, 0.0]}
    curves = {layer: [Datum(*point) for point in zip(steps, row, strict=True)] for layer, row in rows.items()}
    epochs = [Datum(step, float(epoch)) for epoch, step in enumerate(steps)]
    causes = {"b": [(19, 5), (49, 6)], "c": [(49, 2)], "d": [(19, 7), (49, 0)], "gone": [(9, 5)]}
    table = as_table(curves, epochs, causes=causes)
    # 0 value, 1 not measured, 2 not finite, 3 moved from zero, 4 zero, 5 frozen, 6 no gradient, 7 only decays
    np.testing.assert_array_equal(kinds(table), [[1, 0, 4], [4, 5, 6], [3, 0, 2], [0, 7, 4]])
    assert table["spans"] == [10, 10, 30]
    signed = as_table(curves, epochs, Quantity("growth", signed=True), {"b": [(19, 5)]})
    np.testing.assert_array_equal(kinds(signed)[1], [0, 0, 0])


def test_only_the_steps_of_measurements_are_columns():
    every_step = [Datum(step, 7.0) for step in range(30)]
    table = as_table({"a": [Datum(9, 0.5), Datum(19, 0.25)], "b": every_step}, [Datum(9, 0.0), Datum(19, 1.0)])
    np.testing.assert_array_equal(values(table), np.float32([[0.5, 0.25], [7, 7]]))


def test_the_later_of_two_points_at_one_step_counts():
    epochs = [Datum(9, 0.0), Datum(19, 1.0), Datum(19, 1.0), Datum(29, math.nan)]
    table = as_table({"a": [Datum(9, 1.0), Datum(19, 2.0), Datum(19, 3.0), Datum(29, 4.0)]}, epochs)
    assert (table["steps"], table["epochs"]) == ([9, 19, 29], [0, 1, None])
    np.testing.assert_array_equal(values(table), np.float32([[1, 3, 4]]))


def test_of_a_log_with_points_left_out_each_measurement_is_as_long_as_the_shortest():
    steps = [10 * number + 9 for number in range(2001) if number % 7 != 3][:1000]
    table = as_table({"a": [Datum(step, 0.5) for step in steps]}, [Datum(step, 0.0) for step in steps])
    assert {*np.diff(steps)} == {10, 20}
    assert {*table["spans"]} == {10}
    steps = [*range(99, 100_100, 100), 100_101]  # all measurements, and a last one of 2 steps
    table = as_table({"a": [Datum(step, 0.5) for step in steps]}, [Datum(step, 0.0) for step in steps])
    assert table["spans"] == [100] * 1001 + [2]


Point = namedtuple("Point", "step numpy")


def test_units_come_with_the_most_active_one_first():
    first = np.float32([[0.0, 0.5, 0.1, np.nan], [1, 2, 3, 4]])
    second = np.float32([[0.0, 0.25, 0.1, 0.1], [5, 6, 7, 8]])
    points = [Point(9, first), Point(19, second)]
    epochs = [Datum(9, 0.0), Datum(19, 1.0), Datum(29, 2.0)]
    table = as_unit_table(points, (2, 4), 0, ["a", "b", "c", "d"], epochs)
    assert (table["layers"], table["steps"], table["epochs"]) == (["b", "c", "d", "a"], [9, 19], [0, 1])
    np.testing.assert_array_equal(values(table), np.float32([[0.5, 0.25], [0.1, 0.1], [np.nan, 0.1], [0, 0]]))
    table = as_unit_table(points, (2, 4), 1, range(4), epochs)
    assert (table["layers"], table["of"]) == (["3", "2", "1", "0"], 4)
    np.testing.assert_array_equal(values(table), [[4, 8], [3, 7], [2, 6], [1, 5]])


def test_of_units_the_later_point_at_a_step_counts_and_another_shape_is_left_out():
    shaped = [np.full(shape, value, np.float32) for value, shape in enumerate(((2, 2), (2, 2), (2, 3), (3, 2), (2,)))]
    points = [Point(9, shaped[0]), Point(9, shaped[1]), *(Point(19 + i, one) for i, one in enumerate(shaped[2:]))]
    points.append(Point(49, np.full((2, 2), "x")))
    table = as_unit_table(points, (2, 2), 0, range(2), [])
    assert (table["layers"], table["steps"], table["epochs"]) == (["0", "1"], [9], [None])
    np.testing.assert_array_equal(values(table), [[1], [1]])
    assert as_unit_table([], (2, 2), 0, range(2), [])["layers"] == []


def test_of_many_units_evenly_spaced_ones_are_sent():
    sizes = np.random.default_rng(0).permutation(5000).astype(np.float32) + 1
    table = as_unit_table([Point(9, np.stack([sizes, sizes]))], (2, 5000), 0, range(5000), [Datum(9, 0.0)])
    assert (len(table["layers"]), table["of"]) == (1000, 5000)
    sent = values(table)[:, 0]
    np.testing.assert_array_equal(sent, sizes[[int(name) for name in table["layers"]]])
    assert (sent[0], sent[-1]) == (5000, 1)
    assert set(np.diff(sent)) <= {-5, -6}
