# SPDX-License-Identifier: Apache-2.0
"""The command ``python -m tests.benchmarks``: tables to read, JSON to compare, goals to hold."""

import gc
import json
import logging
import math
import time
import warnings
from enum import Enum
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated

import pandas as pd
import typer

from tests.benchmarks.colours import colours
from tests.benchmarks.cuda import cuda
from tests.benchmarks.diff import diff
from tests.benchmarks.measure import dtypes, gradients, growth, measure, pieces, replicas
from tests.benchmarks.pictures import pictures
from tests.benchmarks.sampling import sampling
from tests.benchmarks.tab import tab
from tests.benchmarks.threads import threads
from tests.benchmarks.timing import machine
from tests.benchmarks.training import logs, training

SECTIONS = {
    "measure": measure,
    "pieces": pieces,
    "replicas": replicas,
    "gradients": gradients,
    "dtypes": dtypes,
    "growth": growth,
    "threads": threads,
    "sampling": sampling,
    "colours": colours,
    "training": training,
    "logging": logs,
    "pictures": pictures,
    "tab": tab,
    "diff": diff,
    "cuda": cuda,
}
Section = Enum("Section", [(name, name) for name in SECTIONS])

# section / table / row / column
GOALS = {
    "measure/resnet18/ours/times bound": ("<=", 2),
    "measure/resnet50/ours/times bound": ("<=", 1.1),
    "measure/vit_b_16/ours/times bound": ("<=", 1.1),
    "measure/vgg19/ours/times bound": ("<=", 1.1),
    "measure/stack_1b/ours/times bound": ("<=", 1.1),
    "measure/resnet50/authors/times ours": (">=", 5),
    "measure/vit_b_16/authors/times ours": (">=", 5),
    "measure/vgg19/authors/times ours": (">=", 5),
    "measure/stack_1b/authors/times ours": (">=", 5),
    "measure/toy/item loop/times ours": (">=", 2),
    "measure/*/ours/extra MiB": ("<=", 8),
    "pieces/*/every unit/times bound": ("<=", 1.5),
    "replicas/*/comparison/times ours": ("<=", 5),
    "replicas/*/comparison/extra MiB": ("<=", 8),
    "gradients/*/look/times ours": ("<=", 2),
    "dtypes/equal bytes/*float16/times float32": ("<=", 1.5),
    "dtypes/norms/*/times l1": ("<=", 1.5),
    "growth/layers/2,000/us a layer": ("<=", 1),
    "growth/layers/10,000/times first": ("<=", 1.3),
    "growth/history/last 100/times first": ("<=", 1.3),
    "sampling/*/Gaussian/covered %": (">=", 93),
    "sampling/*/Gaussian/warned %": ("<=", 1),
    "sampling/*/log-normal, σ = 3/warned %": (">=", 99),
    "sampling/*/one hot row/warned %": (">=", 99),
    "sampling/*/few, 0.1 in the sample/covered %": (">=", 95),
    "colours/per step/all/median shift, ticks": ("<=", 0.5),
    "training/epochs of 10,000 images/later epochs, mean/share %": ("<=", 0.5),
    "training/step/*/share %": ("<=", 3),
    "logging/scalars/ours/ms": ("<=", 20),
    "logging/heatmap/*/ms": ("<=", 200),
    "logging/log size/1,000 epochs/MB": ("<=", 50),
    "pictures/row names/300 x 260, tick labels/times ours": (">=", 2),
    "pictures/colour levels/heatmap, 300 x 260/PNG times all": ("<=", 0.75),
    "tab/start/RWC/share %": ("<=", 2),
    "tab/answer/*/ms": ("<=", 1000),
    "tab/answer/*/MB": ("<=", 3),
    "tab/page/drawn/ms": ("<=", 2000),
    "tab/page/hover/ms": ("<=", 50),
    "tab/all runs/drawn/ms": ("<=", 3000),
    "diff/from disk/diff/times read": ("<=", 1.2),
    "diff/*/diff/extra MiB": ("<=", 256),
    "cuda/*/ours/times bound": ("<=", 1.3),
    "cuda/launches/1,000 layers/times 10 layers": ("<=", 1),
    "cuda/launches/*/copies to host": ("<=", 1),
}


def main(
    check: Annotated[bool, typer.Option("--check", help="fail if a goal is missed")] = False,
    json_file: Annotated[Path | None, typer.Option("--json", help="where all figures go")] = None,
    only: Annotated[list[Section] | None, typer.Option(help="a section to run; may be given several times")] = None,
    repeats: Annotated[int, typer.Option(min=1, help="rounds of timings")] = 9,
    quick: Annotated[bool, typer.Option("--quick", help="small sizes and at most 3 rounds")] = False,
) -> None:
    """Time what the package holds itself to, and say which goals hold."""
    warnings.filterwarnings("ignore", module="lightning|torch")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    here, start, figures = machine(), time.perf_counter(), {}
    print(*(f"{key}: {value}" for key, value in here.items()), sep="\n")
    for name in [section.value for section in only or Section]:
        print(f"\n== {name}: {SECTIONS[name].__doc__} (after {time.perf_counter() - start:.0f} s)")
        for title, note, rows in SECTIONS[name](min(repeats, 3) if quick else repeats, quick):
            print(f"\n{title}{note and ': '}{note}")
            if rows:
                print(
                    pd.DataFrame.from_dict(rows, orient="index").to_string(float_format=_digits, na_rep=""), flush=True
                )
            for row, columns in rows.items():
                figures |= {f"{name}/{title}/{row}/{column}": float(value) for column, value in columns.items()}
            gc.collect()

    goals = [
        {"figure": figure, "value": value, "goal": f"{sign} {limit}", "holds": _holds(value, sign, limit)}
        for goal, (sign, limit) in GOALS.items()
        for figure, value in figures.items()
        if fnmatchcase(figure, goal)
    ]
    missed = [goal["figure"] for goal in goals if not goal["holds"]]
    print(f"\n== goals (after {time.perf_counter() - start:.0f} s)\n")
    print(pd.DataFrame(goals).to_string(index=False, float_format=_digits) if goals else "none was measured")
    print(f"\n{len(missed)} of {len(goals)} goals missed", *missed, sep="\n")
    if json_file is not None:
        run = {"machine": here, "repeats": repeats, "quick": quick, "figures": figures, "goals": goals}
        json_file.write_text(json.dumps(run, indent=1) + "\n")
    if check and missed:
        raise typer.Exit(1)


def _holds(value, sign, limit):
    return value <= limit if sign == "<=" else value >= limit


def _digits(value):
    places = 2 - math.floor(math.log10(abs(value))) if value else 0
    return f"{value:,.{min(max(places, 0), 6)}f}"


if __name__ == "__main__":
    typer.run(main)
