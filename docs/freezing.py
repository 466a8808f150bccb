# SPDX-License-Identifier: Apache-2.0
"""Rebuild the tables and the picture of `docs/freezing.md` from `docs/experiments/freezing`, without training.

python -m docs.freezing
"""

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.figure import Figure

from docs import marked
from lightning_rwc.experiments.statistics import Interval, geometric_interval, interval
from tests.benchmarks.freezing import policies

DOCS = Path(__file__).parent
PAGE = DOCS / "freezing.md"
CELL = ["data", "network", "optimizer", "seed"]
POLICIES = ["evidence", "front to back", "FreezeOut", "random order"]
TARGET = 0.99
"""Of the baseline's last accuracy: training long enough to be near it."""


def runs() -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return one row a training, with its comparison to the baseline of the same setting, and the pilot's trainings."""
    files = sorted((DOCS / "experiments" / "freezing").glob("*.jsonl"))
    table = pd.concat([pd.read_json(file, lines=True) for file in files], ignore_index=True)
    is_pilot = table["policy"] == "pilot"
    pilot, table = table[is_pilot], table[~is_pilot].reset_index(drop=True)
    base = table[table["policy"] == "baseline"].set_index(CELL)
    base = base.loc[pd.MultiIndex.from_frame(table[CELL])].reset_index(drop=True)
    targets = [TARGET * epochs[-1][1] for epochs in base["epochs"]]
    table["time"] = table["seconds"] / base["seconds"]
    table["points"] = 100 * (table["accuracy"] - base["accuracy"])
    costs = pilot.drop_duplicates("network").set_index("network")["costs"]
    table["operations saved"] = [
        policies.saving(times, costs[network]) for times, network in zip(table["times"], table["network"], strict=True)
    ]
    table["memory"] = table["activation bytes"] / base["activation bytes"]
    table["time to target"] = _seconds_to(table["epochs"], targets) / _seconds_to(base["epochs"], targets)
    return table, pilot


def _seconds_to(curves: Iterable[Any], targets: Iterable[float]) -> npt.NDArray[np.float64]:
    """When the accuracy of each training first reached its target; infinite if never."""
    found = [
        next((seconds for seconds, accuracy in epochs if accuracy >= target), math.inf)
        for epochs, target in zip(curves, targets, strict=True)
    ]
    return np.array(found)


def comparison(table: pd.DataFrame, by: list[str]) -> str:
    """Return what each policy does to time, accuracy, updates and memory, as Markdown."""
    rows = []
    for key, group in table.groupby(by, sort=False):
        found = ((policy, group[group["policy"] == policy]) for policy in POLICIES)
        rows += [[*key, policy, str(len(one)), *_cells(one)] for policy, one in found if len(one)]
    header = ["policy", "trainings", "time", "accuracy, points", "time to target", "updates saved", "activations kept"]
    return marked.table([*by, *header], rows)


def _cells(one: pd.DataFrame) -> list[str]:
    median, reached = one["time to target"].median(), np.isfinite(one["time to target"])
    return [
        _limits(geometric_interval(one["time"]), "{:.2f}"),
        _limits(interval(one["points"]), "{:+.2f}"),
        f"{f'{median:.2f}' if math.isfinite(median) else 'not reached'} ({reached.sum()})",
        f"{one['updates saved'].mean():.0%}",
        f"{one['memory'].mean():.0%}",
    ]


def against_schedules(table: pd.DataFrame) -> str:
    """Return what each policy saves where the evidence saves anything, and how it compares, as Markdown."""
    ours = table[(table["policy"] == "evidence") & (table["operations saved"] > 0)].set_index(CELL)
    rows = []
    for network, settings in ours.groupby("network", sort=False):
        for policy in POLICIES:
            one = table[table["policy"] == policy].set_index(CELL).loc[settings.index]
            lead = settings["points"] - one["points"]
            rows.append(
                [
                    f"{network} ({len(one)})",
                    policy,
                    f"{one['operations saved'].mean():.0%}",
                    _limits(geometric_interval(one["time"]), "{:.2f}"),
                    "" if policy == "evidence" else _limits(interval(lead), "{:+.2f}"),
                ]
            )
    return marked.table(["network", "policy", "operations saved", "time", "lead of the evidence, points"], rows)


def _limits(found: Interval, form: str) -> str:
    limits = f"{form} [{form}, {form}]" if math.isfinite(found.low) else form
    return limits.format(*(round(number, 2) + 0.0 for number in found)).replace("-", "−")  # + 0.0: no minus zero


def picture(table: pd.DataFrame) -> Figure:
    """Each training's time and accuracy relative to its baseline, a panel for each network."""
    networks = table["network"].unique()
    figure = Figure(figsize=(9.5, 3.4), layout="constrained")
    for axes, network in zip(figure.subplots(1, len(networks), sharey=True), networks, strict=True):
        for policy, marker in zip(POLICIES, "o^sx", strict=True):
            one = table[(table["network"] == network) & (table["policy"] == policy)]
            axes.scatter(one["time"], one["points"], marker=marker, s=22, label=policy, alpha=0.8)
        axes.axhline(0, color="#666666", linewidth=0.8)
        axes.axvline(1, color="#666666", linewidth=0.8)
        axes.set_yscale("symlog", linthresh=1)
        axes.set_yticks(ticks := [-30, -10, -3, -1, -0.5, 0, 0.5, 1], map("{:g}".format, ticks))
        axes.set_title(network, fontsize=10)
        axes.grid(alpha=0.3)
    figure.axes[0].set_ylabel("accuracy against the baseline, points", fontsize=9)
    figure.axes[-1].legend(frameon=False, fontsize=8)
    figure.supxlabel("time relative to the baseline", fontsize=9)
    return figure


def thresholds(pilot: pd.DataFrame) -> str:
    """Return what each threshold would save in the pilot's trainings, as Markdown."""
    rows = []
    for threshold in policies.THRESHOLDS:
        saved = [
            policies.replayed_saving(np.array(one["rotations per rate"]), one["costs"], threshold)
            for one in pilot.to_dict("records")
        ]
        of_data = pd.Series(saved).groupby(pilot["data"].to_list())
        ranges = (f"{one.min():.0%} to {one.max():.0%}" for _, one in of_data)
        rows.append([f"{threshold:g}", f"{np.mean(saved):.0%}", *ranges])
    return marked.table(["threshold", "mean", *sorted(pilot["data"].unique())], rows)


def tables(table: pd.DataFrame, pilot: pd.DataFrame) -> dict[str, str]:
    """Return the tables of the page by the names of their marks."""
    return {
        "thresholds": thresholds(pilot),
        "networks": comparison(table, ["network"]),
        "schedules": against_schedules(table),
        "settings": comparison(table, ["network", "data", "optimizer"]),
    }


def main() -> None:
    """Write the tables between the comments that name them, and the picture."""
    table, pilot = runs()
    blocks = tables(table, pilot)
    PAGE.write_text(marked.filled(PAGE.read_text(encoding="utf-8"), blocks), encoding="utf-8")
    picture(table).savefig(DOCS / "images" / "freezing.png", dpi=110)


if __name__ == "__main__":
    main()
