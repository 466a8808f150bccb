# SPDX-License-Identifier: Apache-2.0
"""Relative weight change over a series of saved weights, without training."""

import glob
import json
import pickle
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property
from os import PathLike, fspath
from pathlib import Path
from typing import Any
from zipfile import is_zipfile

import torch
from torch import Tensor

from lightning_rwc.functional import Norm, change_ratio, check_norm
from lightning_rwc.history import RWCHistory
from lightning_rwc.layers import GroupBy, LayerFilter, LayerSelection
from lightning_rwc.metric import RelativeTo, check_relative_to
from lightning_rwc.natural import natural_key
from lightning_rwc.sums import prepare_sums

_TORCH_SUFFIXES = (".ckpt", ".pt", ".pth", ".bin")
_SAFETENSORS, _INDEX = ".safetensors", ".safetensors.index.json"
# Under these a file may hold its state dict beside other things; Lightning's is the first.
_STATE_DICTS = ("state_dict", "model_state_dict", "model")


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
            same step as the one before, as ``last.ckpt`` is, is left out.
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
            or a file is corrupt, holds no weights, or more than can safely be read.
        FileNotFoundError: if a path or pattern is of nothing.
        ModuleNotFoundError: if a file needs the package safetensors, and it is missing.

    """
    check_norm(norm)
    check_relative_to(relative_to)
    selection = LayerSelection(layers, group_by)
    files = [file for path in ([paths] if isinstance(paths, str | PathLike) else paths) for file in _files(path)]
    if len(files) < 2:
        raise ValueError(
            f"`paths` must be two or more files of weights, but there are {len(files)}: {list(map(str, files))}."
        )
    times = [file.checked_time() for file in files]
    numbered = [time if None not in times else (number, number) for number, time in enumerate(times)]
    history = RWCHistory()
    baseline = files[0]
    selection.require(baseline.parameters)
    for file, time in zip(files[1:], numbered[1:], strict=True):
        assert time is not None
        history.record(*time, _changes(baseline, file, selection, norm))
        if relative_to == "previous":
            baseline.close()
            baseline = file
        else:
            file.close()
    return history


class _File(ABC):
    """One saved state of a model."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __str__(self) -> str:
        return str(self.path)

    @property
    @abstractmethod
    def time(self) -> tuple[int, int] | None:
        """Epoch and step, if the file knows."""

    @property
    @abstractmethod
    def parameters(self) -> Mapping[str, Tensor]:
        """Names and shapes: tensors without content, or ones that are mapped and not yet read."""

    @abstractmethod
    def read(self, name: str) -> Tensor:
        """One tensor's content."""

    def checked_time(self) -> tuple[int, int] | None:
        """Epoch and step, once it is clear that the file can be read and holds weights."""
        time = self.time if self.parameters else None
        self.close()
        return time

    def layers(self, selection: LayerSelection) -> dict[str, dict[str, str]]:
        """Layer name to readable parameter name to the name that it has in the file."""
        stored = {id(tensor): name for name, tensor in self.parameters.items()}
        return {
            layer: {name: stored[id(tensor)] for name, tensor in parameters.items()}
            for layer, parameters in selection.find(self.parameters).items()
        }

    def close(self) -> None:
        """Let go of what is mapped; it is opened again on demand."""
        for name in [name for name, value in vars(type(self)).items() if isinstance(value, cached_property)]:
            self.__dict__.pop(name, None)


class _TorchFile(_File):
    @cached_property
    def _content(self) -> Mapping[str, Any]:
        try:
            # The format of before PyTorch 1.6 cannot be mapped.
            content = torch.load(self.path, map_location="cpu", weights_only=True, mmap=is_zipfile(self.path))
        except pickle.UnpicklingError as error:
            raise ValueError(
                f"{self} is broken, or holds objects other than weights, which could run any code when read. If you "
                f"trust it, load it yourself and save its `state_dict` alone. ({error})"
            ) from error
        except Exception as error:
            raise ValueError(f"{self} is not a file of weights that torch.load can read: {error}") from error
        if not isinstance(content, Mapping):
            raise ValueError(f"{self} holds no state dict, but {type(content).__name__}.")
        return content

    @cached_property
    def time(self) -> tuple[int, int] | None:
        try:
            loop = self._content["loops"]["fit_loop"]["epoch_loop.state_dict"]
            # The callback logs under the step of the last batch.
            return self._content["epoch"], loop["_batches_that_stepped"] - 1
        except (KeyError, TypeError):
            return None

    @cached_property
    def parameters(self) -> Mapping[str, Tensor]:
        nested = (self._content[name] for name in _STATE_DICTS if isinstance(self._content.get(name), Mapping))
        state = next(nested, self._content)
        tensors: dict[str, Tensor] = {}
        seen = set()
        for name, tensor in state.items():
            if isinstance(tensor, Tensor):
                place = (tensor.data_ptr(), tensor.shape, tensor.stride())
                if tensor.numel() == 0 or place not in seen:
                    tensors[name] = tensor
                    seen.add(place)
        return _some(tensors, self)

    def read(self, name: str) -> Tensor:
        return self.parameters[name]


