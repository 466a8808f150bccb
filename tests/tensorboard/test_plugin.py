# SPDX-License-Identifier: Apache-2.0
"""The routes, by requests to the application that TensorBoard would serve."""

import json
import subprocess
import sys
from base64 import b64decode
from importlib import metadata, resources
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.plugins.base_plugin import TBContext, TBLoader
from torch import nn
from torch.utils.tensorboard import SummaryWriter
from werkzeug.test import Client

from lightning_rwc import RWCCallback
from lightning_rwc.tensorboard import plugin as module
from lightning_rwc.tensorboard.loader import RWCLoader
from lightning_rwc.tensorboard.plugin import RWCPlugin
from tests.helpers import LAYERS, Net, events, images, net, trainer
from tests.tensorboard.logs import announce, write_measurement, write_units

HOSTILE = ["<img src=x onerror=alert(1)>", "../../etc/passwd", "x" * 10_000, "a\u202eb", "(a+)+$", "🙂"]


def clients(log_dir):
    multiplexer = EventMultiplexer(tensor_size_guidance={"scalars": 1000}, purge_orphaned_data=True)
    multiplexer.AddRunsFromDirectory(str(log_dir))
    multiplexer.Reload()
    context = TBContext(logdir=str(log_dir), data_provider=MultiplexerDataProvider(multiplexer, str(log_dir)))
    plugin = RWCLoader().load(context)
    return {route: Client(application) for route, application in plugin.get_plugin_apps().items()}


def table(answer):
    content = json.loads(answer.data)
    values = np.frombuffer(b64decode(content["values"]), dtype="<f4")
    return content, values.reshape(len(content["layers"]), len(content["steps"]))


def listed(routes):
    series = json.loads(routes["/runs"].get("/").data)["series"]
    return {(one["run"], one["prefix"]): (one["label"], one["layers"]) for one in series}


def test_table_of_a_real_run(tmp_path):
    callbacks = [RWCCallback(measures=("strength",)), RWCCallback(norm="l2", prefix="my/l2", layers="weight$")]
    logger = TensorBoardLogger(tmp_path, name="", version="run")
    trainer(*callbacks, tmp_path=tmp_path, logger=logger).fit(net(), images())
    routes = clients(tmp_path)
    assert listed(routes) == {
        ("run", "rwc"): ("relative weight change (ratio)", 3),
        ("run", "my/l2"): ("relative weight change (ratio)", 4),
        ("run", "rwc_strength"): ("mean node strength", 3),
    }
    tables = {
        "rwc": callbacks[0].history,
        "rwc_strength": callbacks[0].histories["strength"],
        "my/l2": callbacks[1].history,
    }
    for prefix, history in tables.items():
        content, values = table(routes["/table"].get("/", query_string={"run": "run", "prefix": prefix}))
        assert content["signed"] == (prefix == "rwc_strength")
        assert content["layers"] == history.layers  # depth order, which is not alphabetical
        assert (content["steps"], content["epochs"]) == (history.steps, history.epochs)
        np.testing.assert_allclose(values, history.values.T, rtol=1e-6)
    assert callbacks[0].history.layers == LAYERS != sorted(LAYERS)


def test_tags_leave_out_what_the_user_says_and_the_tab_has_whole_names(tmp_path):
    callback = RWCCallback(strip_prefix="block.", measures=("rotation",), units="conv2")
    logger = TensorBoardLogger(tmp_path, name="", version="run", prefix="my")
    trainer(callback, tmp_path=tmp_path, logger=logger).fit(net(), images())
    tags = events(logger.log_dir).Tags()
    assert {"my-rwc/conv1", "my-rwc/conv2", "my-rwc/fc", "my-rwc_rotation/conv2"} < {*tags["scalars"]}
    assert "my-rwc_units/conv2/change" in tags["images"]
    assert not [tag for tag in tags["scalars"] if "block" in tag]
    routes = clients(tmp_path)
    content, values = table(routes["/table"].get("/", query_string={"run": "run", "prefix": "my-rwc"}))
    assert content["layers"] == callback.history.layers == ["conv1", "block.conv2", "fc"]
    np.testing.assert_allclose(values, callback.history.values.T, rtol=1e-6)
    query = {"run": "run", "prefix": "my-rwc", "layer": "block.conv2"}
    _, units = table(routes["/table"].get("/", query_string=query))
    assert units.shape == (4, 3)


