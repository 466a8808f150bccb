# SPDX-License-Identifier: Apache-2.0
"""The command ``lightning-rwc``."""

import logging
import shlex
import time
import warnings
import webbrowser
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from enum import Enum
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console, RenderableType
from rich.live import Live
from rich.text import Text

from lightning_rwc import __version__
from lightning_rwc.extras import MissingPackageError, install
from lightning_rwc.findings.summary import heading, summary
from lightning_rwc.norms import NORMS
from lightning_rwc.terminal_table import history_table

if TYPE_CHECKING:
    from lightning_rwc.logs import Log

_SECONDS_BETWEEN_LOOKS = 1.0

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


class DemoData(str, Enum):
    """The data sets of the demo."""

    DIGITS = "digits"
    FASHION_MNIST = "fashion-mnist"


class Rows(str, Enum):
    """Which rows of a heatmap `show` draws."""

    FIT = "fit"
    ALL = "all"


class ScaleChoice(str, Enum):
    """What the colours of `show` stand for."""

    STEP = "step"
    MEASUREMENT = "measurement"
    AUTO = "auto"


def _print_version(asked: bool) -> None:
    if asked:
        print(__version__)
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Which of my layers are learning? Relative weight change, layer by layer."""


@app.command()
def demo(
    data: Annotated[DemoData, typer.Option(help="Data set to train on.")] = DemoData.DIGITS,
    data_dir: Annotated[Path, typer.Option(help="Folder to find or download Fashion-MNIST in.")] = Path("data"),
    epochs: Annotated[int, typer.Option(min=1, help="Number of epochs.")] = 10,
    log_dir: Annotated[Path, typer.Option(help="Folder for TensorBoard's runs.")] = Path("lightning_rwc_demo"),
    open_: Annotated[bool, typer.Option("--open", help="Then start TensorBoard and open its tab RWC.")] = False,
) -> None:
    """Train a small CNN on real images and show each layer's relative weight change."""
    # The callback's own summary would come while the progress bar is still there, which draws over its last lines.
    with _errors_as_messages("demo"), _lightning_quiet():
        from lightning_rwc.demo import run_demo

        result = run_demo(data.value, data_dir, epochs, log_dir)

    console = Console()
    console.print(history_table(result.history))
    console.print(f"validation accuracy {result.accuracy:.1%}\n", highlight=False)
    print(summary(result.history, result.findings))
    print("\nFiles:")
    print(*(f"  {path}" for path in [*sorted(result.log_dir.glob("events.*")), *result.files]), sep="\n")
    if open_:
        with _errors_as_messages("demo"):
            _show_tab(log_dir)
    else:
        print(f"\nSee the run in TensorBoard:\n  tensorboard --logdir {shlex.quote(str(log_dir))}")


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def reproduce(
    context: typer.Context,
    *,
    model: Annotated[str, typer.Option(help="resnet18, vgg19_bn, alexnet, xception, resnet50 or efficientnet_b4.")],
    data: Annotated[str, typer.Option(help="mnist, fashion-mnist, cifar10, cifar100, svhn or digits.")],
    like: Annotated[
        str | None, typer.Option(help="authors or modern: network and images; default: authors, if theirs is known.")
    ] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Folder to find or download data in; default: data.")] = None,
    seeds: Annotated[str, typer.Option(help="Train once with each of these seeds.")] = "0,42,123,1000,1234",
    epochs: Annotated[int | None, typer.Option(min=1, help="Number of epochs; default: as in the paper.")] = None,
    subset: Annotated[int | None, typer.Option(min=1, help="Train on the first SUBSET images only.")] = None,
    out: Annotated[Path, typer.Option(help="Folder for all experiments.")] = Path("rwc_experiments"),
) -> None:
    """Rerun an experiment of the paper with several seeds, and test the paper's claims.

    LightningCLI gets all other arguments, for example --trainer.accelerator=cpu, --model.learning_rate=0.01,
    --data.augment=flip or --config=my.yaml. Run the same command again to resume an interrupted one.
    """
    given = {"data.data_dir": data_dir, "trainer.max_epochs": epochs, "data.subset": subset}
    options = [*context.args, *(f"--{name}={value}" for name, value in given.items() if value is not None)]
    with _errors_as_messages("experiments"), _lightning_quiet():
        from lightning_rwc.experiments.report import write_report
        from lightning_rwc.experiments.run import check_experiment, run_seeds

        version = check_experiment(model, data, like)
        folder = out / (f"{model}-{data}" if version == "authors" else f"{model}-{data}-modern")
        if run_seeds(model, data, _integers(seeds), folder, options, like=version):
            print(f"The report: {write_report(folder)}")


