# SPDX-License-Identifier: Apache-2.0
"""Every supported logger, offline, by reading back what it stored."""

import base64
import csv
import json
import re
import struct
import time
import warnings
import zipfile
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import fsspec
import numpy as np
import pytest
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import CometLogger, CSVLogger, Logger, MLFlowLogger, TensorBoardLogger, WandbLogger
from PIL import Image
from scipy.stats import spearmanr
from tensorboard.util.tensor_util import make_ndarray

from lightning_rwc import RWCCallback, loggers
from lightning_rwc.loggers import LoggerOutput, register_picture_writer
from lightning_rwc.tensorboard.contents import read
from tests.helpers import LAYERS, Net, Recorder, events, expected_table, images, lit_logger, net, trainer
from tests.oracle import numpy_rwc

SUMMARY = ("total", "depth_correlation", "epoch")
TAGS = [*(f"rwc/{layer}" for layer in LAYERS), *(f"rwc_summary/{name}" for name in SUMMARY)]
STEPS = [5, 11, 17]


def fit(tmp_path, *loggers):
    """Train with ``loggers``; what each tag should hold, by NumPy."""
    recorder = Recorder()
    trainer(RWCCallback(heatmap=1), recorder, tmp_path=tmp_path, logger=list(loggers)).fit(net(), images())
    states = [recorder.start, *recorder.epochs]
    table = expected_table(states)
    names = [f"{layer}.weight" for layer in LAYERS]
    totals = [numpy_rwc([p[n] for n in names], [c[n] for n in names], "l1") for p, c in pairwise(states)]
    rhos = [spearmanr(range(len(LAYERS)), row).statistic for row in table]
    return dict(zip(TAGS, [*table.T, totals, rhos, range(len(table))], strict=True))


def check(expected, read):
    """``read`` maps each of our tags that a logger has to {step: value}."""
    assert set(read) == set(expected)
    for tag, curve in expected.items():
        assert list(read[tag]) == STEPS
        np.testing.assert_allclose(list(read[tag].values()), curve, rtol=1e-6, atol=1e-9)


def is_picture(path):
    with Image.open(path) as image:
        return image.size[0] > 400 and len(image.convert("RGB").getcolors(10**6)) > 20


def test_tensorboard(tmp_path):
    logger = TensorBoardLogger(tmp_path)
    expected = fit(tmp_path, logger)
    log = events(logger.log_dir)
    check(expected, {tag: {e.step: e.value for e in log.Scalars(tag)} for tag in log.Tags()["scalars"] if "rwc" in tag})
    for tag in ("rwc/heatmap", "rwc/curves"):
        assert [event.step for event in log.Images(tag)] == STEPS
        picture = tmp_path / "picture.png"
        picture.write_bytes(log.Images(tag)[-1].encoded_image_string)
        assert is_picture(picture)
    [told] = log.Tensors("rwc_summary/layers")
    assert told.step == STEPS[0]
    assert read(told.tensor_proto.string_val[0]).layers == LAYERS


