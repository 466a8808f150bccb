# SPDX-License-Identifier: Apache-2.0
"""How findings are told: warnings, texts in loggers, marks in pictures, and the summary of a run."""

import json
import math
import warnings
import zipfile
from pathlib import Path
from types import SimpleNamespace

import fsspec
import numpy as np
import pytest
from lightning.pytorch.loggers import CometLogger, CSVLogger, Logger, MLFlowLogger, TensorBoardLogger, WandbLogger
from matplotlib.collections import LineCollection
from PIL import Image
from tensorboard.util.tensor_util import make_ndarray

from lightning_rwc import RWCCallback, RWCHistory
from lightning_rwc.announcer import Announcer
from lightning_rwc.findings import Finding
from lightning_rwc.findings.causes import Causes
from lightning_rwc.findings.marks import concerned, shown_at
from lightning_rwc.findings.summary import summary
from lightning_rwc.loggers import LoggerOutput
from lightning_rwc.measure_tables import MeasureTables
from lightning_rwc.plotting import curves, heatmap, to_image
from lightning_rwc.quantity import Quantity
from lightning_rwc.tags import Tags
from tests.helpers import events, images, lit_logger, net, trainer

STUCK = Finding("stuck", ("conv", "fc"), 0, 5, "Layers 'conv' and 'fc' do not move. Raise the learning rate.")
DEAD = Finding("dead_units", ("conv",), 0, 5, "Half of the units of 'conv' are dead.")
GONE = Finding("no_step", (), 2, 17, "The optimizer never steps.")

STUCK_TEXT = """**stuck** · 'conv' and 'fc' · epoch 0, step 5

Layers 'conv' and 'fc' do not move. Raise the learning rate.
"""
DEAD_TEXT = """**dead_units** · 'conv' · epoch 0, step 5

Half of the units of 'conv' are dead.
"""
GONE_TEXT = """**no_step** · epoch 2, step 17

The optimizer never steps.
"""
ALL_TEXT = f"{STUCK_TEXT}\n{DEAD_TEXT}\n{GONE_TEXT}"


class Run:
    """A trainer, a recorder and an announcer, without training."""

    def __init__(self, *loggers, rank=0, measures=(), heatmap=False):
        self.trainer = SimpleNamespace(loggers=[*loggers], is_global_zero=rank == 0, callback_metrics={})
        tables = MeasureTables(measures)
        empty = {"units": {}, "unit_rotations": {}, "findings": [], "metric": None, "causes": Causes()}
        empty["looks_for_findings"] = True
        self.recorder = SimpleNamespace(history=RWCHistory(), measures=tables, **empty)
        self.announcer = Announcer("rwc", heatmap)

    def tell(self, *findings):
        """What is warned of when the recorder has ``findings`` more."""
        self.recorder.findings.extend(findings)
        return self.warnings(self.announcer.findings, self.trainer, self.recorder)

    def measure(self, epoch, step, *findings):
        """The same by way of a measurement."""
        self.recorder.findings.extend(findings)
        rows = {name: {"conv": 0.5, "fc": 0.25} for name in self.recorder.measures.tables}
        self.recorder.history.record(epoch, step, {"conv": 0.5, "fc": 0.25})
        self.recorder.measures.record(rows, epoch, step)
        return self.warnings(self.announcer.measurement, self.trainer, self.recorder, None)

    @staticmethod
    def warnings(do, *args):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            do(*args)
        return [str(w.message) for w in caught if str(w.message).startswith("Relative weight change")]


def tell_all(*loggers):
    """Tell in two turns, one finding of the second at a step of the first."""
    run = Run(*loggers)
    run.tell(STUCK)
    run.tell(DEAD, GONE)


