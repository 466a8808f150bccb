# SPDX-License-Identifier: Apache-2.0
"""The rotation of a layer's weights that an optimizer leads to, if a normalisation follows the layer.

The scale of such weights does not matter to the loss. So a gradient is orthogonal to the weights and makes them longer,
and weight decay makes them shorter. Once the two balance, the weights turn by the same angle in each step (Kosson et
al., *Rotational Equilibrium*, arXiv 2305.17212; Wan et al., *Spherical Motion Dynamics*, arXiv 2006.08419). This module
derives the angle after any number of steps. It models gradients as white noise of constant size. Then the weights are a
stationary process, and the cosine of the angle after k steps is its autocorrelation at lag k.
"""

import math
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
from torch import Tensor
from torch.optim import Optimizer

from lightning_rwc.quantity import Quantity


class Equilibrium(NamedTuple):
    """The measure that compares a layer's rotation with the predicted one."""

    name: str
    quantity: Quantity


EQUILIBRIUM = Equilibrium(
    "equilibrium", Quantity("rotation / rotation at equilibrium (ratio)", zero="0: did not rotate")
)

# Settings that change the update in ways that the derivation does not cover. The last two are timm's.
_NOT_COVERED = ("amsgrad", "caution", "corrected_weight_decay")


def predicted_rotation(optimizer: Optimizer, group: Mapping[str, Any], steps: int, learning_rate: float) -> float:
    """Predict the rotation of a normalised layer at equilibrium.

    Args:
        optimizer: the optimizer. Its class, or the first of its bases with a known name, must be called ``SGD``,
            ``AdamW``, ``Adam`` or ``Lion``.
        group: its parameter group, with the betas or momentum and the weight decay. ``lr`` is not read.
        steps: the number of optimizer steps between the two states of the weights.
        learning_rate: the mean learning rate of these steps.

    Returns:
        The angle in radians, from 0 to π. It is ``nan`` if there is no equilibrium or none is known: without weight
        decay, without a step, for Adam's coupled weight decay, for ``amsgrad``, for timm's ``caution`` and
        ``corrected_weight_decay``, for settings with which weights would diverge, and for other optimizers.

    Example:
        >>> import torch
        >>> weight = torch.nn.Parameter(torch.ones(3))
        >>> optimizer = torch.optim.AdamW([weight], weight_decay=0.1)
        >>> round(predicted_rotation(optimizer, optimizer.param_groups[0], steps=100, learning_rate=1e-3), 4)
        0.1344

    """
    names = [base.__name__ for base in type(optimizer).__mro__]
    name = next((name for name in names if name in ("SGD", "AdamW", "Adam", "Lion")), None)
    # lion-pytorch keeps `decoupled_wd` on the optimizer. It divides weight decay by the first learning rate.
    odd = any(group.get(key) for key in _NOT_COVERED) or getattr(optimizer, "decoupled_wd", False)
    decoupled = bool(group.get("decoupled_weight_decay", name in ("AdamW", "Lion")))
    if name is None or odd or decoupled == (name == "SGD") or not steps >= 1:
        return math.nan
    try:
        decay = learning_rate * float(group["weight_decay"])
        if name == "SGD":
            drop = sgd_drop(
                decay, float(group["momentum"]), float(group.get("dampening", 0)), bool(group.get("nesterov")), steps
            )
        else:
            beta1, beta2 = map(float, group["betas"])
            drop = adamw_drop(decay, beta1, steps) if name != "Lion" else lion_drop(decay, beta1, beta2, steps)
    except (KeyError, TypeError, ValueError):  # somebody else's optimizer of the same name
        return math.nan
    # Unlike acos(1 − drop), this is precise for small angles.
    return 2 * math.asin(math.sqrt(min(drop, 2) / 2)) if drop >= 0 else math.nan


def sgd_drop(decay: float, momentum: float, dampening: float, nesterov: bool, steps: int) -> float:
    """1 − ρ of weights under SGD, where ρ is their autocorrelation at lag ``steps``.

    Args:
        decay: learning rate times weight decay.
        momentum: the momentum α.
        dampening: PyTorch ignores it without momentum.
        nesterov: whether the step looks ahead by Nesterov's rule.
        steps: the lag.

    Returns:
        A number from 0 to 2, or ``nan`` if the weights have no equilibrium.

    """
    if nesterov:
        return _arma_drop(decay, momentum * (1 - decay), momentum / (1 + momentum), steps)
    return _arma_drop(decay * (1 - dampening if momentum else 1), momentum, 0, steps)


def adamw_drop(decay: float, beta1: float, steps: int) -> float:
    """1 − ρ of weights under AdamW, as in :func:`sgd_drop`."""
    return _arma_drop((1 - beta1) * decay, beta1 * (1 - decay), 0, steps)


@lru_cache(maxsize=1024)
def lion_drop(decay: float, beta1: float, beta2: float, steps: int) -> float:
    """1 − ρ of weights under Lion, as in :func:`sgd_drop`.

    The update is the sign of a sum of Gaussian gradients. The arcsine law gives the autocorrelation of such signs from
    that of the sums.

    """
    if not (0 < decay < 1 and 0 <= beta1 < 1 and 0 < beta2 < 1):
        return math.nan
    lags = np.arange(1, math.ceil(math.log(1e-9) / math.log(beta2)) + 2)
    variance = (1 - beta1) ** 2 + beta1**2 * (1 - beta2) / (1 + beta2)
    first = beta1 * (1 - beta2) * (1 - beta1 + beta1 * beta2 / (1 + beta2)) / variance
    signs = 2 / np.pi * np.arcsin(first * beta2 ** (lags - 1.0))
    signs, lags = np.concatenate([signs[::-1], [1], signs]), np.concatenate([-lags[::-1], [0], lags])
    rate = math.log1p(-decay)
    shares = signs * np.exp(rate * abs(lags))
    return float(-(shares @ np.expm1(rate * (abs(steps - lags) - abs(lags)))) / shares.sum())


