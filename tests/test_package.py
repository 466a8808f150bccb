# SPDX-License-Identifier: Apache-2.0
"""What importing costs, what is installed with us, and that the rooms stay apart."""

import ast
import json
import re
import subprocess
import sys
from collections import defaultdict
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import lightning_rwc
from lightning_rwc import RWCHistory
from lightning_rwc.__main__ import main

US = "lightning-rwc"
# They come with PyTorch for CUDA, with Numba and with scikit-learn, in the version that fits.
BROUGHT = {"triton", "llvmlite", "threadpoolctl"}

# As if nothing were installed but us and what we bring: other packages are neither imported nor listed.
ALONE = """
import json, sys
from importlib.machinery import PathFinder
from importlib.metadata import DistributionFinder

packages, modules = map(set, json.loads(sys.argv.pop(1)))

class Alone:
    @staticmethod
    def find_spec(name, path=None, target=None):
        return None if name.partition(".")[0] in modules else PathFinder.find_spec(name, path, target)

    @staticmethod
    def find_distributions(context=DistributionFinder.Context()):
        return (found for found in PathFinder.find_distributions(context) if found.metadata["Name"] not in packages)

sys.meta_path[sys.meta_path.index(PathFinder)] = Alone
"""
TRAINING = """
import lightning, torch
from lightning.pytorch.demos.boring_classes import BoringModel
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from lightning_rwc import RWCCallback

class Weights(lightning.pytorch.Callback):
    def __init__(self):
        self.seen = []
    def on_train_start(self, trainer, module):
        self.seen.append(module.layer.weight.tolist())
    def on_train_epoch_end(self, trainer, module):
        self.seen.append(module.layer.weight.tolist())

callback, weights = RWCCallback(), Weights()
trainer = lightning.Trainer(
    max_epochs=2, limit_train_batches=4, limit_val_batches=0, accelerator="cpu", callbacks=[weights, callback]
)
trainer.fit(BoringModel())
callback.history.save("x.csv")
log = EventAccumulator(trainer.log_dir).Reload()
with open("seen.json", "w") as file:
    json.dump({
        "weights": weights.seen,
        "callbacks": [type(one).__name__ for one in trainer.callbacks],
        "logger": type(trainer.logger).__name__,
        "scalars": {tag: [event.value for event in log.Scalars(tag)] for tag in log.Tags()["scalars"]},
        "images": log.Tags()["images"],
        "imported": sorted(modules & {name.partition(".")[0] for name in sys.modules}),
    }, file)
"""


def imported_by(statement):
    code = f"import sys\n{statement}\nprint(*sorted({{name.split('.')[0] for name in sys.modules}}))"
    return set(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split())


def modules_of(distribution):
    paths = re.findall(r"^([^/,.]+)[^,]*\.(?:py|so|pyd),", distribution.read_text("RECORD") or "", flags=re.M)
    return set(paths) - {"__pycache__"}


@pytest.fixture(scope="module")
def modules_by_package():
    """Name of an installed distribution to its top-level modules."""
    modules = defaultdict(set)
    for distribution in metadata.distributions():
        modules[distribution.metadata["Name"]] |= modules_of(distribution)
    return modules


def core():
    """Names of the distributions that are installed with us, where no extra is asked for."""
    found, ahead = set(), [(US, "")]
    while ahead:
        name, extra = one = ahead.pop()
        if one in found:
            continue
        try:
            requirements = [Requirement(line) for line in metadata.requires(name) or []]
        except metadata.PackageNotFoundError:  # what PyTorch for CUDA asks for, where PyTorch has none
            continue
        found.add(one)
        for needed in requirements:
            if needed.marker is None or needed.marker.evaluate({"extra": extra}):
                ahead += [(canonicalize_name(needed.name), extra) for extra in ("", *needed.extras)]
    return {name for name, _ in found}


@pytest.fixture(scope="module")
def alone(modules_by_package):
    """Runs a program where nothing else is installed but us and what we bring."""
    brought = core()
    ours = {package for package in modules_by_package if canonicalize_name(package) in brought}
    others = modules_by_package.keys() - ours
    modules = set().union(*(modules_by_package[package] for package in others))
    modules -= set().union(*(modules_by_package[package] for package in ours))  # namespaces that several share
    assert {"rich", "typer", "pandas", "sklearn"} <= modules
    hidden = json.dumps([sorted(others), sorted(modules)])

    def run(program, folder):
        command = [sys.executable, "-c", ALONE + program, hidden]
        return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)

    return run