@pytest.mark.parametrize(
    ("prefix", "message"),
    [
        ("encoder.", "`strip_prefix='encoder.'` is at the start of no layer's name. The first one is 'conv1'"),
        ("block.conv", "With `strip_prefix='block.conv'` the layer 'block.conv2' would have the tag of another one"),
    ],
)
def test_a_prefix_that_does_not_fit_is_refused(prefix, message, tmp_path):
    module = net()
    module.add_module("2", nn.Linear(2, 2))
    with pytest.raises(ValueError, match=message):
        trainer(RWCCallback(strip_prefix=prefix), tmp_path=tmp_path).fit(module, images())


class Partly(Net):
    """Its first layer is frozen, and no optimizer has its last one."""

    def configure_optimizers(self):
        self.conv1.requires_grad_(False)
        return torch.optim.SGD([p for name, p in self.named_parameters() if not name.startswith("fc")], lr=0.1)


def test_table_of_a_run_with_findings_tells_them_and_why_cells_are_still(tmp_path):
    callback = RWCCallback(measures=("strength", "rotation"))
    logger = TensorBoardLogger(tmp_path, name="", version="run")
    with pytest.warns(UserWarning, match="not_in_optimizer"):
        trainer(callback, tmp_path=tmp_path, logger=logger, max_epochs=2).fit(net(Partly), images())
    routes = clients(tmp_path)
    contents = {
        prefix: json.loads(routes["/table"].get("/", query_string={"run": "run", "prefix": prefix}).data)
        for prefix in ("rwc", "rwc_rotation", "rwc_strength")
    }
    told = contents["rwc"]
    [finding] = told["findings"]
    assert (finding["kind"], finding["layers"], finding["epoch"]) == ("not_in_optimizer", ["fc"], 0)
    assert finding["message"] == callback.findings[0].message
    assert contents["rwc_rotation"]["findings"] == [finding]
    assert contents["rwc_strength"]["findings"] is None  # it tells of something else
    cells = np.frombuffer(b64decode(told["cells"]), np.uint8).reshape(3, 2)
    np.testing.assert_array_equal(cells, [[5, 5], [0, 0], [8, 8]])  # frozen, values, in no optimizer
    assert told["short"] == LAYERS
    assert told["blocks"] == ["conv1", "block", "fc"]
    assert told["shapes"] == {"conv1": "Conv2d 4×1×3×3", "block.conv2": "Conv2d 4×4×3×3", "fc": "Linear 2×64"}
    logged = [event.value for event in events(logger.log_dir).Scalars("rwc_summary/depth_correlation")]
    assert told["depth_correlation"] == pytest.approx(logged)
    assert told["scales"]["default"] == "step"
    assert contents["rwc_strength"]["scales"] is None
    assert told["spans"] == np.diff([-1, *callback.history.steps]).tolist()


@pytest.mark.parametrize(("looks", "expected"), [(True, []), (False, None)])
def test_no_findings_are_another_thing_than_not_having_looked(looks, expected, tmp_path):
    logger = TensorBoardLogger(tmp_path, name="", version="run")
    trainer(RWCCallback(findings=looks), tmp_path=tmp_path, logger=logger, max_epochs=1).fit(net(), images())
    answer = clients(tmp_path)["/table"].get("/", query_string={"run": "run", "prefix": "rwc"})
    assert json.loads(answer.data)["findings"] == expected


