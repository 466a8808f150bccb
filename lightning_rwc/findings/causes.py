# SPDX-License-Identifier: Apache-2.0
"""Why layers did not move, as far as it is known, for pictures."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from lightning_rwc.cells import Cell
from lightning_rwc.findings.facts import LayerFacts, NamedLayers
from lightning_rwc.findings.gradients import Gradient

# Of rules that apply to one layer, the first one is shown.
_OF_KIND = {
    "not_in_optimizer": Cell.NOT_IN_OPTIMIZER,
    "no_gradient": Cell.NO_GRADIENT,
    "rounded_away": Cell.ROUNDED_AWAY,
}
# An expert may be routed to at some steps and not at others.
_MOST_CHANGES = 100


def causes_of(
    values: Mapping[str, float],
    layers: NamedLayers,
    facts: Sequence[LayerFacts],
    suspects: Mapping[str, Sequence[LayerFacts]],
) -> dict[str, Cell]:
    """What is known of each layer at a measurement; those of which nothing is known are left out.

    Args:
        values: layer name to relative weight change.
        layers: layer name to parameter name to parameter, as they are now.
        facts: those of this measurement, as far as layers were looked at.
        suspects: kind of finding to the layers to which its rule applies at this measurement.

    """
    causes = {}
    for name, value in values.items():
        parameters = layers.get(name, {}).values()
        if math.isnan(value):
            causes[name] = Cell.NOT_FINITE
        elif value == 0 and parameters and not any(parameter.requires_grad for parameter in parameters):
            causes[name] = Cell.FROZEN
    for kind, cause in _OF_KIND.items():
        for layer in suspects.get(kind, ()):
            decays = cause is Cell.NO_GRADIENT and layer.change != 0
            causes.setdefault(layer.name, Cell.ONLY_DECAYS if decays else cause)
    for layer in facts:
        # The rule speaks of layers among others that learn.
        if layer.change == 0 and layer.is_updated and layer.gradient is Gradient.ZERO:
            causes.setdefault(layer.name, Cell.NO_GRADIENT)
    return causes


class Causes:
    """What was known of each layer at each measurement: one byte each, for layers of which anything was known."""

    def __init__(self) -> None:
        self._of: dict[str, bytearray] = {}

    def note(self, measurement: int, causes: Mapping[str, Cell]) -> None:
        """Note what is known at a measurement.

        Args:
            measurement: its number. Numbers must ascend.
            causes: layer name to cause, for layers of which something is known.

        """
        for layer in {**self._of, **causes}:
            known = self._of.setdefault(layer, bytearray())
            known.extend(bytes(measurement - len(known)))
            known.append(causes.get(layer, Cell.VALUE))

    def table(self, layers: Sequence[str], measurements: int) -> npt.NDArray[np.uint8]:
        """Numbers of :class:`~lightning_rwc.cells.Cell`, of shape ``(measurements, layers)``."""
        table = np.zeros((measurements, len(layers)), np.uint8)
        for column, layer in enumerate(layers):
            known = np.frombuffer(bytes(self._of.get(layer, b"")[:measurements]), np.uint8)
            table[: len(known), column] = known
        return table

    def by_step(self, steps: Sequence[int]) -> dict[str, list[tuple[int, int]]]:
        """Layer name to the steps at which what is known changes, and to what. Of many changes, the last 100 are there.

        Args:
            steps: the step of each measurement.

        """
        found = {}
        for layer, known in self._of.items():
            row = np.frombuffer(bytes(known[: len(steps)]), np.uint8)
            at = np.flatnonzero(np.diff(row, prepend=np.uint8(0)))[-_MOST_CHANGES:].tolist()
            if at:
                found[layer] = [(steps[position], int(row[position])) for position in at]
        return found

    def state_dict(self) -> dict[str, Any]:
        """What is known, for a checkpoint."""
        return {layer: torch.tensor([*known], dtype=torch.uint8) for layer, known in self._of.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resume from :meth:`state_dict`."""
        self._of = {layer: bytearray(known.tolist()) for layer, known in state.items()}
