# SPDX-License-Identifier: Apache-2.0
"""Rules that state facts: no threshold of theirs is a matter of taste."""

import math
from collections.abc import Callable, Container, Sequence
from typing import NamedTuple

from lightning_rwc.findings.facts import LayerFacts, Thaw
from lightning_rwc.findings.finding import listing, one_or_more
from lightning_rwc.findings.gradients import Gradient
from lightning_rwc.movement import ROUNDING
from lightning_rwc.replicas import Difference

# For so many optimizer steps in a row most rules must apply before they are told. Layers that start at zero keep
# gradients from others in the first few steps, and a warm-up may begin at a learning rate of 0.
PATIENCE = 10
# So many ranks are named.
_NAMED = 8
# Without a gradient, a step of decay by the sign of each weight makes a layer at least so much shorter as it turns it.
SHRINKING = 0.5
FINITE_REMEDY = (
    "Lower the learning rate, clip gradients, or look for a division by zero or a logarithm of zero in the loss."
)
GRADIENT_REMEDY = (
    "Look for units that never fire, a factor that is zero, a `detach()`, a `torch.no_grad()`, or a layer that "
    "`forward` does not use."
)


class Scene(NamedTuple):
    """A measurement, as rules see it."""

    layers: Sequence[LayerFacts]
    steps: int
    """The optimizer steps since the snapshot."""
    has_optimizers: bool
    """Whether the Trainer has an optimizer at all."""
    is_sampled: bool
    """Whether values are estimates, so that a few elements may have moved unseen."""
    spans_ranks: bool
    """Whether each rank measured a part only, so that one that failed made all values ``nan``."""
    had_gradients: bool
    """Whether any parameter had a gradient when its optimizer stepped. Manual optimization may clear it at once."""
    quiet: Container[str]
    """Layers whose gradient was exactly zero in each of many batches in a row."""
    all_frozen: bool = False
    """Whether optimizers step, but neither the module nor an optimizer has a parameter that requires gradients."""
    thaw: Thaw | None = None
    """A promise to thaw layers, if it is due and has not been kept."""
    epoch: int = 0
    difference: Difference | None = None
    """Which layers are not the same on all ranks, if some are not."""


class Rule(NamedTuple):
    """A kind of finding."""

    kind: str
    suspects: Callable[[Scene], list[LayerFacts]]
    """The layers to which it applies at one measurement."""
    message: Callable[[Scene, list[LayerFacts], int], str]
    """Of the scene, the layers to tell of, and for how many steps it has applied to them."""
    once: bool = False
    """Whether later layers say nothing new."""
    patience: int = 1
    """For how many optimizer steps in a row it must apply before it is told."""


def _non_finite(scene: Scene) -> list[LayerFacts]:
    found = [layer for layer in scene.layers if math.isnan(layer.change)]
    return [] if scene.spans_ranks and len(found) == len(scene.layers) else found


def _non_finite_message(scene: Scene, found: list[LayerFacts], steps: int) -> str:
    others = "" if len(found) < len(scene.layers) else " By now no layer is finite."
    return (
        f"{listing(_names(found))} {one_or_more(found, 'has', 'have')} a weight that is nan, infinite or too large "
        f"to sum. The first of them in depth is {found[0].name!r}.{others} {FINITE_REMEDY} "
        "`every_n_train_steps=1` shows which layer is the first."
    )


def _not_in_optimizer(scene: Scene) -> list[LayerFacts]:
    if not scene.has_optimizers:
        return []
    return [layer for layer in scene.layers if layer.is_held_by_nobody and layer.moved == 0]


def _not_in_optimizer_message(scene: Scene, found: list[LayerFacts], steps: int) -> str:
    still = f" {one_or_more(found, 'It does', 'They do')} not move." if all(layer.moved == 0 for layer in found) else ""
    gradients = (
        f" {one_or_more(found, 'It gets', 'They get')} gradients, which nobody uses."
        if _all(found, Gradient.SOME)
        else ""
    )
    return (
        f"{listing(_names(found))} {one_or_more(found, 'requires', 'require')} gradients, but no optimizer of the "
        f"Trainer has {one_or_more(found, 'its', 'their')} parameters.{still}{gradients} Pass these parameters to "
        "the optimizer in `configure_optimizers`. Make sure that it is built from the parameters of the model that "
        "trains, not from a copy. If they should stay as they are, call `requires_grad_(False)` on them."
    )


