# SPDX-License-Identifier: Apache-2.0
"""Faults, and changes that are none. Each changes a `Training`, and knows by hand what should be found."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import nn

from tests.faults.optimizers import DECAYS
from tests.faults.training import BATCHES


class Expected(NamedTuple):
    """One thing that should be found."""

    kinds: tuple[str, ...]
    """Names of findings, each of which says it."""
    layers: tuple[str, ...]


class Case(NamedTuple):
    """A change of a training, and what should be found."""

    change: Callable[[Any, Any], None]
    """Takes the training and its architecture."""
    expected: Callable[[Any, str], list[Expected] | None]
    """Takes the architecture and the optimizer. None: this architecture cannot have it."""
    trainer: Mapping[str, Any] = MappingProxyType({})
    """Arguments of the Trainer."""
    epochs: int | None = None
    """How long it takes to find, if it takes longer than usual."""
    is_diverging: bool = False
    """Whether weights become nan. Which layers are the first is seen in the recorded weights."""


def _named(layers):
    return tuple(f"net.{layer}" for layer in layers)


def _nothing(training, architecture):
    pass


# What is found ----------------------------------------------------------------------------------------------------


def _quiet(architecture, optimizer):
    return []


def _place(place, kind):
    """The layers that the fault stops at a place of the architecture."""

    def expected(architecture, optimizer):
        where = getattr(architecture, place)
        return where and [Expected((kind,), _named(where.stops))]

    return expected


def _all(*kinds):
    return lambda architecture, optimizer: [Expected(kinds, _named(architecture.layers))]


def _only(kind, *layers):
    return lambda architecture, optimizer: [Expected((kind,), layers)]


def _zero_gradients(architecture, optimizer):
    # Decay moves weights without a gradient, so "nothing moves" would be false.
    kinds = ("no_gradient", "nothing_moves") if optimizer in DECAYS else ("nothing_moves",)
    return [Expected(kinds, _named(architecture.layers))]


def _left_out(architecture, optimizer):
    return [Expected(("not_in_optimizer",), _named(architecture.block.stops))]


def _replaced(architecture, optimizer):
    return [Expected(("not_in_optimizer",), (_named(architecture.layers)[-1],))]


def _rounded(architecture, optimizer):
    # The smallest number can be added to zero.
    layers = [layer for layer in architecture.layers if not layer.endswith(".b")]
    return [Expected(("rounded_away", "nothing_moves"), _named(layers))]


def _poisoned(architecture, optimizer):
    return [Expected(("non_finite",), _named(architecture.block.stops[:1]))]


def _diverged(architecture, optimizer):
    return []  # seen in the recorded weights


def _adapters(last):
    return tuple(f"net.layer{number}.{last}" for number in (1, 2, 3))


def _b_left_out(architecture, optimizer):
    # As B stays zero, no gradient passes through it to A.
    return [Expected(("not_in_optimizer",), _adapters("b")), Expected(("no_gradient",), _adapters("a"))]


def _b_frozen(architecture, optimizer):
    return [Expected(("no_gradient",), _adapters("a"))]


def _dead_later(architecture, optimizer):
    expected = _place("dead", "no_gradient")(architecture, optimizer)
    # Its average of gradients shrinks, but the sign of that average stays.
    return [] if expected and optimizer == "Lion" else expected


def _needs_residual(architecture, optimizer):
    return [] if architecture.residual else None


def _needs_automatic(architecture, optimizer):
    return [] if architecture.task != "generate" else None


def _needs_gan(architecture, optimizer):
    return [] if architecture.task == "generate" else None


def _if_own(name, expected):
    return lambda architecture, optimizer: expected(architecture, optimizer) if name in architecture.own else None


# How it is built in -----------------------------------------------------------------------------------------------


def _module(training, name):
    return training.net.get_submodule(name)


def _parameters(training, place):
    return [p for name in place.names for p in _module(training, name).parameters()]


def _detach(training, architecture):
    _module(training, architecture.cut.names[0]).register_forward_hook(lambda module, args, output: _cut(output))


def _cut(output):
    return output.detach() if isinstance(output, torch.Tensor) else tuple(map(_cut, output))


def _detach_later(training, architecture):
    training.after_step.append(_after_first_epoch(architecture, lambda: _detach(training, architecture)))


def _kill_later(training, architecture):
    training.after_step.append(_after_first_epoch(architecture, lambda: _kill(training, architecture)))


def _after_first_epoch(architecture, change):
    """Run ``change`` after the last step of the first epoch."""
    last = BATCHES * (2 if architecture.task == "generate" else 1)
    return lambda training, step: change() if step == last else None


def _clear(training, architecture):
    """Some training loops remove gradients right after the step."""

    def clear(training, step):
        training.zero_grad()

    training.after_step.append(clear)


def _slow_and_clear(training, architecture):
    _slow(training, architecture)
    _clear(training, architecture)


def _slow(training, architecture):
    training.still, training.still_rate = _parameters(training, architecture.block), 1e-7 * training.rate


def _unrecord(training, architecture):
    module = _module(training, architecture.unrecorded.names[0])
    module.forward = torch.no_grad()(module.forward)


@torch.no_grad()
def _fill(training, names, value):
    for name in names:
        training.net.get_parameter(name).fill_(value)


def _kill(training, architecture):
    _fill(training, architecture.dead.names, architecture.dead_bias)


def _zero(training, architecture):
    _fill(training, architecture.zero.names, 0)


def _zero_residual(training, architecture):
    _fill(training, architecture.residual, 0)


def _add_unused(training, architecture):
    training.unused = nn.Linear(8, 8)


def _leave_out(training, architecture):
    training.left_out = _parameters(training, architecture.block)


def _leave_out_b(training, architecture):
    training.left_out = [training.net.get_parameter(f"layer{number}.b.weight") for number in (1, 2, 3)]


def _freeze(training, architecture):
    for parameter in _parameters(training, architecture.block):
        parameter.requires_grad_(False)


def _freeze_b(training, architecture):
    for number in (1, 2, 3):
        training.net.get_parameter(f"layer{number}.b.weight").requires_grad_(False)


def _freeze_at_first(training, architecture):
    parameters = [p for p in _parameters(training, architecture.block) if p.requires_grad]

    def thaw(training, step):
        for parameter in parameters:
            parameter.requires_grad_(step > BATCHES)

    thaw(training, 0)
    training.after_step.append(thaw)


def _freeze_by_rate(training, architecture):
    training.still = _parameters(training, architecture.block)


def _set(**values):
    def change(training, architecture):
        for name, value in values.items():
            setattr(training, name, value)

    return change


def _multiply_rate(factor):
    def change(training, architecture):
        training.rate *= factor

    return change


def _set_rate(rate):
    def change(training, architecture):
        training.rate = rate

    return change


def _replace_head(training, architecture):
    """The last layer is replaced after the optimizer got the old one."""

    def replace(training):
        name = architecture.layers[-1]
        old = _module(training, name)
        parent, _, attribute = name.rpartition(".")
        new = nn.Linear(old.in_features, old.out_features)
        setattr(training.net.get_submodule(parent) if parent else training.net, attribute, new)

    training.after_optimizers.append(replace)


def _poison(training, architecture):
    """One layer becomes nan at the last step of the first epoch."""
    parameter = next(p for p in _parameters(training, architecture.block) if p.requires_grad and p.dim() > 1)

    def poison():
        with torch.no_grad():
            parameter.fill_(float("nan"))

    training.after_step.append(_after_first_epoch(architecture, poison))


def _skip_at_random(training, architecture):
    """Stochastic depth: a block is left out of one batch in five."""
    module = _module(training, architecture.unrecorded.names[0])
    forward = module.forward
    module.forward = lambda *args, **kwargs: (
        forward(*args, **kwargs) if torch.rand(()) < 0.8 else torch.no_grad()(forward)(*args, **kwargs)
    )


def _never_choose(training, architecture):
    training.net.get_submodule("mixture").bias[3] = -1000


def _warm_up(steps):
    return lambda step: min(1, step / steps)


def _linear_decay(step):
    return max(0, 1 - step / (3 * BATCHES - 1))


_EXPERT = ("net.mixture.experts.3.fc1", "net.mixture.experts.3.fc2")
_CHOSEN = "expert never chosen"
_TOGETHER = "expert never chosen, one tensor"

FAULTS = {
    "units that never fire": Case(_kill, _place("dead", "no_gradient")),
    "detached tensor": Case(_detach, _place("cut", "no_gradient")),
    "detached from the second epoch on": Case(_detach_later, _place("cut", "no_gradient")),
    # Momentum goes on for a while.
    "units that die after the first epoch": Case(_kill_later, _dead_later, epochs=30),
    "torch.no_grad()": Case(_unrecord, _place("unrecorded", "no_gradient")),
    "layer that forward does not use": Case(_add_unused, _only("no_gradient", "unused")),
    "two layers in a row start at zero": Case(_zero, _place("zero", "no_gradient")),
    "block left out of the optimizer": Case(_leave_out, _left_out),
    "optimizer of a copy": Case(_set(optimizes_copy=True), _all("not_in_optimizer")),
    "layer replaced after the optimizer": Case(_replace_head, _replaced),
    "learning rate 0": Case(_set(rate=0.0), _all("nothing_moves")),
    "learning rate 0 in the first epoch": Case(
        _set(schedule=(lambda epoch: min(epoch, 1), "epoch")), _all("nothing_moves")
    ),
    "loss times 0": Case(_set(loss_factor=0), _zero_gradients),
    "gradients clipped to 0": Case(_set(clip_to=0), _zero_gradients),
    "weights too coarse": Case(_multiply_rate(1e-3), _rounded, {"precision": "bf16-true"}),
    "nan in one layer": Case(_poison, _poisoned, is_diverging=True),
    "learning rate far too high": Case(_set_rate(1e30), _diverged, is_diverging=True),
    "LoRA B not in the optimizer": Case(_leave_out_b, _if_own("LoRA B not in the optimizer", _b_left_out)),
    "LoRA B frozen": Case(_freeze_b, _if_own("LoRA B frozen", _b_frozen)),
    _CHOSEN: Case(_never_choose, _if_own(_CHOSEN, _only("no_gradient", *_EXPERT))),
}

# Trainings in which all is well.
HEALTHY = {
    "healthy": Case(_nothing, _quiet),
    "warm-up from 0": Case(_set(schedule=(_warm_up(8), "step")), _quiet),
    "decay to 0": Case(_set(schedule=(_linear_decay, "step")), _quiet),
    "frozen block": Case(_freeze, _quiet),
    "block frozen in the first epoch": Case(_freeze_at_first, _quiet),
    "block frozen by its learning rate": Case(_freeze_by_rate, _quiet),
    "block with a tiny learning rate": Case(_slow, _quiet),
    "gradients cleared after each step": Case(_clear, _quiet),
    "tiny learning rate, gradients cleared": Case(_slow_and_clear, _quiet),
    "last layers of branches start at zero": Case(_zero_residual, _needs_residual),
    "stochastic depth": Case(_skip_at_random, _quiet),
    "gradient accumulation": Case(_nothing, _needs_automatic, {"accumulate_grad_batches": 4}),
    "clipped gradients": Case(_nothing, _needs_automatic, {"gradient_clip_val": 0.5}),
    "bf16-mixed": Case(_nothing, _quiet, {"precision": "bf16-mixed"}),
    "generator every fifth batch": Case(_set(generator_every=5), _needs_gan),
    "generator from the second epoch on": Case(_set(generator_from=1), _needs_gan),
    # The other experts of the tensor learn. `measures=["still"]` and `units` show it.
    _TOGETHER: Case(_never_choose, _if_own(_TOGETHER, _quiet)),
}

# What no measurement of weights can tell from good training. These are not run.
OUTSIDE = {
    "shuffled or wrong labels": "weights move as they do with right ones",
    "the sign of the loss": "weights move as fast uphill",
    "data that are not normalised, or normalised twice": "the first layer moves faster or slower, as other recipes do",
    "validation data among the training data": "weights do not know where data come from",
    "no shuffling": "the same gradients come in another order",
    "dropout or batch norm in the wrong mode": "weights move",
    "softmax before a loss that has its own": "gradients are smaller, not zero",
    "gradients that are never set to zero": "weights move as with a high momentum",
    "overfitting": "the training is as it should be",
    "a wrong metric": "it does not reach the weights",
    "one expert of many in one tensor that is never chosen": "the layer learns: `units` and `still` show it",
    "tokens that never occur": "the same",
}
