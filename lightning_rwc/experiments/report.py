# SPDX-License-Identifier: Apache-2.0
"""The report of an experiment: tables, pictures, and one self-contained page."""

from base64 import b64encode
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined
from matplotlib.figure import Figure

from lightning_rwc import __version__, plotting
from lightning_rwc.experiments.authors import UNKNOWN
from lightning_rwc.experiments.claims import (
    ACCURACY_SHARE,
    CLAIMS,
    Judgement,
    Trend,
    judge,
    later_layers_change_more,
    together,
    too_early,
)
from lightning_rwc.experiments.figures import depth_profile, group_curves, layer_curves, size_profile
from lightning_rwc.experiments.groups import paper_groups
from lightning_rwc.experiments.results import NORMS, RECORDED, SETTINGS, SUMMARIES, Results, Summary, load_results
from lightning_rwc.experiments.statistics import (
    correlation_interval,
    depth_and_size,
    geometric_interval,
    interval,
    spearman,
)
from lightning_rwc.norms import Norm

Key: TypeAlias = tuple[Norm, Summary]

# Settings that follow from the choice of a data set.
_OF_DATA = {("data", "name"), ("model", "channels"), ("model", "classes")}
_OVERALL = "later layers change more than earlier ones"
_OF_GROUPS = f"{_OVERALL}, among those in the paper's groups"


def write_report(out: Path) -> Path:
    """Write tables (CSV), pictures (PNG) and ``report.html`` into the folder of an experiment.

    Claims that span two data sets also use the experiments in sibling folders. All their settings must be the same,
    except for the data set.

    Args:
        out: the folder of the experiment.

    Returns:
        The path of ``report.html``.

    Raises:
        FileNotFoundError: if no run is finished.

    """
    results = load_results(out)
    others = _others(results, out)
    judgements = {(norm, summary): judge(results, norm, others, summary) for norm in NORMS for summary in SUMMARIES}
    grouped = [layer for layers in paper_groups(results.architecture, results.layers).values() for layer in layers]
    parts = {_OVERALL: results.layers} | ({} if grouped == results.layers else {_OF_GROUPS: grouped})
    trends = {
        claim: [later_layers_change_more(results, *key, layers=layers) for key in judgements]
        for claim, layers in parts.items()
    }
    tables = {
        "runs": pd.DataFrame([*results.runs, *results.failed]),
        "verdicts": _verdicts(judgements, trends),
        "comparisons": _comparisons(judgements),
        "groups": _groups(results),
        "depth_or_size": _depth_or_size(results),
    }
    for name, table in tables.items():
        table.to_csv(out / f"{name}.csv", index=False)
    for recording, curves in results.curves.items():
        _seed_means(curves, results.layers).to_csv(out / f"curves_{RECORDED[recording]}.csv", index=False)
    pictures = _pictures(results)
    for name, figure in pictures.items():
        figure.savefig(out / f"{name}.png", dpi=110)
    page = Environment(
        loader=PackageLoader(__package__, ""), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    ).get_template("report.html.jinja")
    path = out / "report.html"
    path.write_text(
        page.render(
            results=results,
            accuracies={name: interval(results.accuracy(f"test_{name}")) for name in ("top1", "top5")},
            claim=CLAIMS.get((results.architecture, results.data)),
            share=ACCURACY_SHARE,
            too_early=too_early(results),
            norms=NORMS,
            summaries=list(SUMMARIES),
            tables=tables,
            undefined=_undefined(results),
            rho=spearman(range(len(results.layers)), results.sizes),
            images={name: b64encode((out / f"{name}.png").read_bytes()).decode() for name in pictures},
            unknown=UNKNOWN if results.like == "authors" else (),
            version=__version__,
        ),
        encoding="utf-8",
    )
    return path


def _others(results: Results, out: Path) -> dict[str, Results]:
    others = {}
    for path in sorted(out.resolve().parent.glob(f"*/{SETTINGS}")):
        # Folders of other programs may hold anything, and an experiment may have no finished run.
        with suppress(yaml.YAMLError, FileNotFoundError):
            settings = yaml.safe_load(path.read_text(encoding="utf-8"))
            if _without_data(settings) == _without_data(results.settings):
                other = load_results(path.parent)
                others[other.data] = other
    return others