@app.command()
def cluster(
    files: Annotated[list[Path], typer.Argument(help="Histories, or CSV tables with layers as columns or rows.")],
    out: Annotated[Path, typer.Option(help="Folder for the pictures and the table.")],
    *,
    procedure: Annotated[str, typer.Option(help="How curves are prepared: robust or reference.")] = "robust",
    of: Annotated[str, typer.Option(help="What is clustered: curves (level and shape) or shape.")] = "curves",
    k: Annotated[int | None, typer.Option(help="Number of clusters; default: stable and well apart.")] = None,
    drop_ends: Annotated[bool, typer.Option(help="Leave out the first and the last layer.")] = False,
    kind: Annotated[list[str] | None, typer.Option(help="REGEX=KIND: mark layers that match; repeatable.")] = None,
    within_kinds: Annotated[bool, typer.Option("--within-kinds", help="Cluster each --kind alone.")] = False,
    seed: Annotated[int, typer.Option(help="Seed of k-means.")] = 0,
) -> None:
    """Find layers that learn alike by clustering their curves of relative weight change (WeightScale)."""
    with _errors_as_messages():
        from lightning_rwc.weightscale.cluster_files import clusters_of_files, write_clusters

        patterns = dict(_pair("--kind", "REGEX=KIND", "_dw$=depth-wise", text) for text in kind) if kind else None
        options = {"procedure": procedure, "of": of, "k": k, "drop_ends": drop_ends, "seed": seed}
        with warnings.catch_warnings(record=True) as caught:
            found = clusters_of_files(files, patterns=patterns, within_kinds=within_kinds, **options)
        for warning in caught:
            typer.echo(f"Warning: {warning.message}", err=True)
        written = write_clusters(found, out, patterns)
    for name, clusters in found.items():
        print(f"{name}: {clusters}" if name else clusters)
    print(*written, sep="\n")


@app.command()
def checkpoints(
    files: Annotated[list[str], typer.Argument(help="Files of weights in order, a folder, or a pattern in quotes.")],
    out: Annotated[Path, typer.Option(help="Folder for the table and the pictures.")],
    *,
    norm: Annotated[str, typer.Option(help=f"One of {', '.join(NORMS)}.")] = "l1",
    relative_to: Annotated[str, typer.Option(help="previous or initial.")] = "previous",
    layers: Annotated[
        list[str] | None,
        typer.Option(help="Regex of parameters; repeatable. Default: all matrices and kernels."),
    ] = None,
    group_by: Annotated[int | None, typer.Option(help="Make each module at this depth one layer, from 1.")] = None,
    measure: Annotated[str, typer.Option(help="rwc, rotation, radial, moved or still.")] = "rwc",
) -> None:
    """Measure relative weight change over a series of saved weights, without training, and say what is wrong."""
    with _errors_as_messages():
        from lightning_rwc.checkpoints import compare_checkpoints
        from lightning_rwc.movement import quantity_of

        options: dict[str, Any] = {"norm": norm, "relative_to": relative_to, "layers": layers, "group_by": group_by}
        options["measure"] = measure
        with warnings.catch_warnings(record=True) as caught:
            history, findings = compare_checkpoints(files, **options)
        for warning in caught:
            typer.echo(f"Warning: {warning.message}", err=True)
        out.mkdir(parents=True, exist_ok=True)
        quantity = quantity_of(measure)
        written = [out / f"{measure}_{name}" for name in ("history.csv", "heatmap.png", "curves.png")]
        history.save(written[0])
        # The steps between files may be unknown.
        history.plot_heatmap(quantity, findings=findings, scale="measurement").savefig(written[1])
        history.plot_curves(quantity, findings=findings).savefig(written[2])
    Console().print(history_table(history, quantity))
    for finding in findings:
        print(f"{heading(finding)}: {finding.message}\n")
    if not findings:
        print("No finding.\n")
    print(*written, sep="\n")


@app.command()
def diff(
    base: Annotated[str, typer.Argument(help="One saved model: a file, an index or a folder.")],
    tuned: Annotated[str, typer.Argument(help="Another one, or the folder of a LoRA adapter of PEFT.")],
    *,
    out: Annotated[Path | None, typer.Option(help="Folder for diff.csv and diff.html.")] = None,
    layers: Annotated[
        list[str] | None,
        typer.Option(help="Regex of parameters; repeatable. Default: all matrices and kernels."),
    ] = None,
    all_: Annotated[bool, typer.Option("--all", help="Measure vectors and biases too.")] = False,
    strip_prefix: Annotated[
        list[str] | None, typer.Option(help="Modules to leave out at the start of names; repeatable.")
    ] = None,
    map_: Annotated[
        list[str] | None, typer.Option("--map", help="OLD=NEW: what BASE calls OLD, TUNED calls NEW; repeatable.")
    ] = None,
    parquet: Annotated[bool, typer.Option("--parquet", help="Write diff.parquet too.")] = False,
) -> None:
    """Measure what changed from one saved model to another: which layers moved, how far, and how many weights."""
    with _errors_as_messages():
        from lightning_rwc.diff_page import diff_page
        from lightning_rwc.terminal_diff import print_diff
        from lightning_rwc.weight_diff import diff_checkpoints

        if all_ and layers:
            raise ValueError(f"`--all` measures all parameters, so leave it out, or leave out `--layers {layers[0]}`.")
        if parquet and out is None:
            raise ValueError("`--parquet` writes to a folder: name it with `--out DIR`.")
        rename = dict(_pair("--map", "OLD=NEW", "encoder.blocks=layers", text) for text in map_ or ())
        chosen = (lambda name, parameter: True) if all_ else layers
        found = diff_checkpoints(base, tuned, layers=chosen, strip_prefix=strip_prefix or (), rename=rename)
        written = []
        if out is not None:
            out.mkdir(parents=True, exist_ok=True)
            written = [out / name for name in ("diff.csv", *(["diff.parquet"] if parquet else []), "diff.html")]
            for path in written[:-1]:
                found.save(path)
            written[-1].write_text(diff_page(found), encoding="utf-8")
    print_diff(found, Console())
    if written:
        print("", *written, sep="\n")


