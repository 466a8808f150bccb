# SPDX-License-Identifier: Apache-2.0
import os
import pickle
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.metadata import TensorProperties
from typer.testing import CliRunner

from lightning_rwc import RWCHistory
from lightning_rwc.checkpoints import history_of_checkpoints
from lightning_rwc.cli import app
from lightning_rwc.weight_folders import find_weight_files
from tests.distributed_program import WEIGHTS
from tests.helpers import expected_table

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Checkpoints of two ranks, and the whole weights by which they are checked."""
    if not hasattr(torch.cpu.Stream, "record_event"):
        pytest.skip("fully_shard of this torch runs on GPUs only")
    folder = tmp_path_factory.mktemp("saved")
    command = [sys.executable, "-m", "tests.distributed_files_program", str(folder)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-5000:]
    return folder, torch.load(folder / "whole.pt", weights_only=True)


def save(content, folder):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is")
        dcp.save(content, checkpoint_id=folder)
    return folder


def states(count=3):
    generator = torch.Generator().manual_seed(0)
    shapes = {"fc10.weight": (2, 64), "conv.weight": (4, 1, 3, 3), "fc9.weight": (3, 2), "fc9.bias": (3,)}
    return [{name: torch.randn(shape, generator=generator) for name, shape in shapes.items()} for _ in range(count)]


OPTIMIZER = {"state": {"fc10.weight": {"exp_avg": torch.ones(2, 64)}}, "param_groups": [{"lr": 0.1}]}


@pytest.mark.integration
@pytest.mark.parametrize("given", ["folder", "pattern", "one by one"])
def test_lightnings_checkpoints_have_the_callbacks_history(given, saved):
    folder, whole = saved
    run = folder / "lightning"
    one_by_one = [run / f"epoch={epoch}.ckpt" for epoch in range(3)]
    history = history_of_checkpoints({"folder": run, "pattern": str(run / "epoch*"), "one by one": one_by_one}[given])
    callbacks = RWCHistory.load(folder / "history.npz")
    assert (history.layers, history.epochs, history.steps) == (WEIGHTS, callbacks.epochs[1:], callbacks.steps[1:])
    np.testing.assert_allclose(history.values, callbacks.values[1:], rtol=1e-12)
    np.testing.assert_allclose(history.values, expected_table(whole["lightning"], layers=WEIGHTS), rtol=1e-6)


@pytest.mark.integration
@pytest.mark.parametrize("kind", ["torchtitan", "accelerate/checkpoints"])
def test_checkpoints_of_torchtitan_and_accelerate(kind, saved):
    folder, whole = saved
    history = history_of_checkpoints(folder / kind)
    # The order of a state dict without a name of its own is lost.
    layers = sorted(WEIGHTS) if kind == "torchtitan" else WEIGHTS
    assert (history.layers, history.steps) == (layers, [1])
    np.testing.assert_allclose(history.values, expected_table(whole["others"], layers=layers), rtol=1e-6)


@pytest.mark.integration
def test_a_tensor_is_read_from_its_own_pieces(saved, tmp_path):
    folder, whole = saved
    source = folder / "lightning" / "epoch=2.ckpt"
    places = dcp.FileSystemReader(source).read_metadata().storage_data
    own = [place for index, place in places.items() if index.fqn == "state_dict.net.0.weight"]
    assert {place.relative_path for place in own} == {"__0_0.distcp", "__1_0.distcp"}
    (tmp_path / ".metadata").write_bytes((source / ".metadata").read_bytes())
    for place in own:
        content = (source / place.relative_path).read_bytes()
        blank = bytearray(len(content))
        blank[place.offset : place.offset + place.length] = content[place.offset : place.offset + place.length]
        (tmp_path / place.relative_path).write_bytes(blank)
    [file] = find_weight_files(tmp_path)
    np.testing.assert_array_equal(file.read("net.0.weight"), whole["lightning"][2]["net.0.weight"])
    with pytest.raises(Exception, match=r"pickle|zip|Invalid"):
        file.read("net.2.weight")


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: {"state_dict": state, "optimizer_0": OPTIMIZER},
        lambda state: {"app": {"model": state, "optim": OPTIMIZER}},
        lambda state: state | {"optimizer": OPTIMIZER, "optim.fc10.weight": torch.ones(2, 64)},
    ],
)
def test_command_takes_folders_of_any_name_among_others(wrap, tmp_path):
    series = states()
    paths = [save(wrap(series[0]), tmp_path / "a run" / "best"), tmp_path / "second.pt"]
    paths.append(save(wrap(series[2]), tmp_path / "third"))
    torch.save(series[1], paths[1])
    save({"optimizer": OPTIMIZER}, tmp_path / "a run" / "optimizer_0")
    arguments = [str(tmp_path / "a run"), *map(str, paths[1:])]
    result = CliRunner().invoke(app, ["checkpoints", *arguments, "--out", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    written = RWCHistory.load(tmp_path / "out" / "rwc_history.csv")
    assert sorted(written.layers) == ["conv", "fc10", "fc9"]
    np.testing.assert_allclose(written.values, expected_table(series, layers=written.layers), rtol=1e-6)


def test_order_is_that_of_the_state_dict_or_natural(tmp_path):
    state = states(1)[0]
    for content, names in (
        ({"model": state}, [*state]),
        (state, ["conv.weight", "fc9.bias", "fc9.weight", "fc10.weight"]),
    ):
        [file] = find_weight_files(save(content, tmp_path / str(len(content))))
        assert {name: tuple(tensor.shape) for name, tensor in file.parameters.items()} == {
            name: tuple(state[name].shape) for name in names
        }
        assert [*file.parameters] == names


def test_epoch_and_step_are_unknown_if_they_lie_among_other_objects(tmp_path):
    series = states(2)
    loops = {"fit_loop": {"epoch_loop.state_dict": {"_batches_that_stepped": 8}}}
    for number, state in enumerate(series):
        save({"state_dict": state}, tmp_path / str(number))
        torch.save({"epoch": 3 + number, "loops": loops, "extra": Path()}, tmp_path / str(number) / "meta.pt")
    assert history_of_checkpoints(tmp_path).epochs == [1]
    for number in range(2):
        torch.save({"epoch": 3 + number, "loops": loops}, tmp_path / str(number) / "meta.pt")
    history = history_of_checkpoints(tmp_path)
    assert (history.epochs, history.steps) == ([4], [7])


class Runs:
    """What runs code when it is unpickled."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def test_an_index_runs_no_code(tmp_path):
    folder, trace = save({"model": states(1)[0]}, tmp_path / "saved"), tmp_path / "trace"
    index = dcp.FileSystemReader(folder).read_metadata()
    index.storage_meta.checkpoint_id = Runs(os.mkdir, str(trace))
    (folder / ".metadata").write_bytes(pickle.dumps(index))
    with pytest.raises(ValueError, match=r"saved/\.metadata is broken.*could run any code.*posix.mkdir is not part of"):
        history_of_checkpoints([folder, folder])
    assert not trace.exists()
    dcp.FileSystemReader(folder).read_metadata()
    assert trace.exists()  # PyTorch's own reader runs it, so that the file was a danger.