def _nothing_moves(scene: Scene) -> list[LayerFacts]:
    trainable = [layer for layer in scene.layers if layer.is_trainable]
    held = [layer for layer in trainable if any(holder.has_stepped for holder in layer.holders)]
    rounding = scene.steps * ROUNDING
    if scene.steps < 1 or not held:
        return []
    for layer in trainable:
        shrinks = layer.is_held and _only_shrinks(layer, rounding) and layer.gradient is not Gradient.SOME
        if layer.moved != 0 and not shrinks and layer.name not in scene.quiet:
            return []
    if any(layer.is_coarse and layer.gradient is Gradient.SOME for layer in held):
        return []  # `rounded_away` says more
    return trainable


def _nothing_moves_message(scene: Scene, found: list[LayerFacts], steps: int) -> str:
    held = [layer for layer in found if layer.holders]
    decay = ", except by weight decay" if any(layer.moved > 0 for layer in found) else ""
    rates = {holder.learning_rate for layer in held for holder in layer.holders}
    if rates == {0.0}:
        cause = "The learning rate of all of them is 0. Check the learning rate, and the first value of its scheduler."
    elif _all(held, Gradient.MISSING) and scene.had_gradients:
        cause = (
            "Their gradients have been cleared since. They may have been zero or clipped to zero, or each update may "
            "be too small for the number format of the weights."
        )
    elif _all(held, Gradient.MISSING):
        cause = (
            "None of them has a gradient. Look for a `detach()`, a `torch.no_grad()`, or a loss that does not depend "
            "on the model."
        )
    elif _all(held, Gradient.NOT_FINITE):
        cause = (
            "Their gradients are not finite, so mixed precision skips the step. Lower the learning rate, or look for a "
            "division by zero in the loss."
        )
    elif _all(held, Gradient.ZERO):
        cause = (
            "All of their gradients are exactly zero. Look for a loss that is multiplied by zero, gradients that are "
            "clipped to zero, or a layer through which no gradient passes."
        )
    else:
        cause = (
            "They have gradients and a learning rate. So each update is too small for the number format of the "
            "weights, or the optimizer does not apply it. Raise the learning rate, or keep weights in float32."
        )
    return (
        f"{steps} optimizer steps were taken, and no tracked weight that requires gradients has changed{decay}. {cause}"
    )


def _nothing_trainable(scene: Scene) -> list[LayerFacts]:
    return [*scene.layers] if scene.all_frozen and scene.steps else []


def _nothing_trainable_message(scene: Scene, found: list[LayerFacts], steps: int) -> str:
    return (
        f"{steps} optimizer steps were taken, but no parameter of the model requires gradients, so nothing can learn. "
        "The loss may still have a gradient: of an input, or because of `loss.requires_grad_()`, which only hides the "
        "error. Look for `requires_grad_(False)`, `freeze()`, or a callback that freezes, and call "
        "`requires_grad_(True)` on what should learn. If nothing should, let `configure_optimizers` return None."
    )


def is_thawed(layer: LayerFacts) -> bool:
    """Whether a layer trains. If no optimizer has it, ``not_in_optimizer`` says so."""
    return layer.is_trainable and not layer.has_rate_zero


def _not_thawed(scene: Scene) -> list[LayerFacts]:
    if scene.thaw is None or scene.all_frozen:
        return []
    promised = [layer for layer in scene.layers if layer.name in scene.thaw.layers]
    if any(map(is_thawed, promised)):
        return []
    rates = [holder.learning_rate for layer in scene.layers for holder in layer.holders]
    if any(layer.has_rate_zero for layer in promised) and not any(rates):
        return []  # `nothing_moves` says more
    return promised