def test_each_finding_is_told_once():
    run = Run()
    assert run.tell() == []
    told = run.tell(STUCK, GONE)
    assert told == [
        "Relative weight change found 'stuck': Layers 'conv' and 'fc' do not move. Raise the learning rate.",
        "Relative weight change found 'no_step': The optimizer never steps.",
    ]
    assert run.tell() == []
    assert run.measure(0, 5) == []
    dead = ["Relative weight change found 'dead_units': Half of the units of 'conv' are dead."]
    assert run.measure(1, 11, DEAD) == dead
    assert run.measure(2, 17) == []
    run.announcer.restart()
    run.recorder.findings.clear()
    assert run.tell(DEAD) == dead


def test_findings_of_a_checkpoint_are_not_told_again(tmp_path):
    logger = CSVLogger(tmp_path)
    run = Run(logger)
    run.recorder.findings.extend([STUCK, DEAD])
    run.announcer.resume(run.recorder)
    assert run.tell() == []
    assert not Path(logger.log_dir).exists()
    assert run.tell(GONE) == ["Relative weight change found 'no_step': The optimizer never steps."]
    assert (Path(logger.log_dir) / "rwc_findings.md").read_text() == ALL_TEXT


def test_other_ranks_write_nothing(tmp_path):
    logger = CSVLogger(tmp_path)
    Run(logger, rank=1).tell(STUCK)
    assert not Path(logger.log_dir).exists()


def tensorboard_texts(logger, tag):
    return [
        (event.step, make_ndarray(event.tensor_proto).item().decode())
        for event in events(logger.log_dir).Tensors(f"{tag}/text_summary")
    ]


def test_tensorboard_has_all_findings_of_a_step_in_its_last_text(tmp_path):
    logger = TensorBoardLogger(tmp_path)
    tell_all(logger)
    logger.experiment.flush()
    texts = [(5, STUCK_TEXT), (5, f"{STUCK_TEXT}\n{DEAD_TEXT}"), (17, GONE_TEXT)]
    assert tensorboard_texts(logger, "rwc/findings") == texts


def test_csv_has_all_findings_in_a_file(tmp_path):
    logger = CSVLogger(tmp_path)
    tell_all(logger)
    assert [path.name for path in Path(logger.log_dir).iterdir()] == ["rwc_findings.md"]
    assert (Path(logger.log_dir) / "rwc_findings.md").read_text() == ALL_TEXT


def test_csv_in_a_remote_folder():
    class CSVLogger:
        log_dir = "memory://bucket/findings"

    tell_all(CSVLogger())
    with fsspec.open("memory://bucket/findings/rwc_findings.md", "rb") as file:
        assert file.read().decode() == ALL_TEXT


def test_a_prefix_of_a_logger_is_before_findings_too(tmp_path):
    loggers = [TensorBoardLogger(tmp_path / "tensorboard", prefix="my"), CSVLogger(tmp_path / "csv", prefix="my/run")]
    tell_all(*loggers)
    loggers[0].experiment.flush()
    assert tensorboard_texts(loggers[0], "my-rwc/findings")[-1] == (17, GONE_TEXT)
    assert (Path(loggers[1].log_dir) / "my%2Frun-rwc_findings.md").read_text() == ALL_TEXT


@pytest.mark.integration
def test_wandb_has_a_table(tmp_path):
    logger = WandbLogger(save_dir=tmp_path, offline=True)
    tell_all(logger)
    run = Path(logger.experiment.dir).parent
    logger.experiment.finish()
    tables = [json.loads(path.read_text()) for path in run.rglob("*.table.json")]
    assert all(table["columns"] == ["epoch", "step", "kind", "layers", "message"] for table in tables)
    rows = [
        [0, 5, "stuck", "'conv' and 'fc'", STUCK.message],
        [0, 5, "dead_units", "'conv'", DEAD.message],
        [2, 17, "no_step", "", GONE.message],
    ]
    assert sorted((table["data"] for table in tables), key=len) == [rows[:1], rows]
    assert all("rwc/findings" in path.as_posix() for path in run.rglob("*.table.json"))