def _without_data(settings: Any) -> Any:
    """The settings without those of the data set. Files of other programs may be anything."""
    if not isinstance(settings, dict):
        return settings
    return {
        part: {name: value for name, value in values.items() if (part, name) not in _OF_DATA}
        if isinstance(values, dict)
        else values
        for part, values in settings.items()
    }


def _pictures(results: Results) -> dict[str, Figure]:
    epochs = list(range(results.curves["l1"].shape[1]))
    pictures = {
        "groups": group_curves(results),
        "depth": depth_profile(results),
        "layers": layer_curves(results, "l1"),
        "heatmap": plotting.heatmap(
            results.curves["l1"].mean(axis=0), results.layers, epochs, epochs, scale="measurement"
        ),
    }
    return pictures if np.isnan(results.sizes).all() else pictures | {"size": size_profile(results)}


def _verdicts(judgements: dict[Key, list[Judgement]], trends: dict[str, list[Trend]]) -> pd.DataFrame:
    rows: list[dict[str, Any]] = []
    for (norm, summary), judged in judgements.items():
        if judged:
            claim = " and ".join(str(judgement.comparison) for judgement in judged)
            rows.append({"claim": claim, "norm": norm, "summary": summary, "verdict": together(judged)})
    for claim, by_key in trends.items():
        for norm, summary, (rho, low, high), verdict in by_key:
            about = {"claim": claim, "norm": norm, "summary": summary, "verdict": verdict}
            rows.append(about | {"ρ": rho, "low": low, "high": high})
    return pd.DataFrame(rows)


def _comparisons(judgements: dict[Key, list[Judgement]]) -> pd.DataFrame:
    columns = ["comparison", "norm", "summary", "ratio", "low", "high", "share of epochs", "verdict"]
    rows = [
        [str(j.comparison), j.norm, j.summary, *j.ratio, j.share, j.verdict]
        for judged in judgements.values()
        for j in judged
    ]
    return pd.DataFrame(rows, columns=columns)


def _groups(results: Results) -> pd.DataFrame:
    groups = paper_groups(results.architecture, results.layers) | {"all layers": results.layers}
    rows = []
    for group, layers in groups.items():
        for name, summary in SUMMARIES.items():
            for norm in NORMS:
                about = {"group": group, "layers": len(layers), "summary": name, "norm": norm}
                rows.append(about | geometric_interval(summary(results.group_curves(norm, layers)))._asdict())
    return pd.DataFrame(rows)


def _depth_or_size(results: Results) -> pd.DataFrame:
    rows = []
    for recording in results.curves:
        by_seed = [depth_and_size(changes, results.sizes) for changes in results.by_layer(recording, "median")]
        for name in by_seed[0]:
            samples = [found[name] for found in by_seed]
            seeds = {f"seed {seed}": sample for seed, sample in zip(results.seeds, samples, strict=True)}
            about = {"recording": recording, "correlation": name}
            rows.append(about | correlation_interval(samples, len(results.layers))._asdict() | seeds)
    return pd.DataFrame(rows)


def _undefined(results: Results) -> str:
    """Say why size, or what depth and size explain apart from each other, is not known. Empty if it is."""
    if np.isnan(results.sizes).any():
        return "The folder does not say how large the layers are, so nothing is known of size."
    if np.ptp(results.sizes) == 0:
        return "All layers have the same size, so nothing can be said of size."
    if abs(spearman(range(len(results.layers)), results.sizes)) > 1 - 1e-12:
        return "Depth and size put the layers in one order, so their parts cannot be told apart."
    return ""


def _seed_means(curves: np.ndarray, layers: list[str]) -> pd.DataFrame:
    tables = {"mean": curves.mean(axis=0), "lowest seed": curves.min(axis=0), "highest seed": curves.max(axis=0)}
    frames = {name: pd.DataFrame(table, columns=layers).rename_axis("epoch") for name, table in tables.items()}
    return pd.concat(frames, names=["over seeds"]).reset_index()
