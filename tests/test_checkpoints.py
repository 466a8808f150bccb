# SPDX-License-Identifier: Apache-2.0
import json
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from safetensors.torch import save_file
from torch import nn
from typer.testing import CliRunner

from lightning_rwc import RWCCallback, RWCHistory
from lightning_rwc.checkpoints import history_of_checkpoints
from lightning_rwc.cli import app
from lightning_rwc.sums import prepare_sums
from tests.helpers import LAYERS, images, net, trainer
from tests.oracle import NORMS, numpy_rwc


def states(count=3, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    shapes = {"conv.weight": (4, 1, 3, 3), "norm.weight": (4,), "fc.weight": (2, 64), "fc.bias": (2,)}
    return [
        {name: torch.randn(shape, generator=generator).to(dtype) for name, shape in shapes.items()}
        for _ in range(count)
    ]


def expected(series, norm="l1", relative_to="previous", layers=("conv", "fc")):
    pairs = [(series[0] if relative_to == "initial" else series[i], series[i + 1]) for i in range(len(series) - 1)]
    return [[numpy_rwc([p[f"{x}.weight"]], [c[f"{x}.weight"]], norm) for x in layers] for p, c in pairs]


def save_sharded(state, folder):
    """Two shards and an index, as on model hubs."""
    folder.mkdir(parents=True)
    weight_map = {}
    for number in range(2):
        shard = dict(list(state.items())[number::2])
        save_file(shard, folder / f"model-{number}.safetensors")
        weight_map |= dict.fromkeys(shard, f"model-{number}.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of 12 epochs with a checkpoint for each, and the histories of its callbacks."""
    folder = tmp_path_factory.mktemp("run")
    callbacks = [RWCCallback(), RWCCallback(norm="l2", prefix="l2", group_by=1)]
    saver = ModelCheckpoint(folder / "saved", filename="{epoch}", save_top_k=-1, save_last=True)
    fit = trainer(*callbacks, saver, tmp_path=folder, enable_checkpointing=True, max_epochs=12)
    fit.fit(net(), images())
    return folder / "saved", [callback.history for callback in callbacks]


@pytest.mark.parametrize("given", ["folder", "pattern", "files"])
def test_equals_the_callbacks_own_curve(given, run):
    folder, (history, grouped) = run
    files = [folder / f"epoch={epoch}.ckpt" for epoch in range(12)]
    paths = {"folder": folder, "pattern": str(folder / "epoch*.ckpt"), "files": files}[given]
    found = history_of_checkpoints(paths)
    assert (found.layers, found.epochs, found.steps) == (LAYERS, history.epochs[1:], history.steps[1:])
    np.testing.assert_allclose(found.values, history.values[1:], rtol=1e-12)
    found = history_of_checkpoints(paths, norm="l2", group_by=1)
    assert found.layers == grouped.layers
    np.testing.assert_allclose(found.values, grouped.values[1:], rtol=1e-12)


def test_command_writes_table_and_pictures(run, tmp_path):
    folder, (history, _) = run
    files = [str(folder / f"epoch={epoch}.ckpt") for epoch in (0, 1, 2)]
    result = CliRunner().invoke(app, ["checkpoints", *files, "--out", str(tmp_path / "out")], env={"COLUMNS": "120"})
    assert result.exit_code == 0, result.output
    written = RWCHistory.load(tmp_path / "out" / "rwc_history.csv")
    np.testing.assert_allclose(written.values, history.values[1:3], rtol=1e-12)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "rwc_history.csv",
        "rwc_heatmap.png",
        "rwc_curves.png",
    }
    assert all(f"│ {layer} " in result.output for layer in LAYERS)
    result = CliRunner().invoke(app, ["checkpoints", files[0], "--out", str(tmp_path / "out")])
    assert result.exit_code == 2
    assert "two or more files" in result.output


def test_command_measures_movements(run, tmp_path):
    folder, _ = run
    files = [folder / f"epoch={epoch}.ckpt" for epoch in (0, 1, 2)]
    options = ["--measure", "radial", "--out", str(tmp_path / "out")]
    result = CliRunner().invoke(app, ["checkpoints", *map(str, files), *options], env={"COLUMNS": "120"})
    assert result.exit_code == 0, result.output
    states = [torch.load(file, weights_only=True)["state_dict"] for file in files]
    norms = np.array([[state[f"{layer}.weight"].double().norm().item() for layer in LAYERS] for state in states])
    written = RWCHistory.load(tmp_path / "out" / "radial_history.csv")
    np.testing.assert_allclose(written.values, norms[1:] / norms[:-1] - 1, rtol=1e-6, atol=1e-12)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "radial_history.csv",
        "radial_heatmap.png",
        "radial_curves.png",
    }
    assert "Growth of the norm (ratio)" in result.output
    result = CliRunner().invoke(app, ["checkpoints", *map(str, files), "--measure", "angle", "--out", str(tmp_path)])
    assert result.exit_code == 2
    assert "`measure` must be one of" in result.output


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("relative_to", ["previous", "initial"])
@pytest.mark.parametrize("kind", ["torch", "legacy", "wrapped", "tar", "safetensors", "sharded"])
def test_kinds_of_files(kind, norm, relative_to, tmp_path):
    series = states()
    for number, state in enumerate(series):
        name = f"checkpoint-{10 * number}"  # 0, 10, 20: "checkpoint-10" must not come first
        if kind == "safetensors":
            save_file(state, tmp_path / f"{name}.safetensors")
        elif kind == "sharded":
            save_sharded(state, tmp_path / name)
        elif kind == "wrapped":
            torch.save({"model_state_dict": state, "epoch": number}, tmp_path / f"{name}.pth")
        elif kind == "tar":
            content = {"model": {"state_dict": state, "model_args": {"depth": 2}}, "optimizer": {"state": {}}}
            torch.save(content, tmp_path / f"{name}.pth.tar")
        else:
            torch.save(state, tmp_path / f"{name}.pt", _use_new_zipfile_serialization=kind == "torch")
    history = history_of_checkpoints(tmp_path, norm=norm, relative_to=relative_to)
    assert (history.layers, history.epochs, history.steps) == (["conv", "fc"], [1, 2], [1, 2])
    np.testing.assert_allclose(history.values, expected(series, norm, relative_to), rtol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.bfloat16, torch.float16, torch.float64])
