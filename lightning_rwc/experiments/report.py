# SPDX-License-Identifier: Apache-2.0
"""The report of an experiment: tables, pictures, and one self-contained page."""

from base64 import b64encode
from pathlib import Path

import numpy as np
import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined

from lightning_rwc import __version__, plotting
from lightning_rwc.experiments.claims import CLAIMS, Judgement, judge, together
from lightning_rwc.experiments.figures import depth_profile, group_curves, layer_curves
from lightning_rwc.experiments.groups import paper_groups
from lightning_rwc.experiments.results import NORMS, SETTINGS, Results, interval, load_results


def write_report(out: Path) -> Path:
    """Write tables (CSV), pictures (PNG) and ``report.html`` into the folder of an experiment.

    Claims that span two data sets also use the experiments in sibling folders. These must have the same architecture,
    batch size, subset and number of epochs.

    Args:
        out: the folder of the experiment.

    Returns:
        The path of ``report.html``.

    Raises:
        FileNotFoundError: if no run is finished.

    """
    results = load_results(out)
    judgements = [judgement for norm in NORMS for judgement in judge(results, norm, _others(results, out))]
    tables = {
        "runs": pd.DataFrame(results.runs),
        "groups": _groups(results),
        "correlation": _correlation(results),
        "claims": _claims(judgements),
    }
    for name, table in tables.items():
        table.to_csv(out / f"{name}.csv", index=False)
    epochs = list(range(results.curves["l1"].shape[1]))
    pictures = {
        "groups": group_curves(results),
        "depth": depth_profile(results),
        "layers": layer_curves(results, "l1"),
        "heatmap": plotting.heatmap(
            results.curves["l1"].mean(axis=0), results.layers, epochs, epochs, scale="measurement"
        ),
    }
    for norm, curves in results.curves.items():
        _seed_means(curves, results.layers).to_csv(out / f"curves_{norm}.csv", index=False)
    for name, figure in pictures.items():
        figure.savefig(out / f"{name}.png", dpi=110)
    claim = CLAIMS.get((results.architecture, results.data))
    page = Environment(
        loader=PackageLoader(__package__, ""), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    ).get_template("report.html.jinja")
    path = out / "report.html"
    path.write_text(
        page.render(
            results=results,
            accuracies={name: interval(results.accuracy(f"test_{name}")) for name in ("top1", "top5")},
            claim=claim,
            judgements=judgements,
            together={norm: together([j for j in judgements if j.norm == norm]) for norm in NORMS} if claim else {},
            norms=list(NORMS),
            tables=tables,
            images={name: b64encode((out / f"{name}.png").read_bytes()).decode() for name in pictures},
            version=__version__,
        ),
        encoding="utf-8",
    )
    return path


def _others(results: Results, out: Path) -> dict[str, Results]:
    others = {}
    for path in out.resolve().parent.glob(f"*/{SETTINGS}"):
        try:
            other = load_results(path.parent)
        except FileNotFoundError:
            continue
        alike = all(
            other.settings[part][name] == results.settings[part][name]
            for part, name in (("model", "architecture"), ("data", "subset"), ("data", "batch_size"))
        )
        if alike and other.settings["epochs"] == results.settings["epochs"]:
            others[other.data] = other
    return others


def _groups(results: Results) -> pd.DataFrame:
    groups = paper_groups(results.architecture, results.layers) | {"all layers": results.layers}
    rows = [
        {"group": group, "layers": len(layers), "norm": norm, **interval(results.means(norm, layers))._asdict()}
        for group, layers in groups.items()
        for norm in NORMS
    ]
    return pd.DataFrame(rows)


def _correlation(results: Results) -> pd.DataFrame:
    rows = []
    for norm in NORMS:
        samples = results.correlations(norm)
        by_seed = {f"seed {seed}": sample for seed, sample in zip(results.seeds, samples, strict=True)}
        rows.append({"norm": norm, **by_seed, **interval(samples)._asdict()})
    return pd.DataFrame(rows)


def _claims(judgements: list[Judgement]) -> pd.DataFrame:
    columns = ["claim", "norm", "ratio", "low", "high", "verdict"]
    rows = [[str(j.comparison), j.norm, *j.ratio, j.verdict] for j in judgements]
    return pd.DataFrame(rows, columns=columns)


def _seed_means(curves: np.ndarray, layers: list[str]) -> pd.DataFrame:
    tables = {"mean": curves.mean(axis=0), "lowest seed": curves.min(axis=0), "highest seed": curves.max(axis=0)}
    frames = {name: pd.DataFrame(table, columns=layers).rename_axis("epoch") for name, table in tables.items()}
    return pd.concat(frames, names=["over seeds"]).reset_index()
