# SPDX-License-Identifier: Apache-2.0
"""How layers moved between saved weights, without training."""

import math
import warnings
from collections.abc import Mapping, Sequence
from os import PathLike
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_rwc.findings.afterwards import LayerMove, findings_of_moves
from lightning_rwc.findings.finding import Finding
from lightning_rwc.functional import change_ratio, is_measurable
from lightning_rwc.history import RWCHistory
from lightning_rwc.layers import GroupBy, LayerFilter, LayerSelection
from lightning_rwc.movement import MOVEMENTS, Evidence, radial, rotation
from lightning_rwc.norms import Norm
from lightning_rwc.options import RelativeTo, check_norm, check_relative_to
from lightning_rwc.quantity import RWC
from lightning_rwc.sums import prepare_sums
from lightning_rwc.units import can_turn, row_count
from lightning_rwc.weight_files import WeightFile
from lightning_rwc.weight_folders import find_weight_files

_NAMES_IN_ERROR = 5


def history_of_checkpoints(
    paths: str | PathLike[str] | Sequence[str | PathLike[str]],
    *,
    norm: Norm = "l1",
    relative_to: RelativeTo = "previous",
    layers: LayerFilter = None,
    group_by: GroupBy = None,
    measure: str = RWC,
) -> RWCHistory:
    """Measure how far each layer moved from one file of weights to the next.

    Files are mapped into memory and read one parameter at a time, so that two files take little memory. Only weights
    are unpickled (``weights_only=True``), and the index of a distributed checkpoint, with nothing in it that could run
    code.

    Layers have the same names as in :class:`~lightning_rwc.RWCCallback`. Saved weights differ from a model in three
    ways:

    - A state dict does not distinguish parameters from buffers. The default rule for ``layers`` leaves out almost all
      buffers.
    - Safetensors files do not keep the order of parameters. Their layers are in natural order of their names. So are
      those of a distributed checkpoint of torchtitan.
    - Distributed checkpoints, and programs other than PyTorch, may store tied parameters twice. They then count twice.

    Args:
        paths: files in the order in which to compare them, folders, or patterns (``"run/*.ckpt"``). Each may be an
            address that fsspec opens (``"s3://…"``). Then only the weights that are measured are downloaded, except of
            files of torch.save, which are downloaded whole. These are read:

            - Lightning checkpoints and state dicts (``.ckpt``, ``.pt``, ``.pth``, ``.pth.tar``, ``.bin``), and
              ``.safetensors``. For a sharded model, give its ``.index.json`` or its folder.
            - Distributed checkpoints: the folders that Lightning's ``ModelParallelStrategy``, torchtitan and Accelerate
              write. Their optimizers are left out.
            - The files of a folder or a pattern, in natural order (``epoch=2`` before ``epoch=10``). In a folder, a
              Lightning checkpoint of the same epoch and step as an earlier one is skipped, such as ``last.ckpt``.
            - A folder that Transformers, PEFT, Diffusers or Accelerate wrote, as one state of the model. Only the files
              of the model are read. If they exist in several forms, safetensors take precedence over ``.bin``, and
              plain files over variants such as ``fp16``. The name of a subfolder becomes a prefix (``unet.``).
            - A folder of such folders with numbers (``checkpoint-500``), as a series.
        norm: the definition, see :func:`~lightning_rwc.functional.relative_weight_change`.
        relative_to: ``"previous"`` compares each file with the one before it, ``"initial"`` with the first one.
        layers: which parameters are tracked, see :class:`~lightning_rwc.layers.LayerSelection`. A function may get
            tensors without values.
        group_by: how parameters form layers, see there.
        measure: ``"rwc"`` for relative weight change, or ``"rotation"``, ``"radial"``, ``"moved"`` or ``"still"``, see
            :mod:`lightning_rwc.movement`. ``"still"`` needs the number of optimizer steps between files. Lightning
            checkpoints have it. Other files count as one step apart, so that more units seem to move.

    Returns:
        A history with one measurement for each file after the first. If all files are Lightning checkpoints, it has the
        epochs and steps of the callback's history. Otherwise both are the positions of the files, from 0.

    Raises:
        ValueError: if an argument is invalid, there are fewer than two files, or the files are not of one model: two
            of them have no tracked parameter name in common, or no parameter keeps its shape. Also if a file is broken,
            unsafe to read, or without weights that can be measured, or if an address cannot be opened.
        FileNotFoundError: if a path does not exist or a pattern matches nothing.
        ModuleNotFoundError: if a file needs the package safetensors and it is missing.

    """
    return _compare(paths, norm, relative_to, layers, group_by, measure).history


class Comparison(NamedTuple):
    """What saved weights tell."""

    history: RWCHistory
    findings: list[Finding]
    """What is wrong, oldest first. Its epochs and steps are those of the history."""


