# SPDX-License-Identifier: Apache-2.0
"""The command ``lightning-rwc reproduce``, run for real on scikit-learn's digits."""

import copy
import json
import os
import signal
import subprocess
import sys
import time
from importlib import resources
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from typer.testing import CliRunner

from lightning_rwc import RWCHistory
from lightning_rwc.cli import app
from lightning_rwc.experiments import run
from lightning_rwc.experiments.claims import CLAIMS
from lightning_rwc.experiments.equal_samples import EqualSamples
from lightning_rwc.experiments.results import RECORDED
from lightning_rwc.experiments.run import run_seeds
from tests.helpers import events

# Table 1 of the paper: learning rate and weight decay.
TABLE_1 = {
    "resnet18": ({"mnist": 0.1, "fashion-mnist": 0.1, "cifar10": 0.1, "cifar100": 0.1}, 1e-4),
    "vgg19_bn": ({"mnist": 0.05, "fashion-mnist": 0.05, "cifar10": 0.05, "cifar100": 0.05}, 5e-4),
    "alexnet": ({"mnist": 0.1, "fashion-mnist": 0.1, "cifar10": 0.001, "cifar100": 0.01}, 1e-4),
}


def arguments(out, *more, seeds="3,7"):
    settings = ["--model", "alexnet", "--data", "digits", "--seeds", seeds, "--out", str(out), "--subset", "300"]
    return ["reproduce", *settings, "--model.learning_rate=0.01", "--trainer.accelerator=cpu", *more]


def reproduce(out, *more, seeds="3,7"):
    return CliRunner().invoke(app, arguments(out, *more, seeds=seeds))


def test_there_is_a_file_for_each_setting_of_table_1():
    configs = {path.name: yaml.safe_load(path.read_text()) for path in (_configs() / "table_1").iterdir()}
    assert len(configs) == 12
    for architecture, (rates, decay) in TABLE_1.items():
        for data, rate in rates.items():
            config = configs[f"{architecture}-{data}.yaml"]
            assert config == {"model": {"learning_rate": rate, "weight_decay": decay}}
            assert (architecture, data) in CLAIMS


def _configs():
    return resources.files("lightning_rwc.experiments") / "configs"


@pytest.mark.integration
def test_reproduce_trains_every_seed_keeps_the_finished_and_reports(tmp_path):
    first = reproduce(tmp_path, "--epochs", "2", seeds="3")
    assert first.exit_code == 0, first.output
    out = tmp_path / "alexnet-digits"
    before = (out / "seed_3" / "finished.json").stat().st_mtime_ns
    second = reproduce(tmp_path, "--epochs", "2")
    assert second.exit_code == 0, second.output
    assert (out / "seed_3" / "finished.json").stat().st_mtime_ns == before
    assert f"The report: {out / 'report.html'}" in second.output
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "2 seeds (3, 7)" in page
    assert "Trained on the first 300 images only." in page
    for seed in (3, 7):
        folder = out / f"seed_{seed}"
        ended = json.loads((folder / "finished.json").read_text())
        assert 0 <= ended["test_top1"] <= ended["test_top5"] <= 1
        assert not list(folder.glob("*.ckpt"))
        log = events(folder / "tensorboard")
        for prefix in RECORDED.values():
            history = RWCHistory.load(folder / f"{prefix}.csv")
            assert history.values.shape == (2, 8)
            if prefix == "rwc_sample":  # only the table has it
                continue
            for layer, curve in zip(history.layers, history.values.T, strict=True):
                np.testing.assert_allclose([e.value for e in log.Scalars(f"{prefix}/{layer}")], curve, rtol=1e-6)
    settings = yaml.safe_load((out / "settings.yaml").read_text())
    assert settings["data"]["subset"] == 300
    assert settings["model"]["learning_rate"] == 0.01

    other = reproduce(tmp_path, "--epochs", "3")
    assert other.exit_code == 2
    assert "other settings: epochs is 3 and was 2. Choose another `--out`" in " ".join(other.output.split())


@pytest.mark.integration
def test_a_killed_run_goes_on_where_it_stopped(tmp_path):
    command = [sys.executable, "-c", "from lightning_rwc.cli import app; app()"]
    command += arguments(tmp_path / "killed", "--epochs", "5")
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    folder = tmp_path / "killed" / "alexnet-digits"
    deadline = time.monotonic() + 240
    while not (folder / "seed_7" / "newest.ckpt").exists():
        assert process.poll() is None, "ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert (folder / "seed_3" / "finished.json").exists()
    assert not (folder / "seed_7" / "finished.json").exists()

    for out in ("killed", "whole"):
        result = reproduce(tmp_path / out, "--epochs", "5")
        assert result.exit_code == 0, result.output
    for seed in (3, 7):
        for prefix in RECORDED.values():
            tables = [
                tmp_path / out / "alexnet-digits" / f"seed_{seed}" / f"{prefix}.csv" for out in ("killed", "whole")
            ]
            assert tables[0].read_text() == tables[1].read_text()


@pytest.mark.integration
def test_flags_go_before_the_users_yaml_and_that_before_the_papers(tmp_path):
    config = tmp_path / "mine.yaml"
    config.write_text("data: {batch_size: 100}\nmodel: {learning_rate: 0.02}\ntrainer: {max_epochs: 1}\n")
    place = ["--out", str(tmp_path), "--config", str(config), "--model.weight_decay=0", "--trainer.accelerator=cpu"]
    place.append("--trainer.enable_progress_bar=true")  # it would break the bar of seeds and epochs
    result = CliRunner().invoke(app, ["reproduce", "--model", "alexnet", "--data", "digits", "--seeds", "0", *place])
    assert result.exit_code == 0, result.output
    settings = yaml.safe_load((tmp_path / "alexnet-digits" / "settings.yaml").read_text())
    assert settings["epochs"] == 1
    assert settings["data"]["batch_size"] == 100
    assert (settings["model"]["learning_rate"], settings["model"]["weight_decay"]) == (0.02, 0)


