# SPDX-License-Identifier: Apache-2.0
"""The command ``lightning-rwc``."""

import shlex
import subprocess
import sys
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

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
    try:
        from lightning_rwc.demo import run_demo

        result = run_demo(data.value, data_dir, epochs, log_dir)
    except ModuleNotFoundError as error:
        _fail(f'The demo needs the package {error.name}: pip install "lightning-rwc[demo]"')
    except FileNotFoundError as error:
        _fail(str(error))

    console = Console()
    console.print(history_table(result.history))
    console.print(f"validation accuracy {result.accuracy:.1%}\n", highlight=False)
    print("Files:")
    print(*(f"  {path}" for path in [*sorted(result.log_dir.glob("events.*")), *result.files]), sep="\n")
    print(f"\nTo look at them in TensorBoard:\n  tensorboard --logdir {shlex.quote(str(log_dir))}")
    if open_:
        subprocess.run([sys.executable, "-m", "tensorboard.main", "--logdir", str(log_dir)], check=False)


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


def _fail(message: str) -> None:
    typer.echo(message, err=True)
    raise typer.Exit(code=2)