def _not_thawed_message(scene: Scene, found: list[LayerFacts], steps: int) -> str:
    thaw = scene.thaw
    assert thaw is not None
    names = listing(_names(found))
    if all(layer.has_rate_zero for layer in found):
        return (
            f"{thaw.callback} has thawed {names}, but with a learning rate of 0, which changes nothing. Check "
            "`backbone_initial_lr`, `backbone_initial_ratio_lr` and `lambda_func`."
        )
    if thaw.first_epoch > thaw.epoch:
        cause = (
            f"This fit began in epoch {thaw.first_epoch}. Each fit begins with frozen layers, also after a resume, and "
            f"the callback thaws them only as epoch {thaw.epoch} begins (issue 21901 of Lightning). Call "
            "`requires_grad_(True)` on these layers in `on_train_start` of your module, and make sure that the "
            "optimizer has them."
        )
    else:
        cause = (
            "Look for another callback, or a method of your module, that freezes them again. If the run was resumed, "
            f"it may have skipped the beginning of epoch {thaw.epoch}: then call `requires_grad_(True)` on these "
            "layers in `on_train_start` of your module."
        )
    return (
        f"{thaw.callback} should have thawed {names} as epoch {thaw.epoch} began, but in epoch {scene.epoch} "
        f"{one_or_more(found, 'it is', 'they are')} still frozen. {cause}"
    )


def never_thawed(thaw: Thaw) -> str:
    """The message if training ends before layers are to be thawed."""
    one = len(thaw.layers) == 1
    return (
        f"{listing(thaw.layers)} will never be thawed: {thaw.callback} thaws {'it' if one else 'them'} as epoch "
        f"{thaw.epoch} begins, but the last epoch is {(thaw.epochs or 0) - 1}. Lower `unfreeze_backbone_at_epoch`, or "
        f"train for more than {thaw.epoch} epochs. If {'it' if one else 'they'} should stay frozen, call "
        "`requires_grad_(False)` instead of using the callback."
    )


def _no_gradient(scene: Scene) -> list[LayerFacts]:
    rounding = max(scene.steps, 1) * ROUNDING
    held = [layer for layer in scene.layers if layer.is_updated]
    learning = [layer for layer in held if layer.rotation > rounding and layer.name not in scene.quiet]
    suspects = [layer for layer in held if _only_decays(layer, rounding) or layer.name in scene.quiet]
    if scene.steps < 1 or not learning or not suspects:
        return []
    if not any(layer.gradient is Gradient.SOME for layer in learning):
        # Gradients have been cleared. Those of suspects are watched.
        return [layer for layer in suspects if layer.name in scene.quiet]
    # A layer with a gradient moves too little for its number format, or for the sample.
    return [layer for layer in suspects if layer.gradient not in (Gradient.SOME, Gradient.NOT_FINITE)]


def may_have_no_gradient(layer: LayerFacts, steps: int) -> bool:
    """Whether the movement of ``layer`` looks like that of one without a gradient, but its gradient has to tell."""
    if not layer.is_updated or layer.gradient not in (Gradient.ZERO, Gradient.MISSING):
        return False
    return _only_decays(layer, steps * ROUNDING) or (layer.decay_turns and -layer.growth > SHRINKING * layer.rotation)


def _only_decays(layer: LayerFacts, rounding: float) -> bool:
    # A group with a learning rate of 0 is frozen on purpose.
    return _only_shrinks(layer, rounding) and not any(holder.learning_rate == 0 for holder in layer.holders)


def _only_shrinks(layer: LayerFacts, rounding: float) -> bool:
    # A single number cannot turn.
    turns = sum(parameter.numel() for parameter in layer.parameters) > 1
    return layer.moved == 0 or (turns and layer.rotation <= rounding and layer.growth <= rounding)