def _arma_drop(pull: float, memory: float, echo: float, steps: int) -> float:
    """1 − ρ of the process w[t+1] = (1 + memory − pull) w[t] − memory w[t−1] + e[t] − echo e[t−1], e white noise."""
    if not (0 < pull < 2 * (1 + memory) and abs(memory) < 1):
        return math.nan
    noise = (1 + memory) * (1 + echo**2) - 2 * echo * (1 + memory - pull)
    first = pull * (1 + echo * (1 - memory) * (2 + 2 * memory - pull) / noise) / (1 + memory)
    # The drop D and its growth E follow E' = memory · E + pull · (1 − D) and D' = D + E'. Small drops stay precise,
    # and it makes no difference whether the roots are real, complex or equal.
    step = np.array([[memory, -pull, pull], [memory, 1 - pull, pull], [0, 0, 1]])
    return float(np.linalg.matrix_power(step, steps - 1)[1] @ (first, first, 1))


def _rate(group: Mapping[str, Any]) -> float | Tensor:
    rate = group.get("lr")
    return rate if isinstance(rate, int | float | Tensor) else math.nan


class EquilibriumForecast:
    """Follows the learning rate of every parameter group, and predicts the rotation of its parameters.

    Args:
        optimizers: the optimizers of a training loop. Each may step at its own times.

    Example:
        >>> import torch
        >>> weight = torch.nn.Parameter(torch.ones(3))
        >>> optimizer = torch.optim.SGD([weight], lr=0.1, weight_decay=0.01)
        >>> forecast = EquilibriumForecast([optimizer])
        >>> for _ in range(5):
        ...     forecast.note(optimizer)
        ...     optimizer.step()
        >>> round(forecast.of([weight]), 4)
        0.0999

    """

    def __init__(self, optimizers: Iterable[Optimizer]) -> None:
        # Optimizers hold much memory, and end with their training.
        self._totals: WeakKeyDictionary[Optimizer, list[tuple[float, float | Tensor]]] = WeakKeyDictionary()
        self._totals.update({optimizer: [] for optimizer in optimizers})
        self._predictions: dict[int, float] | None = None

    def note(self, optimizer: Optimizer) -> None:
        """Note the learning rates of a step. Call this before each step of ``optimizer``."""
        totals = self._totals.get(optimizer)
        if totals is None:
            return
        rates = [_rate(group) for group in optimizer.param_groups]
        if len(totals) > len(rates):
            # Nobody knows which group has gone.
            totals = [(math.nan, math.nan)] * len(rates)
        totals = totals + [(0, 0.0)] * (len(rates) - len(totals))
        # A learning rate may be a tensor on a device. A sum of tensors does not wait for the device.
        self._totals[optimizer] = [
            (steps + 1, total + rate) for (steps, total), rate in zip(totals, rates, strict=True)
        ]
        self._predictions = None

    def of(self, parameters: Iterable[Tensor]) -> float:
        """Predict the rotation of a layer since the last :meth:`restart`, see :func:`predicted_rotation`.

        Args:
            parameters: the parameters of the layer.

        Returns:
            The angle in radians. It is ``nan`` if it is unknown for one of the parameters, or differs between them.

        """
        if self._predictions is None:
            self._predictions = self._predict()
        angles = [self._predictions.get(id(parameter), math.nan) for parameter in parameters]
        alike = bool(angles) and all(math.isclose(angle, angles[0], rel_tol=1e-6) for angle in angles)
        return angles[0] if alike else math.nan

    def follows(self, optimizers: Iterable[Optimizer]) -> bool:
        """Whether these are its optimizers."""
        return [*map(id, optimizers)] == [*map(id, self._totals)]

    def restart(self) -> None:
        """Begin the next interval."""
        self._totals.update({optimizer: [] for optimizer in self._totals})
        self._predictions = None

    def state_dict(self) -> dict[str, Any]:
        """The interval so far: for each group of each optimizer, its steps and the sum of their learning rates."""
        return {"totals": [[[steps, float(total)] for steps, total in totals] for totals in self._totals.values()]}

    def load_state_dict(self, state: Mapping[str, Any] | None) -> None:
        """Continue an interval.

        Without a state, or if the optimizers or their groups are others now, the predictions of this interval are
        ``nan``.
        """
        self._predictions = None
        saved = [[(steps, total) for steps, total in totals] for totals in (state or {"totals": []})["totals"]]
        groups = [len(optimizer.param_groups) for optimizer in self._totals]
        # An optimizer that has not stepped in this interval has no totals.
        same = [len(totals) in (0, count) for totals, count in zip(saved, groups, strict=False)]
        if len(saved) != len(groups) or not all(same):
            saved = [[(math.nan, math.nan)] * count for count in groups]
        self._totals.update(zip([*self._totals], saved, strict=True))

    def _predict(self) -> dict[int, float]:
        predictions: dict[int, float] = {}
        for optimizer, totals in self._totals.items():
            # A group that was added since the last step has no total.
            for (steps, total), group in zip(totals, optimizer.param_groups, strict=False):
                known = steps >= 1
                angle = predicted_rotation(optimizer, group, int(steps), float(total) / steps) if known else math.nan
                for parameter in group["params"]:
                    # Nothing is known of weights that two optimizers move.
                    predictions[id(parameter)] = math.nan if id(parameter) in predictions else angle
        return predictions