@pytest.mark.parametrize(
    ("model", "data", "seeds", "message"),
    [
        ("resnet19", "digits", [0], "`model` must be one of.*'resnet19'"),
        ("resnet18", "imagenet", [0], "`data` must be one of.*'imagenet'"),
        ("resnet18", "digits", [], "`seeds` must be different integers"),
        ("resnet18", "digits", [1, 1], r"`seeds` must be different integers.*\[1, 1\]"),
    ],
)
def test_bad_arguments_are_named(model, data, seeds, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        run_seeds(model, data, seeds, tmp_path, [])


def test_the_command_names_its_own_option(tmp_path):
    wrong = ["reproduce", "--model", "resnet19", "--data", "digits", "--out", str(tmp_path)]
    result = CliRunner().invoke(app, wrong)
    assert result.exit_code == 2
    assert "`model` must be one of alexnet" in result.output
    assert "'resnet19'" in result.output


def test_seeds_that_are_no_numbers_are_named(tmp_path):
    result = reproduce(tmp_path, seeds="1,two")
    assert result.exit_code == 2
    assert "`--seeds` must be integers separated by commas, but got '1,two'" in result.output


def test_missing_data_is_explained(tmp_path, monkeypatch):
    from torchvision.datasets import MNIST

    def offline(self):
        raise RuntimeError("no network")

    monkeypatch.setattr(MNIST, "download", offline)
    place = ["--data-dir", str(tmp_path), "--out", str(tmp_path / "out")]
    result = CliRunner().invoke(app, ["reproduce", "--model", "alexnet", "--data", "mnist", "--seeds", "0", *place])
    assert result.exit_code == 2
    assert "MNIST is not in" in result.output
    assert "Put its four files" in result.output


@pytest.mark.parametrize(
    ("model", "data", "like", "expected"),
    [
        ("alexnet", "fashion-mnist", None, {"fit": "resize", "augment": "flip", "normalise": "none", "shuffle": False}),
        ("vgg19_bn", "cifar10", None, {"augment": "crop-flip", "normalise": "imagenet", "shuffle": False}),
        ("vgg19_bn", "cifar10", "modern", {"augment": "none", "normalise": "data", "shuffle": True}),
        ("resnet50", "mnist", None, {"fit": "pad", "augment": "none", "normalise": "data", "shuffle": True}),
    ],
)
def test_images_come_as_the_authors_or_as_usual(model, data, like, expected, tmp_path, monkeypatch):
    def no_training(cli, out):
        settings.update(cli.config.as_dict())
        raise StopIteration

    settings = {}
    monkeypatch.setattr(run, "_same_settings", no_training)
    with pytest.raises(StopIteration):
        run_seeds(model, data, [0], tmp_path, [], like=like)
    assert {name: settings["data"][name] for name in expected} == expected
    assert settings["model"]["like"] == ("modern" if like or model == "resnet50" else "authors")
    few = settings["model"]["like"] == "authors" and data == "fashion-mnist"
    assert settings["trainer"]["max_epochs"] == (20 if few else 150)
    assert (settings["model"]["momentum"], settings["data"]["batch_size"]) == (0.9, 128)


@pytest.mark.integration
def test_runs_under_other_flags_of_the_trainer_are_not_mixed(tmp_path):
    assert reproduce(tmp_path, "--epochs", "1", seeds="3").exit_code == 0
    settings = yaml.safe_load((tmp_path / "alexnet-digits" / "settings.yaml").read_text())
    assert settings["trainer"] == {}
    assert settings["processes"] == 1
    other = reproduce(tmp_path, "--epochs", "1", "--trainer.gradient_clip_val=1", seeds="7")
    assert other.exit_code == 2
    assert "gradient_clip_val" in other.output
    same = reproduce(tmp_path, "--epochs", "1", "--trainer.log_every_n_steps=1", seeds="7")
    assert same.exit_code == 0, same.output


def test_equal_samples_are_the_elementwise_mean_of_the_same_weights():
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(40, 30), torch.nn.Linear(30, 5))
    samples = EqualSamples(lambda name: name.removesuffix(".weight"), count=200)
    trainer = SimpleNamespace(current_epoch=0, global_step=7)
    samples.on_train_start(trainer, net)
    before = [layer.weight.detach().numpy().flatten().astype(np.float64) for layer in net]
    with torch.no_grad():
        for layer in net:
            layer.weight.mul_(1 + torch.rand_like(layer.weight))
    resumed = EqualSamples(lambda name: name.removesuffix(".weight"), count=200)
    resumed.load_state_dict(copy.deepcopy(samples.state_dict()))
    for one in (samples, resumed):
        one.on_train_epoch_end(trainer, net)
    history = samples.history
    assert history.layers == ["0", "1"]
    assert (history.epochs, history.steps) == ([0], [6])
    np.testing.assert_array_equal(history.values, resumed.history.values)
    changes = [
        np.abs(layer.weight.detach().numpy().flatten() / old - 1) for layer, old in zip(net, before, strict=True)
    ]
    assert history.values[0, 1] == pytest.approx(changes[1].mean(), rel=1e-5)  # 150 weights: all of them
    assert history.values[0, 0] == pytest.approx(changes[0].mean(), abs=4 * changes[0].std() / 200**0.5)
    assert history.values[0, 0] != pytest.approx(changes[0].mean(), rel=1e-5)