class Awkward(Net):
    """Layers are named like pictures, and metrics begin as theirs do."""

    def __init__(self):
        super().__init__()
        self.heatmap, self.curves = nn.Linear(2, 2), nn.Linear(2, 2)

    def loss(self, batch):
        hidden = self.block["conv2"](self.block["bn"](self.conv1(batch[0])).relu()).relu()
        return self.curves(self.heatmap(self.fc(hidden.flatten(1)))).square().mean()

    def training_step(self, batch, batch_idx):
        self.log("rwc/own", 1.0, on_step=True, on_epoch=True)
        self.log("rwc_strength/own", 1.0, on_step=False, on_epoch=True)
        self.log("epoch", 100.0)
        return super().training_step(batch, batch_idx)


@pytest.mark.parametrize(("prefix", "before"), [("", ""), ("my/run", "my/run-")])
def test_awkward_names_of_layers_metrics_and_loggers(prefix, before, tmp_path):
    callback = RWCCallback(measures=("strength",))
    logger = TensorBoardLogger(tmp_path, name="", version="run", prefix=prefix)
    trainer(callback, tmp_path=tmp_path, logger=logger).fit(net(Awkward), images())
    routes = clients(tmp_path)
    assert {prefix for _, prefix in listed(routes)} == {f"{before}rwc", f"{before}rwc_strength"}
    for root, history in {"rwc": callback.history, "rwc_strength": callback.histories["strength"]}.items():
        answer = routes["/table"].get("/", query_string={"run": "run", "prefix": f"{before}{root}"})
        assert answer.status_code == 200
        content, values = table(answer)
        assert content["layers"] == history.layers == [*LAYERS, "heatmap", "curves"]
        assert (content["steps"], content["epochs"]) == (history.steps, history.epochs)
        np.testing.assert_allclose(values, history.values.T, rtol=1e-6)


def test_hostile_names_are_data(tmp_path):
    with SummaryWriter(tmp_path / "<b>run") as writer:
        write_measurement(writer, 1, 0, {"rwc": dict.fromkeys(HOSTILE, 0.5)})
        announce(writer, 1, HOSTILE)
    routes = clients(tmp_path)
    answer = routes["/table"].get("/", query_string={"run": "<b>run", "prefix": "rwc"})
    assert table(answer)[0]["layers"] == HOSTILE
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Content-Security-Policy"] == "default-src 'none'"


def test_what_is_not_there_is_404_and_a_query_without_its_arguments_400(tmp_path):
    with SummaryWriter(tmp_path / "run") as writer:
        write_measurement(writer, 1, 0, {"rwc": {"a": 0.5}})
        announce(writer, 1, ["a"])
        writer.add_scalar("secret/loss", 0.5, 1)
    get = clients(tmp_path)["/table"].get
    for run, prefix, code in (
        ("run", "rwc", 200),
        ("run", "secret", 404),
        ("run", "rwc_summary", 404),
        ("run", "", 404),
        ("../run", "rwc", 404),
        ("<script>", "rwc", 404),
    ):
        answer = get("/", query_string={"run": run, "prefix": prefix})
        assert answer.status_code == code
        assert b"script" not in answer.data
    for query in ("", "run=run", "prefix=rwc", "run=run&run=run&prefix=rwc"):
        answer = get("/", query_string=query)
        assert (answer.status_code, answer.headers["Content-Type"]) == (400, "text/plain; charset=utf-8")


@pytest.mark.parametrize("method", ["post", "put", "delete", "patch", "options"])
def test_only_get(method, tmp_path):
    for client in clients(tmp_path).values():
        answer = getattr(client, method)("/")
        assert answer.status_code == 405
        assert answer.headers["Allow"] == "GET"


