# SPDX-License-Identifier: Apache-2.0
"""What changed from one saved model to another, layer by layer."""

import math
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from os import PathLike
from typing import TypeAlias

import torch
from torch import Tensor

from lightning_rwc.adapters import Adapter, Factors, adapter_at, has_factors, is_adapter
from lightning_rwc.bits import flat, same_bits
from lightning_rwc.checkpoints import name_list, not_measurable
from lightning_rwc.diff_result import LayerDiff, WeightDiff
from lightning_rwc.functional import Sums, change_ratio, common_dtype, is_measurable
from lightning_rwc.layers import LayerFilter, LayerSelection
from lightning_rwc.movement import moved_share, radial, rotation
from lightning_rwc.sums import prepare_sums
from lightning_rwc.weight_files import WeightFile
from lightning_rwc.weight_folders import find_weight_files
from lightning_rwc.weight_names import match_tied, prefix_hint

# Bytes that are read ahead while others are summed, and elements that are cast at a time.
_AHEAD = 2**27
_CAST = 2**22
_PAGE = 4096
# The names of the scales of quantised weights.
_SCALES = (".weight_scale", ".weight_scale_inv")

# The name of a layer, and those of its parameter in BASE and in TUNED.
_Work: TypeAlias = tuple[str, str, str]
_Reading: TypeAlias = "tuple[_Work, Future[Tensor], Future[Tensor | Factors]]"


def diff_checkpoints(
    base: str | PathLike[str],
    tuned: str | PathLike[str],
    *,
    layers: LayerFilter = None,
    strip_prefix: str | Sequence[str] = (),
    rename: Mapping[str, str] | None = None,
) -> WeightDiff:
    """Measure what changed from one saved model to another, such as from a base model to its fine-tuned version.

    Tensors are read one pair at a time, the next ones while the present ones are summed. Each is read once.

    Layers have the names that BASE has. Names that differ only by wrapping are matched, see
    :func:`~lightning_rwc.weight_names.match_names`.

    Args:
        base: a file or folder that holds one state of a model, as
            :func:`~lightning_rwc.checkpoints.history_of_checkpoints` reads it.
        tuned: another one, or the folder of a LoRA adapter that PEFT saved. An adapter is measured as what it adds to
            the matrices of ``base``.
        layers: which parameters are measured, see :class:`~lightning_rwc.layers.LayerSelection`. By default these are
            matrices and kernels. ``lambda name, parameter: True`` takes vectors and biases in.
        strip_prefix: modules to leave out at the start of names, such as ``"net"``.
        rename: maps a module or parameter, as ``base`` calls it, to what ``tuned`` calls it.

    Raises:
        ValueError: if an argument is invalid, there is not exactly one state at a path, or the two have no layer of the
            same name and shape in common. Also if a file is broken, unsafe to read, or without weights.
        FileNotFoundError: if a path does not exist.
        ModuleNotFoundError: if a file needs the package safetensors and it is missing.

    """
    adapter = None if is_adapter(base) else adapter_at(tuned)
    before, after = _one("base", base), adapter or _one("tuned", tuned)
    try:
        return _Comparison(before, after, adapter, LayerSelection(layers)).run(strip_prefix, rename)
    finally:
        before.close()
        after.close()