@pytest.mark.integration
def test_mlflow_has_an_artifact(tmp_path):
    logger = MLFlowLogger(
        tracking_uri=f"sqlite:///{tmp_path}/mlflow.db", artifact_location=(tmp_path / "artifacts").as_uri(), prefix="ü"
    )
    tell_all(logger)
    path = Path(logger.experiment.download_artifacts(logger.run_id, "_-rwc/findings.md"))
    assert path.read_text() == ALL_TEXT


@pytest.mark.integration
def test_comet_has_a_text_a_step(tmp_path, monkeypatch):
    # As in the tests of pictures, by Comet's own setting and under the names that old and new Lightning know.
    monkeypatch.setenv("COMET_START_ONLINE", "0")
    logger = CometLogger(project_name="rwc", save_dir=str(tmp_path), log_env_details=False, log_code=False, prefix="my")
    tell_all(logger)
    logger.experiment.end()
    texts = []
    with zipfile.ZipFile(next(tmp_path.glob("*.zip"))) as archive:
        for message in map(json.loads, archive.read("messages.json").splitlines()):
            if message["type"] == "file_upload" and message["payload"]["upload_type"] == "text-sample":
                payload = message["payload"]
                assert payload["metadata"] == {"name": "my_rwc/findings"}
                texts.append((payload["additional_params"]["step"], archive.read(payload["file_path"]).decode()))
    assert texts == [(5, STUCK_TEXT), (5, f"{STUCK_TEXT}\n{DEAD_TEXT}"), (17, GONE_TEXT)]


def test_litlogger_gets_findings_by_its_documented_call():
    litlogger = pytest.importorskip("litlogger", reason="litlogger needs Python 3.11")
    uploads = []

    def upload(key, value, step):
        assert isinstance(value, litlogger.Text)
        uploads.append((key, Path(value._get_upload_path()).read_text(), step))
        value._cleanup()

    LoggerOutput().findings([lit_logger(upload)], "rwc/findings", [STUCK, GONE], 1)
    assert uploads == [("rwc/findings", GONE_TEXT, 17)]


class Broken(CSVLogger):
    @property
    def log_dir(self):
        raise ConnectionError("server gone")


class Foreign(Logger):
    name, version = "foreign", 0

    def log_metrics(self, metrics, step=None):
        pass

    def log_hyperparams(self, *args, **kwargs):
        pass


def test_a_logger_that_fails_takes_nothing_from_the_others(tmp_path):
    logger = CSVLogger(tmp_path)
    run = Run(Broken(tmp_path), Foreign(), logger)
    failed, told = run.tell(STUCK)
    assert "logging findings to Broken failed with ConnectionError: server gone" in failed
    assert told.startswith("Relative weight change found 'stuck'")
    [told] = run.tell(DEAD, GONE)[:-1]
    assert told.startswith("Relative weight change found 'dead_units'")
    assert (Path(logger.log_dir) / "rwc_findings.md").read_text() == ALL_TEXT


def test_a_metric_of_the_user_under_the_tag_of_findings_is_left_alone(tmp_path):
    logger = TensorBoardLogger(tmp_path)
    run = Run(logger)
    run.trainer.callback_metrics["rwc/findings"] = 7.0
    assert len(run.measure(0, 5, STUCK)) == 1
    logger.experiment.flush()
    assert run.trainer.callback_metrics["rwc/findings"] == 7.0
    assert "rwc/findings/text_summary" not in events(logger.log_dir).Tags()["tensors"]


def test_no_layer_has_the_tag_of_findings():
    names = [f"{name}{'_' * count}" for name in ("findings", "findings/text_summary") for count in range(4)]
    tags = [Tags("rwc").layer(name) for name in names]
    assert tags == [f"rwc/{name}_" for name in names]
    assert Tags("rwc").findings == "rwc/findings"
    ordinary = ["Findings", "findings.fc", "a/findings", "findings/text", "findings_1"]
    assert [Tags("rwc").layer(name) for name in ordinary] == [f"rwc/{name}" for name in ordinary]


