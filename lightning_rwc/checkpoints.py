# SPDX-License-Identifier: Apache-2.0
"""Relative weight change over a series of saved weights, without training."""

import warnings
from collections.abc import Mapping, Sequence
from os import PathLike

import torch
from torch import Tensor

from lightning_rwc.functional import Norm, change_ratio, check_norm, is_measurable
from lightning_rwc.history import RWCHistory
from lightning_rwc.layers import GroupBy, LayerFilter, LayerSelection
from lightning_rwc.metric import RelativeTo, check_relative_to
from lightning_rwc.sums import prepare_sums
from lightning_rwc.weight_files import WeightFile, weight_files

_NAMES_IN_ERROR = 5


def history_of_checkpoints(
    paths: str | PathLike[str] | Sequence[str | PathLike[str]],
    *,
    norm: Norm = "l1",
    relative_to: RelativeTo = "previous",
    layers: LayerFilter = None,
    group_by: GroupBy = None,
) -> RWCHistory:
    """Measure how far each layer moved from one file of weights to the next.

    Files are mapped into memory and read a parameter at a time: two of them are all that is there at once. Nothing but
    weights is ever unpickled (``weights_only=True``).

    A state dict does not tell parameters from buffers: by the default rule, two or more dimensions, hardly a buffer
    comes in. Layers are named as by :class:`~lightning_rwc.RWCCallback`, but for two things that files do not know:
    safetensors keep no order, so layers come in natural order of their names, and parameters tied in the model may be
    stored twice by other programs than PyTorch.

    Args:
        paths: the files in order; or folders and patterns (``"run/*.ckpt"``), whose files come in natural order
            (``epoch=2`` before ``epoch=10``). Lightning checkpoints, state dicts (``.pt``, ``.pth``, ``.bin``) and
            ``.safetensors``, sharded ones by their ``.index.json`` or folder. In a folder, a checkpoint that is of the
            same step as the one before, as ``last.ckpt`` is, is left out. A folder that Transformers, PEFT, Diffusers
            or Accelerate wrote is one state of the model, whose files alone are taken: once where they are there twice,
            rather as safetensors than as ``.bin``, rather plain than as ``fp16``; parts in subfolders put those before
            their names (``unet.``). A folder of such folders, numbered as ``checkpoint-500``, is the series of them.
        norm: the definition, see :func:`~lightning_rwc.functional.relative_weight_change`.
        relative_to: measure from the ``"previous"`` file, or from the ``"initial"``, first one.
        layers: which parameters are tracked, see :class:`~lightning_rwc.layers.LayerSelection`; a function gets tensors
            without content.
        group_by: how parameters form layers, see there.

    Returns:
        A history with a row for each file but the first. Epochs and steps are those under which the callback logs,
        where all files are Lightning checkpoints; else the numbers of the files, from 0.

    Raises:
        ValueError: if ``norm``, ``relative_to``, ``layers`` or ``group_by`` is wrong, there are fewer than two files,
            a file is corrupt, holds no weights, none that can be measured, or more than can safely be read, is part of
            a distributed checkpoint, or has no tracked parameter's name or shape in common with the one before it.
        FileNotFoundError: if a path or pattern is of nothing.
        ModuleNotFoundError: if a file needs the package safetensors, and it is missing.

    """
    check_norm(norm)
    check_relative_to(relative_to)
    selection = LayerSelection(layers, group_by)
    files = weight_files(paths)
    if len(files) < 2:
        found = ", ".join(map(str, files)) or "none"
        raise ValueError(f"`paths` must be two or more files of weights, but {paths!r} gives {len(files)}: {found}.")
    times = [file.checked_time() for file in files]
    numbered = [time if None not in times else (number, number) for number, time in enumerate(times)]
    left_out: dict[str, str] = {}
    shapes = [_shapes(file, selection, left_out) for file in files]
    selection.require(files[0].parameters)
    befores = files[:1] * (len(files) - 1) if relative_to == "initial" else files[:-1]
    _require_one_model(dict(zip(files, shapes, strict=True)), list(zip(befores, files[1:], strict=True)))
    history = RWCHistory()
    for before, after, time in zip(befores, files[1:], numbered[1:], strict=True):
        assert time is not None
        history.record(*time, _changes(before, after, selection, norm, left_out))
        (after if relative_to == "initial" else before).close()
    if left_out:
        told = f"Relative weight change leaves out what cannot be measured: {_listing(left_out)}."
        if not history.layers:
            raise ValueError(f"{told} Nothing else is there.")
        warnings.warn(told, stacklevel=2)
    return history


