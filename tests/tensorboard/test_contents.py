# SPDX-License-Identifier: Apache-2.0
import json
import subprocess
import sys

import numpy as np
import pytest
from tensorboard.util.tensor_util import make_ndarray

from lightning_rwc.quantity import Quantity
from lightning_rwc.tensorboard.contents import Contents, read, summary, unit_summary

TABLES = {"rwc": Quantity("relative weight change (ratio)"), "rwc_strength": Quantity("strength", signed=True)}
CONTENT = {"version": 1, "layers": ["b", "a"], "tables": [{"root": "rwc", "label": "RWC", "signed": False}]}


def test_what_was_written_is_read():
    layers = ["fc", "conv1", "🙂", "a\u202eb\x00", "", "x" * 10_000, '"'] + [str(number) for number in range(5000)]
    (value,) = summary("my-rwc_summary/layers", Contents(layers, TABLES)).value
    assert value.tag == "my-rwc_summary/layers"
    assert value.metadata.plugin_data.plugin_name == "lightning_rwc"
    assert read(make_ndarray(value.tensor).tolist()) == Contents(layers, TABLES)


@pytest.mark.parametrize(
    "change",
    [
        {"version": 2},
        {"layers": None},
        {"layers": [1]},
        {"layers": [["a"]]},
        {"layers": ["\ud800"]},
        {"tables": [{}]},
        {"tables": ["rwc"]},
        {"tables": [{"root": None, "label": "RWC", "signed": False}]},
        {"tables": [{"root": "rwc", "label": 1, "signed": False}]},
    ],
)
def test_anything_else_is_nothing(change):
    assert read(json.dumps(CONTENT)) == Contents(["b", "a"], {"rwc": Quantity("RWC")})
    assert read(json.dumps(CONTENT | change)) is None


def test_units_are_read_with_their_names_or_numbers():
    told = Contents(
        ["fc", "attention"],
        {"rwc": Quantity("RWC")},
        {"fc": ["0", "1", "2"], "attention": ["q:0", "q:1"]},
        {"rwc": Quantity("RWC"), "rwc_rotation": Quantity("rotation (radians)")},
    )
    (value,) = summary("rwc_summary/layers", told).value
    assert read(make_ndarray(value.tensor).tolist()) == told._replace(
        units={"fc": range(3), "attention": ["q:0", "q:1"]}
    )
    many = told._replace(units={"fc": [*map(str, range(50_257))]})
    assert summary("rwc_summary/layers", many).ByteSize() < 1000


@pytest.mark.parametrize(
    "change",
    [
        {"units": 1},
        {"units": ["fc"]},
        {"units": {"fc": -1}},
        {"units": {"fc": 10**30}},
        {"units": {"fc": 1.5}},
        {"units": {"fc": [1]}},
        {"units": {"\ud800": 1}},
        {"unit_tables": [{"root": 1, "label": "", "signed": False}]},
        {"unit_tables": 1},
    ],
)
def test_units_that_nobody_wrote_are_nothing(change):
    good = CONTENT | {"units": {"fc": 3}, "unit_tables": CONTENT["tables"]}
    assert read(json.dumps(good)).units == {"fc": range(3)}
    assert read(json.dumps(good | change)) is None


def test_values_of_units_are_float32():
    values = np.array([[1.0, 0.5, np.nan], [np.inf, 0.0, 1e-30]], np.float32)
    (value,) = unit_summary("rwc_summary/units/fc", values).value
    assert (value.tag, value.metadata.plugin_data.plugin_name) == ("rwc_summary/units/fc", "lightning_rwc")
    written = make_ndarray(value.tensor)
    assert written.dtype == np.float32
    np.testing.assert_array_equal(written, values)


def test_shares_are_told():
    told = Contents(["fc"], {"rwc_still": Quantity("share", share=True), "rwc": Quantity("RWC")})
    (value,) = summary("rwc_summary/layers", told).value
    assert read(make_ndarray(value.tensor).tolist()) == told


@pytest.mark.parametrize("text", [b"", b"\xff", b"[]", b"1", b"[" * 100_000, 1.5, [1.5], [], b'{"version": 1}'])
def test_what_is_no_such_text_is_nothing(text):
    assert read(text) is None


def test_importing_it_is_light():
    code = "import sys, lightning_rwc.tensorboard.contents; print(*{name.split('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert not {"torch", "lightning", "numpy", "tensorflow", "werkzeug"} & set(done.stdout.split())
