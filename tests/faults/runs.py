# SPDX-License-Identifier: Apache-2.0
"""One training with one case: what is found at each cadence, and whether it is what should be found."""

import warnings

import numpy as np
import torch
from lightning.pytorch.callbacks import Callback

from lightning_rwc import RWCCallback
from tests.faults.architectures import ARCHITECTURES
from tests.faults.faults import FAULTS, HEALTHY, Expected
from tests.faults.others import OTHERS
from tests.faults.training import BATCHES, Training, batches, quiet_trainer

CADENCES = {
    "epoch": {},
    "epoch, validated": {},
    "5 steps": {"every_n_train_steps": 5},
    "step": {"every_n_train_steps": 1},
    "epoch, sampled": {"max_elements": 256},
}
VALIDATED = {"epoch, validated"}
CASES = FAULTS | HEALTHY
EPOCHS = 3


def cases_of(name):
    """The cases that an architecture can have."""
    return [case for case in CASES if CASES[case].expected(ARCHITECTURES[name], "SGD") is not None]


def run(name, optimizer, case, seed=0, epochs=EPOCHS):
    """Train with and without validation. Returns a record for each cadence and one for each rule of other tools."""
    architecture, epochs = ARCHITECTURES[name], CASES[case].epochs or epochs
    callbacks = {
        cadence: RWCCallback(prefix=cadence.replace(", ", "_").replace(" ", "_"), heatmap=False, **arguments)
        for cadence, arguments in CADENCES.items()
    }
    recorder = _Weights([f"net.{layer}" for layer in architecture.layers])

    def train(callbacks, validates):
        torch.manual_seed(seed)
        training = Training(architecture, optimizer)
        CASES[case].change(training, architecture)
        validation = batches(seed) if validates else None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            quiet_trainer(callbacks, epochs, **CASES[case].trainer).fit(training, batches(seed), validation)
        return training

    train([callback for cadence, callback in callbacks.items() if cadence in VALIDATED], True)
    # Validation changes no weight, so one recorder is enough.
    training = train(
        [*(callback for cadence, callback in callbacks.items() if cadence not in VALIDATED), recorder], False
    )
    about = {"architecture": name, "optimizer": optimizer, "case": case, "seed": seed}
    losses = np.array(training.losses).reshape(epochs, -1).mean(1)
    about |= {"losses": losses.tolist()}
    steps = 2 if architecture.task == "generate" else 1
    records = []
    for cadence, callback in callbacks.items():
        expected = CASES[case].expected(architecture, optimizer)
        if CASES[case].is_diverging:
            expected = _first_not_finite(recorder.series, cadence, steps)
        found = [(f.kind, f.layers, _number(callback.history, f)) for f in callback.findings]
        record = about | {"by": cadence} | judge(expected, found)
        if CASES[case].is_diverging:
            record["false"] = [one for one in record["false"] if not _is_right(one, recorder.series)]
        records.append(record)
    series = {layer: recorder.series[layer] for layer in _trainable(recorder.series, training)}
    for rule, report in OTHERS.items():
        records.append(about | {"by": rule} | _judge_rule(expected, report(series)))
    return records


def judge(expected, found):
    """Compare what was found with what should have been.

    Args:
        expected: a list of `Expected`.
        found: kind, layers and number of the measurement of each finding.

    Returns:
        A verdict (``"quiet"``, ``"exact"``, ``"other layers"`` or ``"missed"``), the number of the measurement at which
        all was found, and all false alarms.

    """
    verdicts, when, due = [], 0, set()
    for kinds, layers in expected:
        named, due = set(), due | {(kind, layer) for kind in kinds for layer in layers}
        for kind, names, number in found:
            # Later the other layers are not finite either, which is true.
            if kind in kinds and not (kind == "non_finite" and named):
                named |= {*names}
                when = max(when, number)
        verdicts.append("missed" if not named & {*layers} else "exact" if named == {*layers} else "other layers")
    told = {(kind, layer) for kind, names, _ in found for layer in names}
    if any("non_finite" in kinds for kinds, _ in expected):
        # Weights grow before they overflow. The sign of nan is 0, so Lion stops.
        told = {
            (kind, layer) for kind, layer in told if kind not in ("non_finite", "nothing_moves", "learning_rate_high")
        }
    worst = next((v for v in ("missed", "other layers", "exact") if v in verdicts), "quiet")
    return {
        "verdict": worst,
        "when": when,
        "expected": [[list(kinds), list(layers)] for kinds, layers in expected],
        "found": [[kind, list(layers), number] for kind, layers, number in found],
        "false": sorted(map(list, told - due)),
    }


def _judge_rule(expected, reported):
    due = {layer for _, layers in expected for layer in layers}
    verdict = "quiet" if not due else "exact" if reported == due else "other layers" if reported & due else "missed"
    return {
        "verdict": verdict,
        "when": 0,
        "expected": [[list(kinds), list(layers)] for kinds, layers in expected],
        "found": [["reported", sorted(reported), 0]] if reported else [],
        "false": sorted(["reported", layer] for layer in reported - due),
    }


def _number(history, finding):
    """The number of the measurement at or before which a finding was told, from 1."""
    return 1 + sum(step < finding.step for step in history.steps)


class _Weights(Callback):
    """Keeps the weights of layers at the start and after every batch with an optimizer step."""

    def __init__(self, names):
        self.names, self.step = names, 0

    def on_train_start(self, trainer, training):
        self.layers = {name: _parameter(training, name) for name in self.names}
        if hasattr(training, "unused"):
            self.layers["unused"] = training.unused.weight
        self.series = {layer: [_numpy(parameter)] for layer, parameter in self.layers.items()}

    def on_train_batch_end(self, trainer, training, *args):
        if trainer.global_step == self.step:
            return
        self.step = trainer.global_step
        for layer, parameter in self.layers.items():
            self.series[layer].append(_numpy(parameter))


def _parameter(training, layer):
    parameters = dict(training.named_parameters())
    return next(parameters[layer + end] for end in ("", ".weight", ".in_proj_weight") if layer + end in parameters)


def _numpy(parameter):
    return parameter.detach().float().numpy().copy()


def _trainable(series, training):
    return [layer for layer in series if _parameter(training, layer).requires_grad]


def _first_not_finite(series, cadence, steps):
    every = CADENCES[cadence].get("every_n_train_steps", BATCHES * steps)
    count = len(next(iter(series.values())))
    measured = [batch for batch in range(1, count) if batch * steps // every > (batch - 1) * steps // every]
    for batch in measured:
        if layers := tuple(layer for layer, weights in series.items() if not np.isfinite(weights[batch]).all()):
            return [Expected(("non_finite",), layers)]
    return []


def _is_right(alarm, series):
    """Whether a finding of a diverging training is true: where huge weights saturate, layers stand still."""
    kind, layer = alarm
    weights = series[layer]
    stands = any(np.array_equal(weights[start], weights[start + 10]) for start in range(len(weights) - 10))
    return kind == "learning_rate_high" or (kind == "no_gradient" and stands)