def test_files_are_those_that_there_are(tmp_path):
    static = resources.files("lightning_rwc.tensorboard") / "static"
    there = {path.relative_to(static).as_posix() for path in static.rglob("*") if path.suffix in (".js", ".css")}
    assert set(module._FILES) == there | {"appearance.json"}
    routes = clients(tmp_path)
    for name in there:
        answer = routes[f"/{name}"].get("/")
        assert answer.data == (static / name).read_bytes()
        assert answer.headers["Content-Type"].startswith("text/javascript" if name.endswith("js") else "text/css")
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Content-Security-Policy"] == "default-src 'none'"
    appearance = routes["/appearance.json"].get("/")
    assert appearance.headers["Content-Type"].startswith("application/json")
    assert {one["code"] for one in appearance.json["cells"].values()} == {*range(1, 10)}
    assert (static / "vendor" / "uPlot.LICENSE").read_text(encoding="utf-8").startswith("The MIT License")


def test_a_log_that_the_callback_did_not_write_has_nothing(tmp_path):
    assert listed(clients(tmp_path)) == {}
    with SummaryWriter(tmp_path / "run") as writer:
        write_measurement(writer, 1, 0, {"rwc": {"a": 0.5}})
    assert listed(clients(tmp_path)) == {}


def test_a_table_without_points_is_not_listed(tmp_path):
    with SummaryWriter(tmp_path / "run") as writer:
        announce(writer, 1, ["a"])
    assert listed(clients(tmp_path)) == {}


def test_scalars_that_several_runs_have_come_with_their_last_values(tmp_path):
    for number, losses in enumerate(([0.5, 0.25], [0.125], [np.nan])):
        with SummaryWriter(tmp_path / f"run_{number}") as writer:
            write_measurement(writer, 9, 0, {"rwc": {"a": 0.5}})
            announce(writer, 9, ["a"])
            for step, loss in enumerate(losses):
                writer.add_scalar("val/loss", loss, step)
            writer.add_scalar(f"own_{number}", 1.0, 0)
    with SummaryWriter(tmp_path / "without") as writer:  # a run that has nothing to show
        writer.add_scalar("val/loss", 7.0, 0)
        writer.add_scalar("own_0", 7.0, 0)
    get = clients(tmp_path)["/scalars"].get
    tags = json.loads(get("/").data)["tags"]
    assert tags == ["rwc_summary/epoch", "rwc_summary/total", "val/loss"]
    answer = json.loads(get("/", query_string={"tag": "val/loss"}).data)
    assert answer == {"values": {"run_0": 0.25, "run_1": 0.125, "run_2": None}}
    assert json.loads(get("/", query_string={"tag": "<script>"}).data) == {"values": {}}
    assert get("/", query_string="tag=a&tag=b").status_code == 400


def test_an_empty_log_has_no_scalars(tmp_path):
    get = clients(tmp_path)["/scalars"].get
    assert json.loads(get("/").data) == {"tags": []}
    assert json.loads(get("/", query_string={"tag": "loss"}).data) == {"values": {}}


@pytest.mark.parametrize("head", ["", "my-"])
def test_units_are_further_tables_of_a_layer(tmp_path, head):
    layers = ["a", "b/summary", HOSTILE[0]]
    values = np.random.default_rng(0).uniform(size=(3, 2, 4)).astype(np.float32)
    names = {"b/summary": ["0", "1", "2", "3"], HOSTILE[0]: ["q:0", "q:1", "k:0", "k:1"]}
    with SummaryWriter(tmp_path / "run") as writer:
        for epoch in range(3):
            write_measurement(writer, 10 * epoch, epoch, {"rwc": dict.fromkeys(layers, 0.5)}, head=head)
            for layer in names:
                write_units(writer, 10 * epoch, layer, *values[epoch], head=head)
        announce(writer, 0, layers, head=head, units=names | {"never measured": ["0"]})
    routes = clients(tmp_path)
    series = json.loads(routes["/runs"].get("/").data)["series"]
    roots = {f"{head}rwc": "relative weight change (ratio)", f"{head}rwc_rotation": "rotation (radians)"}
    expected = {(f"{head}rwc", None, roots[f"{head}rwc"], 3)}
    expected |= {(root, layer, label, 4) for root, label in roots.items() for layer in names}
    assert {(one["prefix"], one["layer"], one["label"], one["layers"]) for one in series} == expected
    for row, root in enumerate(roots):
        for layer, units in names.items():
            query = {"run": "run", "prefix": root, "layer": layer}
            content, sent = table(routes["/table"].get("/", query_string=query))
            order = np.argsort(-np.log(values[:, row]).mean(axis=0))
            assert content["layers"] == [units[unit] for unit in order]
            assert (content["steps"], content["epochs"], content["of"]) == ([0, 10, 20], [0, 1, 2], 4)
            np.testing.assert_array_equal(sent, values[:, row].T[order])
    for prefix, layer in (("rwc", "a"), ("rwc_still", "b/summary"), (f"{head}rwc", "never measured")):
        query = {"run": "run", "prefix": prefix, "layer": layer}
        assert routes["/table"].get("/", query_string=query).status_code == 404
    twice = f"run=run&prefix={head}rwc&layer=a&layer=b"
    assert routes["/table"].get("/", query_string=twice).status_code == 400