def test_precisions_also_between_files(dtype, tmp_path):
    series = [*states(2, dtype), *states(1)]
    for number, state in enumerate(series):
        save_file(state, tmp_path / f"{number}.safetensors")
    np.testing.assert_allclose(history_of_checkpoints(tmp_path).values, expected(series), rtol=1e-6)


def test_order_given_and_order_natural(tmp_path):
    series = states(11)
    for number, state in enumerate(series):
        torch.save(state, tmp_path / f"step{number}.pt")
    np.testing.assert_allclose(history_of_checkpoints(str(tmp_path / "*.pt")).values, expected(series), rtol=1e-6)
    backwards = [tmp_path / f"step{number}.pt" for number in (10, 3, 0)]
    np.testing.assert_allclose(
        history_of_checkpoints(backwards).values, expected([series[10], series[3], series[0]]), rtol=1e-6
    )


def test_names_pruned_compiled_and_parametrised(tmp_path):
    first, second = states(2)
    torch.save({"a.weight": first["fc.weight"], "b.weight": first["fc.weight"].clone()}, tmp_path / "0.pt")
    wrapped = {
        "_orig_mod.a.weight_orig": second["fc.weight"],
        "_orig_mod.a.weight_mask": torch.ones(2, 64),
        "b.parametrizations.weight.original": second["fc.weight"].clone(),
    }
    torch.save(wrapped, tmp_path / "1.pt")
    history = history_of_checkpoints(tmp_path)
    value = numpy_rwc([first["fc.weight"]], [second["fc.weight"]], "l1")
    assert history.layers == ["a", "b"]
    np.testing.assert_allclose(history.values, [[value, value]], rtol=1e-6)


def test_tied_weights_count_once_and_integers_do_not(tmp_path):
    for number in range(2):
        model = nn.ModuleDict({"embedding": nn.Embedding(9, 4), "head": nn.Linear(4, 9, bias=False)})
        model["head"].weight = model["embedding"].weight
        model.register_buffer("index", torch.zeros(3, 3, dtype=torch.int64))
        torch.save(model.state_dict(), tmp_path / f"{number}.pt")
    assert history_of_checkpoints(tmp_path).layers == ["embedding"]


def test_layers_that_come_go_and_change_shape(tmp_path):
    weights = torch.arange(1.0, 7.0).view(2, 3)
    series = [
        {"a.weight": weights, "b.weight": weights},
        {"a.weight": 2 * weights, "c.weight": weights},
        {"a.weight": torch.ones(3, 3), "b.weight": weights, "c.weight": 1.5 * weights},
    ]
    for number, state in enumerate(series):
        torch.save(state, tmp_path / f"{number}.pt")
    history = history_of_checkpoints(tmp_path)
    assert history.layers == ["a", "b", "c"]
    np.testing.assert_allclose(history.values, [[1, np.nan, np.nan], [np.nan, np.nan, 0.5]])