def _stored(file: WeightFile, selection: LayerSelection) -> dict[str, dict[str, str]]:
    """Layer name to readable parameter name to the name that it has in the file."""
    names = {id(tensor): name for name, tensor in file.parameters.items()}
    return {
        layer: {name: names[id(tensor)] for name, tensor in parameters.items()}
        for layer, parameters in selection.find(file.parameters).items()
    }


def _shapes(file: WeightFile, selection: LayerSelection, left_out: dict[str, str]) -> dict[str, tuple[int, ...]]:
    """The tracked parameters of a file; weights among what cannot be measured are added to ``left_out``."""
    # Integers that are no weights, as counters and tables of positions, are in many models.
    odd = {
        name: torch.empty(tensor.shape, device="meta")
        for name, tensor in file.parameters.items()
        if not is_measurable(tensor)
        and tensor.dtype != torch.bool
        and (tensor.layout != torch.strided or "weight" in name.rpartition(".")[2])
    }
    chosen = {id(tensor) for parameters in selection.find(odd).values() for tensor in parameters.values()}
    for name, stand_in in odd.items():
        if id(stand_in) in chosen:
            tensor = file.parameters[name]
            left_out[name] = str(tensor.dtype if tensor.layout == torch.strided else tensor.layout)
    if not any(map(is_measurable, file.parameters.values())) and left_out:
        raise ValueError(
            f"{file} has no weights that can be measured, only {_listing(left_out)}. Relative weight change is defined "
            "for dense floating-point weights: save them as such (`tensor.to_dense()`, `tensor.dequantize()`)."
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
                f"`paths` must be saved states of one model, but {before} and {after} have no tracked parameter's name "
                f"in common. The first has {_listing(shapes[before])}; the second has {_listing(shapes[after])}. Where "
                "only a prefix differs, save one of them with the names of the other."
            )
    if not any(shapes[before].items() & shapes[after].items() for before, after in pairs):
        before, after = pairs[0]
        name = next(name for name in shapes[before] if name in shapes[after])
        raise ValueError(
            f"`paths` must be saved states of one model, but no parameter has one shape in a file and in the next: "
            f"{name!r} is of shape {shapes[before][name]} in {before} and {shapes[after][name]} in {after}."
        )


def _changes(
    before: WeightFile, after: WeightFile, selection: LayerSelection, norm: Norm, left_out: dict[str, str]
) -> dict[str, float]:
    earlier = {name: stored for names in _stored(before, selection).values() for name, stored in names.items()}
    row = {}
    for layer, names in _stored(after, selection).items():
        sums, failed = [], False
        for name, new in names.items():
            old = earlier.get(name)
            if old is None or before.parameters[old].shape != after.parameters[new].shape:
                continue
            try:
                sums.append(_sums(before.read(old), after.read(new), norm))
            except (MemoryError, OSError):
                raise
            except Exception as error:
                # Tensors of kinds that PyTorch can store, but not compute with.
                left_out[new] = str(error)
                failed = True
        if sums or not failed:
            row[layer] = change_ratio(torch.stack(sums).sum(0), norm).item() if sums else float("nan")
    return row


def _sums(previous: Tensor, current: Tensor, norm: Norm) -> Tensor:
    flat = [tensor.reshape(-1).contiguous() for tensor in (previous, current)]
    return prepare_sums(flat[:1], flat[1:])(norm, False)[:, 0]


def _listing(names: Mapping[str, object]) -> str:
    """The first few names, each with what is said of it."""
    told = [f"{name!r}{f' ({said})' if isinstance(said, str) else ''}" for name, said in names.items()]
    more = len(told) - _NAMES_IN_ERROR
    return ", ".join(told[:_NAMES_IN_ERROR]) + (f" and {more} more" if more > 0 else "") or "none"
