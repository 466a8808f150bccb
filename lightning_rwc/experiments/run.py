# SPDX-License-Identifier: Apache-2.0
"""Train with several seeds in sequence. Finished seeds are kept, and an interrupted one is resumed."""

import json
import time
from collections.abc import Sequence
from importlib import resources
from inspect import signature
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities import rank_zero_only
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from typing_extensions import override

from lightning_rwc.callback import RWCCallback
from lightning_rwc.experiments.classifier import Classifier, layer_name
from lightning_rwc.experiments.data import DATA_SETS, Images
from lightning_rwc.experiments.equal_samples import EqualSamples
from lightning_rwc.experiments.models import ARCHITECTURES, Like, check_like
from lightning_rwc.experiments.random_state import RandomState
from lightning_rwc.experiments.results import FINISHED, LAYERS, RECORDED, SETTINGS, history_file, seed_folder
from lightning_rwc.layers import LayerSelection

# Settings that do not change the results, so they may differ between two starts of one experiment.
_IMMATERIAL = {"data_dir", "seed"}
_IMMATERIAL_FLAGS = {
    *("accelerator", "benchmark", "default_root_dir", "detect_anomaly", "devices", "logger", "log_every_n_steps"),
    *("enable_autolog_hparams", "enable_checkpointing", "enable_model_summary", "enable_progress_bar", "num_nodes"),
    *("max_epochs", "model_registry", "profiler"),  # epochs have a name of their own
}


def run_seeds(
    model: str, data: str, seeds: Sequence[int], out: Path, options: Sequence[str], *, like: str | None = None
) -> bool:
    """Train ``model`` on ``data`` once for each seed, with the paper's settings if the paper has this experiment.

    Args:
        model: a key of :data:`~lightning_rwc.experiments.models.ARCHITECTURES`.
        data: a key of :data:`~lightning_rwc.experiments.data.DATA_SETS`.
        seeds: each seeds the initial weights and the order of the images of one run.
        out: the folder of this experiment. Seeds that are finished there are kept, and an interrupted one is resumed.
        options: further arguments for LightningCLI, such as ``--trainer.max_epochs=20`` or ``--config=my.yaml``.
        like: ``"authors"`` for the network, the images and the order of the paper's authors, ``"modern"`` for what is
            usual. By default it is ``"authors"`` if their network is known.

    Returns:
        Whether this process writes the report. Of several processes that train together, only one does.

    Raises:
        ValueError: if ``model``, ``data``, ``seeds`` or ``like`` is wrong, or ``out`` has an experiment with other
            settings.
        FileNotFoundError: if the data set is missing and cannot be downloaded.

    """
    version = check_experiment(model, data, like)
    if not seeds or len(set(seeds)) < len(seeds) or min(seeds) < 0:
        raise ValueError(f"`seeds` must be different integers, each at least 0, but got {list(seeds)}.")
    with _progress() as progress:
        all_seeds = progress.add_task("seeds", total=len(seeds))
        for seed in seeds:
            reports = _run_seed(model, data, version, seed, out=out, options=options, progress=progress)
            progress.advance(all_seeds)
    return reports


def check_experiment(model: str, data: str, like: str | None) -> Like:
    """Return the version of the network that is meant, see :func:`run_seeds`, or raise ``ValueError``."""
    if model not in ARCHITECTURES:
        raise ValueError(f"`model` must be one of {', '.join(ARCHITECTURES)}, but got {model!r}.")
    if data not in DATA_SETS:
        raise ValueError(f"`data` must be one of {', '.join(DATA_SETS)}, but got {data!r}.")
    return check_like(model, like)


def _run_seed(
    model: str, data: str, like: Like, seed: int, *, out: Path, options: Sequence[str], progress: Progress
) -> bool:
    folder = seed_folder(out, seed)
    recorders = _recorders()
    newest = ModelCheckpoint(folder, filename="newest", enable_version_counter=False, save_on_train_epoch_end=True)
    cli = _command_line(
        model,
        data,
        like,
        seed,
        folder=folder,
        options=options,
        callbacks=[*recorders.values(), RandomState(), newest, _Epochs(progress, seed)],
    )
    _same_settings(cli, out)
    if (folder / FINISHED).exists():
        return cli.trainer.is_global_zero
    checkpoint = folder / "newest.ckpt"
    start = time.monotonic()
    cli.trainer.fit(cli.model, cli.datamodule, ckpt_path=str(checkpoint) if checkpoint.exists() else None)
    if cli.trainer.interrupted:
        raise KeyboardInterrupt
    seconds = time.monotonic() - start
    (accuracies,) = cli.trainer.test(cli.model, cli.datamodule, verbose=False)
    if not cli.trainer.is_global_zero:
        return False
    histories = {name: recorder.history for name, recorder in recorders.items()}
    histories["rotation"] = recorders["l1"].histories["rotation"]
    for name, history in histories.items():
        history.save(history_file(folder, name))
    result = {"seed": seed, **accuracies, "seconds_of_last_fit": round(seconds, 1)}
    partial = folder / f"{FINISHED}.partial"
    partial.write_text(json.dumps(result, indent=2), encoding="utf-8")
    partial.replace(folder / FINISHED)
    checkpoint.unlink(missing_ok=True)
    return True


