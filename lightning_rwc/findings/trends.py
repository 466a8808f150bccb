# SPDX-License-Identifier: Apache-2.0
"""How fast layers have moved so far: what rules about the whole of a run look at."""

import math
from collections.abc import Mapping, Sequence
from itertools import compress
from typing import Any, ClassVar, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

Numbers: TypeAlias = npt.NDArray[np.float64]

# Single steps are too noisy to compare.
WINDOW = 10
# The pace of a layer that does not move.
STOPPED = -14.0
# The highest pace of a layer fades by a decade in so many measurements.
_MEMORY = 200
# Below this share of the highest learning rate, weight decay and rounding move weights more than gradients do.
_TAIL = 0.02


class Moves(NamedTuple):
    """How far each layer moved at a measurement. All arrays have one number for each layer."""

    changes: Numbers
    """Relative weight changes. ``nan`` if the layer is frozen, or its weights are not finite."""
    rotations: Numbers
    """Rotations in radians; ``nan`` if they are unknown."""
    growths: Numbers
    """Relative changes of the norm; ``nan`` if they are unknown."""
    rates: Numbers
    """Learning rates; ``nan`` if they are unknown."""
    steps: int
    """The optimizer steps since the snapshot."""


class Trends:
    """How fast layers have moved since training began.

    A *pace* is the decimal logarithm of how far a layer moved, over the root of the number of steps and over the
    learning rate where it is known. If steps are independent of each other, it is the same for short and long
    intervals.

    """

    # What a layer has when it is new.
    _FIELDS: ClassVar = {
        "growth": 0.0,
        "path": 0.0,
        "pace": np.nan,
        "rise": np.nan,
        "times_moved": 0.0,
        "rate": np.nan,
        "window_pace": np.nan,
        "rotation_pace": np.nan,
        "peak": np.nan,
        "rotation_peak": np.nan,
        "recent": 0.0,
        "turning": np.nan,
        "shrinking": 0.0,
        "out_of_line": 0.0,
        "behind": 0.0,
        "_path_before": 0.0,
        "_growth_before": 0.0,
        "_highest_pace": np.nan,
        "_highest_rate": 0.0,
        "_moved": 0.0,
        "_rotated": 0.0,
        "_rates": 0.0,
    }

    growth: Numbers
    """The natural logarithm of each norm over the first one. ``nan`` if the layer began at zero."""
    path: Numbers
    """The sum of each layer's relative weight changes."""
    pace: Numbers
    """The pace of the last measurement. ``nan`` if the layer is frozen or not finite."""
    rise: Numbers
    """How far that is above all earlier ones, which fade. ``nan`` if there are none, or the layer stands still."""
    times_moved: Numbers
    """In how many measurements each layer has moved."""
    rate: Numbers
    """The mean learning rate of the last window."""
    window_pace: Numbers
    """The pace of the last window. ``nan`` too if the learning rate is at the tail of its schedule."""
    rotation_pace: Numbers
    """The same for rotation."""
    peak: Numbers
    """The highest pace of a window."""
    rotation_peak: Numbers
    """The same for rotation."""
    recent: Numbers
    """The sum of relative weight changes a step in the last window."""
    turning: Numbers
    """Rotation over relative weight change, in the last window. ``nan`` like :attr:`rotation_pace`, and if the layer
    stood still."""
    shrinking: Numbers
    """Whether the norm fell in the last window."""
    out_of_line: Numbers
    """For how many windows in a row each layer has been out of line."""
    behind: Numbers
    """For how many windows each layer has been behind those of its kind since it began; ``-inf`` if not in all."""

    _path_before: Numbers
    _growth_before: Numbers
    _highest_pace: Numbers
    _highest_rate: Numbers
    _moved: Numbers
    _rotated: Numbers
    _rates: Numbers

    def __init__(self) -> None:
        self.layers: list[str] = []
        self.steps = 0
        """The optimizer steps so far."""
        self.last_steps = 0
        """Those of the last measurement."""
        self.planned_steps = math.inf
        """How many optimizer steps the run will take."""
        self.windows = 0
        """The windows so far. A window has at least ten steps."""
        self.ends_window = False
        """Whether the last measurement ends a window."""
        self.first_window = 0
        """The steps of the first window."""
        self.highest_growth = -math.inf
        """The highest median of :attr:`growth` at the end of a window."""
        self.windows_behind = 0
        """For how many windows in a row the first layers have been far behind the last ones."""
        self.windows_decaying = 0
        """For how many windows in a row weight decay alone has moved the layers."""
        self._measurements = 0
        self._window_steps = 0
        for name in self._FIELDS:
            setattr(self, name, np.zeros(0))

    @property
    def learning_pace(self) -> Numbers:
        """The pace of the last window without weight decay, as far as that is known."""
        return np.where(np.isnan(self.rotation_pace), self.window_pace, self.rotation_pace)

    def names(self, chosen: npt.NDArray[np.bool_]) -> list[str]:
        """The names of the layers that are chosen."""
        return [*compress(self.layers, chosen)]

    def follow(self, layers: Sequence[str]) -> None:
        """Have an entry for each of ``layers``, in this order."""
        if self.layers == layers:
            return
        numbers = {layer: number for number, layer in enumerate(self.layers)}
        source = np.array([numbers.get(layer, -1) for layer in layers], dtype=np.intp)
        for name, new in self._FIELDS.items():
            setattr(self, name, np.append(getattr(self, name), new)[source])
        self.layers = [*layers]

    def add(self, moves: Moves) -> None:
        """Add a measurement of the layers that :meth:`follow` got."""
        root = max(moves.steps, 1) ** 0.5
        with np.errstate(all="ignore"):
            self.steps += moves.steps
            self.last_steps = moves.steps
            self.growth = self.growth + np.where(np.isinf(moves.changes), np.nan, np.log1p(moves.growths))
            self.path = self.path + np.where(np.isnan(moves.changes), 0.0, moves.changes)
            self.pace = _pace(moves.changes / root, moves.rates)
            moved = self.pace > STOPPED
            self.rise = np.where(moved, self.pace - self._highest_pace, np.nan)
            self._highest_pace = np.fmax(self._highest_pace - 1 / _MEMORY, np.where(moved, self.pace, np.nan))
            self.times_moved = self.times_moved + moved
            self._moved = self._moved + moves.changes / root
            self._rotated = self._rotated + moves.rotations / root
            self._rates = self._rates + moves.rates
            self._measurements += 1
            self._window_steps += moves.steps
            self.ends_window = self._window_steps >= WINDOW
            if self.ends_window:
                self._end_window()

    def _end_window(self) -> None:
        self.rate = self._rates / self._measurements
        self._highest_rate = np.fmax(self._highest_rate, self.rate)
        tail = self.rate < _TAIL * self._highest_rate
        self.window_pace, self.rotation_pace = (
            np.where(tail, np.nan, _pace(moved / self._measurements, self.rate))
            for moved in (self._moved, self._rotated)
        )
        self.peak = np.fmax(self.peak, self.window_pace)
        self.rotation_peak = np.fmax(self.rotation_peak, self.rotation_pace)
        self.turning = np.where(tail | (self._moved == 0), np.nan, self._rotated / self._moved)
        self.shrinking = (self.growth < self._growth_before).astype(float)
        self._growth_before = self.growth
        self.recent = (self.path - self._path_before) / self._window_steps
        self._path_before = self.path
        self.first_window = self.first_window or self.steps
        known = self.growth[np.isfinite(self.growth)]
        self.highest_growth = max(self.highest_growth, float(np.median(known)) if known.size else -math.inf)
        self.windows += 1
        self._moved, self._rotated, self._rates = (np.zeros(len(self.layers)) for _ in range(3))
        self._measurements = self._window_steps = 0

    def state_dict(self) -> dict[str, Any]:
        """All numbers, for a checkpoint."""
        return {
            name: torch.from_numpy(value) if isinstance(value, np.ndarray) else value
            for name, value in vars(self).items()
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resume from :meth:`state_dict`, also of an earlier version that lacks some of it."""
        for name, value in state.items():
            setattr(self, name, value.numpy() if isinstance(value, torch.Tensor) else value)
        for name in self._FIELDS.keys() - state.keys():
            # How a layer was before is unknown. So it has not been behind since the start.
            new = -np.inf if name == "behind" else self._FIELDS[name]
            setattr(self, name, np.full(len(self.layers), new))


def _pace(moved: Numbers, rates: Numbers) -> Numbers:
    pace = np.log10(moved / np.where(rates > 0, rates, 1.0))
    return np.where(moved == 0, STOPPED, np.where(np.isfinite(pace), pace, np.nan))