@app.command()
def show(
    log: Annotated[Path, typer.Argument(help="A folder of logs, an event file, a metrics.csv or a history.")],
    *,
    run: Annotated[str | None, typer.Option(help="Which run of a folder; default: the newest.")] = None,
    prefix: Annotated[str | None, typer.Option(help="Which table, by what its tags start with, as rwc.")] = None,
    scale: Annotated[ScaleChoice | None, typer.Option(help="What colours stand for; default: as in pictures.")] = None,
    rows: Annotated[Rows, typer.Option(help="As many layers as fit the terminal, or all.")] = Rows.FIT,
    follow: Annotated[bool, typer.Option("--follow", help="Draw again whenever the log grows, until Ctrl-C.")] = False,
) -> None:
    """Draw the heatmap of a log in the terminal, and say what was found."""
    console = Console(highlight=False)
    with _errors_as_messages("cli"):
        from lightning_rwc.logs import open_log
        from lightning_rwc.names import printable
        from lightning_rwc.terminal_map import TerminalMap

        source = open_log(log)
        options: dict[str, Any] = {"scale": scale and scale.value, "every_row": rows is Rows.ALL}
        if follow:
            _follow(console, source, lambda: TerminalMap(source.read(run, prefix), brief=True, **options))
            return
        table = source.read(run, prefix)
        console.print(TerminalMap(table, **options))
    for option, names in (("--run", table.other_runs), ("--prefix", table.other_prefixes)):
        if names:
            console.print(f"\n{option} also takes: {', '.join(map(printable, names))}", markup=False)


def _show_tab(log_dir: Path) -> None:
    from lightning_rwc.tensorboard.server import serve

    address = serve(log_dir)
    print(f"\nTensorBoard shows the run here until you press Ctrl-C:\n  {address}", flush=True)
    with suppress(KeyboardInterrupt):
        webbrowser.open(address)
        while True:
            time.sleep(3600)


def _follow(console: Console, log: "Log", draw: Callable[[], RenderableType]) -> None:
    """Draw whenever ``log`` has grown or the terminal has another size, until Ctrl-C."""
    from lightning_rwc.log_table import NothingYetError

    shown: object = None
    terminal = Live(console=console, auto_refresh=False) if console.is_terminal else nullcontext()
    with suppress(KeyboardInterrupt), terminal as live:
        while True:
            state = log.state(), console.size
            if state != shown:
                shown = state
                try:
                    picture = draw()
                except NothingYetError as error:
                    picture = Text(str(error))
                if live is not None:
                    live.update(picture, refresh=True)
                else:
                    console.print(picture)
            time.sleep(_SECONDS_BETWEEN_LOOKS)


def _integers(seeds: str) -> list[int]:
    try:
        return [int(seed) for seed in seeds.split(",")]
    except ValueError:
        raise ValueError(f"`--seeds` must be integers separated by commas, but got {seeds!r}.") from None


def _pair(option: str, form: str, example: str, text: str) -> tuple[str, str]:
    first, _, second = text.rpartition("=")
    if not (first and second):
        raise ValueError(f"`{option}` must be {form}, for example {example!r}, but got {text!r}.")
    return first, second


@contextmanager
def _lightning_quiet() -> Iterator[None]:
    """Hide Lightning's advice, which is for authors of training scripts."""
    import_module("lightning.pytorch")  # its import sets this level
    # Whichever of the two packages was imported last has the logger that both use.
    levels = {logger: logger.level for logger in map(logging.getLogger, ("lightning.pytorch", "pytorch_lightning"))}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"lightning\.(pytorch|fabric)")
        for logger in levels:
            logger.setLevel(logging.WARNING)
        try:
            yield
        finally:
            for logger, level in levels.items():
                logger.setLevel(level)


@contextmanager
def _errors_as_messages(extra: str = "analysis") -> Iterator[None]:
    """Print an error that the user can fix instead of a traceback; for a missing package, print how to install it."""
    try:
        yield
    except ModuleNotFoundError as error:
        needed = f"This needs the package {error.name}. {install(extra)}"
        typer.echo(error.msg if isinstance(error, MissingPackageError) else needed, err=True)
    except (OSError, ValueError) as error:
        typer.echo(str(error), err=True)
    else:
        return
    raise typer.Exit(code=2)
