# SPDX-License-Identifier: Apache-2.0
import json
import subprocess
import sys

import pytest
from tensorboard.util.tensor_util import make_ndarray

from lightning_rwc.quantity import Quantity
from lightning_rwc.tensorboard.contents import Contents, read, summary

TABLES = {"rwc": Quantity("relative weight change (ratio)"), "rwc_strength": Quantity("strength", signed=True)}
CONTENT = {"version": 1, "layers": ["b", "a"], "tables": [{"root": "rwc", "label": "RWC", "signed": False}]}


def test_what_was_written_is_read():
    layers = ["fc", "conv1", "🙂", "a\u202eb\x00", "", "x" * 10_000, '"'] + [str(number) for number in range(5000)]
    (value,) = summary("my-rwc_summary/layers", layers, TABLES).value
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


@pytest.mark.parametrize("text", [b"", b"\xff", b"[]", b"1", b"[" * 100_000, 1.5, [1.5], [], b'{"version": 1}'])
def test_what_is_no_such_text_is_nothing(text):
    assert read(text) is None


def test_importing_it_is_light():
    code = "import sys, lightning_rwc.tensorboard.contents; print(*{name.split('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert not {"torch", "lightning", "numpy", "tensorflow", "werkzeug"} & set(done.stdout.split())