def test_public_names():
    assert set(lightning_rwc.__all__) == {
        "Finding",
        "RWCCallback",
        "RWCHistory",
        "RelativeWeightChange",
        "relative_weight_change",
    }
    for name in lightning_rwc.__all__:
        assert getattr(lightning_rwc, name).__name__ == name
        assert name in dir(lightning_rwc)
    with pytest.raises(AttributeError, match="no attribute 'RWC'"):
        _ = lightning_rwc.RWC


@pytest.mark.parametrize(
    ("statement", "absent"),
    [
        ("import lightning_rwc", {"torch", "lightning", "matplotlib", "pandas", "numpy"}),
        ("from lightning_rwc import RWCHistory", {"torch", "lightning", "matplotlib", "pandas"}),
        ("from lightning_rwc import relative_weight_change", {"lightning", "torchmetrics", "matplotlib"}),
        ("import lightning_rwc.sums, lightning_rwc.layers", {"lightning", "torchmetrics", "matplotlib"}),
        ("from lightning_rwc import RelativeWeightChange", {"lightning", "pytorch_lightning"}),
        ("import lightning_rwc.huggingface", {"torch", "lightning", "transformers"}),
        ("import lightning_rwc.measuring", {"lightning", "pytorch_lightning"}),  # torchmetrics brings transformers
        ("import lightning_rwc.plotting", {"torch", "lightning", "pandas"}),
        ("import lightning_rwc.cli", {"torch", "lightning", "matplotlib", "pandas", "sklearn", "torchvision"}),
        ("import lightning_rwc.weightscale", {"torch", "lightning", "matplotlib", "pandas", "sklearn"}),
        # torchmetrics brings transformers, which brings scikit-learn.
        ("from lightning_rwc import RWCCallback", {"wandb", "mlflow", "comet_ml", "typer"}),
    ],
)
def test_importing_brings_no_more_than_it_needs(statement, absent):
    assert imported_by(statement) & absent == set()


@pytest.mark.integration
def test_the_core_alone_trains_and_leaves_the_progress_bar_as_it_was(alone, tmp_path):
    done = alone(TRAINING, tmp_path)
    assert done.returncode == 0, done.stderr
    seen = json.loads((tmp_path / "seen.json").read_text())
    assert seen["imported"] == []
    assert "TQDMProgressBar" in seen["callbacks"]
    assert "ModelSummary" in seen["callbacks"]
    assert not [name for name in seen["callbacks"] if name.startswith("Rich")]
    assert seen["logger"] == "TensorBoardLogger"
    assert {"rwc/layer", "rwc_summary/total"} <= seen["scalars"].keys()
    assert {"rwc/heatmap", "rwc/curves"} <= set(seen["images"])

    weights = np.array(seen["weights"])
    changes = np.abs(np.diff(weights, axis=0)).sum(axis=(1, 2)) / np.abs(weights[:-1]).sum(axis=(1, 2))
    history = RWCHistory.load(tmp_path / "x.csv")
    assert (history.layers, history.epochs) == (["layer"], [0, 1])
    np.testing.assert_allclose(history.values[:, 0], changes, rtol=1e-6)
    np.testing.assert_allclose(seen["scalars"]["rwc/layer"], changes, rtol=1e-6)


def test_the_command_without_its_extra_says_what_to_install(alone, tmp_path):
    start = f"""
from importlib.metadata import distribution
(script,) = distribution({US!r}).entry_points.select(group="console_scripts")
script.load()()
"""
    done = alone(start, tmp_path)
    assert done.returncode == 2, done.stderr
    assert done.stderr == "The command needs the package typer. Install the extra `cli` of lightning-rwc.\n"
    assert done.stdout == ""


def test_the_command_with_its_extra_starts(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["lightning-rwc", "--help"])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 0
    printed = capsys.readouterr().out
    assert all(command in printed for command in ("demo", "reproduce", "cluster", "checkpoints", "diff"))


def test_what_is_imported_is_declared_and_what_is_installed_is_imported(modules_by_package):
    imported = set()
    for path in Path(lightning_rwc.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {name.name.partition(".")[0] for name in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                imported.add(node.module.partition(".")[0])
    imported -= {*sys.stdlib_module_names, "lightning_rwc"} | BROUGHT

    modules = defaultdict(set)
    for package, names in modules_by_package.items():
        modules[canonicalize_name(package)] |= names
    requirements = [Requirement(line) for line in metadata.requires(US)]
    declared = {canonicalize_name(needed.name) for needed in requirements}
    # Where one is not installed, as on an older Python, its module is named as it is.
    known = set().union(*(modules[package] or {package} for package in declared))
    assert imported - known == set()
    hard = {canonicalize_name(needed.name) for needed in requirements if needed.marker is None}
    assert {package for package in hard if not modules[package] & imported} == set()