class _SafetensorsFile(_File):
    time = None

    @cached_property
    def _handles(self) -> dict[str, Any]:
        try:
            from safetensors import safe_open
        except ModuleNotFoundError as error:
            message = f'{self} needs the package safetensors: pip install "lightning-rwc[analysis]"'
            raise ModuleNotFoundError(message, name=error.name) from error
        try:
            paths = [self.path]
            if self.path.name.endswith(_INDEX):
                shards = json.loads(self.path.read_text(encoding="utf-8"))["weight_map"].values()
                paths = [self.path.parent / Path(shard).name for shard in sorted(set(shards))]
            handles: list[Any] = [safe_open(path, framework="pt", device="cpu") for path in paths]
            return {name: handle for handle in handles for name in handle.keys()}  # noqa: SIM118  # it is no dict
        except Exception as error:
            raise ValueError(f"{self} is broken, or lacks one of its shards: {error}") from error

    @cached_property
    def parameters(self) -> Mapping[str, Tensor]:
        tensors = {}
        for name in sorted(self._handles, key=natural_key):
            part = self._handles[name].get_slice(name)
            # An empty tensor of the same kind tells the dtype, which the header has under a name of its own.
            dtype = part[..., :0].dtype if part.get_shape() else self.read(name).dtype
            tensors[name] = torch.empty(part.get_shape(), dtype=dtype, device="meta")
        return _some(tensors, self)

    def read(self, name: str) -> Tensor:
        tensor: Tensor = self._handles[name].get_tensor(name)
        return tensor


def _some(tensors: dict[str, Tensor], file: _File) -> dict[str, Tensor]:
    if not tensors:
        raise ValueError(f"{file} holds no weights: there is no tensor in it, nor under {', '.join(_STATE_DICTS)}.")
    return tensors


def _changes(before: _File, after: _File, selection: LayerSelection, norm: Norm) -> dict[str, float]:
    earlier = {name: stored for names in before.layers(selection).values() for name, stored in names.items()}
    row = {}
    for layer, names in after.layers(selection).items():
        pairs = [(earlier[name], stored) for name, stored in names.items() if name in earlier]
        sums = [
            _sums(before.read(old), after.read(new), norm)
            for old, new in pairs
            if before.parameters[old].shape == after.parameters[new].shape
        ]
        row[layer] = change_ratio(torch.stack(sums).sum(0), norm).item() if sums else float("nan")
    return row


def _sums(previous: Tensor, current: Tensor, norm: Norm) -> Tensor:
    flat = [tensor.reshape(-1).contiguous() for tensor in (previous, current)]
    return prepare_sums(flat[:1], flat[1:])(norm, False)[:, 0]


def _files(path: str | PathLike[str]) -> list[_File]:
    text = fspath(path)
    place = Path(text)
    if place.is_dir():
        return _in_folder(place)
    if place.is_file():
        return [_file(place)]
    if matches := glob.glob(text, recursive=True):
        return [file for match in sorted(matches, key=natural_key) for file in _files(match)]
    raise FileNotFoundError(f"`paths` has {text!r}, but there is no such file or folder, and no file that it matches.")


def _file(path: Path) -> _File:
    if path.name.endswith((_SAFETENSORS, _INDEX)):
        return _SafetensorsFile(path)
    if path.suffix in _TORCH_SUFFIXES:
        return _TorchFile(path)
    known = ", ".join((*_TORCH_SUFFIXES, _SAFETENSORS, _INDEX))
    raise ValueError(f"`paths` has {str(path)!r}, but a file of weights must end in one of {known}.")


def _in_folder(folder: Path) -> list[_File]:
    if (folder / ".metadata").exists():
        raise ValueError(
            f"{folder} is a distributed checkpoint. Make it one file by "
            f"`python -m lightning.pytorch.utilities.consolidate_checkpoint {folder}` first."
        )
    if index := sorted(folder.glob(f"*{_INDEX}")):
        return [_file(index[0])]
    names = sorted((path.name for path in folder.iterdir()), key=natural_key)
    files: list[_File] = []
    for path in (folder / name for name in names):
        if path.is_dir() and any(path.glob(f"*{_SAFETENSORS}*")):
            files += _in_folder(path)
        elif path.is_file() and path.name.endswith((*_TORCH_SUFFIXES, _SAFETENSORS)):
            files.append(_file(path))
    times = [file.checked_time() for file in files]
    return [file for number, file in enumerate(files) if times[number] is None or times[number] not in times[:number]]