@pytest.mark.parametrize("page", ["tags", "guide"])
def test_the_tables_of_tags_have_findings(page):
    text = Tags.__doc__ if page == "tags" else (Path(__file__).parents[1] / "docs/guides.md").read_text()
    prefix = "{prefix}" if page == "tags" else "rwc"
    [line] = [line for line in text.splitlines() if f"`{prefix}/findings`" in line and " text" in line]
    assert "what is wrong with the training, in words" in line


def test_pictures_of_a_run_have_marks_for_changes_and_rotations(tmp_path):
    logger = CSVLogger(tmp_path)
    run = Run(logger, measures=("rotation", "radial"), heatmap=1)
    run.measure(0, 5, DEAD)
    tables = {"rwc": run.recorder.history} | {f"rwc_{k}": v for k, v in run.recorder.measures.tables.items()}
    quantities = {f"rwc_{measure.name}": measure.quantity for measure, _ in run.recorder.measures}
    for prefix, table in tables.items():
        quantity = [quantities[prefix]] if prefix in quantities else []
        for kind, draw in (("heatmap", table.plot_heatmap), ("curves", table.plot_curves)):
            plain, marked = to_image(draw(*quantity)), to_image(draw(*quantity, findings=[DEAD]))
            assert plain.shape != marked.shape or (plain != marked).any()
            with Image.open(Path(logger.log_dir) / f"{prefix}_{kind}.png") as image:
                np.testing.assert_array_equal(np.asarray(image), plain if prefix == "rwc_radial" else marked)


LAYERS = [f"block.{number}.conv" for number in range(6)]
VALUES = np.exp(np.random.default_rng(0).normal(-4, 1, (8, 6)))
EPOCHS, STEPS = range(8), range(9, 89, 10)


def found(layers, measurement):
    return Finding("kind", tuple(layers), EPOCHS[measurement], STEPS[measurement], "Message.")


def centres(black, first, last, count):
    """Which of ``count`` equal parts of the pixels from ``first`` to ``last`` have the centre of a black stretch."""
    starts, ends = (np.flatnonzero(np.diff(np.pad(black, 1).astype(int)) == step) for step in (1, -1))
    return ((((starts + ends) / 2 - first) / (last - first)) * count).astype(int).tolist()


