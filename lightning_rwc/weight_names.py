# SPDX-License-Identifier: Apache-2.0
"""Which parameter of one saved model is which of another one, although their names differ by wrapping."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from lightning_rwc.weight_files import WeightFile

# torch.compile, FSDP, activation checkpointing and PEFT put these components anywhere into a name.
_ANYWHERE = {"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "base_layer"}
# PEFT, DDP, and the attribute that most modules have for the model that they train put these before a name.
_LEADING = ("base_model.model.", "module.", "model.")
_NAMES_IN_ERROR = 3


class Matching(NamedTuple):
    """The parameters of two models, by name."""

    pairs: list[tuple[str, str, str]]
    """For each parameter that both have: its name here, in BASE, and in TUNED. They are in the order of BASE."""
    only_base: list[str]
    only_tuned: list[str]
    rules: list[str]
    """How names were matched, in words. It is empty if they are the same."""


def match_names(
    base: Iterable[str],
    tuned: Iterable[str],
    *,
    strip_prefix: str | Sequence[str] = (),
    rename: Mapping[str, str] | None = None,
) -> Matching:
    """Match the parameters of two models.

    Parameters of the same name belong together. Of the others, those belong together whose names are the same without
    ``_orig_mod.``, ``_fsdp_wrapped_module.``, ``_checkpoint_wrapped_module.`` and ``base_layer.``, and without
    ``base_model.model.``, ``module.`` and ``model.`` at their start. A name that would then stand for several
    parameters of a model stays without a partner.

    Args:
        base: the names in BASE.
        tuned: the names in TUNED.
        strip_prefix: modules to leave out at the start of names, in both: ``"net"`` makes ``net.fc.weight``
            ``fc.weight``.
        rename: maps a module or parameter, as BASE calls it, to what TUNED calls it: ``{"encoder.blocks": "layers"}``.

    Returns:
        The pairs, under the names of BASE without ``strip_prefix``.

    Raises:
        ValueError: if ``strip_prefix`` or ``rename`` fits no name, or leaves two parameters with the same name.

    Example:
        >>> match_names(["fc.weight"], ["model._orig_mod.fc.weight"]).rules
        ['“_orig_mod.” is left out of 1 name of TUNED.', '“model.” is left out of 1 name of TUNED.']

    """
    prefixes = [strip_prefix] if isinstance(strip_prefix, str) else list(strip_prefix)
    short = {"BASE": {name: name for name in base}, "TUNED": {name: name for name in tuned}}
    rules = [rule for prefix in prefixes for rule in _strip(short, f"{prefix.rstrip('.')}.")]
    shown = dict(short["BASE"])
    rules += [_rename(short["BASE"], old, new) for old, new in (rename or {}).items()]
    for side, names in short.items():
        _require_distinct(side, names)
    raw = {side: {name: own for own, name in names.items()} for side, names in short.items()}
    bare = {side: {name: _bare(name) for name in names} for side, names in raw.items()}
    counts = {side: Counter(one for one, _ in names.values()) for side, names in bare.items()}
    bare_tuned = {one: name for name, (one, _) in bare["TUNED"].items()}
    partners: dict[str, str] = {}
    left_out: Counter[tuple[str, str]] = Counter()
    for name, (one, wrappers) in bare["BASE"].items():
        if name in raw["TUNED"]:
            partners[name] = name
        elif counts["BASE"][one] == counts["TUNED"][one] == 1:
            partners[name] = partner = bare_tuned[one]
            other = bare["TUNED"][partner][1]
            left_out.update(("BASE", wrapper) for wrapper in wrappers - other)
            left_out.update(("TUNED", wrapper) for wrapper in other - wrappers)
    rules += [_left_out(wrapper, count, side) for (side, wrapper), count in left_out.items()]
    taken = {*partners.values()}
    return Matching(
        [(shown[raw["BASE"][name]], raw["BASE"][name], raw["TUNED"][partner]) for name, partner in partners.items()],
        [own for own, name in short["BASE"].items() if name not in partners],
        [own for own, name in short["TUNED"].items() if name not in taken],
        rules,
    )


def match_tied(
    base: WeightFile,
    tuned: WeightFile,
    *,
    strip_prefix: str | Sequence[str] = (),
    rename: Mapping[str, str] | None = None,
) -> Matching:
    """Like :func:`match_names`, but a tied tensor, which a file stores once, is found under each of its names."""
    sides = base.aliases, tuned.aliases
    every = (_with_aliases(file.parameters, aliases) for file, aliases in zip((base, tuned), sides, strict=True))
    found = match_names(*every, strip_prefix=strip_prefix, rename=rename)
    pairs: dict[tuple[str, str], str] = {}
    for shown, old, new in found.pairs:
        # What is tied in both is one pair.
        pairs.setdefault((sides[0].get(old, old), sides[1].get(new, new)), shown)
    stored = (
        dict.fromkeys(aliases.get(name, name) for name in only)
        for aliases, only in zip(sides, (found.only_base, found.only_tuned), strict=True)
    )
    taken = {old for old, _ in pairs}, {new for _, new in pairs}
    only_base, only_tuned = ([name for name in names if name not in taken[side]] for side, names in enumerate(stored))
    return Matching([(shown, *pair) for pair, shown in pairs.items()], only_base, only_tuned, found.rules)


def prefix_hint(base: Iterable[str], tuned: Sequence[str]) -> str | None:
    """The prefix that most names of one model have before a name of the other.

    Example:
        >>> prefix_hint(["fc.weight", "fc.bias"], ["net.fc.weight", "net.fc.bias"])
        'net'

    """
    base, found = [*base], Counter[str]()
    for these, others in ((base, tuned), (tuned, base)):
        known = {*these}
        for name in others:
            parts = name.split(".")
            found.update(".".join(parts[:end]) for end in range(1, len(parts)) if ".".join(parts[end:]) in known)
    return found.most_common(1)[0][0] if found else None


def _with_aliases(names: Iterable[str], aliases: Iterable[str]) -> list[str]:
    """The names, and those aliases that differ from them by more than wrapping."""
    every = [*names]
    known = {_bare(name)[0] for name in every}
    for alias in aliases:
        if (bare := _bare(alias)[0]) not in known:
            known.add(bare)
            every.append(alias)
    return every


def _strip(short: Mapping[str, dict[str, str]], prefix: str) -> list[str]:
    counts = {}
    for side, names in short.items():
        fitting = [own for own, name in names.items() if name.startswith(prefix)]
        names.update({own: names[own].removeprefix(prefix) for own in fitting})
        counts[side] = len(fitting)
    if not any(counts.values()):
        raise ValueError(f"`strip_prefix` has {prefix!r}, but no name begins with it. {_examples(short)}")
    return [_left_out(prefix, count, side) for side, count in counts.items() if count]


def _rename(names: dict[str, str], old: str, new: str) -> str:
    pattern = re.compile(rf"(?<![^.]){re.escape(old)}(?![^.])")
    renamed = {own: pattern.sub(lambda _: new, name) for own, name in names.items() if pattern.search(name)}
    if not renamed:
        raise ValueError(f"`rename` has {old!r}, but no name of BASE has that part. {_examples({'BASE': names})}")
    names.update(renamed)
    return f"“{old}” in {_names(len(renamed))} of BASE is “{new}” in TUNED."


def _require_distinct(side: str, names: Mapping[str, str]) -> None:
    for name, count in Counter(names.values()).items():
        if count > 1:
            both = [own for own in names if names[own] == name]
            raise ValueError(
                f"`strip_prefix` and `rename` call {both[0]!r} and {both[1]!r} of {side} both {name!r}. Leave out one."
            )


def _bare(name: str) -> tuple[str, Counter[str]]:
    """The name without wrappers, and these."""
    *modules, last = name.split(".")
    wrappers = Counter(f"{part}." for part in modules if part in _ANYWHERE)
    rest = ".".join([*(part for part in modules if part not in _ANYWHERE), last])
    while start := next((one for one in _LEADING if rest.startswith(one)), None):
        rest = rest.removeprefix(start)
        wrappers[start] += 1
    return rest, wrappers


def _left_out(prefix: str, count: int, side: str) -> str:
    return f"“{prefix}” is left out of {_names(count)} of {side}."


def _names(count: int) -> str:
    return f"{count:,} name{'s' if count != 1 else ''}"


def _examples(short: Mapping[str, Mapping[str, str]]) -> str:
    return " ".join(
        f"{side} has {', '.join([*map(repr, names.values())][:_NAMES_IN_ERROR])}." for side, names in short.items()
    )