def test_an_index_of_a_newer_pytorch_is_read(tmp_path, monkeypatch):
    state = states(1)[0]
    known = TensorProperties.__getstate__
    monkeypatch.setattr(TensorProperties, "__getstate__", lambda self: (*known(self), "something new"))
    folder = save({"model": state}, tmp_path / "saved")
    with pytest.raises(ValueError, match="unpack"):
        dcp.FileSystemReader(folder).read_metadata()
    [file] = find_weight_files(folder)
    for name, tensor in state.items():
        np.testing.assert_array_equal(file.read(name), tensor)


def without_a_piece(folder):
    index = dcp.FileSystemReader(folder).read_metadata()
    index.state_dict_metadata["model.conv.weight"].chunks.clear()
    (folder / ".metadata").write_bytes(pickle.dumps(index))


def without_weights(folder):
    index = dcp.FileSystemReader(folder).read_metadata()
    index.state_dict_metadata.clear()
    (folder / ".metadata").write_bytes(pickle.dumps(index))


def without_places(folder):
    index = dcp.FileSystemReader(folder).read_metadata()
    index.storage_data.clear()
    (folder / ".metadata").write_bytes(pickle.dumps(index))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: (folder / ".metadata").write_bytes(b"no pickle"), r"\.metadata is broken"),
        (lambda folder: (folder / ".metadata").write_bytes(pickle.dumps([1])), "is not the index of a distributed"),
        (lambda folder: (folder / "__0_0.distcp").unlink(), r"__0_0\.distcp is missing, or has fewer than \d+ bytes"),
        (lambda folder: os.truncate(folder / "__0_0.distcp", 900), r"__0_0\.distcp is missing, or has fewer than"),
        (without_weights, "holds no weights"),
        (without_a_piece, "its index has only a part of 'model.conv.weight'"),
        (without_places, "its index does not say where its pieces are"),
    ],
)
def test_broken_checkpoints_are_refused_by_name(spoil, message, tmp_path):
    good, bad = (save({"model": state}, tmp_path / str(number)) for number, state in enumerate(states(2)))
    spoil(bad)
    with pytest.raises(ValueError, match=message) as refused:
        history_of_checkpoints([good, bad])
    assert str(bad) in str(refused.value)