def compare_checkpoints(
    paths: str | PathLike[str] | Sequence[str | PathLike[str]],
    *,
    norm: Norm = "l1",
    relative_to: RelativeTo = "previous",
    layers: LayerFilter = None,
    group_by: GroupBy = None,
    measure: str = RWC,
) -> Comparison:
    """Measure like :func:`history_of_checkpoints`, and say in words what is wrong, as far as weights alone tell.

    Files are read once. The findings do not depend on ``norm`` and ``measure``. These kinds are found:

    - ``non_finite``: a weight is ``nan`` or infinite.
    - ``unchanged``: a layer is the same in all files, bit for bit.
    - ``no_gradient``: a layer only shrinks, as weight decay makes it, while others turn. It shrinks ten times more than
      rounding explains, and turns no more than that. This depends on the number of optimizer steps between files.
      Lightning checkpoints have it. Other files count as one step apart, so that few such layers are found.
    - ``learning_rate_high`` and ``burst``, if all files are Lightning checkpoints in the order of training, and
      ``relative_to`` is ``"previous"``. ``learning_rate_low`` too, if the first file is from the first 10 steps.

    The other likely kinds are left out, because weights do not tell which layers have learning rates of their own.

    """
    return _compare(paths, norm, relative_to, layers, group_by, measure)


def _compare(  # noqa: PLR0917
    paths: str | PathLike[str] | Sequence[str | PathLike[str]],
    norm: Norm,
    relative_to: RelativeTo,
    layers: LayerFilter,
    group_by: GroupBy,
    measure: str,
) -> Comparison:
    check_norm(norm)
    check_relative_to(relative_to)
    if measure not in (RWC, *MOVEMENTS):
        raise ValueError(f"`measure` must be one of {[RWC, *MOVEMENTS]}, but got {measure!r}.")
    selection = LayerSelection(layers, group_by)
    files = find_weight_files(paths)
    if len(files) < 2:
        found = ", ".join(map(str, files)) or "none"
        raise ValueError(f"`paths` must give two or more files of weights, but {paths!r} gives {len(files)}: {found}.")
    times = [file.checked_time() for file in files]
    numbered = [time if None not in times else (number, number) for number, time in enumerate(times)]
    left_out: dict[str, str] = {}
    shapes = [_shapes(file, selection, left_out) for file in files]
    selection.require(files[0].parameters)
    befores = files[:1] * (len(files) - 1) if relative_to == "initial" else files[:-1]
    _require_one_model(dict(zip(files, shapes, strict=True)), list(zip(befores, files[1:], strict=True)))
    history = RWCHistory()
    moves: list[dict[str, LayerMove]] = []
    starts = numbered[:1] * (len(files) - 1) if relative_to == "initial" else numbered[:-1]
    for before, after, start, time in zip(befores, files[1:], starts, numbered[1:], strict=True):
        assert start is not None
        assert time is not None
        evidence = _evidence((before, after), selection, norm, measure, left_out)
        steps = time[1] - start[1]
        history.record(*time, {layer: _value(of, norm, measure, steps) for layer, of in evidence.items()})
        moves.append({layer: _move(of) for layer, of in evidence.items() if of is not None})
        (after if relative_to == "initial" else before).close()
    if left_out:
        message = f"The measurement leaves out weights that cannot be measured: {name_list(left_out)}."
        if not history.layers:
            raise ValueError(f"{message} There is no other layer to measure.")
        warnings.warn(message, stacklevel=3)
    since_start, has_steps = relative_to == "initial", None not in times
    rows = [*zip(history.epochs, history.steps, strict=True)]
    assert starts[0] is not None
    return Comparison(
        history,
        findings_of_moves(history.layers, starts[0], rows, moves, has_steps=has_steps, since_start=since_start),
    )


def _stored(file: WeightFile, selection: LayerSelection) -> dict[str, dict[str, str]]:
    """Map layer names to parameter names to the names in the file."""
    names = {id(tensor): name for name, tensor in file.parameters.items()}
    return {
        layer: {name: names[id(tensor)] for name, tensor in parameters.items()}
        for layer, parameters in selection.find(file.parameters).items()
    }


def not_measurable(parameters: Mapping[str, Tensor], selection: LayerSelection) -> dict[str, str]:
    """Map names of weights that ``selection`` would track, if they could be measured, to why they cannot."""
    # Many models have integers that are not weights, such as counters and tables of positions.
    odd = {
        name: torch.empty(tensor.shape, device="meta")
        for name, tensor in parameters.items()
        if not is_measurable(tensor)
        and tensor.dtype != torch.bool
        and (tensor.layout != torch.strided or "weight" in name.rpartition(".")[2])
    }
    chosen = {id(tensor) for found in selection.find(odd).values() for tensor in found.values()}
    weights = {name: parameters[name] for name, stand_in in odd.items() if id(stand_in) in chosen}
    return {
        name: str(tensor.dtype if tensor.layout == torch.strided else tensor.layout) for name, tensor in weights.items()
    }