def test_layers_chosen_by_expression_and_function(tmp_path):
    for number, state in enumerate(states(2)):
        save_file(state, tmp_path / f"{number}.safetensors")
    assert history_of_checkpoints(tmp_path, layers=r"bias|norm").layers == ["fc", "norm"]
    assert history_of_checkpoints(tmp_path, layers=lambda name, tensor: tensor.shape[0] == 2).layers == [
        "fc.bias",
        "fc.weight",
    ]
    with pytest.raises(ValueError, match="matches no parameter"):
        history_of_checkpoints(tmp_path, layers="decoder")


class Anything:
    """An object in a pickle that is not a weight."""


def unsafe(path):
    torch.save({"state_dict": states(1)[0], "extra": Anything()}, path)


def truncated(path):
    torch.save(states(1)[0], path)
    path.write_bytes(path.read_bytes()[:-400])


def truncated_safetensors(path):
    save_file(states(1)[0], path)
    path.write_bytes(path.read_bytes()[:-40])


@pytest.mark.parametrize(
    ("name", "write", "message"),
    [
        ("1.ckpt", unsafe, "holds objects other than weights.*save only its `state_dict`"),
        ("1.ckpt", truncated, "is broken|not a file of weights"),
        ("1.pt", lambda path: path.write_bytes(b"no pickle"), "is broken|not a file of weights"),
        ("1.safetensors", truncated_safetensors, "is broken"),
        ("1.pt", lambda path: torch.save([1, 2], path), "holds an object of type list"),
        ("1.pt", lambda path: torch.save({"epoch": 3}, path), "holds no weights"),
        ("1.npz", lambda path: path.write_bytes(b""), "must end in one of .ckpt"),
    ],
)
def test_files_of_no_use_are_refused_by_name(name, write, message, tmp_path):
    good, bad = tmp_path / "0.pt", tmp_path / name
    torch.save(states(1)[0], good)
    write(bad)
    with pytest.raises(ValueError, match=message) as refused:
        history_of_checkpoints([good, bad])
    assert str(bad) in str(refused.value)


def test_nothing_there(tmp_path):
    for missing in (tmp_path / "none.ckpt", str(tmp_path / "*.ckpt")):
        with pytest.raises(FileNotFoundError, match="no such file or folder"):
            history_of_checkpoints(missing)
    with pytest.raises(ValueError, match="two or more files"):
        history_of_checkpoints(tmp_path)
    with pytest.raises(ValueError, match="`norm`"):
        history_of_checkpoints(tmp_path, norm="largest")


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_float8(suffix, dtype, norm, tmp_path):
    series = states(3, dtype)
    for number, state in enumerate(series):
        (torch.save if suffix == ".pt" else save_file)(state, tmp_path / f"{number}{suffix}")
    by_hand = [{name: tensor.float() for name, tensor in state.items()} for state in series]
    history = history_of_checkpoints(str(tmp_path / f"*{suffix}"), norm=norm)
    np.testing.assert_allclose(history.values, expected(by_hand, norm), rtol=1e-6)


def save_sharded_bin(state, folder):
    folder.mkdir(parents=True)
    weight_map = {}
    for number in range(2):
        shard = dict(list(state.items())[number::2])
        torch.save(shard, folder / f"pytorch_model-{number}.bin")
        weight_map |= dict.fromkeys(shard, f"pytorch_model-{number}.bin")
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}))


def save_other_weights(state, path, save=save_file):
    """Values of another model, which must not be read."""
    save({name: 5 + tensor for name, tensor in state.items()}, path)


def save_as(kind, state, folder):
    """The files of one model, as different programs write them."""
    if kind in ("sharded", "sharded bin"):
        (save_sharded if kind == "sharded" else save_sharded_bin)(state, folder)
        return
    folder.mkdir(parents=True)
    if kind == "safetensors and bin":
        save_file(state, folder / "model.safetensors")
        save_other_weights(state, folder / "pytorch_model.bin", torch.save)
    elif kind == "bin":
        torch.save(state, folder / "pytorch_model.bin")
    elif kind == "fp16 alone":
        save_file(state, folder / "diffusion_pytorch_model.fp16.safetensors")
    elif kind == "adapter":
        save_file(state, folder / "adapter_model.safetensors")
    elif kind == "adapter bin":
        torch.save(state, folder / "adapter_model.bin")
    else:
        place = folder / "unet" if kind == "pipeline" else folder
        place.mkdir(exist_ok=True)
        save_file(state, place / "diffusion_pytorch_model.safetensors")
        save_other_weights(state, place / "diffusion_pytorch_model.fp16.safetensors")
        if kind == "pipeline":  # two parts with numbers, which are not steps
            for part in ("text_encoder", "text_encoder_2", "text_encoder_3"):
                (folder / part).mkdir()
                save_file(state, folder / part / "model.safetensors")


