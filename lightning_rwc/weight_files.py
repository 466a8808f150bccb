# SPDX-License-Identifier: Apache-2.0
"""Saved states of a model, and files that torch.save wrote."""

import pickle
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any
from zipfile import is_zipfile

import torch
from torch import Tensor
from typing_extensions import override

from lightning_rwc.natural import natural_key
from lightning_rwc.places import Place, local_path

# A file may hold its state dict under these keys, also one in the other. Lightning uses the first, and PyTorch's recipe
# for distributed checkpoints the last.
_STATE_DICTS = ("state_dict", "model_state_dict", "model", "app")


class WeightFile(ABC):
    """One saved state of a model, in one file or several."""

    keeps_order = True
    """Whether :attr:`parameters` are in definition order; otherwise they are in natural order of their names."""

    def __init__(self, path: Place) -> None:
        self.path = path

    def __str__(self) -> str:
        return str(self.path)

    @property
    def time(self) -> tuple[int, int] | None:
        """Epoch and step, if the file has them."""
        return None

    @property
    @abstractmethod
    def parameters(self) -> Mapping[str, Tensor]:
        """Names and shapes. The tensors are on the meta device, or are mapped into memory and not read yet."""

    @property
    def aliases(self) -> Mapping[str, str]:
        """Map further names of tied tensors to their names in :attr:`parameters`."""
        return {}

    @abstractmethod
    def read(self, name: str) -> Tensor:
        """Read one tensor."""

    def checked_time(self) -> tuple[int, int] | None:
        """Like :attr:`time`, but raise ``ValueError`` if the file cannot be read or has no weights."""
        time = self.time if self.parameters else None
        self.close()
        return time

    def close(self) -> None:
        """Unmap the file. It is opened again when it is needed."""
        for name in [name for name, value in vars(type(self)).items() if isinstance(value, cached_property)]:
            self.__dict__.pop(name, None)


class WeightParts(WeightFile):
    """One state in several files.

    Args:
        path: the folder or index that stands for the state.
        parts: each file with a prefix for the names of its parameters. Shards have empty prefixes.

    """

    def __init__(self, path: Place, parts: Sequence[tuple[str, WeightFile]]) -> None:
        super().__init__(path)
        self._parts = parts
        self.keeps_order = any(part.keeps_order for _, part in parts)

    @cached_property
    def _sources(self) -> dict[str, tuple[WeightFile, str]]:
        sources = {f"{prefix}{name}": (part, name) for prefix, part in self._parts for name in part.parameters}
        return sources if self.keeps_order else {name: sources[name] for name in sorted(sources, key=natural_key)}

    @cached_property
    @override
    def parameters(self) -> Mapping[str, Tensor]:
        return {name: part.parameters[inner] for name, (part, inner) in self._sources.items()}

    @property
    @override
    def aliases(self) -> Mapping[str, str]:
        return {f"{prefix}{a}": f"{prefix}{name}" for prefix, part in self._parts for a, name in part.aliases.items()}

    @override
    def read(self, name: str) -> Tensor:
        part, inner = self._sources[name]
        return part.read(inner)

    @override
    def close(self) -> None:
        super().close()
        for _, part in self._parts:
            part.close()


class TorchFile(WeightFile):
    """What torch.save wrote. A file elsewhere is copied whole, because torch.load cannot read only parts of it."""

    @cached_property
    def _content(self) -> Mapping[str, Any]:
        return load(self.path)

    @property
    @override
    def time(self) -> tuple[int, int] | None:
        return time_in(self._content)

    @cached_property
    def _names(self) -> dict[str, str]:
        """Map all names to the first names of the same tensors."""
        tensors = {name: tensor for name, tensor in state_dict_in(self._content).items() if isinstance(tensor, Tensor)}
        first: dict[object, str] = {}
        return {name: first.setdefault(_identity(tensor), name) for name, tensor in tensors.items()}

    @cached_property
    @override
    def parameters(self) -> Mapping[str, Tensor]:
        state = state_dict_in(self._content)
        return require_some({name: state[name] for name in dict.fromkeys(self._names.values())}, self)

    @property
    @override
    def aliases(self) -> Mapping[str, str]:
        return {name: first for name, first in self._names.items() if name != first}

    @override
    def read(self, name: str) -> Tensor:
        return self.parameters[name]


def load(place: Place) -> Mapping[str, Any]:
    """Map a file that torch.save wrote into memory.

    Raises:
        ValueError: if it is broken, or holds objects other than weights.

    """
    local = local_path(place)
    try:
        # Files older than PyTorch 1.6 cannot be mapped.
        content = torch.load(local, map_location="cpu", weights_only=True, mmap=is_zipfile(local))
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{place} is broken, or holds objects other than weights, which could run any code when they are read. "
            f"If you trust the file, load it yourself and save only its `state_dict`. ({error})"
        ) from error
    except Exception as error:
        raise ValueError(f"{place} is not a file of weights that torch.load can read: {error}") from error
    if not isinstance(content, Mapping):
        raise ValueError(
            f"{place} holds an object of type {type(content).__name__}. Save the model's `state_dict()` instead."
        )
    return content


def time_in(content: Mapping[str, Any]) -> tuple[int, int] | None:
    """Epoch and step, if ``content`` is of a Lightning checkpoint."""
    try:
        loop = content["loops"]["fit_loop"]["epoch_loop.state_dict"]
        # The callback logs at the step of the last batch.
        return content["epoch"], loop["_batches_that_stepped"] - 1
    except (KeyError, TypeError):
        return None


def state_dict_in(content: Mapping[str, Any]) -> Mapping[str, Any]:
    """The state dict of the model in a checkpoint, which may be all of it."""
    while nested := [content[name] for name in _STATE_DICTS if isinstance(content.get(name), Mapping)]:
        content = nested[0]
    return content


def _identity(tensor: Tensor) -> object:
    """A key that tied tensors share."""
    try:
        if start := tensor.data_ptr():
            return start, tensor.shape, tensor.stride()
    except RuntimeError:
        pass  # Sparse tensors have no memory of their own.
    return id(tensor)


def require_some(tensors: dict[str, Tensor], file: WeightFile) -> dict[str, Tensor]:
    """Return ``tensors``, or raise ``ValueError`` if there are none."""
    if not tensors:
        keys = ", ".join(map(repr, _STATE_DICTS))
        raise ValueError(f"{file} holds no weights: it has no tensor, neither at the top nor under one of {keys}.")
    return tensors
