# SPDX-License-Identifier: Apache-2.0
"""The command ``lightning-rwc``."""

import logging
import shlex
import subprocess
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import numpy.typing as npt
import typer
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from lightning_rwc.history import RWCHistory

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


class DemoData(str, Enum):
    """The data sets that the demo knows."""

    DIGITS = "digits"
    FASHION_MNIST = "fashion-mnist"


_BARS = "▁▂▃▄▅▆▇█"


@app.callback()
def main() -> None:
    """Which of my layers are learning? Relative weight change, layer by layer."""


@app.command()
def demo(
    data: Annotated[DemoData, typer.Option(help="what to train on")] = DemoData.DIGITS,
    data_dir: Annotated[Path, typer.Option(help="where Fashion-MNIST's files are, or go")] = Path("data"),
    epochs: Annotated[int, typer.Option(min=1, help="epochs to train")] = 10,
    log_dir: Annotated[Path, typer.Option(help="where TensorBoard's runs are kept")] = Path("lightning_rwc_demo"),
    open_: Annotated[bool, typer.Option("--open", help="start TensorBoard at the end")] = False,
) -> None:
    """Train a small CNN on real images and see every layer's relative weight change."""
    with _errors_told("demo"):
        from lightning_rwc.demo import run_demo

        result = run_demo(data.value, data_dir, epochs, log_dir)

    console = Console()
    console.print(history_table(result.history))
    console.print(f"validation accuracy {result.accuracy:.1%}\n", highlight=False)
    print("Files:")
    print(*(f"  {path}" for path in [*sorted(result.log_dir.glob("events.*")), *result.files]), sep="\n")
    print(f"\nTo look at them in TensorBoard:\n  tensorboard --logdir {shlex.quote(str(log_dir))}")
    if open_:
        subprocess.run([sys.executable, "-m", "tensorboard.main", "--logdir", str(log_dir)], check=False)


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def reproduce(
    context: typer.Context,
    *,
    model: Annotated[str, typer.Option(help="resnet18, vgg19_bn, alexnet, xception, resnet50 or efficientnet_b4")],
    data: Annotated[str, typer.Option(help="mnist, fashion-mnist, cifar10, cifar100, svhn or digits")],
    data_dir: Annotated[Path | None, typer.Option(help="where data sets are, or go; by default ./data")] = None,
    seeds: Annotated[str, typer.Option(help="one run each")] = "0,42,123,1000,1234",
    epochs: Annotated[int | None, typer.Option(min=1, help="epochs to train; by default 150")] = None,
    subset: Annotated[int | None, typer.Option(min=1, help="train on the first so many images only")] = None,
    out: Annotated[Path, typer.Option(help="where experiments are kept, a folder each")] = Path("rwc_experiments"),
) -> None:
    """Rerun the paper: train with several seeds, and judge its claims.

    Any further argument goes to LightningCLI, as --trainer.accelerator=cpu, --model.learning_rate=0.01,
    --data.augment=true or --config=my.yaml. A command that was interrupted goes on when it is given again.
    """
    given = {"data.data_dir": data_dir, "trainer.max_epochs": epochs, "data.subset": subset}
    options = [*context.args, *(f"--{name}={value}" for name, value in given.items() if value is not None)]
    with _errors_told("experiments"), _lightning_quiet():
        from lightning_rwc.experiments.report import write_report
        from lightning_rwc.experiments.run import run_seeds

        folder = out / f"{model}-{data}"
        if run_seeds(model, data, _integers(seeds), folder, options):
            print(f"The report: {write_report(folder)}")


@app.command()
def cluster(
    files: Annotated[list[Path], typer.Argument(help="histories, or CSV tables with layers as columns or rows")],
    out: Annotated[Path, typer.Option(help="where pictures and table go")],
    *,
    procedure: Annotated[str, typer.Option(help="robust or reference")] = "robust",
    k: Annotated[int | None, typer.Option(help="number of clusters; by default that of the best silhouette")] = None,
    drop_ends: Annotated[bool, typer.Option(help="leave out the first and the last layer")] = False,
    kind: Annotated[list[str] | None, typer.Option(help="REGEX=KIND: mark layers of that name; several times")] = None,
    seed: Annotated[int, typer.Option(help="of k-means")] = 0,
) -> None:
    """Find layers that learn alike: cluster curves of relative weight change (WeightScale)."""
    with _errors_told():
        from lightning_rwc.weightscale import save_clusters

        patterns = dict(_pattern_and_kind(pair) for pair in kind) if kind else None
        options = {"procedure": procedure, "k": k, "drop_ends": drop_ends, "seed": seed}
        written = save_clusters(files, out, patterns=patterns, **options)
    print(*written, sep="\n")