def test_tensorboard_keeps_measurements_of_units_unless_the_user_has_said_how_many():
    for given, kept in (({}, 1000), ({"lightning_rwc": 5}, 5), ({"images": 3}, 1000)):
        flags = SimpleNamespace(samples_per_plugin=dict(given))
        RWCLoader().fix_flags(flags)
        assert flags.samples_per_plugin == given | {"lightning_rwc": kept}
    RWCLoader().fix_flags(SimpleNamespace())


def test_only_what_has_grown_is_newer(tmp_path):
    def newest():
        series = json.loads(clients(tmp_path)["/runs"].get("/").data)["series"]
        return {one["prefix"]: one["newest"] for one in series}

    with SummaryWriter(tmp_path / "run") as writer:
        for prefix in ("l2", "rwc"):
            write_measurement(writer, 9, 0, {"rwc": {"a": 0.5, "b": 0.5}}, prefix=prefix)
            announce(writer, 9, ["a", "b"], prefix=prefix)
        writer.flush()
        before = newest()
        assert newest() == before
        write_measurement(writer, 5, 0, {"rwc": {"a": 0.5, "b": 0.5}})  # a run that begins again
        writer.flush()
        grown = newest()
        assert grown["l2"] == before["l2"]
        assert grown["rwc"] > before["rwc"]
        announce(writer, 5, ["b", "a"])
    assert newest()["rwc"] > grown["rwc"]


def test_tensorboard_finds_the_tab():
    (entry,) = [e for e in metadata.entry_points(group="tensorboard_plugins") if e.value.startswith("lightning_rwc.")]
    assert entry.load() is RWCLoader
    assert issubclass(RWCLoader, TBLoader)
    plugin = RWCPlugin(TBContext())
    assert plugin.is_active()
    assert plugin.frontend_metadata().tab_name == "RWC"
    assert plugin.frontend_metadata().es_module_path in plugin.get_plugin_apps()


def test_loading_is_light_and_never_stops_tensorboard(monkeypatch, caplog):
    code = "import sys, lightning_rwc.tensorboard.loader as l; l.RWCLoader().load(type('C', (), {'data_provider': 0}))"
    code += "; print(*{name.split('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert not {"torch", "lightning", "pandas", "matplotlib", "torchmetrics"} & set(done.stdout.split())
    monkeypatch.setitem(sys.modules, "lightning_rwc.tensorboard.plugin", None)
    assert RWCLoader().load(TBContext()) is None
    assert "The RWC tab cannot be loaded" in caplog.text


def test_sources_are_safe():
    """Names from logs become text, never markup; nothing comes from another host."""
    static = Path(str(resources.files("lightning_rwc.tensorboard") / "static"))
    for path in static.glob("*.js"):
        source = path.read_text(encoding="utf-8")
        for risky in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "http:", "https:"):
            assert risky not in source, f"{risky} in {path.name}"
