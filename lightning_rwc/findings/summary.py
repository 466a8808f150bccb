# SPDX-License-Identifier: Apache-2.0
"""A run in a few lines of text."""

import re
from collections.abc import Mapping, Sequence

import numpy as np

from lightning_rwc.findings.finding import Finding, listing
from lightning_rwc.history import RWCHistory

_MOST_FINDINGS = 9
_EXTREMES = 3


def summary(history: RWCHistory, findings: Sequence[Finding], frozen: Sequence[str] = ()) -> str:
    """Say what was found, and which layers changed most and least, in at most 15 lines.

    A layer's mean is the geometric mean of its values that are positive and finite. A layer that has none, but has
    zeros, did not move: its mean is 0. Layers without any such value are left out. The line of a finding has its layers
    and the first sentence of its message, which may name them.

    Args:
        history: the table of relative weight change.
        findings: all findings, oldest first.
        frozen: layers that are not trained. They are named in a line of their own.

    Example:
        >>> history = RWCHistory(["conv", "fc"], [0, 1], [9, 19], [[0.01, 0.2], [0.0001, 0.2]])
        >>> print(summary(history, [Finding("stuck", ("conv",), 1, 19, "It slows down. Raise its learning rate.")]))
        Relative weight change: 2 measurements of 2 layers
        Finding 'stuck' at epoch 1, step 19, 'conv': It slows down.
        Layers from the slowest to the fastest, by geometric mean: 'conv' 0.001, 'fc' 0.2

    """
    count = f"{len(history)} measurement{'' if len(history) == 1 else 's'} of {len(history.layers)} layer"
    lines = [f"Relative weight change: {count}{'' if len(history.layers) == 1 else 's'}"]
    lines += [headline(finding) for finding in findings[:_MOST_FINDINGS]] or ["No finding."]
    if len(findings) > _MOST_FINDINGS:
        lines.append(f"{len(findings) - _MOST_FINDINGS} more findings.")
    means = {layer: mean for layer, mean in _means(history).items() if layer not in frozen}
    slow = sorted(means, key=means.__getitem__)
    if len(slow) > 2 * _EXTREMES:
        lines.append(f"Slowest layers, by geometric mean: {_numbers(means, slow[:_EXTREMES])}")
        lines.append(f"Fastest layers: {_numbers(means, slow[: -_EXTREMES - 1 : -1])}")
    elif slow:
        lines.append(f"Layers from the slowest to the fastest, by geometric mean: {_numbers(means, slow)}")
    if frozen:
        lines.append(f"Frozen: {listing(frozen)}")
    return "\n".join(lines)


def heading(finding: Finding) -> str:
    """What was found, and when."""
    return f"Finding {finding.kind!r} at epoch {finding.epoch}, step {finding.step}"


def headline(finding: Finding) -> str:
    """What was found, when, in which layers, and the first sentence of its message."""
    # A point inside a number, a name or an abbreviation ends no sentence.
    first = re.split(r"(?<=[.!?])\s+(?=[A-Z`'])", finding.message, maxsplit=1)[0]
    layers = listing(finding.layers)
    about = f", {layers}" if finding.layers and layers not in first else ""
    return f"{heading(finding)}{about}: {first}"


def _means(history: RWCHistory) -> dict[str, float]:
    means = {}
    for layer, curve in zip(history.layers, history.values.T, strict=True):
        moved = curve[np.isfinite(curve) & (curve > 0)]
        if moved.size:
            means[layer] = float(np.exp(np.log(moved).mean()))
        elif (curve == 0).any():
            means[layer] = 0.0
    return means


def _numbers(means: Mapping[str, float], layers: Sequence[str]) -> str:
    return ", ".join(f"{layer!r} {means[layer]:.3g}" for layer in layers)