@app.command()
def checkpoints(
    files: Annotated[list[str], typer.Argument(help="saved weights in order; or a folder, or a pattern in quotes")],
    out: Annotated[Path, typer.Option(help="where table and pictures go")],
    *,
    norm: Annotated[str, typer.Option(help="l1, l2 or elementwise")] = "l1",
    relative_to: Annotated[str, typer.Option(help="previous or initial")] = "previous",
    layers: Annotated[list[str] | None, typer.Option(help="regular expression; several times for several")] = None,
    group_by: Annotated[int | None, typer.Option(help="modules so many names deep are one layer")] = None,
) -> None:
    """Measure relative weight change over a series of saved weights, without training."""
    with _errors_told():
        from lightning_rwc.checkpoints import history_of_checkpoints

        options: dict[str, Any] = {"norm": norm, "relative_to": relative_to, "layers": layers, "group_by": group_by}
        with warnings.catch_warnings(record=True) as told:
            history = history_of_checkpoints(files, **options)
        for warning in told:
            typer.echo(f"Warning: {warning.message}", err=True)
        out.mkdir(parents=True, exist_ok=True)
        written = [out / name for name in ("rwc_history.csv", "rwc_heatmap.png", "rwc_curves.png")]
        history.save(written[0])
        history.plot_heatmap().savefig(written[1])
        history.plot_curves().savefig(written[2])
    Console().print(history_table(history))
    print(*written, sep="\n")


def _integers(seeds: str) -> list[int]:
    try:
        return [int(seed) for seed in seeds.split(",")]
    except ValueError:
        raise ValueError(f"`--seeds` must be integers separated by commas, but got {seeds!r}.") from None


def _pattern_and_kind(pair: str) -> tuple[str, str]:
    pattern, _, kind = pair.rpartition("=")
    if not (pattern and kind):
        raise ValueError(f"`--kind` must be REGEX=KIND, as '_dw$=depth-wise', but got {pair!r}.")
    return pattern, kind


def history_table(history: "RWCHistory") -> Table:
    """A row a layer: name, first, last and mean relative weight change, and its curve as a sparkline."""
    table = Table(title="Relative weight change")
    for heading in ("layer", "first", "last", "mean", "curve (log)"):
        table.add_column(heading, justify="right" if heading in ("first", "last", "mean") else "left")
    curves = history.values.T
    positive = curves[np.isfinite(curves) & (curves > 0)]
    limits = (np.log(positive.min()), np.log(positive.max())) if positive.size else (0.0, 0.0)
    for layer, curve in zip(history.layers, curves, strict=True):
        numbers = (f"{value:.3g}" for value in (curve[0], curve[-1], curve.mean()))
        table.add_row(layer, *numbers, sparkline(curve, *limits))
    return table


def sparkline(curve: npt.NDArray[np.float64], low: float, high: float) -> str:
    """Draw ``curve`` on a logarithmic scale in one line of text; ``low`` and ``high`` are logarithms."""
    marks = []
    for value in curve:
        if np.isfinite(value) and value > 0:
            height = (np.log(value) - low) / (high - low) if high > low else 0.5
            marks.append(_BARS[min(int(height * len(_BARS)), len(_BARS) - 1)])
        else:
            marks.append("0" if value == 0 else "∞" if value > 0 else "?")
    return "".join(marks)


@contextmanager
def _lightning_quiet() -> Iterator[None]:
    """Keep back what Lightning advises: that is for its users to see, not for those of an experiment."""
    import_module("lightning.pytorch")  # which sets this level
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"lightning\.(pytorch|fabric)")
        logger.setLevel(logging.WARNING)
        try:
            yield
        finally:
            logger.setLevel(level)


@contextmanager
def _errors_told(extra: str = "analysis") -> Iterator[None]:
    """Turn what a user can mend into a message, and a missing package into how to install it."""
    try:
        yield
    except ModuleNotFoundError as error:
        ours = 'pip install "lightning-rwc[' in error.msg
        needed = f'This needs the package {error.name}: pip install "lightning-rwc[{extra}]"'
        typer.echo(error.msg if ours else needed, err=True)
    except (OSError, ValueError) as error:
        typer.echo(str(error), err=True)
    else:
        return
    raise typer.Exit(code=2)
