# SPDX-License-Identifier: Apache-2.0
"""The callback configured from YAML, by a real LightningCLI run."""

import numpy as np
import pytest
from lightning.pytorch.cli import LightningCLI

from lightning_rwc import RWCCallback
from tests.helpers import Net, images

TRAINER = {"accelerator": "cpu", "max_epochs": 2, "enable_progress_bar": "false"}


class Data(Net):
    """The network with its own data, so that one class is all that the command line needs."""

    def train_dataloader(self):
        return images()


def only_kernels(name, parameter):
    """A filter that YAML names by its name."""
    return parameter.ndim == 4


def first_letter(name):
    """A grouping that YAML names by its name."""
    return name[0]


def run(tmp_path, init_args):
    config = tmp_path / "config.yaml"
    lines = [f"  {key}: {value}" for key, value in TRAINER.items()]
    lines += [f"  default_root_dir: {tmp_path}", "  enable_checkpointing: false", "  callbacks:"]
    lines += ["    - class_path: lightning_rwc.RWCCallback"]
    lines += ["      init_args:", *(f"        {line}" for line in init_args)] if init_args else []
    config.write_text("\n".join(["seed_everything: 1", "trainer:", *lines]))
    return fit(config)


def fit(config):
    cli = LightningCLI(Data, args=["fit", "--config", str(config)], save_config_kwargs={"overwrite": True})
    return next(callback for callback in cli.trainer.callbacks if isinstance(callback, RWCCallback))


@pytest.mark.parametrize(
    ("init_args", "layers"),
    [
        ([], ["conv1", "block.conv2", "fc"]),
        (["norm: l2", "relative_to: initial", "heatmap: false", "prefix: moved"], ["conv1", "block.conv2", "fc"]),
        (["layers: ^block.*weight"], ["block.bn", "block.conv2"]),
        ([r"layers: ['^conv1\.weight$', 'fc']"], ["conv1", "fc.weight", "fc.bias"]),
        (["layers: tests.test_lightning_cli:only_kernels"], ["conv1", "block.conv2"]),
        (["group_by: 1", "heatmap: 5"], ["conv1", "block", "fc"]),
        (["measures: [fluctuation]"], ["conv1", "block.conv2", "fc"]),
        (["measures: [{class_path: tests.test_measures.LargestWeight}]"], ["conv1", "block.conv2", "fc"]),
        (["group_by: tests.test_lightning_cli:first_letter"], ["c", "b", "f"]),
    ],
)
def test_yaml_reaches_the_callback(init_args, layers, tmp_path):
    callback = run(tmp_path, init_args)
    assert callback.history.layers == layers
    assert callback.history.epochs == [0, 1]
    [saved] = tmp_path.rglob("version_0/config.yaml")
    again = fit(saved)
    assert again.history.layers == layers
    assert list(again.histories) == list(callback.histories)
    for name, history in callback.histories.items():
        np.testing.assert_array_equal(again.histories[name].values, history.values)


@pytest.mark.parametrize("measure", ["fluctuation", "{class_path: tests.test_measures.LargestWeight}"])
def test_measures_from_yaml(measure, tmp_path):
    names = list(run(tmp_path, [f"measures: [{measure}]"]).histories)
    assert names == ["rwc", "largest" if "class_path" in measure else "fluctuation"]


def test_cadences_from_yaml(tmp_path):
    assert len(run(tmp_path, ["every_n_train_steps: 4"]).history) == 3
    assert run(tmp_path, ["every_n_epochs: 2"]).history.epochs == [1]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("norm: l3", "l3"),
        ("every_n_epochs: 0", "`every_n_epochs` must be at least 1"),
        ("layers: '['", "invalid regular"),
    ],
)
def test_errors_reach_the_command_line(line, message, tmp_path, capsys):
    with pytest.raises((SystemExit, ValueError)) as caught:
        run(tmp_path, [line])
    assert message in f"{caught.value} {capsys.readouterr().err}"