def _no_gradient_message(scene: Scene, found: list[LayerFacts], steps: int) -> str:
    have = one_or_more(found, "has", "have")
    moves = f"{have} changed only by weight decay" if any(layer.moved > 0 for layer in found) else f"{have} not changed"
    learning = [layer for layer in scene.layers if layer.is_held and layer not in found]
    trainable = [layer for layer in scene.layers if layer.is_held]
    whose, where = one_or_more(found, "Its", "Their"), ""
    if learning and trainable[: len(found)] == found:
        where = (
            f" No gradient gets past {found[-1].name!r} or the step behind it: the first layer that learns is "
            f"{learning[0].name!r}."
        )
    if not any(layer.gradient is Gradient.SOME for layer in learning):
        # Gradients have been cleared, or cannot be seen here.
        cause = GRADIENT_REMEDY
    elif _all(found, Gradient.MISSING):
        cause = (
            f"{whose} gradient is missing: look for a `detach()`, a `torch.no_grad()`, or a layer that `forward` does "
            "not use."
        )
    else:
        cause = (
            f"{whose} gradient is zero: look for units that never fire, a factor that is zero, or two layers in a row "
            "that start at zero."
        )
    return f"{listing(_names(found))} {moves} in {steps} steps, while other layers learn.{where} {cause}"


def _rounded_away(scene: Scene) -> list[LayerFacts]:
    # Elements that have a gradient should move. Ten times more have one than have moved.
    return [
        layer
        for layer in scene.layers
        if layer.moved < 0.1
        and scene.steps
        and layer.is_updated
        and layer.is_coarse
        and layer.moved < 0.1 * layer.gradient_share
    ]


def _rounded_away_message(scene: Scene, found: list[LayerFacts], steps: int) -> str:
    most = max(layer.moved for layer in found)
    return (
        f"At most {most:.1%} of the elements of {listing(_names(found))} have changed in {steps} steps, "
        "although ten times as many have a gradient. Their number format is too coarse for such small updates, which "
        "are rounded away. Keep the weights in float32 (`precision='bf16-mixed'`), raise the learning rate, or use an "
        "optimizer with stochastic rounding."
    )


def _replicas_differ(scene: Scene) -> list[LayerFacts]:
    return [layer for layer in scene.layers if scene.difference is not None and layer.name in scene.difference.layers]


def _replicas_differ_message(scene: Scene, found: list[LayerFacts], steps: int) -> str:
    assert scene.difference is not None
    odd, count, names = scene.difference.ranks, scene.difference.world_size, listing(_names(found))
    if not odd:
        what = f"{names} {one_or_more(found, 'does', 'do')} not have the same weights on all {count} ranks."
    else:
        which = f"rank{'s' * (len(odd) > 1)} {', '.join(map(str, odd))}" if len(odd) <= _NAMED else f"{len(odd)} ranks"
        what = f"{names} {one_or_more(found, 'has', 'have')} other weights on {which} than on the rest of {count}."
    return (
        f"{what} DDP averages gradients, not weights, so ranks that have parted stay apart. A checkpoint has the "
        "weights of rank 0 only. Most often DDP does not know the parameters, because they were frozen or did not "
        "exist when the Trainer wrapped the model. Then it does not average their gradients. Otherwise look for code "
        "that changes weights on some ranks only, for an optimizer step inside `no_sync`, or for ranks that have "
        "loaded different files. To make ranks equal again, resume from a checkpoint."
    )


def _names(found: Sequence[LayerFacts]) -> list[str]:
    return [layer.name for layer in found]


def _all(found: Sequence[LayerFacts], gradient: Gradient) -> bool:
    return all(layer.gradient is gradient for layer in found)


NOT_IN_OPTIMIZER = Rule("not_in_optimizer", _not_in_optimizer, _not_in_optimizer_message, patience=PATIENCE)
NOT_THAWED = Rule("not_thawed", _not_thawed, _not_thawed_message, patience=PATIENCE)
CERTAIN = (
    Rule("non_finite", _non_finite, _non_finite_message, once=True),
    NOT_IN_OPTIMIZER,
    Rule("nothing_moves", _nothing_moves, _nothing_moves_message, once=True, patience=PATIENCE),
    Rule("no_gradient", _no_gradient, _no_gradient_message, patience=PATIENCE),
    Rule("replicas_differ", _replicas_differ, _replicas_differ_message),
    Rule("rounded_away", _rounded_away, _rounded_away_message, patience=PATIENCE),
    Rule("nothing_trainable", _nothing_trainable, _nothing_trainable_message, once=True, patience=PATIENCE),
    NOT_THAWED,
)
