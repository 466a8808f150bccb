# SPDX-License-Identifier: Apache-2.0
"""From files of curves to files of clusters: a table and pictures."""

import re
from collections.abc import Mapping, Sequence
from os import PathLike, fspath
from pathlib import Path
from typing import Any

from lightning_rwc.weightscale.clusters import cluster_layers
from lightning_rwc.weightscale.curve_files import read_curves
from lightning_rwc.weightscale.layer_kinds import kinds_by_pattern

_MAX_NAMES = 12


def save_clusters(
    paths: str | PathLike[str] | Sequence[str | PathLike[str]],
    out: str | PathLike[str],
    *,
    patterns: Mapping[str, str] | None = None,
    **options: Any,
) -> list[Path]:
    """Read curves from files, cluster their layers, and write a table and pictures.

    Args:
        paths: one or more files, see :func:`~lightning_rwc.weightscale.curve_files.read_curves`. A run is named after
            the parts of its path that differ from the other paths.
        out: the folder for ``clusters.csv``, ``plane.png``, ``scree.png`` and ``curves.png``. It is created if it does
            not exist.
        patterns: regular expression to kind of layer, see
            :func:`~lightning_rwc.weightscale.layer_kinds.kinds_by_pattern`. The table and the plane show the kinds.
        options: keyword arguments of :func:`cluster_layers`.

    Returns:
        The files written.

    Raises:
        ValueError: if two paths name one file, or a pattern matches no layer's name. :func:`cluster_layers` and
            :func:`~lightning_rwc.weightscale.curve_files.read_curves` also raise it.

    """
    files = [Path(paths)] if isinstance(paths, str | PathLike) else [Path(path) for path in paths]
    if len(set(files)) < len(files):
        raise ValueError(f"`paths` must be different files, but got {[str(file) for file in files]}.")
    histories = [read_curves(file) for file in files]
    clusters = cluster_layers(dict(zip(_run_names(files), histories, strict=True)), **options)
    kinds = None if patterns is None else kinds_by_pattern(clusters.layers, patterns)
    for pattern in patterns or ():
        if not any(re.search(pattern, layer) for layer in clusters.layers):
            shown = ", ".join(map(repr, clusters.layers[:_MAX_NAMES]))
            more = len(clusters.layers) - _MAX_NAMES
            raise ValueError(
                f"`patterns` (`--kind` of the command) has {pattern!r}, which matches no layer. The layers are: "
                f"{shown}{f' and {more} more' if more > 0 else ''}."
            )
    pictures = {"plane": clusters.plot_plane(kinds), "scree": clusters.plot_scree(), "curves": clusters.plot_curves()}
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    clusters.to_frame(kinds).to_csv(folder / "clusters.csv", encoding="utf-8")
    for name, figure in pictures.items():
        figure.savefig(folder / f"{name}.png", dpi=150)
    return [folder / "clusters.csv", *(folder / f"{name}.png" for name in pictures)]


def _run_names(files: Sequence[Path]) -> list[str]:
    paths = [list(file.with_suffix("").parts) for file in files]
    for end in (0, -1):
        while all(len(path) > 1 for path in paths) and len({path[end] for path in paths}) == 1:
            for path in paths:
                path.pop(end)
    names = ["/".join(path) for path in paths]
    return names if len(set(names)) == len(files) else [fspath(file) for file in files]
