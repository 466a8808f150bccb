# SPDX-License-Identifier: Apache-2.0
"""The command ``python -m tests.gpu``."""

import signal
import sys
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated

import typer

from tests.gpu.checks import CHECKS
from tests.gpu.runner import LEFT, load, run
from tests.gpu.tables import tables


def main(
    out: Annotated[Path | None, typer.Option(help="the file of results; default: gpu.json")] = None,
    minutes: Annotated[float, typer.Option(min=0, help="stop before this time is up")] = 9,
    only: Annotated[list[str] | None, typer.Option(help="names of checks, such as 'sums/*'; repeatable")] = None,
    again: Annotated[bool, typer.Option("--again", help="repeat checks that did not pass")] = False,
    rehearse: Annotated[
        bool, typer.Option("--rehearse", help="small sizes on the CPU; default of --out: gpu-rehearsal.json")
    ] = False,
    list_: Annotated[bool, typer.Option("--list", help="print all checks and end")] = False,
    tables_: Annotated[bool, typer.Option("--tables", help="print the results as Markdown and end")] = False,
) -> None:
    """Run everything that needs a GPU. Give the same command again to go on where it stopped.

    The exit code is 0 if every check has run and passed, 2 if some are left, and else 1.
    """
    out = out or Path("gpu-rehearsal.json" if rehearse else "gpu.json")
    checks = {name: check for name, check in CHECKS.items() if _is_asked(name, only)}
    if not checks:
        raise typer.BadParameter("no check has such a name: see --list", param_hint="--only")
    if list_:
        print(*(f"{name}: {check.shows}" for name, check in checks.items()), sep="\n")
    elif tables_:
        print(tables(checks, load(out)))
    elif not rehearse and not _has_gpu():
        print("There is no CUDA device here. `--rehearse` runs the checks at small sizes on the CPU.")
        raise typer.Exit(LEFT)
    else:
        # So that the process of a check ends with this one.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
        raise typer.Exit(run(checks, out, minutes, rehearse, again))


def _is_asked(name, only):
    return not only or any(fnmatchcase(name, pattern) for pattern in only)


def _has_gpu():
    import torch

    return torch.cuda.is_available()


if __name__ == "__main__":
    typer.run(main)
