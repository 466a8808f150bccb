# SPDX-License-Identifier: Apache-2.0
import math
import re
import signal
import subprocess
import sys
from importlib.metadata import version
from importlib.util import find_spec
from urllib.request import urlopen

import numpy as np
import pytest
from typer.testing import CliRunner

from lightning_rwc import RWCHistory, __version__
from lightning_rwc.cli import app
from lightning_rwc.terminal_table import sparkline
from tests.helpers import events, fashion_mnist_files


def invoke(*args):
    return CliRunner().invoke(app, list(args), env={"COLUMNS": "100"})


@pytest.mark.integration
def test_demo_trains_prints_and_stores(tmp_path, caplog):
    result = invoke("demo", "--epochs", "3", "--log-dir", str(tmp_path))
    assert result.exit_code == 0, result.output
    # The summary stands once, below progress bar and table, and nobody logs it too.
    *_, above, below = re.split(r"Relative weight change: 3 measurements of 4 layers\nNo finding\.\n", result.output)
    assert "│ fc " in above
    assert re.match(r"Layers from the slowest to the fastest, by geometric mean: .*\n\nFiles:\n", below)
    assert (result.output + caplog.text).count("measurements of 4 layers") == 1
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


# A browser that asks for the page at once, and says, like one that cannot be opened, that it did not show it.
DEMO = """
import signal, webbrowser
from importlib.metadata import version
from importlib.util import find_spec
from urllib.request import urlopen
from lightning_rwc.cli import app

def open(address):
    print("opened", address, b"</html>" in urlopen(address).read(), flush=True)
    return False

webbrowser.open = open
signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell may have set to ignored
app()
"""


@pytest.mark.integration
def test_demo_opens_the_tab_of_tensorboard_and_serves_it_until_ctrl_c(tmp_path):
    if version("tensorboard").startswith("2.20.") and find_spec("pkg_resources") is None:
        pytest.skip("TensorBoard 2.20 does not start without setuptools, which is not installed")
    command = [sys.executable, "-c", DEMO, "demo", "--epochs", "1", "--log-dir", str(tmp_path), "--open"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            lines = []
            while not (lines and lines[-1].startswith("opened")):
                lines.append(process.stdout.readline())
                assert lines[-1], "ended before it opened anything"
            printed, opened = (line.strip() for line in lines[-2:])
            assert re.fullmatch(r"http://localhost:\d+/#lightning_rwc", printed)
            assert opened == f"opened {printed} True"
            with urlopen(f"{printed.partition('#')[0]}data/plugin/lightning_rwc/runs") as answer:
                assert answer.status == 200
            process.send_signal(signal.SIGINT)
            assert process.wait(60) == 0
        finally:
            process.kill()


def test_version():
    result = invoke("--version")
    assert (result.exit_code, result.output) == (0, f"{__version__}\n")


def test_demo_names_bad_data_and_missing_packages(monkeypatch):
    result = invoke("demo", "--data", "imagenet")
    assert result.exit_code == 2
    assert "digits" in result.output
    assert "fashion-mnist" in result.output
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    result = invoke("demo", "--epochs", "1")
    assert result.exit_code == 2
    assert "This needs the package sklearn.datasets. Install the extra `demo` of lightning-rwc." in result.output


@pytest.mark.integration
def test_demo_on_fashion_mnist(tmp_path):
    fashion_mnist_files(tmp_path, train=10_100, t10k=50)
    where = ["--data-dir", str(tmp_path), "--log-dir", str(tmp_path / "my log")]
    result = invoke("demo", "--data", "fashion-mnist", "--epochs", "1", *where)
    assert result.exit_code == 0, result.output
    assert f"tensorboard --logdir '{tmp_path}/my log'" in result.output
    history = RWCHistory.load(tmp_path / "my log/fashion-mnist/version_0/rwc_history.csv")
    assert history.steps == [10_000 // 64]  # 157 batches of 64: the subset, not all


def test_sparkline():
    low, high = 1e-4, 1.0
    assert sparkline(np.array([1e-4, 1e-2, 1.0]), low, high) == "▁▅█"
    assert sparkline(np.array([0.0, math.inf, math.nan]), low, high) == "0∞?"
    assert sparkline(np.array([1.0, 1.0]), high, high) == "▅▅"


def test_cluster_writes_pictures_and_a_table(tmp_path):
    rng = np.random.default_rng(0)
    shapes = np.stack([np.geomspace(0.5, 0.01, 8), np.full(8, 1e-3)])[[0, 1, 0, 1, 0]]
    values = (shapes * np.exp(0.05 * rng.normal(size=shapes.shape))).T
    layers = [f"conv{number}" for number in range(5)]
    RWCHistory(layers, range(8), range(8), values).save(tmp_path / "run.csv")
    out = tmp_path / "clusters"
    result = invoke("cluster", str(tmp_path / "run.csv"), "--out", str(out), "--kind", "[024]$=even", "--seed", "1")
    assert result.exit_code == 0, result.output
    assert sorted(path.name for path in out.iterdir()) == ["clusters.csv", "curves.png", "plane.png", "scree.png"]
    rows = [line.split(",") for line in (out / "clusters.csv").read_text().splitlines()]
    assert [row[0] for row in rows[1:]] == layers
    assert [row[1] for row in rows[1:]] == ["0", "1", "0", "1", "0"]
    assert [row[-1] for row in rows[1:]] == ["even", "other", "even", "other", "even"]
    assert result.output.startswith("5 layers in 2 clusters of 3, 2. Stability 1.00 (1: always the same, 0: chance).\n")
    alone = ["--kind", "[024]$=even", "--within-kinds", "--of", "shape", "--k", "2"]
    result = invoke("cluster", str(tmp_path / "run.csv"), "--out", str(tmp_path / "kinds"), *alone)
    assert result.exit_code == 0, result.output
    assert "Warning: These kinds have too few layers to cluster: 'other' (2)." in result.output
    assert "even: 3 layers in 2 clusters of" in result.output
    assert (tmp_path / "kinds" / "even" / "curves.png").exists()


def test_cluster_names_the_extra_that_a_file_needs(tmp_path, monkeypatch):
    path = tmp_path / "run.parquet"
    RWCHistory(["conv"], [0], [9], [[0.5]]).save(path)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    result = invoke("cluster", str(path), "--out", str(tmp_path / "out"))
    assert result.exit_code == 2
    assert result.output == "Parquet needs pandas and pyarrow. Install the extra `parquet` of lightning-rwc.\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none.csv"], "none.csv"),
        (["run.csv", "--k", "9"], "`k` must be from 1 to"),
        (["run.csv", "--kind", "conv"], "`--kind` must be REGEX=KIND"),
        (["run.csv", "--kind", "conv="], "`--kind` must be REGEX=KIND"),
        (
            ["run.csv", "--kind", "fc=head"],
            "has 'fc', which matches no layer. The layers are: 'a', 'b', 'c', 'd'.",
        ),
        (["."], ". is a folder, not a file of curves. Name its files one by one: run.csv."),
        (["run.csv", "--procedure", "best"], "`procedure` must be one of"),
        (
            ["run.csv", "--within-kinds"],
            "`within_kinds` (`--within-kinds` of the command) needs `patterns` (`--kind`).",
        ),
    ],
)
def test_cluster_names_what_is_wrong(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    RWCHistory(list("abcd"), [0, 1], [0, 1], [[1, 2, 3, 4], [1, 3, 9, 27]]).save("run.csv")
    result = invoke("cluster", *arguments, "--out", "out")
    assert result.exit_code == 2
    assert message in result.output