def _shapes(file: WeightFile, selection: LayerSelection, left_out: dict[str, str]) -> dict[str, tuple[int, ...]]:
    """Map the tracked parameters of a file to their shapes, and add weights that cannot be measured to ``left_out``."""
    left_out |= not_measurable(file.parameters, selection)
    if not any(map(is_measurable, file.parameters.values())) and left_out:
        raise ValueError(
            f"{file} has no weights that can be measured, only {name_list(left_out)}. Save the weights as dense "
            "floating-point tensors (`tensor.to_dense()`, `tensor.dequantize()`)."
        )
    tracked = selection.find(file.parameters)
    file.close()
    return {name: tuple(tensor.shape) for parameters in tracked.values() for name, tensor in parameters.items()}


def _require_one_model(
    shapes: Mapping[WeightFile, Mapping[str, tuple[int, ...]]], pairs: Sequence[tuple[WeightFile, WeightFile]]
) -> None:
    for before, after in pairs:
        if shapes[before].keys().isdisjoint(shapes[after]):
            raise ValueError(
                f"`paths` must be saved states of one model, but {before} and {after} have no tracked parameter "
                f"name in common. The first has {name_list(shapes[before])}. The second has "
                f"{name_list(shapes[after])}. If only a prefix differs, save one of them with the names of the other."
            )
    if not any(shapes[before].items() & shapes[after].items() for before, after in pairs):
        before, after = pairs[0]
        name = next(name for name in shapes[before] if name in shapes[after])
        raise ValueError(
            "`paths` must be saved states of one model, but every parameter changes its shape between files. For "
            f"example, {name!r} has shape {shapes[before][name]} in {before} and {shapes[after][name]} in {after}."
        )


def _value(evidence: Evidence | None, norm: Norm, measure: str, steps: int) -> float:
    if evidence is None:
        return math.nan
    if measure == RWC:
        return change_ratio(evidence.sums, norm).item()
    return MOVEMENTS[measure].value(evidence._replace(steps=steps)).item()


def _move(evidence: Evidence) -> LayerMove:
    _, _, moved, _, squared_change, squared_size = evidence.sums[:, 0].tolist()
    if not math.isfinite(squared_change + squared_size):
        change = math.nan
    elif moved == 0:
        change = 0.0
    else:
        change = math.sqrt(squared_change / squared_size) if squared_size else math.inf
    can_turn = float(evidence.elements.item() > 1)
    return LayerMove(change, rotation(evidence.sums).item(), radial(evidence.sums).item(), can_turn)


def _evidence(
    files: tuple[WeightFile, WeightFile], selection: LayerSelection, norm: Norm, measure: str, left_out: dict[str, str]
) -> dict[str, Evidence | None]:
    """What is known of each layer of the second file: None if nothing can be compared."""
    before, after = files
    earlier = {name: stored for names in _stored(before, selection).values() for name, stored in names.items()}
    by_units = measure in MOVEMENTS and MOVEMENTS[measure].needs_units
    row: dict[str, Evidence | None] = {}
    for layer, names in _stored(after, selection).items():
        units: list[Tensor] = []
        others: list[Tensor] = []
        elements, failed = 0, False
        for name, new in names.items():
            old = earlier.get(name)
            if old is None or before.parameters[old].shape != after.parameters[new].shape:
                continue
            split = by_units and can_turn(after.parameters[new])
            try:
                sums = _sums(before.read(old), after.read(new), norm, split)
                (units if split or not by_units else others).append(sums)
                elements += after.parameters[new].numel()
            except (MemoryError, OSError):
                raise
            except Exception as error:
                # PyTorch can store some kinds of tensors with which it cannot compute.
                left_out[new] = str(error)
                failed = True
        if units or others:
            joined = torch.cat([*units, *others], dim=1)
            turning = joined[:, : joined.shape[1] - len(others)]
            row[layer] = Evidence(joined.sum(1, keepdim=True), torch.tensor([elements]), [turning], steps=1)
        elif not failed:
            row[layer] = None
    return row


def _sums(previous: Tensor, current: Tensor, norm: Norm, by_units: bool) -> Tensor:
    flat = [tensor.reshape(-1).contiguous() for tensor in (previous, current)]
    return prepare_sums(flat[:1], flat[1:], [row_count(current)] if by_units else None)(norm, False)


def name_list(names: Mapping[str, object]) -> str:
    """The first few names, each with its reason if the value is one."""
    items = [f"{name!r} ({reason})" if isinstance(reason, str) else repr(name) for name, reason in names.items()]
    more = len(items) - _NAMES_IN_ERROR
    return ", ".join(items[:_NAMES_IN_ERROR]) + (f" and {more} more" if more > 0 else "") or "none"