def test_units_are_pictures_and_tensors(tmp_path):
    loggers = [TensorBoardLogger(tmp_path / "tensorboard"), CSVLogger(tmp_path / "csv")]
    callback, recorder = RWCCallback(heatmap=1, units=["conv2", "fc"]), Recorder()
    trainer(callback, recorder, tmp_path=tmp_path, logger=loggers).fit(net(), images())
    log = events(loggers[0].log_dir)
    units = {"block.conv2": 4, "fc": 2}
    pictures = [f"rwc_units/{layer}/{kind}" for layer in units for kind in ("change", "rotation")]
    assert set(log.Tags()["images"]) == {"rwc/heatmap", "rwc/curves", *pictures}
    assert not any("units" in tag for tag in log.Tags()["scalars"])
    for tag in pictures:
        assert [event.step for event in log.Images(tag)] == STEPS
        picture = tmp_path / "picture.png"
        picture.write_bytes(log.Images(tag)[-1].encoded_image_string)
        assert is_picture(picture)
        prefix, _, kind = tag.rpartition("/")
        assert is_picture(Path(loggers[1].log_dir) / f"{prefix.replace('/', '%2F')}_{kind}.png")
    states = [recorder.start, *recorder.epochs]
    for layer, count in units.items():
        told = log.Tensors(f"rwc_summary/units/{layer}")
        assert [event.step for event in told] == STEPS
        for event, (before, after) in zip(told, pairwise(states), strict=True):
            old, new = (state[f"{layer}.weight"].double().flatten(1).numpy() for state in (before, after))
            changes = np.abs(new - old).sum(axis=1) / np.abs(old).sum(axis=1)
            cosines = (new * old).sum(axis=1) / np.linalg.norm(new, axis=1) / np.linalg.norm(old, axis=1)
            written = make_ndarray(event.tensor_proto)
            assert written.shape == (2, count)
            np.testing.assert_allclose(written, [changes, np.arccos(np.clip(cosines, -1, 1))], rtol=1e-4, atol=1e-7)
    [about] = log.Tensors("rwc_summary/layers")
    contents = read(about.tensor_proto.string_val[0])
    assert contents.units == {layer: range(count) for layer, count in units.items()}
    assert [*contents.unit_tables] == ["rwc", "rwc_rotation"]


def test_without_units_nothing_is_written_about_them(tmp_path):
    logger = TensorBoardLogger(tmp_path)
    trainer(RWCCallback(), tmp_path=tmp_path, logger=logger).fit(net(), images())
    tags = events(logger.log_dir).Tags()
    assert not any("units" in tag for kind in ("scalars", "images", "tensors") for tag in tags[kind])


class Own(Net):
    """A model that logs under tags of units."""

    def training_step(self, batch, batch_idx):
        names = ("rwc_units/fc/change", "rwc_summary/units/conv1")
        self.log_dict(dict.fromkeys(names, 5.0), on_epoch=True, on_step=False)
        return super().training_step(batch, batch_idx)


def test_metrics_of_the_user_under_tags_of_units_are_left_alone(tmp_path):
    logger = TensorBoardLogger(tmp_path)
    with pytest.warns(UserWarning, match="'rwc_units/fc/change', 'rwc_summary/units/conv1'"):
        trainer(RWCCallback(units="conv1|fc"), tmp_path=tmp_path, logger=logger).fit(net(Own), images())
    log = events(logger.log_dir)
    assert {
        event.value for tag in ("rwc_units/fc/change", "rwc_summary/units/conv1") for event in log.Scalars(tag)
    } == {5}
    assert {"rwc_units/fc/rotation", "rwc_units/conv1/change"} < set(log.Tags()["images"])
    assert "rwc_units/fc/change" not in log.Tags()["images"]
    assert "rwc_summary/units/fc" in log.Tags()["tensors"]
    assert "rwc_summary/units/conv1" not in log.Tags()["tensors"]
    assert [*read(log.Tensors("rwc_summary/layers")[-1].tensor_proto.string_val[0]).units] == ["fc"]


