# SPDX-License-Identifier: Apache-2.0
"""The command ``python -m tests.rates``: what the likely rules say of learning rates that are right and wrong."""

import logging
import pickle
from itertools import islice
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer

from lightning_rwc.scale import spans
from tests.rates.replay import mark, replay
from tests.rates.runs import CADENCES, groups, train

_CERTAIN = {"non_finite", "no_gradient", "nothing_moves"}
_TOO_HIGH = {"3 times": (2, 5), "10 times": (5, 15), "30 times": (15, 50), "100 times or more": (50, 1e9)}


def main(
    folder: Annotated[Path, typer.Argument(help="the folder of recorded trainings; those that exist are not repeated")],
    count: Annotated[int, typer.Option(min=0, help="train so many groups of ten learning rates")] = 0,
    seeds: Annotated[int, typer.Option(min=1, help="the number of seeds")] = 3,
) -> None:
    """Train at ten learning rates each, and show what the likely rules say.

    A group is an architecture, an optimizer, a data set and a seed, and takes about 10 seconds. The exit code is 1 if a
    training that learns well has a likely finding.
    """
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    folder.mkdir(exist_ok=True)
    for group in islice(groups(seeds), count):
        path = folder / ("_".join(map(str, group)).replace(" ", "").replace(",", "-") + ".pkl")
        if not path.exists():
            path.write_bytes(pickle.dumps(train(group)))
    recorded = [pickle.loads(path.read_bytes()) for path in sorted(folder.glob("*.pkl"))]
    runs = mark(recorded)
    _show_usual([run for run in runs if run["about"]["healthy"]])
    wrong = 0
    for cadence in CADENCES:
        told = [(run["about"], replay(run, cadence)) for run in runs]
        wrong += _show(cadence, told)
    raise typer.Exit(bool(wrong))


def _show_usual(healthy):
    print("\n## Change per step of healthy trainings, measured every epoch: the layers' median\n")
    print("| architecture | trainings | first epoch, 10 to 90 % | later, 10 to 90 % |\n|---|---|---|---|")
    medians = {}
    for run in healthy:
        table = run["epoch"][0].astype(float)[:, np.array(run["about"]["trainable"])]
        rates = table / spans(run["epoch steps"])[:, None]
        rates[~((rates > 0) & np.isfinite(rates))] = np.nan
        medians.setdefault(run["about"]["architecture"], []).append((np.nanmedian(rates[0]), np.nanmedian(rates[1:])))
    for name, found in sorted(medians.items()):
        first, later = (
            " to ".join(f"{value:.1g}" for value in np.nanpercentile(part, (10, 90)))
            for part in zip(*found, strict=True)
        )
        print(f"| {name} | {len(found)} | {first} | {later} |")


def _show(cadence, told):
    healthy = [(about, kinds) for about, kinds in told if about["healthy"]]
    wrong = [(about, kinds) for about, kinds in healthy if kinds]
    print(f"\n## Measured every {cadence}: {len(told)} trainings, {len(healthy)} of them healthy\n")
    print(f"False alarms: {len(wrong)}")
    for about, kinds in wrong:
        print("-", *(about[key] for key in ("architecture", "optimizer", "data", "seed", "rate")), kinds)
    # The quality of a GAN says little.
    sick = [(about, kinds) for about, kinds in told if not about["healthy"] and about["architecture"] != "GAN"]
    for title, key in (("the highest healthy rate", "above"), ("the best rate", "times_best")):
        for name, (low, high) in _TOO_HIGH.items():
            chosen = [(about, kinds) for about, kinds in sick if low < about[key] < high]
            print(f"{name} {title}: {_shares(chosen, cadence, 'learning_rate_high')}")
    for times in (10, 30, 100, 300, 1000):
        chosen = [(about, kinds) for about, kinds in sick if 0.8 * times < about["below"] < 1.25 * times]
        print(f"{times} times below the lowest healthy rate: {_shares(chosen, cadence, 'learning_rate_low')}")
    return len(wrong)


def _shares(chosen, cadence, kind):
    found = [kind in kinds for _, kinds in chosen]
    certain = [not _CERTAIN.isdisjoint(about["kinds"][cadence]) for about, _ in chosen]
    either = [one or other for one, other in zip(found, certain, strict=True)]
    count = max(len(chosen), 1)
    return f"{kind} {sum(found) / count:.2f}, or a certain kind {sum(either) / count:.2f} ({len(chosen)} trainings)"


if __name__ == "__main__":
    typer.run(main)