def _recorders() -> dict[str, Any]:
    options: dict[str, dict[str, Any]] = {
        "l1": {"norm": "l1", "measures": ("rotation",)},
        "l2": {"norm": "l2", "findings": False},
        "elementwise": {"norm": "elementwise", "findings": False},
        "l1 since the start": {"norm": "l1", "relative_to": "initial", "heatmap": False, "findings": False},
    }
    callbacks = {
        name: RWCCallback(prefix=RECORDED[name], group_by=layer_name, **given) for name, given in options.items()
    }
    return {**callbacks, "elementwise, equal samples": EqualSamples(layer_name)}


class _CommandLine(LightningCLI):
    @override
    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.link_arguments("data.channels", "model.channels", apply_on="instantiate")
        parser.link_arguments("data.classes", "model.classes", apply_on="instantiate")
        parser.link_arguments("seed_everything", "data.seed")


def _command_line(
    model: str, data: str, like: Like, seed: int, *, folder: Path, options: Sequence[str], callbacks: list[Callback]
) -> LightningCLI:
    logger = {"save_dir": str(folder), "name": "", "version": "tensorboard"}
    defaults = {
        "devices": 1,
        "enable_model_summary": False,
        "default_root_dir": str(folder),
        "logger": {"class_path": "lightning.pytorch.loggers.TensorBoardLogger", "init_args": logger},
        "callbacks": callbacks,
    }
    settings = resources.files(__package__) / "configs"
    names = (f"{like}/all.yaml", f"{like}/{data}.yaml", f"table_1/{model}-{data}.yaml")
    with resources.as_file(settings) as places:
        config = [f"--config={places / name}" for name in names if (places / name).exists()]
        fixed = [f"--model.architecture={model}", f"--model.like={like}", f"--data.name={data}"]
        # A terminal shows one progress bar at a time, and ours is there already.
        fixed += ["--trainer.enable_progress_bar=false", f"--seed_everything={seed}"]
        return _CommandLine(
            Classifier,
            Images,
            trainer_defaults=defaults,
            save_config_callback=None,
            run=False,
            args=[*config, *options, *fixed],
        )


def _same_settings(cli: LightningCLI, out: Path) -> None:
    model, data = cli.config["model"].as_dict(), cli.config["data"].as_dict()
    usual = signature(Trainer).parameters
    flags = {name: value for name, value in cli.config["trainer"].as_dict().items() if name not in _IMMATERIAL_FLAGS}
    settings: dict[str, Any] = {
        "model": model,
        "data": {name: value for name, value in data.items() if name not in _IMMATERIAL},
        "trainer": {name: value for name, value in flags.items() if value != usual[name].default},
        "epochs": cli.trainer.max_epochs,
        "processes": cli.trainer.world_size,
    }
    path = out / SETTINGS
    if not path.exists():
        out.mkdir(parents=True, exist_ok=True)
        path.write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")
        sizes = {
            layer: sum(parameter.numel() for parameter in parameters.values())
            for layer, parameters in LayerSelection(None, layer_name).find(cli.model).items()
        }
        pd.Series(sizes, name="size").rename_axis("layer").to_csv(out / LAYERS)
        return
    known = yaml.safe_load(path.read_text(encoding="utf-8"))
    if known != settings:
        before, now = (pd.json_normalize(one).iloc[0].to_dict() for one in (known, settings))
        differences = ", ".join(
            f"{name} is {now.get(name, 'not given')} and was {before.get(name, 'not given')}"
            for name in {**before, **now}
            if now.get(name) != before.get(name)
        )
        raise ValueError(
            f"`--out` is the folder {out}, which has an experiment with other settings: {differences}. Choose another "
            "`--out`."
        )


def _progress() -> Progress:
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    # Lightning sets the attribute, which its annotations do not have.
    return Progress(*columns, disable=getattr(rank_zero_only, "rank", 0) != 0)


class _Epochs(Callback):
    """Shows the progress of the training with one seed."""

    def __init__(self, progress: Progress, seed: int) -> None:
        self._progress, self._seed = progress, seed
        self._tasks: list[TaskID] = []

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero:
            totals = {f"seed {self._seed}: epochs": trainer.max_epochs, "batches": trainer.num_training_batches}
            self._tasks = [self._progress.add_task(name, total=total) for name, total in totals.items()]
            self._progress.update(self._tasks[0], completed=trainer.current_epoch)

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        for task in self._tasks[1:]:
            self._progress.update(task, completed=batch_idx + 1)

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for task in self._tasks[:1]:
            self._progress.update(task, completed=trainer.current_epoch + 1)

    @override
    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        for task in self._tasks:
            self._progress.remove_task(task)
        self._tasks = []