def test_csv(tmp_path):
    logger = CSVLogger(tmp_path)
    expected = fit(tmp_path, logger)
    with (Path(logger.log_dir) / "metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["rwc/fc"]]
    tags = [tag for tag in rows[0] if tag.startswith("rwc")]
    check(expected, {tag: {int(row["step"]): float(row[tag]) for row in rows} for tag in tags})
    assert is_picture(Path(logger.log_dir) / "rwc_heatmap.png")
    assert is_picture(Path(logger.log_dir) / "rwc_curves.png")


PICTURE = np.zeros((4, 4, 3), dtype=np.uint8)


def give(logger, tag="rwc/fc"):
    """A scalar and a picture."""
    output = LoggerOutput()
    output.scalars([logger], {tag: 0.5}, step=3)
    output.pictures([logger], {"rwc/heatmap": PICTURE}, step=3)


def test_a_prefix_of_tensorboard_s_logger_is_before_pictures_too(tmp_path):
    logger = TensorBoardLogger(tmp_path, prefix="my/run")
    give(logger)
    logger.experiment.flush()
    tags = events(logger.log_dir).Tags()
    assert (tags["scalars"], tags["images"]) == (["my/run-rwc/fc"], ["my/run-rwc/heatmap"])


def test_a_prefix_of_the_csv_logger_is_before_pictures_too(tmp_path):
    logger = CSVLogger(tmp_path, prefix="my")
    give(logger)
    logger.save()
    assert (Path(logger.log_dir) / "metrics.csv").read_text().splitlines()[0] == "my-rwc/fc,step"
    assert [path.name for path in Path(logger.log_dir).glob("*.png")] == ["my-rwc_heatmap.png"]


def test_csv_pictures_of_prefixes_that_look_alike_are_files_of_their_own(tmp_path):
    logger = CSVLogger(tmp_path)
    LoggerOutput().pictures([logger], {f"{prefix}/heatmap": PICTURE for prefix in ("a/b", "a_b", "a%2Fb")}, step=3)
    names = {path.name for path in Path(logger.log_dir).glob("*.png")}
    assert names == {"a%2Fb_heatmap.png", "a_b_heatmap.png", "a%252Fb_heatmap.png"}


@pytest.mark.integration
def test_wandb_offline(tmp_path):
    logger = WandbLogger(save_dir=tmp_path, offline=True)
    expected = fit(tmp_path, logger)
    run = Path(logger.experiment.dir).parent
    give(WandbLogger(experiment=logger.experiment, prefix="my"))
    logger.experiment.finish()
    rows = _wandb_rows(run)
    scalars = [row for row in rows if "rwc/fc" in row]
    tags = [tag for tag in scalars[0] if tag.startswith("rwc")]
    check(expected, {tag: {row["trainer/global_step"]: row[tag] for row in scalars} for tag in tags})
    for tag in ("rwc/heatmap", "rwc/curves"):
        shown = {row["trainer/global_step"]: row[f"{tag}/filenames"] for row in rows if f"{tag}/filenames" in row}
        assert list(shown) == STEPS
        assert all(is_picture(run / "files" / name) for name in shown[STEPS[-1]])
    pages = {
        row["trainer/global_step"]: row["rwc/heatmap_hover/path"] for row in rows if "rwc/heatmap_hover/path" in row
    }
    assert [*pages] == STEPS
    page = (run / "files" / pages[STEPS[-1]]).read_text()
    assert page.startswith("<!doctype html>")
    content = json.loads(re.search(r"const content = (.*);", page)[1])
    values = np.frombuffer(base64.b64decode(content["values"]), "<f4").reshape(len(LAYERS), len(STEPS))
    np.testing.assert_allclose(values, [expected[f"rwc/{layer}"] for layer in LAYERS], rtol=1e-6)
    prefixed = {key for row in rows for key in row if key.startswith("my")}
    assert {"my-rwc/fc", "my-rwc/heatmap/filenames"} <= prefixed


def _wandb_rows(run):
    from wandb.proto import wandb_internal_pb2

    rows, kinds, deadline = [], set(), time.monotonic() + 120
    # W&B's service holds the file back in memory, and may close it after `finish` has returned.
    while "exit" not in kinds and time.monotonic() < deadline:
        time.sleep(0.1)
        rows.clear()
        for data in _level_db_records(next(run.glob("*.wandb")).read_bytes()):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(data)
            kinds.add(record.WhichOneof("record_type"))
            if record.HasField("history"):
                items = record.history.item
                rows.append({item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items})
    return rows


def _level_db_records(log):
    # W&B stores its records in LevelDB's log format, after a header of its own of seven bytes.
    position, record = 7, b""
    while position + 7 <= len(log):
        left = 32768 - position % 32768
        if left < 7:
            position += left
            continue
        length, kind = struct.unpack_from("<HB", log, position + 4)
        if position + 7 + length > len(log):
            return  # still being written
        record += log[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # a whole record, or the last part of one
            yield record
            record = b""


@pytest.fixture(scope="module")
def mlflow_logger(tmp_path_factory):
    """Makes loggers that write to one database, which takes long to set up."""
    folder = tmp_path_factory.mktemp("mlflow")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield lambda **kwargs: MLFlowLogger(
            tracking_uri=f"sqlite:///{folder}/mlflow.db", artifact_location=(folder / "artifacts").as_uri(), **kwargs
        )


def mlflow_pictures(logger):
    return sorted(Path(logger.experiment.download_artifacts(logger.run_id, "images")).glob("*.png"))


@pytest.mark.integration
def test_mlflow_local_store(tmp_path, mlflow_logger):
    logger = mlflow_logger()
    expected = fit(tmp_path, logger)
    client, run = logger.experiment, logger.run_id
    tags = [tag for tag in client.get_run(run).data.metrics if tag.startswith("rwc")]
    check(expected, {tag: {m.step: m.value for m in client.get_metric_history(run, tag)} for tag in tags})
    pictures = [path for path in mlflow_pictures(logger) if re.match("rwc.heatmap.step", path.name)]
    assert len(pictures) == 3
    assert is_picture(pictures[-1])
    page = Path(client.download_artifacts(run, "rwc/heatmap_hover.html"))
    assert json.loads(re.search(r"const content = (.*);", page.read_text())[1])["layers"] == LAYERS


@pytest.mark.integration
def test_a_prefix_of_the_mlflow_logger_is_before_pictures_too(mlflow_logger):
    logger = mlflow_logger(prefix="my")
    give(logger)
    assert logger.experiment.get_run(logger.run_id).data.metrics == {"my-rwc/fc": 0.5}
    assert all(re.match("my-rwc.heatmap.step", path.name) for path in mlflow_pictures(logger))
    assert mlflow_pictures(logger)


@pytest.mark.integration
def test_what_mlflow_cannot_store_does_not_take_the_rest_with_it(mlflow_logger):
    logger = mlflow_logger(prefix="my")
    fits, long = "x" * (250 - len("my-rwc/")), "x" * (251 - len("my-rwc/"))
    layers = {long: 1.0, fits: 2.0, "": 3.0, "a//b": 4.0, "../up": 5.0, "a<b": 6.0, "a>b": 7.0, "fc": 8.0}
    layers |= {f"layers.{number}": float(number) for number in range(1500)}
    scalars = {f"rwc/{layer}": value for layer, value in layers.items()}
    output = LoggerOutput()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        output.scalars([logger], scalars, step=3)
        output.scalars([logger], scalars | {"rwc/./fc": 9.0}, step=4)
    ours = [str(w.message) for w in caught if "MLFlowLogger cannot store" in str(w.message)]
    assert len(ours) == 2
    assert "xxx', which has 251 characters, but MLflow accepts 250; 'rwc/', which is not a path" in ours[0]
    assert "and 2 more" in ours[0]
    assert "of 'rwc/./fc', which is not a path that MLflow accepts. It gets all others" in ours[1]
    stored = {f"my-rwc/{layer}": value for layer, value in layers.items() if layer.startswith("layers.")}
    stored |= {f"my-rwc/{fits}": 2.0, "my-rwc/ab": 6.0, "my-rwc/fc": 8.0}
    assert logger.experiment.get_run(logger.run_id).data.metrics == stored
    assert [m.step for m in logger.experiment.get_metric_history(logger.run_id, "my-rwc/fc")] == [3, 4]


@pytest.mark.integration
def test_comet_offline(tmp_path, monkeypatch):
    # Lightning's `CometLogger(online=False)` disables the experiment; Comet's own setting stores it. The names of the
    # arguments are those that old and new Lightning know.
    monkeypatch.setenv("COMET_START_ONLINE", "0")
    options = {"project_name": "rwc", "save_dir": str(tmp_path), "log_env_details": False, "log_code": False}
    logger = CometLogger(**options)
    experiment = logger.experiment
    expected = fit(tmp_path, logger)
    prefixed = CometLogger(**options, prefix="my")
    assert prefixed.experiment is experiment  # the running one
    give(prefixed)
    experiment.end()
    with zipfile.ZipFile(next(tmp_path.glob("*.zip"))) as archive:
        messages = [json.loads(line) for line in archive.read("messages.json").splitlines()]
        metrics = [m["payload"]["metric"] for m in messages if m["type"] == "metric_msg"]
        read = {}
        for metric in metrics:
            if metric["metricName"].startswith("rwc"):
                read.setdefault(metric["metricName"], {})[metric["step"]] = float(metric["metricValue"])
        check(expected, read)
        pictures = [m["payload"] for m in messages if m["type"] == "file_upload"]
        shown = [p for p in pictures if p["additional_params"].get("figName") == "rwc/heatmap"]
        assert [p["additional_params"]["step"] for p in shown] == STEPS
        assert is_picture(archive.open(shown[-1]["file_path"]))
        assert "my_rwc/fc" in {metric["metricName"] for metric in metrics}
        assert "my_rwc/heatmap" in {p["additional_params"].get("figName") for p in pictures}


def test_litlogger_gets_pictures_by_its_documented_call():
    litlogger = pytest.importorskip("litlogger", reason="litlogger needs Python 3.11")
    uploads = []
    logger = lit_logger(lambda *upload: uploads.append(upload))
    LoggerOutput().pictures([logger], {"rwc/heatmap": PICTURE}, step=7)
    [(key, value, step)] = uploads
    assert (key, step) == ("rwc/heatmap", 7)
    assert isinstance(value, litlogger.Image)


def test_csv_in_a_remote_folder():
    class CSVLogger:
        log_dir = "memory://bucket/run"

    LoggerOutput().pictures([CSVLogger()], {"rwc/heatmap": PICTURE}, step=7)
    with fsspec.open("memory://bucket/run/rwc_heatmap.png", "rb") as file, Image.open(file) as image:
        assert image.size == (4, 4)


def test_mlflow_keys_hold_only_what_mlflow_takes():
    calls = []

    class MLFlowLogger:
        run_id = "run"
        experiment = SimpleNamespace(log_image=lambda run, image, key, step: calls.append((run, key, step)))

    LoggerOutput().pictures([MLFlowLogger()], {"ünn<1>/heatmap": PICTURE}, step=7)
    assert calls == [("run", "_nn_1_/heatmap", 7)]


class Foreign(Logger):
    """A logger this package has never heard of."""

    name, version = "foreign", 0

    def __init__(self):
        super().__init__()
        self.rows = []

    def log_metrics(self, metrics, step=None):
        self.rows.append((step, metrics))

    def log_hyperparams(self, *args, **kwargs):
        pass


def test_an_unknown_logger_gets_scalars_and_one_message(tmp_path, caplog):
    logger = Foreign()
    with caplog.at_level("INFO", logger="lightning.pytorch.rwc"):
        expected = fit(tmp_path, logger)
    rows = [(step, metrics) for step, metrics in logger.rows if "rwc/fc" in metrics]
    check(expected, {tag: {step: metrics[tag] for step, metrics in rows} for tag in rows[0][1]})
    told = [record for record in caplog.records if "Foreign gets relative weight changes as scalars" in record.message]
    assert len(told) == 1


def test_a_registered_logger_gets_pictures(tmp_path, monkeypatch):
    monkeypatch.setattr(loggers, "_PICTURE_WRITERS", dict(loggers._PICTURE_WRITERS))
    calls = []
    register_picture_writer("Foreign", lambda logger, tag, image, step: calls.append((logger, tag, image, step)))
    logger = Foreign()
    fit(tmp_path, logger)
    assert {(tag, step) for _, tag, _, step in calls} == {(f"rwc/{k}", s) for k in ("heatmap", "curves") for s in STEPS}
    assert all(one is logger and image.dtype == np.uint8 and image.shape[2] == 3 for one, _, image, _ in calls)


def test_a_registered_subclass_stays_what_it_is(tmp_path, monkeypatch):
    class Mine(TensorBoardLogger):
        pass

    monkeypatch.setattr(loggers, "_PICTURE_WRITERS", dict(loggers._PICTURE_WRITERS))
    register_picture_writer("Mine", lambda logger, tag, picture, step: None)
    logger = Mine(tmp_path)
    fit(tmp_path, logger)
    assert "rwc_summary/layers" in events(logger.log_dir).Tags()["tensors"]


def test_a_logger_that_has_been_closed_gets_the_layers_again(tmp_path):
    logger = TensorBoardLogger(tmp_path)
    for prefix in ("first", "second"):
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message="Relative weight change: logging")
            trainer(RWCCallback(prefix=prefix), tmp_path=tmp_path, logger=logger).fit(net(), images())
    assert {"first_summary/layers", "second_summary/layers"} <= set(events(logger.log_dir).Tags()["tensors"])


@pytest.mark.parametrize(("name", "write"), [(Foreign, print), ("Foreign", None)])
def test_what_is_no_writer_is_refused(name, write):
    with pytest.raises(TypeError, match=r"`(class_name|write)` must be"):
        register_picture_writer(name, write)


def test_every_logger_of_a_trainer_is_served(tmp_path):
    tensorboard, csv_logger, foreign = TensorBoardLogger(tmp_path), CSVLogger(tmp_path), Foreign()
    fit(tmp_path, tensorboard, csv_logger, foreign)
    assert len(events(tensorboard.log_dir).Scalars("rwc/fc")) == 3
    assert (Path(csv_logger.log_dir) / "rwc_heatmap.png").exists()
    assert sum("rwc/fc" in metrics for _, metrics in foreign.rows) == 3


class Failing(Foreign):
    def log_metrics(self, metrics, step=None):
        if "rwc/fc" in metrics:
            metrics.clear()
            raise ConnectionError("server gone")


def test_a_logger_that_fails_takes_nothing_from_the_others(tmp_path):
    tensorboard, foreign = TensorBoardLogger(tmp_path), Foreign()
    with pytest.warns(UserWarning, match="logging scalars to Failing failed with ConnectionError: server gone") as told:
        expected = fit(tmp_path, Failing(), tensorboard, foreign)
    assert sum("Failing" in str(w.message) for w in told) == 1
    log = events(tensorboard.log_dir)
    tags = [tag for tag in log.Tags()["scalars"] if "rwc" in tag]
    check(expected, {tag: {event.step: event.value for event in log.Scalars(tag)} for tag in tags})
    assert [event.step for event in log.Images("rwc/heatmap")] == STEPS
    assert sum(set(metrics) == set(expected) for _, metrics in foreign.rows) == 3


def test_fast_dev_run_says_nothing_of_images(tmp_path, caplog):
    callback = RWCCallback()
    with caplog.at_level("INFO", logger="lightning.pytorch.rwc"):
        Trainer(callbacks=[callback], accelerator="cpu", fast_dev_run=True, default_root_dir=tmp_path, logger=True).fit(
            net(), images()
        )
    assert len(callback.history) == 1
    assert not any("relative weight" in record.message for record in caplog.records)


@pytest.mark.integration
def test_the_pytorch_lightning_namespace(tmp_path):
    import pytorch_lightning as pl
    import torch
    from pytorch_lightning import loggers

    class Model(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.fc1, self.fc2 = torch.nn.Linear(4, 4), torch.nn.Linear(4, 1)

        def training_step(self, batch, batch_idx):
            return self.fc2(self.fc1(batch)).square().mean()

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    tensorboard, csv_logger = loggers.TensorBoardLogger(tmp_path), loggers.CSVLogger(tmp_path)
    callback = RWCCallback()
    run = pl.Trainer(
        callbacks=[callback],
        logger=[tensorboard, csv_logger],
        accelerator="cpu",
        max_epochs=2,
        enable_progress_bar=False,
        enable_checkpointing=False,
    )
    run.fit(Model(), torch.utils.data.DataLoader(torch.ones(8, 4)))
    log = events(tensorboard.log_dir)
    assert [event.step for event in log.Scalars("rwc/fc2")] == [7, 15]
    assert "rwc/heatmap" in log.Tags()["images"]
    assert (Path(csv_logger.log_dir) / "rwc_heatmap.png").exists()
    assert run.callback_metrics["rwc/fc1"].item() == pytest.approx(callback.history.values[-1, 0], rel=1e-6)
