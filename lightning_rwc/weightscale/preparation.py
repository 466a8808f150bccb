# SPDX-License-Identifier: Apache-2.0
"""Prepare curves for clustering: pool the runs, fill gaps, and limit outliers."""

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from lightning_rwc.history import RWCHistory

Table: TypeAlias = npt.NDArray[np.float64]
Histories: TypeAlias = RWCHistory | Sequence[RWCHistory] | Mapping[str, RWCHistory]


def pooled(history: Histories, drop_ends: bool) -> tuple[list[str], list[str], Table]:
    """Put the layers of all runs into one table.

    Args:
        history: one run or several, see :func:`~lightning_rwc.weightscale.cluster_layers`.
        drop_ends: leave out the first and the last layer of each run.

    Returns:
        The name of each layer, its run, and the curves, of shape ``(layers, measurements)``.

    Raises:
        ValueError: if the curves cannot be clustered.
        TypeError: if ``history`` holds something else.

    """
    if isinstance(history, RWCHistory) or not isinstance(history, Mapping | Sequence):
        history = [history]
    named = history if isinstance(history, Mapping) else {f"run{i}": one for i, one in enumerate(history)}
    for one in named.values():
        if not isinstance(one, RWCHistory):
            raise TypeError(f"`history` must be an RWCHistory or several, but has {one!r}.")
    if len({len(one) for one in named.values()}) > 1:
        lengths = ", ".join(f"{len(one)} ({name})" for name, one in named.items())
        raise ValueError(
            f"`history` has runs of different numbers of measurements: {lengths}. Cut the longer runs to one length."
        )
    kept = slice(1, -1) if drop_ends else slice(None)
    runs = [name if len(named) > 1 else "" for name, one in named.items() for _ in one.layers[kept]]
    bare = [layer for one in named.values() for layer in one.layers[kept]]
    layers = [f"{run}/{layer}" if run else layer for run, layer in zip(runs, bare, strict=True)]
    if len(layers) < 3:
        raise ValueError(f"`history` must have at least 3 layers to cluster, but has {len(layers)}.")
    table = np.concatenate([one.values.T[kept] for one in named.values()])
    if table.shape[1] < 2:
        raise ValueError(f"`history` must have at least 2 measurements, but has {table.shape[1]}. Train for longer.")
    for layer, curve in zip(layers, table, strict=True):
        if not np.isfinite(curve).any():
            raise ValueError(f"`history` has no finite value for the layer {layer!r}. Leave this layer out.")
        if (curve < 0).any():
            raise ValueError(
                f"`history` has negative values for the layer {layer!r}. A relative weight change is never negative."
            )
    return layers, runs, table


def reference(table: Table) -> Table:
    """Prepare curves as WeightScale does, but with gaps filled by the mean of the finite values."""
    finite = np.where(np.isfinite(table), table, np.nan)
    mean = np.nanmean(finite, axis=1, keepdims=True)
    filled = np.where(np.isnan(finite), mean, finite)
    return np.where(np.abs(filled - mean) > 2 * filled.std(axis=1, keepdims=True), mean, filled)


def robust(table: Table) -> Table:
    """Prepare curves as decimal logarithms, with outliers limited."""
    positive = np.isfinite(table) & (table > 0)
    logs = np.log10(table, out=np.full_like(table, np.nan), where=positive)
    logs[table == 0] = (logs[positive].min() if positive.any() else 0.0) - 1
    median = np.nanmedian(logs, axis=1, keepdims=True)
    limit = 3 * 1.4826 * np.nanmedian(np.abs(logs - median), axis=1, keepdims=True)
    limit[limit == 0] = np.inf
    return np.clip(np.where(np.isnan(logs), median, logs), median - limit, median + limit)


def as_ratios(curves: Table, procedure: str) -> Table:
    """Undo the logarithm of prepared curves."""
    return 10**curves if procedure == "robust" else curves


def shapes(curves: Table, procedure: str) -> Table:
    """Take each prepared curve relative to its own mean: the difference of logarithms, or the quotient of ratios."""
    levels: Table = curves.mean(axis=1, keepdims=True)
    if procedure == "robust":
        return curves - levels
    quotients: Table = np.divide(curves, levels, out=np.ones_like(curves), where=levels > 0)
    return quotients


def principal_components(curves: Table) -> tuple[Table, Table]:
    """Compute the first two principal components of curves, or of each set of curves.

    Args:
        curves: of shape ``(…, layers, measurements)``.

    Returns:
        The components, of shape ``(…, layers, 2)``, and the variance that each component explains, as a share. A
        higher curve has larger components.

    """
    centred = curves - curves.mean(axis=-2, keepdims=True)
    left, sizes, axes = np.linalg.svd(centred, full_matrices=False)
    upwards = np.where(axes[..., :2, :].sum(axis=-1) < 0, -1, 1)
    shares = sizes[..., :2] ** 2 / (sizes**2).sum(axis=-1, keepdims=True).clip(min=np.finfo(float).tiny)
    return left[..., :2] * (sizes[..., :2] * upwards)[..., None, :], shares


PROCEDURES = {"robust": robust, "reference": reference}
"""Name of a procedure to its function, see :func:`~lightning_rwc.weightscale.cluster_layers`."""