@pytest.mark.parametrize("dpi", [100, 144])
def test_triangles_stand_above_the_columns_and_beside_the_rows_of_findings(dpi):
    findings = [found(LAYERS[1:2], 2), found(LAYERS, 4), found([LAYERS[1], LAYERS[4]], 7)]
    figure = heatmap(VALUES, LAYERS, EPOCHS, STEPS, findings=findings)
    figure.dpi = dpi
    dark = to_image(figure).max(axis=2) < 60
    box = figure.axes[0].get_window_extent()
    height = dark.shape[0]
    left, right, top, bottom = (round(at) for at in (box.x0, box.x1, height - box.y1, height - box.y0))
    above = dark[top - dpi // 8 : top - 1, left:right].any(axis=0)
    assert centres(above, 0, right - left, 8) == [2, 4, 7]
    beside = dark[top:bottom, left - dpi // 9 : left - 1].any(axis=1)
    assert centres(beside, 0, bottom - top, 6) == [1, 4]


def test_marks_hide_no_cell_and_change_no_scale():
    findings = [found(LAYERS[:2], 0), found(LAYERS[5:], 7)]
    for draw in (heatmap, curves):
        plain, marked = draw(VALUES, LAYERS, EPOCHS, STEPS), draw(VALUES, LAYERS, EPOCHS, STEPS, findings=findings)
        one, other = plain.axes[0], marked.axes[0]
        assert (one.get_xlim(), one.get_ylim()) == (other.get_xlim(), other.get_ylim())
        to_image(marked)
        inside = other.get_window_extent()
        triangles = [line for line in other.lines if line.get_marker() in ("v", ">")]
        assert len(triangles) == (2 if draw is heatmap else 1)
        for line in triangles:
            radius = line.get_markersize() / 2 / 72 * marked.dpi
            for x, y in line.get_transform().transform(line.get_xydata()):
                assert y - radius >= inside.y1 or x + radius <= inside.x0
    signed = Quantity("growth", signed=True)
    one, other = (curves(VALUES, LAYERS, EPOCHS, STEPS, signed, findings=some).axes[0] for some in ((), findings))
    assert one.get_ylim() == other.get_ylim()


def names_in_legends(figure):
    return [text.get_text() for legend in figure.axes[0].artists for text in legend.get_texts()]


def test_the_legend_names_marks_and_keeps_its_distance_from_them():
    values = VALUES.copy()
    values[3:, 0] = 0
    for draw in (heatmap, curves):
        assert "finding" not in names_in_legends(draw(values, LAYERS, EPOCHS, STEPS))
        figure = draw(values, LAYERS, EPOCHS, STEPS, findings=[found(LAYERS, 7)])
        assert names_in_legends(figure)[:2] == ["finding", "0: did not move"]
        to_image(figure)
        key = [text.get_window_extent() for text in figure.axes[0].artists[0].get_texts()]
        assert max(box.y1 for box in key) < figure.axes[0].xaxis.label.get_window_extent().y0
        assert min(box.y0 for box in key) > 0
        [marks] = [line for line in figure.axes[0].lines if line.get_marker() == "v"]
        [(_, y)] = marks.get_transform().transform(marks.get_xydata())
        above = [text.get_window_extent().y0 for text in figure.texts if text.get_text() and text.get_rotation() == 0]
        assert min(above) > y + marks.get_markersize() / 2 / 72 * figure.dpi


def test_findings_about_all_layers_or_none_mark_no_row():
    for layers in (LAYERS, ()):
        figure = heatmap(VALUES, LAYERS, EPOCHS, STEPS, findings=[found(layers, 3)])
        assert [line.get_marker() for line in figure.axes[0].lines] == ["v"]
    assert concerned([found(LAYERS, 0), found([LAYERS[2], "removed"], 1)], LAYERS).tolist() == [2]


def test_curves_mark_layers_where_they_are_named():
    few = curves(VALUES, LAYERS, EPOCHS, STEPS, findings=[found(LAYERS[1:3], 3)])
    handles = few.axes[0].artists[-1].legend_handles
    assert [handle.get_marker() for handle in handles] == [">" if row in (1, 2) else "None" for row in range(6)]
    curve_lines = next(artist for artist in few.axes[0].collections if isinstance(artist, LineCollection))
    np.testing.assert_array_equal([path.vertices[:, 1] for path in curve_lines.get_paths()], VALUES.T)
    values, layers = np.tile(VALUES, 5), [str(row) for row in range(30)]
    _, bar = curves(values, layers, EPOCHS, STEPS, findings=[found(["4", "29"], 3)]).axes
    [marks] = [line for line in bar.lines if line.get_marker() == ">"]
    np.testing.assert_array_equal(marks.get_ydata(), [4, 29])


@pytest.mark.parametrize(
    ("times", "drawn", "expected"),
    [
        ([(0, 9), (3, 39)], range(4), [0, 3]),
        ([(0, 0)], range(4), [0]),  # at the start of training
        ([(1, 15), (1, 19)], range(4), [1]),
        ([(9, 99)], range(4), [3]),
        ([(1, 19), (2, 29)], [0, 3], [1]),
        ([], range(4), []),
    ],
)
def test_a_finding_is_shown_at_its_measurement_or_the_next_one_drawn(times, drawn, expected):
    findings = [Finding("kind", (), epoch, step, "") for epoch, step in times]
    assert shown_at(findings, range(4), range(9, 49, 10), np.array(drawn)).tolist() == expected


def test_summary_of_many_layers():
    # Geometric means by hand: sqrt(a · b) of each pair.
    columns = {
        "a": (0.01, 0.04),  # 0.02
        "b": (0.1, 0.4),  # 0.2
        "c": (0.001, 0.004),  # 0.002
        "d": (math.inf, 0.3),  # 0.3
        "e": (0.0, 0.05),  # 0.05
        "f": (0.0, 0.0),  # did not move
        "g": (math.nan, math.nan),
        "frozen": (0.0, 0.0),
        "h": (0.9, 0.4),  # 0.6
        "i": (math.nan, 0.01),  # 0.01
    }
    history = RWCHistory([*columns], [0, 1], [9, 19], np.array([*columns.values()]).T)
    finding = Finding("no_gradient", ("c", "f"), 1, 19, "Layers 'c' and 'b.0' get 1e-3, e.g. nothing. Do it.")
    assert summary(history, [finding], ["frozen"]).splitlines() == [
        "Relative weight change: 2 measurements of 10 layers",
        "Finding 'no_gradient' at epoch 1, step 19, 'c' and 'f': Layers 'c' and 'b.0' get 1e-3, e.g. nothing.",
        "Slowest layers, by geometric mean: 'f' 0, 'c' 0.002, 'i' 0.01",
        "Fastest layers: 'h' 0.6, 'd' 0.3, 'b' 0.2",
        "Frozen: 'frozen'",
    ]


def test_summary_of_few_layers_or_none():
    history = RWCHistory(["a", "b"], [0], [9], [[0.5, 0.25]])
    assert summary(history, []).splitlines() == [
        "Relative weight change: 1 measurement of 2 layers",
        "No finding.",
        "Layers from the slowest to the fastest, by geometric mean: 'b' 0.25, 'a' 0.5",
    ]
    assert summary(RWCHistory(), [STUCK, GONE]).splitlines() == [
        "Relative weight change: 0 measurements of 0 layers",
        "Finding 'stuck' at epoch 0, step 5: Layers 'conv' and 'fc' do not move.",
        "Finding 'no_step' at epoch 2, step 17: The optimizer never steps.",
    ]


def test_summary_of_many_findings_stays_short():
    layers = [f"layers.{number}" for number in range(100)]
    history = RWCHistory(layers, [0], [9], np.geomspace(0.001, 1, 100)[None])
    findings = [Finding(f"kind_{number}", tuple(layers), 0, 9, "It is. Mend it.") for number in range(12)]
    lines = summary(history, findings, layers[:50]).splitlines()
    assert len(lines) <= 15
    assert sum(line.startswith("Finding 'kind_") for line in lines) == 9
    assert "3 more findings." in lines
    assert lines[-1] == "Frozen: 'layers.0', 'layers.1', 'layers.2', … 'layers.48' and 'layers.49' (50 layers)"


@pytest.mark.parametrize("looks", [True, False])
def test_a_fit_ends_with_the_summary(tmp_path, caplog, looks):
    callback, module = RWCCallback(findings=looks), net()
    module.conv1.requires_grad_(False)
    with caplog.at_level("INFO", logger="lightning.pytorch.rwc"):
        trainer(callback, tmp_path=tmp_path).fit(module, images())
    told = [record.getMessage() for record in caplog.records if "measurements of" in record.getMessage()]
    logs = np.log(callback.history.values[:, 1:]).mean(0)
    means = sorted(zip(np.exp(logs), callback.history.layers[1:], strict=True))
    expected = [
        "Relative weight change: 3 measurements of 3 layers",
        "No finding.",
        "Layers from the slowest to the fastest, by geometric mean: "
        + ", ".join(f"{layer!r} {value:.3g}" for value, layer in means),
        "Frozen: 'conv1'",
    ]
    assert told == (["\n".join(expected)] if looks else [])
