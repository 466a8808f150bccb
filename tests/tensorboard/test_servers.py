# SPDX-License-Identifier: Apache-2.0
"""Both of TensorBoard's ways of reading a log show the same: the one in Python, and the data server in Rust."""

import json
import time
from base64 import b64decode
from importlib.util import find_spec
from urllib.error import HTTPError
from urllib.parse import urlencode
from urllib.request import urlopen

import numpy as np
import pytest
from tensorboard.compat.proto import summary_pb2
from tensorboard.util.tensor_util import make_tensor_proto
from torch.utils.tensorboard import SummaryWriter

from tests.tensorboard.logs import announce, served, write_measurement, write_units

LONG = 2500  # measurements, of which TensorBoard keeps 1,000
UNITS = {"b": ["0", "1"]}

pytestmark = pytest.mark.integration


def row(*layers, value=1.0):
    return dict.fromkeys(layers, value)


def changed(folder):
    """A layer and a measure are added, and a layer goes."""
    with SummaryWriter(folder) as writer:
        for epoch, layers in enumerate((["z", "a"], ["z", "a"], ["z", "m", "a"], ["m", "a"])):
            measures = ["strength"] if "m" in layers else []
            rows = {name: row(*layers, value=epoch) for name in ("rwc", *measures)}
            write_measurement(writer, 10 * epoch + 9, epoch, rows)
            if epoch in (0, 2):
                announce(writer, 10 * epoch + 9, layers, measures)


def resumed(folder):
    """A second process goes on from step 9, with a model that has one more layer. Its writer has been closed before."""
    with SummaryWriter(folder) as writer:
        for epoch in range(3):
            write_measurement(writer, 10 * epoch + 9, epoch, {"rwc": row("b", "a", value=epoch)})
            if not epoch:
                announce(writer, 9, ["b", "a"], units=UNITS)
            write_units(writer, 10 * epoch + 9, "b", [epoch + 1, epoch + 2], [epoch, 0])
    time.sleep(1.1)  # the names of event files have the second, by which they are sorted
    for epoch in (1, 2, 3):
        write_measurement(writer, 10 * epoch + 9, epoch, {"rwc": row("b", "c", "a", value=10 + epoch)})
        if epoch == 1:
            announce(writer, 19, ["b", "c", "a"], units=UNITS)
        write_units(writer, 10 * epoch + 9, "b", [epoch + 11, epoch + 12], [epoch, 0])
    writer.close()


def long(folder):
    """Longer than TensorBoard keeps, and told of its layers more often than it keeps."""
    with SummaryWriter(folder) as writer:
        for epoch in range(LONG):
            write_measurement(writer, 3 * epoch + 2, epoch, {"rwc": row("b", "a", value=epoch)})
            write_units(writer, 3 * epoch + 2, "b", [epoch, 0], [0, epoch])
            if epoch % 20 == 0:
                announce(writer, 3 * epoch + 2, ["b", "a"] if epoch >= LONG - 20 else ["a", "b"], units=UNITS)


def prefixed(folder):
    """The logger has a prefix, and there are two callbacks. Lightning's `epoch` is another, at other steps."""
    with SummaryWriter(folder) as writer:
        for epoch in range(2):
            for prefix, layers in (("rwc", ["b", "a"]), ("l2", ["c"])):
                step = 10 * epoch + 9
                write_measurement(writer, step, epoch, {"rwc": row(*layers), "x/y": row(*layers)}, "my-", prefix)
                announce(writer, step, layers, ["x/y"], "my-", prefix)
            for other in (3, 6, 9):
                writer.add_scalar("my-epoch", 77, 10 * epoch + other)


def foreign(folder):
    """Somebody else's data under the name of the plugin."""
    with SummaryWriter(folder) as writer:
        write_measurement(writer, 9, 0, {"rwc": row("a")})
        for tag, value in (("rwc_summary/layers", 7.0), ("x", [b"a", b"b"]), ("y", b"{}"), ("z", [[1.0]])):
            plugin = summary_pb2.SummaryMetadata.PluginData(plugin_name="lightning_rwc")
            metadata = summary_pb2.SummaryMetadata(plugin_data=plugin, data_class=summary_pb2.DATA_CLASS_TENSOR)
            one = summary_pb2.Summary.Value(tag=tag, metadata=metadata, tensor=make_tensor_proto(value))
            writer.file_writer.add_summary(summary_pb2.Summary(value=[one]), 9)


@pytest.fixture(scope="module")
def log_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("log")
    for write in (changed, resumed, long, prefixed, foreign):
        write(str(folder / write.__name__))
    return folder


