# SPDX-License-Identifier: Apache-2.0
"""The command ``python -m tests.faults``: which faults are found, where, when, and what is said of healthy runs."""

import json
import logging
from fnmatch import fnmatchcase
from itertools import product
from pathlib import Path
from typing import Annotated

import torch
import typer

from tests.faults.architectures import ARCHITECTURES
from tests.faults.optimizers import OPTIMIZERS
from tests.faults.runs import CASES, cases_of, run
from tests.faults.tables import tables, wrongs

QUICK = ("CNN, batch norm", "transformer", "GAN", "LoRA")


def main(
    only: Annotated[
        list[str] | None, typer.Option(help="names of architectures, cases or optimizers, such as 'CNN*'; repeatable")
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="the number of seeds")] = 1,
    all_: Annotated[
        bool, typer.Option("--all", help="every optimizer in every case, not only in healthy runs")
    ] = False,
    quick: Annotated[bool, typer.Option("--quick", help=f"only {', '.join(QUICK)}")] = False,
    json_: Annotated[Path | None, typer.Option("--json", help="write all results to this file")] = None,
) -> None:
    """Build known faults into small trainings on real data and look at what the callback says.

    Callbacks measure each training every epoch, every five steps and every step. Then it runs again with validation.
    The exit code is 1 if a fault was missed, if other layers than the broken ones were named, or if there was a false
    alarm.
    """
    # After Lightning's import, which sets the level itself.
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    chosen = [one for one in plan(quick, all_) if _is_asked(one, only or [])]
    if not chosen:
        raise typer.BadParameter("nothing has such a name", param_hint="--only")
    records = []
    with typer.progressbar([(one, seed) for seed in range(seeds) for one in chosen], label="Trainings") as bar:
        for (name, optimizer, case), seed in bar:
            records += run(name, optimizer, case, seed)
    print(tables(records))
    if json_:
        json_.write_text(json.dumps(records, ensure_ascii=False))
    raise typer.Exit(bool(wrongs(records)))


def plan(quick=False, every=False):
    """Architecture, optimizer and case of each training.

    Healthy runs take every optimizer. The other cases take them in turn, so that each meets most of them.
    """
    names, optimizers = [*ARCHITECTURES], [*OPTIMIZERS]
    for row, name in enumerate(names):
        if quick and name not in QUICK:
            continue
        for column, case in enumerate(CASES):
            if case not in cases_of(name):
                continue
            some = optimizers if every or case == "healthy" else [optimizers[(row + column) % len(optimizers)]]
            yield from product([name], some, [case])


def _is_asked(one, patterns):
    """Whether, of the patterns that are for names of its kind, one matches each name."""
    for value, values in zip(one, (ARCHITECTURES, OPTIMIZERS, CASES), strict=True):
        meant = [pattern for pattern in patterns if any(fnmatchcase(name, pattern) for name in values)]
        if meant and not any(fnmatchcase(value, pattern) for pattern in meant):
            return False
    return True


if __name__ == "__main__":
    typer.run(main)
