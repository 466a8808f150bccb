# SPDX-License-Identifier: Apache-2.0
"""Asks whether depth or size explains how far layers move: ``python -m docs.depth_or_size`` updates the page.

Runs whose curves are in ``docs/experiments/depth_or_size`` are not repeated. Their tables in ``docs/depth_or_size.md``
and the pictures are made anew. Training all of them takes about 25 minutes on one CPU core. The script needs the
packages of ``pip install -e ".[experiments]"``.
"""

import argparse
import math
from pathlib import Path

import torch
from matplotlib.figure import Figure

from docs import depth_or_size_pictures as pictures
from docs import marked
from docs.depth_or_size_arrays import DATA, NETWORKS, Recorded, definition, load_recorded
from docs.depth_or_size_curves import PAIRS, SCALED, Curves
from docs.depth_or_size_runs import MEASURES, STARTS, Run, sizes, train_missing
from docs.depth_or_size_runs import NETWORKS as OURS
from lightning_rwc.experiments.statistics import Interval, interval

DOCS = Path(__file__).parent
FOLDER = DOCS / "experiments" / "depth_or_size"


def main(arguments: list[str] | None = None) -> None:
    """Train what is missing, and write tables and pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--arrays", type=Path, help="the folder of the authors' curves, as {name}-{network}-{data}.csv")
    parser.add_argument("--page", type=Path, default=DOCS / "depth_or_size.md", help="the page to update")
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(1)
    train_missing(FOLDER)
    curves = Curves(FOLDER)
    tables = own_tables(curves)
    drawn = {"networks": pictures.networks(curves), "definition": pictures.of_definition()}
    if chosen.arrays:
        networks = {(net, data): load_recorded(chosen.arrays, net, data) for net in NETWORKS for data in DATA}
        tables |= recorded_tables(networks)
        efficient = {DATA[data][0]: one for (net, data), one in networks.items() if net == "efficientnet"}
        drawn["arrays"] = pictures.recorded(efficient)
    chosen.page.write_text(marked.filled(chosen.page.read_text(encoding="utf-8"), tables), encoding="utf-8")
    save_all(drawn, chosen.page.parent / "images")


def save_all(drawn: dict[str, Figure], folder: Path) -> None:
    """Write the pictures."""
    folder.mkdir(exist_ok=True)
    for name, figure in drawn.items():
        pictures.save(figure, folder / f"depth_or_size_{name}.png")


def own_tables(curves: Curves) -> dict[str, str]:
    """The tables of our own runs."""
    networks = [*OURS]
    accuracies, correlations = [], []
    for start, about in STARTS.items():
        runs = [Run(network, start, 0) if network in about.networks else None for network in networks]
        accuracies.append([start, *(_percent(interval(curves.accuracy(run)).mean) if run else "" for run in runs)])
        for measure in MEASURES:
            cells = [_interval(curves.depth_correlations(run, measure)) if run else "" for run in runs]
            correlations.append([start, measure, *cells])
    parts = {"size": [], "scale": []}
    for start, pair in PAIRS.items():
        for measure in MEASURES:
            part = curves.parts(pair, measure)
            cells = [_interval(one, neutral=1 if "÷" in name else 0) for name, one in part.items()]
            row = [measure, *cells] if start == SCALED else [start, measure, *cells]
            parts["scale" if start == SCALED else "size"].append(row)
    least, most = definition(min(sizes("growing"))), definition(max(sizes("growing")))
    columns = ["{}", "depth given {}", "{} given depth", "last ÷ first", "{}"]
    size, scale = ([name.format(what) for name in columns] for what in ("size", "1/scale"))
    size[-1], scale[-1] = "largest ÷ smallest", "least scale ÷ most"
    return {
        "accuracy": marked.table(["start", *networks], accuracies),
        "depth": marked.table(["start", "measure", *networks], correlations),
        "size": marked.table(["start", "measure", "depth", *size], parts["size"]),
        "scale": marked.table(["measure", "depth", *scale], parts["scale"]),
        "constants": f"By the definition alone, the elementwise mean of the largest layer is {most / least:.2f} times "
        f"that of the smallest. All runs took {curves.cpu_seconds / 60:.0f} minutes of one core.",
    }


def recorded_tables(networks: dict[tuple[str, str], Recorded]) -> dict[str, str]:
    """The tables of the authors' curves."""
    rows = []
    for (network, data), one in networks.items():
        parts = {"all": one} | ({"inner": one.inner()} if network == "resnet" else {})
        for name, part in parts.items():
            numbers = [_number(rho) for rho in part.correlations().values()]
            rows.append([f"{NETWORKS[network]}, {DATA[data][0]}", f"{len(part.layers)}, {name}", *numbers])
    header = ["network", "layers", *next(iter(networks.values())).correlations()]
    kinds = []
    efficient = {data: one.layers for (network, data), one in networks.items() if network == "efficientnet"}
    about = efficient["cifar10"].groupby("kind").median(numeric_only=True).sort_values("deviation")
    for kind, (size, deviation) in about[["size", "deviation"]].drop("other").iterrows():
        changes = [f"{table.loc[table['kind'] == kind, 'change'].median():.2f}" for table in efficient.values()]
        kinds.append([kind, f"{size:,.0f}", f"{deviation:.3f}", *changes])
    thirds = [
        [f"{NETWORKS[network]}, {DATA[data][0]}", *(f"{ratio:.2f}" for ratio in one.thirds())]
        for (network, data), one in networks.items()
    ]
    return {
        "arrays": marked.table(header, rows),
        "kinds": marked.table(["kind", "weights", "initial deviation", *(DATA[data][0] for data in efficient)], kinds),
        "thirds": marked.table(["network", "measured", "by the definition alone"], thirds),
    }


def _interval(one: Interval, neutral: float = 0) -> str:
    if math.isnan(one.mean):
        return "–"
    text = f"{_number(one.mean)} [{_number(one.low)}, {_number(one.high)}]"
    return f"**{text}**" if one.low > neutral or one.high < neutral else text


def _number(value: float) -> str:
    return f"{value:.2f}".replace("-", "−")


def _percent(share: float) -> str:
    return f"{share:.1%}"


if __name__ == "__main__":
    main()
