# SPDX-License-Identifier: Apache-2.0
"""The command ``python -m tests.benchmarks.freezing``: trains what is missing in ``docs/experiments/freezing``."""

import itertools
import json
import logging
import warnings
from pathlib import Path
from typing import Annotated

import torch
import typer

from tests.benchmarks.freezing import policies
from tests.benchmarks.freezing.networks import NETWORKS
from tests.benchmarks.freezing.training import DATA, OPTIMIZERS, Setting, train

RESULTS = Path(__file__).parents[3] / "docs" / "experiments" / "freezing"
SEEDS, PILOT_SEED = (0, 1, 2), 100
_NEVER = policies.Fixed([1.0] * 100)


def settings(seeds):
    """Everything that is trained."""
    for data, network, optimizer, seed in itertools.product(DATA, NETWORKS, OPTIMIZERS, seeds):
        yield Setting(data, network, optimizer, seed)


def side_by_side(setting, data_dir):
    """Train under every policy; the schedules save as much as the evidence does."""
    row, costs, _ = train(setting, _NEVER, data_dir)
    yield "baseline", row
    row, _, _ = train(setting, policies.Evidence(), data_dir, measure=True)
    yield "evidence", row
    wanted = policies.saving(row["times"], costs)
    if wanted == 0:
        return
    even = policies.front_to_back(costs, wanted)
    for name, policy in {
        "front to back": policies.Fixed(even),
        "random order": policies.Fixed(policies.shuffled(even, setting.seed)),
        "FreezeOut": policies.Fixed(policies.cubes(costs, wanted), own_cosine=True),
    }.items():
        row, _, _ = train(setting, policy, data_dir)
        yield name, row


def pilot(setting, data_dir):
    """Record the rotations of an ordinary training, by which the threshold is chosen."""
    row, costs, rotations = train(setting, _NEVER, data_dir, measure=True)
    rounded = [[float(f"{x:.4g}") for x in one] for one in rotations]
    yield "pilot", {**row, "costs": costs, "rotations per rate": rounded}


def main(
    data_dir: Annotated[Path, typer.Argument(help="where Fashion-MNIST is")] = Path("data"),
    part: Annotated[str, typer.Option(help="2/3 trains the second third of the settings")] = "1/1",
    only_pilot: Annotated[bool, typer.Option("--pilot", help="train only what the threshold is chosen by")] = False,
) -> None:
    """Train every setting that has no file yet, on one core."""
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    RESULTS.mkdir(parents=True, exist_ok=True)
    number, parts = map(int, part.split("/"))
    work, seeds = (pilot, [PILOT_SEED]) if only_pilot else (side_by_side, SEEDS)
    for setting in list(settings(seeds))[number - 1 :: parts]:
        path = RESULTS / ("_".join(map(str, setting)) + ".jsonl")
        if not path.exists():
            rows = [{**setting._asdict(), "policy": policy, **row} for policy, row in work(setting, str(data_dir))]
            path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
            print(
                path.stem,
                *(f"{row['policy']} {row.get('accuracy', 0):.4f} {row.get('seconds', 0):.0f} s" for row in rows),
            )


if __name__ == "__main__":
    typer.run(main)