def save_beside(folder):
    """The files that trainers save next to the model."""
    weights = [nn.Parameter(torch.ones(2, 2))]
    optimizer = torch.optim.AdamW(weights)
    weights[0].sum().backward()
    optimizer.step()
    for name in ("optimizer.pt", "optimizer.bin", "optimizer_1.bin"):
        torch.save(optimizer.state_dict(), folder / name)
    torch.save({"last_epoch": 3, "_step_count": 4}, folder / "scheduler.pt")
    torch.save({"scale": 65536.0, "growth_factor": 2.0}, folder / "scaler.pt")
    torch.save({"cpu": torch.get_rng_state()}, folder / "rng_state.pth")
    torch.save({"cpu": torch.get_rng_state()}, folder / "rng_state_0.pth")
    torch.save(Anything(), folder / "training_args.bin")
    (folder / "config.json").write_text("{}")


KINDS = [
    *("safetensors and bin", "bin", "sharded", "sharded bin", "adapter", "adapter bin"),
    *("fp16 and plain", "fp16 alone", "pipeline"),
]


@pytest.mark.parametrize("kind", KINDS)
def test_folders_of_hugging_face(kind, tmp_path):
    series = states(4)
    for step, state in zip((500, 1000, 1500), series, strict=False):
        save_as(kind, state, tmp_path / "run" / f"checkpoint-{step}")
        save_beside(tmp_path / "run" / f"checkpoint-{step}")
    parts = ("text_encoder.", "text_encoder_2.", "text_encoder_3.", "unet.") if kind == "pipeline" else ("",)
    names = [f"{part}{layer}" for part in parts for layer in ("conv", "fc")]
    table = np.tile(expected(series[:3]), len(parts))
    for paths in (
        tmp_path / "run",
        str(tmp_path / "run" / "checkpoint-*"),
        [tmp_path / "run" / f"checkpoint-{step}" for step in (500, 1000, 1500)],
    ):
        history = history_of_checkpoints(paths)
        assert (history.layers, history.steps) == (names, [1, 2])
        np.testing.assert_allclose(history.values, table, rtol=1e-6)
    # With several checkpoints, the final model is left out because it may equal any of them.
    final = tmp_path / "final"
    save_as(kind, series[3], final)
    save_beside(final)
    for step in (500, 1000, 1500):
        (tmp_path / "run" / f"checkpoint-{step}").rename(final / f"checkpoint-{step}")
    np.testing.assert_allclose(history_of_checkpoints(final).values, table, rtol=1e-6)


def test_final_model_after_the_only_checkpoint(tmp_path):
    first, second = states(2)
    save_as("bin", first, tmp_path / "run" / "checkpoint-500")
    torch.save(second, tmp_path / "run" / "pytorch_model.bin")
    save_beside(tmp_path / "run")
    np.testing.assert_allclose(history_of_checkpoints(tmp_path / "run").values, expected([first, second]), rtol=1e-6)


def test_loose_files_without_what_is_beside_them(tmp_path):
    series = states(3)
    for number, state in enumerate(series):
        save_file(state, tmp_path / f"step{number}.safetensors")
        save_other_weights(state, tmp_path / f"step{number}.pt", torch.save)
    save_beside(tmp_path)
    np.testing.assert_allclose(history_of_checkpoints(tmp_path).values, expected(series), rtol=1e-6)
    others = [{name: 5 + tensor for name, tensor in state.items()} for state in series]
    np.testing.assert_allclose(history_of_checkpoints(str(tmp_path / "*.pt")).values, expected(others), rtol=1e-6)


def test_shards_that_are_missing_are_named(tmp_path):
    save_sharded_bin(states(1)[0], tmp_path / "model")
    (tmp_path / "model" / "pytorch_model-1.bin").unlink()
    with pytest.raises(ValueError, match=r"index\.json names shards that are not in its folder: pytorch_model-1\.bin"):
        history_of_checkpoints(tmp_path / "model")
    (tmp_path / "model" / "pytorch_model.bin.index.json").write_text("[]")
    with pytest.raises(ValueError, match=r"index\.json is broken, or is not an index"):
        history_of_checkpoints(tmp_path / "model")


