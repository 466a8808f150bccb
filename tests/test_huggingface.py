# SPDX-License-Identifier: Apache-2.0
"""The callback in the Trainer of transformers, alone, on several processes and with adapters."""

import os
import shutil
import socket
import subprocess
import sys
import warnings
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch import Trainer as LightningTrainer
from lightning.pytorch.loggers import TensorBoardLogger
from torch import nn
from torch.utils.data import DataLoader

from lightning_rwc import RWCCallback, RWCHistory
from lightning_rwc.cells import Cell
from lightning_rwc.findings import Finding
from lightning_rwc.loggers import LoggerOutput
from lightning_rwc.snapshot import Snapshot
from lightning_rwc.tensorboard.contents import read
from tests.helpers import events
from tests.oracle import numpy_rwc

pytestmark = pytest.mark.integration
ROOT = Path(__file__).parent.parent
# A second one, at another cadence, in the same training.
SECOND = {"prefix": "two", "every_n_train_steps": 4, "relative_to": "initial", "norm": "l2", "heatmap": False}


@pytest.fixture(scope="module")
def hf():
    """Imported late: transformers takes seconds, and every process of pytest would import it."""
    from tests import huggingface_program

    return huggingface_program


@pytest.fixture(scope="module")
def run(hf, tmp_path_factory):
    """A training with everything, which several tests look at."""
    folder = tmp_path_factory.mktemp("run")
    first, second = hf.RWCTrainerCallback(measures=["rotation"]), hf.RWCTrainerCallback(**SECOND)
    weights, other = hf.Weights(), integration(folder)
    trainer = hf.trainer(
        other, weights, first, second, folder=folder, report_to="tensorboard", save_strategy="steps", save_steps=4
    )
    trainer.train()
    (log,) = (folder / "runs").iterdir()
    return SimpleNamespace(
        folder=folder, first=first, second=second, weights=weights.kept, log=log, other=other, model=trainer.model
    )


def integration(folder):
    """One of transformers' integrations that needs no service."""
    from transformers.integrations import AzureMLCallback

    class Kept(AzureMLCallback):
        def __init__(self):
            self.rows, self.azureml_run = {}, SimpleNamespace(log=self.log)

        def on_init_end(self, *args, **kwargs):
            pass

        def on_log(self, args, state, control, logs=None, **kwargs):
            self.step = state.global_step
            super().on_log(args, state, control, logs=logs, **kwargs)

        def log(self, key, value, description):
            self.rows.setdefault(key, []).append((self.step, value))

    return Kept()


def expected(states, layers, norm="l1"):
    pairs = pairwise(states)
    return [[numpy_rwc([p[f"{x}.weight"]], [c[f"{x}.weight"]], norm) for x in layers] for p, c in pairs]


def test_the_table_is_numpys(run):
    history = run.first.history
    assert len(history.layers) == 10
    assert (history.epochs, history.steps) == ([0, 1, 2], [6, 12, 18])
    np.testing.assert_allclose(history.values, expected(run.weights, history.layers), rtol=1e-6)
    assert run.second.history.steps == [4, 8, 12, 16]
    distance = expected([run.weights[0], run.weights[2]], history.layers, "l2")
    np.testing.assert_allclose(run.second.history.values[2:3], distance, rtol=1e-6)
    assert run.first.findings == []