class _Comparison:
    def __init__(
        self, before: WeightFile, after: WeightFile, adapter: Adapter | None, selection: LayerSelection
    ) -> None:
        self._before, self._after, self._adapter, self._selection = before, after, adapter, selection
        self._left_out: dict[str, str] = {}

    def run(self, strip_prefix: str | Sequence[str], rename: Mapping[str, str] | None) -> WeightDiff:
        earlier, later = self._before.parameters, self._after.parameters
        added = self._adapter.added if self._adapter else set()
        names = match_tied(self._before, self._after, strip_prefix=strip_prefix, rename=rename)
        if not names.pairs:
            raise ValueError(self._nothing_common(earlier, later))
        raw = {shown: (old, new) for shown, old, new in names.pairs}
        if self._after.keeps_order and not self._before.keeps_order:
            place = {name: number for number, name in enumerate(later)}
            raw = dict(sorted(raw.items(), key=lambda item: place[item[1][1]]))
        reshaped = {
            shown: (tuple(earlier[old].shape), tuple(later[new].shape))
            for shown, (old, new) in raw.items()
            if new not in added and earlier[old].shape != later[new].shape
        }
        # A tied tensor may be there twice, and must be two objects then.
        tensors = {shown: earlier[old].detach() for shown, (old, _) in raw.items()}
        self._left_out = not_measurable(tensors, self._selection)
        chosen = self._chosen(tensors)
        work = [(layer, *raw[shown]) for layer, shown in chosen.items() if shown not in reshaped]
        measured = [found for one in self._read_ahead(work) if (found := self._measure(*one)) is not None]
        if not measured:
            raise ValueError(self._nothing_measured(reshaped))
        layers = [layer for layer, _ in measured]
        seen = {*reshaped, *(chosen[layer.layer] for layer in layers)}
        alike = all(layer.identical for layer in layers)
        layer_of = {shown: layer for layer, shown in chosen.items()}
        rest = [shown for shown in raw if alike and shown not in seen]
        same = {shown: self._same(layer_of.get(shown, shown), *raw[shown]) for shown in rest}
        others = [shown for shown, found in same.items() if found is False]
        notes = [*names.rules, *self._notes(raw, later)]
        total = _total([(layer, sums) for layer, sums in measured if not math.isnan(layer.l1)])
        lists = (names.only_base if not self._adapter else []), names.only_tuned
        alone = [
            name for names, held in zip(lists, (earlier, later), strict=True) for name in names if _floats(held[name])
        ]
        unsure = [*alone, *(shown for shown, found in same.items() if found is None)]
        sides = str(self._before), str(self._after)
        return WeightDiff(*sides, layers, total, len(raw), *lists, reshaped, self._left_out, others, notes, unsure)

    def _chosen(self, tensors: Mapping[str, Tensor]) -> dict[str, str]:
        """Map names of layers to names of parameters."""
        names = {id(tensor): name for name, tensor in tensors.items()}
        found = self._selection.require(tensors)
        return {layer: names[id(tensor)] for layer, parameters in found.items() for tensor in parameters.values()}

    def _read_ahead(self, work: Iterable[_Work]) -> Iterator[_Reading]:
        """Each piece of work with its tensors, which a thread for each file has begun to read."""
        waiting: deque[tuple[int, _Reading]] = deque()
        ahead = 0
        with ThreadPoolExecutor(1) as first, ThreadPoolExecutor(1) as second:
            for one in work:
                _, old, new = one
                size = self._before.parameters[old].nbytes + self._after.parameters[new].nbytes
                futures = first.submit(_read, self._before, old), second.submit(self._read_tuned, old, new)
                waiting.append((size, (one, *futures)))
                ahead += size
                while len(waiting) > 1 and ahead > _AHEAD:
                    size, present = waiting.popleft()
                    ahead -= size
                    yield present
            while waiting:
                yield waiting.popleft()[1]

    def _read_tuned(self, old: str, new: str) -> Tensor | Factors:
        if self._adapter and new in self._adapter.added:
            return self._adapter.factors(new, self._before.parameters[old].shape)
        return _read(self._after, new)

    def _measure(
        self, one: _Work, old: "Future[Tensor]", new: "Future[Tensor | Factors]"
    ) -> tuple[LayerDiff, Tensor] | None:
        layer, name, _ = one
        try:
            p, c = old.result(), new.result()
            if isinstance(c, Factors):
                sums, rounded, identical, dtypes = c.sums(p), 0, False, (p.dtype, p.dtype)
            else:
                sums, rounded = _sums(p, c)
                may_be = not Sums(*sums).moved or not sums.isfinite().all()
                identical, dtypes = may_be and same_bits(p, c), (p.dtype, c.dtype)
        except (MemoryError, OSError):
            raise
        except Exception as error:
            # PyTorch can store some kinds of tensors with which it cannot compute.
            self._left_out[layer] = str(error)
            return None
        shape = tuple(self._before.parameters[name].shape)
        return _layer_diff(layer, sums, p.numel(), shape, _names_of(dtypes), rounded, identical), sums

    def _same(self, layer: str, old: str, new: str) -> bool | None:
        try:
            return same_bits(self._before.read(old), self._after.read(new))
        except (MemoryError, OSError):
            raise
        except Exception as error:
            # As above.
            self._left_out.setdefault(layer, str(error))
            return None

    def _notes(self, raw: Mapping[str, tuple[str, str]], later: Mapping[str, Tensor]) -> Iterator[str]:
        if any(name.endswith(_SCALES) for name in (*self._before.parameters, *later)):
            yield (
                "Some weights are quantised, with their scales next to them (`weight_scale`). Scales are not applied "
                "here, so that l1, l2 and radial of these layers mean nothing. Compare models that are not quantised."
            )
        if self._adapter:
            count = sum(new in self._adapter.added for _, new in raw.values())
            yield (
                f"TUNED is a LoRA adapter. It adds B·A·scale to {count} of the {len(self._before.parameters)} tensors "
                "of BASE, and only what it has is measured."
            )
            if self._adapter.note:
                yield self._adapter.note
        elif has_factors(later) and not has_factors(self._before.parameters):
            yield (
                "TUNED holds LoRA factors that are not merged into its weights. What they add is not measured here: "
                "merge them, or save the adapter with PEFT's `save_pretrained` and give its folder."
            )

    def _nothing_common(self, earlier: Mapping[str, Tensor], later: Mapping[str, Tensor]) -> str:
        hint = prefix_hint(earlier, [*later])
        remedy = f"Try `--strip-prefix {hint}`" if hint else "Say with `--map OLD=NEW` what TUNED calls OLD of BASE"
        return (
            f"`base` and `tuned` must be states of one model, but {self._before} and {self._after} have no name in "
            f"common. The first has {name_list(earlier)}. The second has {name_list(later)}. {remedy}."
        )

    def _nothing_measured(self, reshaped: Mapping[str, object]) -> str:
        reasons = [f"{name!r}: {reason}" for name, reason in self._left_out.items()]
        what = (
            f"have other shapes ({name_list(reshaped)})" if reshaped else f"cannot be measured ({'; '.join(reasons)})"
        )
        return f"There is no layer to compare in {self._before} and {self._after}: all that are chosen {what}."


