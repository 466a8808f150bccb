# SPDX-License-Identifier: Apache-2.0
"""Whether a network keeps its colours at other batch sizes and cadences, on either of the fixed scales."""

import numpy as np
import torch

from lightning_rwc import RWCCallback
from lightning_rwc.scale import FIXED, spans
from tests.faults.architectures import ARCHITECTURES
from tests.faults.training import Training, quiet_trainer
from tests.rates.data import Batches, images

_NETWORKS = ("CNN", "ResNet", "MLP, ReLU", "transformer")
_OPTIMIZERS = ("SGD, momentum, decay", "AdamW")
_USUAL = 64
_SIZES = (16, 256)
_EVERY = (1, 5)
_EPOCHS = 8


def colours(repeats, quick):
    """How far the colours of a healthy network shift at other batch sizes and cadences, on either fixed scale."""
    results = {scale: {} for scale in FIXED}
    shifts = {scale: {} for scale in FIXED}
    for network in _NETWORKS[: 1 if quick else None]:
        for optimizer in _OPTIMIZERS:
            usual = _train(network, optimizer, _USUAL)
            others = {f"every {n} steps": usual[n] for n in _EVERY}
            others |= {f"batches of {size}": _train(network, optimizer, size)[None] for size in _SIZES}
            for name, history in others.items():
                for scale in FIXED:
                    shift = _place(history, scale) - _place(usual[None], scale)
                    shifts[scale].setdefault(name, []).append(shift)
    for scale, of in shifts.items():
        for name, found in of.items():
            results[scale][name] = {"median shift, ticks": np.median(found), "largest": max(found, key=abs)}
        every = np.abs([shift for found in of.values() for shift in found])
        results[scale]["all"] = {"median shift, ticks": np.median(every), "largest": every.max()}
    note = (
        f"from one measurement an epoch of batches of {_USUAL}, {len(_NETWORKS)} networks, digits; a tick is a decade"
    )
    for scale, table in results.items():
        yield f"per {scale}", note, table


def _train(network, optimizer, size):
    """The histories at each cadence; ``None`` is one measurement an epoch."""
    train, labels, _, _ = images("digits")
    torch.manual_seed(0)
    callbacks = {n: RWCCallback(heatmap=False, prefix=f"every {n}", every_n_train_steps=n) for n in _EVERY}
    callbacks[None] = RWCCallback(heatmap=False)
    training = Training(ARCHITECTURES[network], optimizer)
    quiet_trainer([*callbacks.values()], _EPOCHS).fit(training, Batches(train, labels, size))
    return {n: callback.history for n, callback in callbacks.items()}


def _place(history, scale):
    """The median decade of all cells."""
    values = history.values / spans(history.steps)[:, None] if scale == "step" else history.values
    return np.median(np.log10(values[np.isfinite(values) & (values > 0)]))