@pytest.fixture(scope="module", params=["false", "true"])
def get(request, log_dir):
    if request.param == "true" and find_spec("tensorboard_data_server") is None:
        pytest.skip("there is no data server for this platform")
    with served(log_dir, "--load_fast", request.param) as address:

        def answer(route, **query):
            with urlopen(f"{address}data/plugin/lightning_rwc/{route}?{urlencode(query)}") as response:
                return json.load(response)

        def read():
            return {one["run"] for one in answer("runs")["series"]} == {"changed", "resumed", "long", "prefixed"}

        deadline = time.monotonic() + 60
        while not (read() and answer("table", run="long", prefix="rwc")["steps"][-1] == 3 * LONG - 1):
            assert time.monotonic() < deadline
            time.sleep(0.2)
        time.sleep(2)  # the other runs are read at the same time, and are shorter
        yield answer


def values(table):
    shape = len(table["layers"]), len(table["steps"])
    return np.frombuffer(b64decode(table["values"]), dtype="<f4").reshape(shape)


def test_the_list(get):
    series = get("runs")["series"]
    units = {(one["run"], one["prefix"], one["layer"], one["layers"]) for one in series if one["layer"] is not None}
    assert units == {(run, prefix, "b", 2) for run in ("resumed", "long") for prefix in ("rwc", "rwc_rotation")}
    series = {(one["run"], one["prefix"]): (one["label"], one["layers"]) for one in series if one["layer"] is None}
    rwc, strength = "relative weight change (ratio)", "mean node strength"
    assert series == {
        ("changed", "rwc"): (rwc, 3),
        ("changed", "rwc_strength"): (strength, 3),
        ("resumed", "rwc"): (rwc, 3),
        ("long", "rwc"): (rwc, 2),
        ("prefixed", "my-rwc"): (rwc, 2),
        ("prefixed", "my-rwc_x/y"): (strength, 2),
        ("prefixed", "my-l2"): (rwc, 1),
        ("prefixed", "my-l2_x/y"): (strength, 1),
    }


def test_layers_that_change_while_a_run_trains(get):
    nan = np.nan
    table = get("table", run="changed", prefix="rwc")
    assert (table["layers"], table["epochs"], table["signed"]) == (["z", "m", "a"], [0, 1, 2, 3], False)
    np.testing.assert_array_equal(values(table), [[0, 1, 2, nan], [nan, nan, 2, 3], [0, 1, 2, 3]])
    table = get("table", run="changed", prefix="rwc_strength")
    assert (table["layers"], table["epochs"], table["signed"]) == (["z", "m", "a"], [0, 1, 2, 3], True)
    np.testing.assert_array_equal(values(table), [[nan, nan, 2, nan], [nan, nan, 2, 3], [nan, nan, 2, 3]])


def test_a_resumed_run_has_two_event_files(get):
    table = get("table", run="resumed", prefix="rwc")
    assert (table["layers"], table["steps"], table["epochs"]) == (["b", "c", "a"], [9, 19, 29, 39], [0, 1, 2, 3])
    np.testing.assert_array_equal(values(table), [[0, 11, 12, 13], [np.nan, 11, 12, 13], [0, 11, 12, 13]])


def test_a_sample_of_a_long_run_has_whole_columns_and_their_epochs(get):
    table = get("table", run="long", prefix="rwc")
    assert table["layers"] == ["b", "a"]
    assert len(table["steps"]) == 1000
    np.testing.assert_array_equal(table["epochs"], np.subtract(table["steps"], 2) // 3)
    np.testing.assert_array_equal(values(table), [table["epochs"]] * 2)


def test_units_of_a_resumed_run(get):
    table = get("table", run="resumed", prefix="rwc", layer="b")
    assert (table["layers"], table["steps"], table["epochs"]) == (["1", "0"], [9, 19, 29, 39], [0, 1, 2, 3])
    np.testing.assert_array_equal(values(table), [[2, 13, 14, 15], [1, 12, 13, 14]])


def test_units_of_a_long_run_have_the_measurements_of_its_layers(get):
    of_layers = get("table", run="long", prefix="rwc")
    table = get("table", run="long", prefix="rwc_rotation", layer="b")
    assert (table["steps"], table["epochs"]) == (of_layers["steps"], of_layers["epochs"])
    np.testing.assert_array_equal(values(table), [table["epochs"], [0] * 1000])


def test_prefixes_of_loggers_and_callbacks(get):
    for prefix, layers in (("my-rwc", ["b", "a"]), ("my-rwc_x/y", ["b", "a"]), ("my-l2", ["c"]), ("my-l2_x/y", ["c"])):
        table = get("table", run="prefixed", prefix=prefix)
        assert (table["layers"], table["steps"], table["epochs"]) == (layers, [9, 19], [0, 1])


@pytest.mark.parametrize(("run", "prefix"), [("foreign", "rwc"), ("long", "l2"), ("../long", "rwc")])
def test_what_is_not_there_is_404(get, run, prefix):
    with pytest.raises(HTTPError) as error:
        get("table", run=run, prefix=prefix)
    assert error.value.code == 404
