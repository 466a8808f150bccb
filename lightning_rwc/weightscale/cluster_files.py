# SPDX-License-Identifier: Apache-2.0
"""From files of curves to files of clusters: a table and pictures."""

import re
from collections.abc import Mapping, Sequence
from os import PathLike, fspath
from pathlib import Path
from typing import Any

from lightning_rwc.extras import needs
from lightning_rwc.weightscale.clusters import LayerClusters, cluster_layers, cluster_within_kinds
from lightning_rwc.weightscale.curve_files import read_curves
from lightning_rwc.weightscale.layer_kinds import bare_names, kinds_by_pattern

_MAX_NAMES = 12


def save_clusters(
    paths: str | PathLike[str] | Sequence[str | PathLike[str]],
    out: str | PathLike[str],
    *,
    patterns: Mapping[str, str] | None = None,
    within_kinds: bool = False,
    **options: Any,
) -> list[Path]:
    """Read curves from files, cluster their layers, and write a table and pictures.

    Args:
        paths: one or more files, see :func:`~lightning_rwc.weightscale.curve_files.read_curves`. A run is named after
            the parts of its path that differ from the other paths.
        out: the folder for ``clusters.csv``, ``plane.png``, ``scree.png`` and ``curves.png``. It is created if it does
            not exist.
        patterns: regular expression to kind of layer, see
            :func:`~lightning_rwc.weightscale.layer_kinds.kinds_by_pattern`. Names of layers are without the run. The
            table and the plane show the kinds.
        within_kinds: cluster the layers of each kind alone, see :func:`cluster_within_kinds`. Then ``clusters.csv`` has
            the layers of all these kinds, and each kind has its pictures in a folder of its name.
        options: keyword arguments of :func:`cluster_layers`.

    Returns:
        The files written.

    Raises:
        ValueError: if two paths name one file, a pattern matches no layer's name, or ``within_kinds`` has no patterns.
            :func:`cluster_layers` and :func:`~lightning_rwc.weightscale.curve_files.read_curves` also raise it.

    """
    return write_clusters(
        clusters_of_files(paths, patterns=patterns, within_kinds=within_kinds, **options), out, patterns
    )


def clusters_of_files(
    paths: str | PathLike[str] | Sequence[str | PathLike[str]],
    *,
    patterns: Mapping[str, str] | None = None,
    within_kinds: bool = False,
    **options: Any,
) -> dict[str, LayerClusters]:
    """Read curves from files and cluster their layers, with arguments as for :func:`save_clusters`.

    Returns:
        Kind to the clusters of its layers; without ``within_kinds``, one entry under ``""``.

    """
    files = [Path(paths)] if isinstance(paths, str | PathLike) else [Path(path) for path in paths]
    if len(set(files)) < len(files):
        raise ValueError(f"`paths` must be different files, but got {[str(file) for file in files]}.")
    if within_kinds and not patterns:
        raise ValueError("`within_kinds` (`--within-kinds` of the command) needs `patterns` (`--kind`).")
    curves = [read_curves(file) for file in files]
    histories = dict(zip(_run_names(files), curves, strict=True))
    names = [layer for history in histories.values() for layer in history.layers]
    for pattern, matched in _matches(names, patterns or {}).items():
        if not matched:
            shown = ", ".join(map(repr, names[:_MAX_NAMES]))
            more = len(names) - _MAX_NAMES
            raise ValueError(
                f"`patterns` (`--kind` of the command) has {pattern!r}, which matches no layer. The layers are: "
                f"{shown}{f' and {more} more' if more > 0 else ''}."
            )
    if not within_kinds:
        return {"": cluster_layers(histories, **options)}
    return cluster_within_kinds(histories, kinds_by_pattern(names, patterns or {}), **options)


def write_clusters(
    clusters: Mapping[str, LayerClusters], out: str | PathLike[str], patterns: Mapping[str, str] | None = None
) -> list[Path]:
    """Write what :func:`clusters_of_files` returns to a folder, as :func:`save_clusters` describes."""
    with needs("pandas", extra="analysis", what="Writing clusters"):
        import pandas as pd
    folder = Path(out)
    tables, pictures = [], {}
    for kind, of_kind in clusters.items():
        kinds = None if patterns is None else kinds_by_pattern(bare_names(of_kind.layers, of_kind.runs), patterns)
        tables.append(of_kind.to_frame(kinds))
        # Characters that a file system may refuse.
        place = folder / re.sub(r"[^\w-]+", "_", kind)
        while place / "plane.png" in pictures:
            place = place.with_name(f"{place.name}_")
        pictures[place / "plane.png"] = of_kind.plot_plane(None if kind else kinds)
        pictures[place / "scree.png"] = of_kind.plot_scree()
        pictures[place / "curves.png"] = of_kind.plot_curves()
    for path in pictures:
        path.parent.mkdir(parents=True, exist_ok=True)
    pd.concat(tables).to_csv(folder / "clusters.csv", encoding="utf-8")
    for path, figure in pictures.items():
        figure.savefig(path, dpi=150)
    return [folder / "clusters.csv", *pictures]


def _matches(names: Sequence[str], patterns: Mapping[str, str]) -> dict[str, bool]:
    kinds_by_pattern(names, patterns)  # says which expression is invalid
    return {pattern: any(re.search(pattern, name) for name in names) for pattern in patterns}


def _run_names(files: Sequence[Path]) -> list[str]:
    paths = [list(file.with_suffix("").parts) for file in files]
    for end in (0, -1):
        while all(len(path) > 1 for path in paths) and len({path[end] for path in paths}) == 1:
            for path in paths:
                path.pop(end)
    names = ["/".join(path) for path in paths]
    return names if len(set(names)) == len(files) else [fspath(file) for file in files]
