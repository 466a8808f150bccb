# SPDX-License-Identifier: Apache-2.0
import gzip
import math
import struct
import sys

import numpy as np
import pytest
from typer.testing import CliRunner

from lightning_rwc import RWCHistory, demo
from lightning_rwc.cli import app, sparkline
from tests.helpers import events


def invoke(*args):
    return CliRunner().invoke(app, list(args), env={"COLUMNS": "100"})


@pytest.mark.integration
def test_demo_trains_prints_and_stores(tmp_path):
    result = invoke("demo", "--epochs", "3", "--log-dir", str(tmp_path))
    assert result.exit_code == 0, result.output
    run = tmp_path / "digits" / "version_0"
    history = RWCHistory.load(run / "rwc_history.csv")
    assert history.layers == ["conv1", "conv2", "conv3", "fc"]
    assert history.values.shape == (3, 4)
    for layer, curve in zip(history.layers, history.values.T, strict=True):
        row = next(line for line in result.output.splitlines() if f"│ {layer} " in line)
        cells = [cell.strip() for cell in row.strip("│").split("│")]
        assert cells[1:4] == [f"{value:.3g}" for value in (curve[0], curve[-1], np.mean(curve))]
        assert len(cells[4]) == 3
        assert [e.value for e in events(run).Scalars(f"rwc/{layer}")] == pytest.approx(curve.tolist(), rel=1e-6)
    for name in ("events.out", "rwc_heatmap.png", "rwc_curves.png", "rwc_history.csv"):
        assert str(run / name) in result.output
        assert any(path.name.startswith(name) for path in run.iterdir())
    assert f"tensorboard --logdir {tmp_path}" in result.output


@pytest.mark.integration
def test_demo_opens_tensorboard_on_request(tmp_path, monkeypatch):
    commands = []
    monkeypatch.setattr("subprocess.run", lambda command, check: commands.append(command))
    assert invoke("demo", "--epochs", "1", "--log-dir", str(tmp_path), "--open").exit_code == 0
    assert commands == [[sys.executable, "-m", "tensorboard.main", "--logdir", str(tmp_path)]]


def test_demo_names_bad_data_and_missing_packages(monkeypatch):
    result = invoke("demo", "--data", "imagenet")
    assert result.exit_code == 2
    assert "digits" in result.output
    assert "fashion-mnist" in result.output
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    result = invoke("demo", "--epochs", "1")
    assert result.exit_code == 2
    assert 'The demo needs the package sklearn.datasets: pip install "lightning-rwc[demo]"' in result.output


def idx(array):
    """The bytes of an array in the format of the MNIST family."""
    header = struct.pack(">BBBB", 0, 0, 8, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape)
    return gzip.compress(header + array.astype(np.uint8).tobytes())


def test_fashion_mnist_from_gz_files(tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "_DEBIAN_FASHION_MNIST", tmp_path / "package")
    (tmp_path / "package").mkdir()
    rng = np.random.default_rng(0)
    arrays = {}
    for part, count in (("train", 6), ("t10k", 3)):
        arrays[part] = rng.integers(0, 256, (count, 28, 28)), rng.integers(0, 10, count)
        for kind, array in zip(("images-idx3", "labels-idx1"), arrays[part], strict=True):
            (tmp_path / "package" / f"{part}-{kind}-ubyte.gz").write_bytes(idx(array))
    for _ in range(2):  # the second time they are unpacked already
        train, test = demo.load_fashion_mnist(tmp_path / "data")
    for dataset, part in ((train, "train"), (test, "t10k")):
        images, labels = arrays[part]
        np.testing.assert_allclose(dataset.tensors[0][:, 0], images / 255, rtol=1e-6)
        assert dataset.tensors[1].tolist() == labels.tolist()


@pytest.mark.integration
def test_demo_on_fashion_mnist(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    for part, count in (("train", 10_100), ("t10k", 50)):
        files = {"images-idx3": rng.integers(0, 256, (count, 28, 28)), "labels-idx1": rng.integers(0, 10, count)}
        for kind, array in files.items():
            (tmp_path / f"{part}-{kind}-ubyte.gz").write_bytes(idx(array))
    where = ["--data-dir", str(tmp_path), "--log-dir", str(tmp_path / "my log")]
    result = invoke("demo", "--data", "fashion-mnist", "--epochs", "1", *where)
    assert result.exit_code == 0, result.output
    assert f"tensorboard --logdir '{tmp_path}/my log'" in result.output
    history = RWCHistory.load(tmp_path / "my log/fashion-mnist/version_0/rwc_history.csv")
    assert history.steps == [10_000 // 64]  # 157 batches of 64: the subset, not all


def test_fashion_mnist_that_is_nowhere_is_explained(tmp_path, monkeypatch):
    from torchvision.datasets import FashionMNIST

    def offline(self):
        raise RuntimeError("no network")

    monkeypatch.setattr(demo, "_DEBIAN_FASHION_MNIST", tmp_path / "package")
    monkeypatch.setattr(FashionMNIST, "download", offline)
    with pytest.raises(FileNotFoundError, match=r"could not be downloaded \(no network\).*dataset-fashion-mnist"):
        demo.load_fashion_mnist(tmp_path / "data")


def test_sparkline():
    low, high = math.log(1e-4), math.log(1.0)
    assert sparkline(np.array([1e-4, 1e-2, 1.0]), low, high) == "▁▅█"
    assert sparkline(np.array([0.0, math.inf, math.nan]), low, high) == "0∞?"
    assert sparkline(np.array([1.0, 1.0]), high, high) == "▅▅"
