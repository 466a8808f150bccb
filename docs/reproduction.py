# SPDX-License-Identifier: Apache-2.0
"""Rebuild the tables and pictures of `docs/reproduction.md` from the curves in `docs/experiments`, without training.

    python -m docs.reproduction

The folder of an experiment, such as `docs/experiments/alexnet-fashion-mnist`, is what `lightning-rwc reproduce` leaves
with `--out docs/experiments`. Its report goes to a temporary folder. Tables and one picture are taken from it. Runs
that are shorter than the authors' are in folders of their own, such as `docs/experiments/three_epochs`.
"""

import math
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from docs import alexnet_parts, marked
from lightning_rwc.experiments.claims import CLAIMS
from lightning_rwc.experiments.report import write_report
from lightning_rwc.experiments.results import FAILED_SHARE, NORMS, SETTINGS, Results, load_results

DOCS = Path(__file__).parent
EXPERIMENTS = DOCS / "experiments"
PAGE = DOCS / "reproduction.md"
_DATA = {"cifar10": "CIFAR-10", "cifar100": "CIFAR-100", "fashion-mnist": "Fashion-MNIST", "mnist": "MNIST"}
_NETWORKS = {"alexnet": "AlexNet", "resnet18": "ResNet-18", "vgg19_bn": "VGG-19"}


class Experiment(NamedTuple):
    """An experiment of the paper, with the tables of its report."""

    results: Results
    tables: Mapping[str, pd.DataFrame]


def experiments(pictures: Path) -> dict[str, Experiment]:
    """Write the reports of all experiments, copy their pictures of groups, and return their tables by folder."""
    found = {}
    with tempfile.TemporaryDirectory() as place:
        # All together, because some claims compare data sets.
        shutil.copytree(EXPERIMENTS, place, dirs_exist_ok=True)
        for out in sorted(path.parent for path in Path(place).rglob(SETTINGS)):
            write_report(out)
            tables = {name: pd.read_csv(out / f"{name}.csv") for name in ("comparisons", "verdicts", "depth_or_size")}
            name = "_".join(out.relative_to(place).parts)
            shutil.copy(out / "groups.png", pictures / f"reproduction_{name}.png")
            found[name] = Experiment(load_results(out), tables)
    return dict(sorted(found.items(), key=lambda item: item[1].results.settings["epochs"]))


def section(name: str, experiment: Experiment) -> str:
    """Return the tables of one experiment as Markdown."""
    results, tables = experiment
    picture = f"![Groups of layers of {_NETWORKS[results.architecture]}](images/reproduction_{name}.png)"
    return "\n\n".join(
        [
            f"{_basis(results)}.",
            _comparisons(tables["comparisons"]),
            _verdicts(tables["verdicts"]),
            picture,
            _depth_or_size(tables["depth_or_size"]),
        ]
    )


def claims(found: Mapping[str, Experiment]) -> str:
    """Return the table of all claims of the paper, with the verdict by l1 and its basis."""
    authors = [one for one in found.values() if one.results.like == "authors"]  # the longest last
    run = {(one.results.architecture, one.results.data): one for one in authors}
    rows = []
    for (architecture, data), claim in CLAIMS.items():
        verdict, basis = "not run", ""
        if one := run.get((architecture, data)):
            verdicts = one.tables["verdicts"].query("norm == 'l1' and summary == 'mean'")
            verdict, basis = verdicts.verdict.iloc[0], _basis(one.results)
        claimed = ", ".join(map(str, claim.comparisons))
        rows.append([f"{_NETWORKS[architecture]}, {_DATA[data]}", claimed, verdict, basis])
    return marked.table(["experiment", "claim", "verdict", "basis"], rows)


def parts() -> str:
    """Return the table of the networks between the modern and the authors' AlexNet."""
    records = {name: alexnet_parts.load(name) for name in alexnet_parts.finished()}
    least = FAILED_SHARE * max(record.accuracy for record in records.values())
    rows = []
    for name, record in records.items():
        learns = record.accuracy >= least
        ratios = [_ratio(*record.ratios[norm]) if learns else "does not learn" for norm in alexnet_parts.NORMS]
        rows.append([name, f"{100 * record.accuracy:.1f} %", *ratios])
    return marked.table(
        ["AlexNet", "test accuracy", *(f"early / middle, {norm}" for norm in alexnet_parts.NORMS)], rows
    )


def _ratio(ratio: float, share: float) -> str:
    return "diverged" if math.isnan(ratio) else f"{ratio:.2f}, {share:.0%}"


def _basis(results: Results) -> str:
    seeds, epochs = len(results.seeds), results.settings["epochs"]
    images = results.settings["data"]["subset"]
    accuracy = ", ".join(f"{100 * share:.1f}" for share in results.accuracy())
    paper = CLAIMS[results.architecture, results.data].accuracy
    failed = "".join(f"; seed {run['seed']} failed ({100 * run['test_top1']:.1f} %)" for run in results.failed)
    return (
        f"{seeds} seed{'s' if seeds > 1 else ''}, {epochs} epochs, {f'{images:,}' if images else 'all'} images, "
        f"{results.precision}, test accuracy {accuracy} % (paper: {100 * paper:g} %){failed}"
    )


def _comparisons(table: pd.DataFrame) -> str:
    rows = []
    for comparison, by_norm in table.query("summary == 'mean'").groupby("comparison", sort=False):
        cells = [
            f"{_interval(one['ratio'], one)} {one['verdict']}; {one['share of epochs']:.0%}"
            for one in by_norm.set_index("norm").loc[[*NORMS]].to_dict("records")
        ]
        rows.append([comparison, *cells])
    return marked.table(["ratio of the sides; epochs in which it holds", *NORMS], rows)


def _verdicts(table: pd.DataFrame) -> str:
    rows = []
    for (claim, summary), by_norm in table.groupby(["claim", "summary"], sort=False):
        cells = [
            one["verdict"] + (f", ρ = {_interval(one['ρ'], one)}" if pd.notna(one["ρ"]) else "")
            for one in by_norm.set_index("norm").loc[[*NORMS]].to_dict("records")
        ]
        rows.append([claim, summary, *cells])
    return marked.table(["claim", "over epochs", *NORMS], rows)


def _depth_or_size(table: pd.DataFrame) -> str:
    names = list(dict.fromkeys(table.correlation))
    rows = []
    for recording, by_name in table.groupby("recording", sort=False):
        found = by_name.set_index("correlation").loc[names].to_dict("records")
        rows.append([recording, *(_interval(one["mean"], one) for one in found)])
    return marked.table(["ρ of relative weight change with", *names], rows)


def _interval(mean: float, limits: Mapping[Any, float]) -> str:
    both = f" [{limits['low']:.2f}, {limits['high']:.2f}]" if pd.notna(limits["low"]) else ""
    return f"{mean:.2f}{both}"


def main() -> None:
    """Write everything into the page, between the comments that name it."""
    found = experiments(DOCS / "images")
    blocks = {name: section(name, experiment) for name, experiment in found.items()}
    blocks |= {"claims": claims(found), "parts": parts()}
    PAGE.write_text(marked.filled(PAGE.read_text(encoding="utf-8"), blocks), encoding="utf-8")


if __name__ == "__main__":
    main()