def test_other_models_are_refused_with_their_names(tmp_path):
    weights = torch.ones(2, 3)
    torch.save({f"layer{number}.weight": weights + number for number in range(8)}, tmp_path / "0.pt")
    torch.save({"model.layer0.weight": weights, "model.layer1.weight": 2 * weights}, tmp_path / "1.pt")
    result = CliRunner().invoke(app, ["checkpoints", str(tmp_path), "--out", str(tmp_path / "out")])
    assert result.exit_code == 2
    assert not (tmp_path / "out").exists()
    for part in (
        "0.pt and ",
        "1.pt have no tracked parameter name in common",
        "The first has 'layer0.weight', 'layer1.weight', 'layer2.weight', 'layer3.weight', 'layer4.weight' and 3 more.",
        "The second has 'model.layer0.weight', 'model.layer1.weight'.",
    ):
        assert part in result.output
    torch.save({"layer0.weight": torch.ones(3, 3)}, tmp_path / "1.pt")
    with pytest.raises(ValueError, match=r"'layer0.weight' has shape \(2, 3\) in .*0\.pt and \(3, 3\) in .*1\.pt"):
        history_of_checkpoints(tmp_path)


def test_integers_and_sparse_tensors_are_told(tmp_path):
    first, second = states(2)
    odd = {
        "sparse.weight": torch.eye(3).to_sparse(),
        "quantised.weight": torch.ones(3, 3, dtype=torch.int8),
        "norm.weight_count": torch.tensor(3),
        "positions": torch.zeros(3, 3, dtype=torch.int64),
    }
    for number, state in enumerate((first, second)):
        torch.save(state | odd, tmp_path / f"{number}.pt")
    told = r"leaves out .*: 'sparse.weight' \(torch.sparse_coo\), 'quantised.weight' \(torch.int8\)\.$"
    with pytest.warns(UserWarning, match=told):
        history = history_of_checkpoints(tmp_path)
    np.testing.assert_allclose(history.values, expected([first, second]), rtol=1e-6)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="Relative weight change")
        history_of_checkpoints(tmp_path, layers="conv|fc")
    for number in range(2):
        torch.save(odd, tmp_path / f"{number}.pt")
    with pytest.raises(ValueError, match=r"0\.pt has no weights that can be measured, only 'sparse.weight' .*to_dense"):
        history_of_checkpoints(tmp_path)


def test_tensors_that_cannot_be_summed_are_left_out_and_named(tmp_path, monkeypatch):
    def sums(previous, current, pieces):
        if len(current[0]) == 128:
            raise NotImplementedError('"copy_" not implemented')
        return prepare_sums(previous, current, pieces)

    monkeypatch.setattr("lightning_rwc.checkpoints.prepare_sums", sums)
    series = states(3)
    for number, state in enumerate(series):
        torch.save(state, tmp_path / f"{number}.pt")
    result = CliRunner().invoke(app, ["checkpoints", str(tmp_path), "--out", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    told = (
        "Warning: The measurement leaves out weights that cannot be measured: "
        "'fc.weight' (\"copy_\" not implemented).\n"
    )
    assert result.output.count("Warning") == result.output.count(told) == 1
    written = RWCHistory.load(tmp_path / "out" / "rwc_history.csv")
    assert written.layers == ["conv"]
    np.testing.assert_allclose(written.values, expected(series, layers=["conv"]), rtol=1e-6)
    with pytest.raises(ValueError, match=r"cannot be measured: 'fc\.weight' .* There is no other layer"):
        history_of_checkpoints(tmp_path, layers="fc.weight")


MEASURE = """
import sys
from lightning_rwc.checkpoints import history_of_checkpoints

def anonymous():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("RssAnon")) / 1024

small, large = sys.argv[1:]
history_of_checkpoints(small)  # imports and compiles before memory is measured
before, most = anonymous(), []
sys.setprofile(lambda frame, event, arg: most.append(anonymous()) if frame.f_code.co_name == "_sums" else None)
history_of_checkpoints(large)
print(max(most) - before)
"""


@pytest.mark.integration
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux tells how much memory is its own")
@pytest.mark.parametrize("kind", ["torch", "safetensors"])
def test_memory_is_that_of_a_few_layers(kind, tmp_path):
    for folder, layers, size in (("small", 1, 100), ("large", 24, 1500)):
        (tmp_path / folder).mkdir()
        for number in range(2):
            state = {f"{layer}.weight": torch.rand(size, size) for layer in range(layers)}
            path = tmp_path / folder / f"{number}"
            torch.save(state, f"{path}.pt") if kind == "torch" else save_file(state, f"{path}.safetensors")
    command = [sys.executable, "-c", MEASURE, str(tmp_path / "small"), str(tmp_path / "large")]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=Path(__file__).parent.parent)
    assert float(done.stdout) < 60  # MiB. Each of the two files has 206, each layer 9.