def test_lightning_has_the_same_table_and_tags(hf, run, tmp_path):
    class Module(LightningModule):
        def __init__(self):
            super().__init__()
            self.gpt2 = hf.gpt2()

        def training_step(self, batch, index):
            return self.gpt2(**batch).loss

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    callback = RWCCallback(measures=["rotation"], strip_prefix="gpt2.")
    logger = TensorBoardLogger(tmp_path)
    quiet = dict.fromkeys(("enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    trainer = LightningTrainer(max_epochs=3, accelerator="cpu", logger=logger, callbacks=[callback], **quiet)
    trainer.fit(Module(), DataLoader(hf.texts(), batch_size=hf.BATCH))
    assert [name.removeprefix("gpt2.") for name in callback.history.layers] == run.first.history.layers
    for name, table in callback.histories.items():
        np.testing.assert_allclose(run.first.histories[name].values, table.values, rtol=1e-6)
        assert run.first.histories[name].epochs == table.epochs

    ours, theirs = (
        {
            kind: {tag for tag in found if tag.startswith("rwc")}
            for kind, found in events(folder).Tags().items()
            if isinstance(found, list)
        }
        for folder in (run.log, logger.log_dir)
    )
    assert ours == theirs
    assert {"rwc/heatmap", "rwc/curves", "rwc_rotation/heatmap"} <= ours["images"]
    assert "rwc_summary/total" in ours["scalars"]


def test_tensorboard_has_the_table_at_its_steps_and_what_the_tab_needs(run):
    log, history = events(run.log), run.first.history
    for column, layer in enumerate(history.layers):
        points = log.Scalars(f"rwc/{layer}")
        assert [point.step for point in points] == [6, 12, 18]
        np.testing.assert_allclose([point.value for point in points], history.values[:, column], rtol=1e-6)
    assert log.Images("rwc/heatmap")[-1].step == 18
    contents = read(log.Tensors("rwc_summary/layers")[-1].tensor_proto.string_val[0])
    assert contents.layers == history.layers
    assert list(contents.tables) == ["rwc", "rwc_rotation"]
    assert contents.shapes["transformer.h.0.mlp.c_fc"] == "Conv1D 16×64"


def test_other_integrations_get_scalars(run):
    layer = run.first.history.layers[0]
    steps, values = zip(*run.other.rows[f"rwc/{layer}"], strict=True)
    assert steps == (6, 12, 18)
    np.testing.assert_allclose(values, run.first.history.values[:, 0], rtol=1e-6)


def test_pictures_and_findings_go_where_integrations_take_them(hf, monkeypatch):
    wandb, mlflow, comet_ml = (pytest.importorskip(name) for name in ("wandb", "mlflow", "comet_ml"))
    from lightning_rwc.huggingface.integrations import loggers_of

    rows, client, experiment = [], Mock(), Mock()
    monkeypatch.setattr(wandb, "log", rows.append)
    monkeypatch.setattr(mlflow, "log_metrics", Mock())
    monkeypatch.setattr(mlflow, "MlflowClient", lambda: client)
    monkeypatch.setattr(mlflow, "active_run", lambda: SimpleNamespace(info=SimpleNamespace(run_id="7")))
    monkeypatch.setattr(comet_ml, "get_running_experiment", lambda: experiment)
    callbacks = [type(name, (), {})() for name in ("WandbCallback", "MLflowCallback", "CometCallback", "Printer")]
    loggers, output = loggers_of(callbacks, None, None, None, None), LoggerOutput()
    assert len(loggers) == 3
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        output.scalars(loggers, {"rwc/a<b": 0.5}, 6)
        output.pictures(loggers, {"rwc/heatmap": np.zeros((2, 3, 3), np.uint8)}, 6)
        output.pages(loggers, {"rwc/heatmap_hover": "<p>"}, 6)
        output.findings(loggers, "rwc/findings", [Finding("stuck", ("fc",), 0, 6, "It does not move.")], 0)
    assert [row.pop("train/global_step") for row in rows] == [6] * 4
    assert rows[0] == {"rwc/a<b": 0.5}
    assert isinstance(rows[1]["rwc/heatmap"][0], wandb.Image)
    assert rows[3]["rwc/findings"].data == [[0, 6, "stuck", "'fc'", "It does not move."]]
    mlflow.log_metrics.assert_called_once_with({"rwc/ab": 0.5}, step=6)
    assert client.log_image.call_args.args[0] == "7"
    assert client.log_image.call_args.kwargs == {"key": "rwc/heatmap", "step": 6}
    assert [call.args[2] for call in client.log_text.call_args_list] == ["rwc/heatmap_hover.html", "rwc/findings.md"]
    experiment.log_metrics.assert_called_once_with({"rwc/a<b": 0.5}, step=6)
    assert experiment.log_image.call_args.kwargs == {"name": "rwc/heatmap", "step": 6}
    assert experiment.log_text.call_args.kwargs["step"] == 6


@pytest.mark.parametrize("step", [4, 12, 18])  # within an epoch, at the end of one, and at the end of training
def test_a_resumed_run_has_the_table_of_an_uninterrupted_one(hf, run, tmp_path, step):
    first, second = hf.RWCTrainerCallback(measures=["rotation"]), hf.RWCTrainerCallback(**SECOND)
    trainer = hf.trainer(first, second, folder=tmp_path)
    trainer.train(resume_from_checkpoint=str(run.folder / f"checkpoint-{step}"))
    for here, there in ((first, run.first), (second, run.second)):
        for name, table in here.histories.items():
            assert table.steps == there.histories[name].steps
            assert table.epochs == there.histories[name].epochs
            np.testing.assert_array_equal(table.values, there.histories[name].values)


def test_a_checkpoint_of_another_callback_begins_a_new_history(hf, run, tmp_path):
    callback = hf.RWCTrainerCallback(norm="l2")
    trainer = hf.trainer(callback, folder=tmp_path)
    with pytest.warns(UserWarning, match=r"has no state of RWCTrainerCallback\[prefix='rwc', norm='l2'.* at step 12"):
        trainer.train(resume_from_checkpoint=str(run.folder / "checkpoint-12"))
    assert callback.history.steps == [18]


@pytest.mark.parametrize("content", [{"key": "x"}, 3])
def test_a_state_that_is_none_begins_a_new_history(hf, run, tmp_path, content):
    checkpoint = shutil.copytree(run.folder / "checkpoint-12", tmp_path / "checkpoint-12")
    torch.save(content, checkpoint / "lightning_rwc_rwc.pt")
    callback = hf.RWCTrainerCallback()
    with pytest.warns(UserWarning, match="has no state of RWCTrainerCallback.*: reading .* failed with"):
        hf.trainer(callback, folder=tmp_path).train(resume_from_checkpoint=str(checkpoint))
    assert callback.history.steps == [18]


def test_each_trial_of_a_search_has_a_state_of_its_own(hf, tmp_path):
    trainer = hf.trainer(hf.RWCTrainerCallback(), folder=tmp_path, num_train_epochs=1, save_strategy="epoch")
    trainer._get_output_dir = lambda trial: str(tmp_path / "run-0")
    trainer.train()
    assert [path.parent.name for path in tmp_path.rglob("lightning_rwc_rwc.pt")] == ["checkpoint-6"]
    assert (tmp_path / "run-0" / "checkpoint-6" / "lightning_rwc_rwc.pt").exists()


def test_training_is_the_same_without_the_callback(hf, run, tmp_path):
    trainer = hf.trainer(folder=tmp_path)
    trainer.train()
    for one, other in zip(trainer.model.state_dict().values(), run.model.state_dict().values(), strict=True):
        assert torch.equal(one, other)


def test_accumulated_gradients_count_optimizer_steps(hf, run, tmp_path):
    callback, often = hf.RWCTrainerCallback(), hf.RWCTrainerCallback(prefix="often", every_n_train_steps=2)
    batches = {"per_device_train_batch_size": hf.BATCH // 2, "gradient_accumulation_steps": 2}
    hf.trainer(callback, often, folder=tmp_path, **batches).train()
    assert callback.history.steps == [6, 12, 18]
    assert often.history.steps == [2, 4, 6, 8, 10, 12, 14, 16, 18]
    np.testing.assert_allclose(callback.history.values, run.first.history.values, rtol=1e-4)


def test_what_is_wrong_is_told(hf, tmp_path):
    model = hf.gpt2()
    model.transformer.h[0].attn.requires_grad_(False)
    model.unused = nn.Linear(3, 3)
    callback = hf.RWCTrainerCallback()
    with pytest.warns(UserWarning, match="found 'no_gradient': 'unused'"):
        hf.trainer(callback, model=model, folder=tmp_path, report_to="tensorboard").train()
    assert [(one.kind, one.layers, one.step) for one in callback.findings] == [("no_gradient", ("unused",), 12)]
    assert "rwc/findings/text_summary" in events(next((tmp_path / "runs").iterdir())).Tags()["tensors"]
    frozen = [layer for layer in callback.history.layers if "h.0.attn" in layer]
    causes = callback.causes[:, [callback.history.layers.index(layer) for layer in frozen]]
    assert (callback.history.to_frame()[frozen].to_numpy() == 0).all()
    assert (causes == Cell.FROZEN).all()


def test_a_measurement_that_fails_does_not_stop_training(hf, tmp_path, monkeypatch):
    def measure(*args, **kwargs):
        raise MemoryError("none left")

    monkeypatch.setattr(Snapshot, "measure", measure)
    callback = hf.RWCTrainerCallback()
    trainer = hf.trainer(callback, folder=tmp_path, num_train_epochs=1)
    with pytest.warns(UserWarning, match="measurement of relative weight change failed .* MemoryError: none left"):
        trainer.train()
    assert trainer.state.global_step == 6
    assert np.isnan(callback.history.values).all()


def test_a_state_that_cannot_be_saved_does_not_stop_training(hf, tmp_path, monkeypatch):
    def save(*args, **kwargs):
        raise OSError("no space")

    monkeypatch.setattr("lightning_rwc.huggingface.callback.torch", SimpleNamespace(save=save))
    callback = hf.RWCTrainerCallback()
    with pytest.warns(UserWarning, match="OSError: no space. Training continues"):
        hf.trainer(callback, folder=tmp_path, num_train_epochs=1, save_strategy="epoch", save_only_model=True).train()
    assert callback.history.steps == [6]


def test_adapters(hf, tmp_path):
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(hf.gpt2(), LoraConfig(r=2, target_modules=["c_attn"], fan_in_fan_out=True))
    callback, weights = hf.RWCTrainerCallback(layers="lora_"), hf.Weights()
    hf.trainer(callback, weights, model=model, folder=tmp_path).train()
    layers, table = callback.history.layers, callback.history.values
    assert [layer.rpartition("c_attn.")[2] for layer in layers] == ["lora_A.default", "lora_B.default"] * 2
    np.testing.assert_allclose(table[1:], expected(weights.kept[1:], layers), rtol=1e-6)
    assert np.isinf(table[0]).tolist() == [False, True] * 2


def test_two_callbacks_need_two_prefixes(hf, tmp_path):
    trainer = hf.trainer(hf.RWCTrainerCallback(), hf.RWCTrainerCallback(), folder=tmp_path)
    with pytest.raises(ValueError, match="have `prefix='rwc'`"):
        trainer.train()


def test_two_processes_have_the_table_of_one(hf, tmp_path):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    programs = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.huggingface_program", str(tmp_path)],
            cwd=ROOT,
            env={**os.environ, **shared, "RANK": rank, "LOCAL_RANK": rank},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in "01"
    ]
    said = [program.communicate(timeout=600)[0] for program in programs]
    assert [program.returncode for program in programs] == [0, 0], said
    callback = hf.RWCTrainerCallback(heatmap=False)
    hf.trainer(callback, folder=tmp_path / "one", momentum=0.5).train()
    ddp, resumed, fsdp = (RWCHistory.load(tmp_path / f"{name}.npz") for name in ("ddp", "resumed", "fsdp"))
    for history in (ddp, fsdp):
        assert history.layers == callback.history.layers
        assert history.steps == [6, 12, 18]
        np.testing.assert_allclose(history.values, callback.history.values, rtol=1e-5)
    assert resumed.steps == ddp.steps
    np.testing.assert_array_equal(resumed.values, ddp.values)