def _one(argument: str, path: str | PathLike[str]) -> WeightFile:
    files = find_weight_files(path)
    if len(files) != 1:
        found = name_list(dict.fromkeys(map(str, files)))
        raise ValueError(
            f"`{argument}` must give one state of a model, but {str(path)!r} gives {len(files)}: {found}. Name one."
        )
    return files[0]


def _read(file: WeightFile, name: str) -> Tensor:
    tensor = file.read(name)
    if tensor.is_quantized:
        return tensor  # Its bytes have no other view.
    row = flat(tensor)
    # A file that is mapped into memory is read only where a page is touched.
    row.view(torch.uint8)[::_PAGE].sum()
    return row


def _sums(previous: Tensor, current: Tensor) -> tuple[Tensor, int]:
    """The sums of the change, and how many elements the cast to the dtype of ``current`` changes."""
    if not is_measurable(current):
        raise TypeError(f"it is {current.dtype} in TUNED")
    if previous.dtype == current.dtype:
        return prepare_sums([previous], [current])("l1", False), 0
    total, rounded = torch.zeros(len(Sums._fields), 1, dtype=torch.float64), 0
    both = common_dtype(previous.dtype, current.dtype)
    for p, c in zip(previous.split(_CAST), current.split(_CAST), strict=True):
        cast = p.to(current.dtype)
        rounded += int((cast.to(both) != p.to(both)).sum())
        total += prepare_sums([cast], [c])("l1", False)
    return total, rounded


def _floats(tensor: Tensor) -> bool:
    return tensor.is_floating_point() or tensor.is_complex() or tensor.is_quantized


def _layer_diff(  # noqa: PLR0917
    layer: str,
    sums: Tensor,
    elements: int,
    shape: tuple[int, ...],
    dtypes: tuple[str, str],
    rounded: int,
    identical: bool,
) -> LayerDiff:
    of = Sums(*sums)
    squares = torch.stack([of.squared_change, of.squared_size, of.moved])
    return LayerDiff(
        layer,
        l1=change_ratio(sums, "l1").item(),
        l2=change_ratio(squares, "l2").item(),
        rotation=rotation(sums).item(),
        radial=radial(sums).item(),
        moved=moved_share(sums, torch.tensor([elements])).item(),
        elements=elements,
        shape=shape,
        dtypes=dtypes,
        rounded=rounded / max(elements, 1),
        identical=identical,
    )


def _total(measured: Sequence[tuple[LayerDiff, Tensor]]) -> LayerDiff:
    layers = [layer for layer, _ in measured]
    sums = sum((sums for _, sums in measured), torch.zeros(len(Sums._fields), 1, dtype=torch.float64))
    elements = sum(one.elements for one in layers)
    rounded = round(sum(one.rounded * one.elements for one in layers))
    before, after = (", ".join(dict.fromkeys(one.dtypes[side] for one in layers)) for side in (0, 1))
    identical = all(one.identical for one in layers)
    return _layer_diff("all layers", sums, elements, (elements,), (before, after), rounded, identical)


def _names_of(dtypes: tuple[torch.dtype, torch.dtype]) -> tuple[str, str]:
    first, second = (str(dtype).removeprefix("torch.") for dtype in dtypes)
    return first, second
