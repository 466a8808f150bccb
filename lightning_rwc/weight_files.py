# SPDX-License-Identifier: Apache-2.0
"""Saved states of a model, in each file format."""

import json
import pickle
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any
from zipfile import is_zipfile

import torch
from torch import Tensor
from typing_extensions import override

from lightning_rwc.extras import needs
from lightning_rwc.natural import natural_key

TORCH_SUFFIXES = (".ckpt", ".pt", ".pth", ".bin")
SAFETENSORS_SUFFIX = ".safetensors"
# The name of a variant, such as "fp16", may stand before or after "index".
SHARD_INDEX = re.compile(r".+\.(safetensors|bin)(\.\w+)?\.index(\.\w+)?\.json")
# A file may hold its state dict under one of these keys. Lightning uses the first, and PyTorch's recipe for distributed
# checkpoints the last.
_STATE_DICTS = ("state_dict", "model_state_dict", "model", "app")


class WeightFile(ABC):
    """One saved state of a model, in one file or several."""

    keeps_order = True
    """Whether :attr:`parameters` are in definition order; otherwise they are in natural order of their names."""

    def __init__(self, path: Path) -> None:
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

    def __init__(self, path: Path, parts: Sequence[tuple[str, WeightFile]]) -> None:
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

    @override
    def read(self, name: str) -> Tensor:
        part, inner = self._sources[name]
        return part.read(inner)

    @override
    def close(self) -> None:
        super().close()
        for _, part in self._parts:
            part.close()


class _TorchFile(WeightFile):
    @cached_property
    def _content(self) -> Mapping[str, Any]:
        try:
            # Files older than PyTorch 1.6 cannot be mapped.
            content = torch.load(self.path, map_location="cpu", weights_only=True, mmap=is_zipfile(self.path))
        except pickle.UnpicklingError as error:
            raise ValueError(
                f"{self} is broken, or holds objects other than weights, which could run any code when they are read. "
                f"If you trust the file, load it yourself and save only its `state_dict`. ({error})"
            ) from error
        except Exception as error:
            raise ValueError(f"{self} is not a file of weights that torch.load can read: {error}") from error
        if not isinstance(content, Mapping):
            raise ValueError(
                f"{self} holds an object of type {type(content).__name__}. Save the model's `state_dict()` instead."
            )
        return content

    @property
    @override
    def time(self) -> tuple[int, int] | None:
        try:
            loop = self._content["loops"]["fit_loop"]["epoch_loop.state_dict"]
            # The callback logs at the step of the last batch.
            return self._content["epoch"], loop["_batches_that_stepped"] - 1
        except (KeyError, TypeError):
            return None

    @cached_property
    @override
    def parameters(self) -> Mapping[str, Tensor]:
        state = self._content
        while nested := [state[name] for name in _STATE_DICTS if isinstance(state.get(name), Mapping)]:
            state = nested[0]
        tensors: dict[str, Tensor] = {}
        seen = set()
        for name, tensor in state.items():
            if isinstance(tensor, Tensor) and (identity := _identity(tensor)) not in seen:
                tensors[name] = tensor
                seen.add(identity)
        return _require_some(tensors, self)

    @override
    def read(self, name: str) -> Tensor:
        return self.parameters[name]


class _SafetensorsFile(WeightFile):
    keeps_order = False

    @cached_property
    def _handle(self) -> Any:
        with needs("safetensors", extra="analysis", what=str(self)):
            from safetensors import safe_open
        try:
            return safe_open(self.path, framework="pt", device="cpu")
        except Exception as error:
            raise ValueError(f"{self} is broken: {error}") from error

    @cached_property
    @override
    def parameters(self) -> Mapping[str, Tensor]:
        tensors = {}
        for name in sorted(self._handle.keys(), key=natural_key):
            part = self._handle.get_slice(name)
            tensors[name] = torch.empty(part.get_shape(), dtype=self._dtype(name, part), device="meta")
        return _require_some(tensors, self)

    def _dtype(self, name: str, part: Any) -> torch.dtype:
        try:
            # The header has other names for dtypes than PyTorch. An empty slice has PyTorch's dtype.
            dtype: torch.dtype = part[..., :0].dtype if part.get_shape() else self.read(name).dtype
        except Exception:
            # PyTorch may not know floats of 4 or 6 bits. Reading the tensor then fails too, and it is left out there.
            return torch.float32
        return dtype

    @override
    def read(self, name: str) -> Tensor:
        tensor: Tensor = self._handle.get_tensor(name)
        return tensor


def weight_file_at(path: Path) -> WeightFile:
    """Return the saved state at ``path``, which can also be the index of its shards. The weights are not read yet.

    Raises:
        ValueError: if the name does not end like that of a file of weights, an index is broken, or shards are missing.

    """
    if path.name.endswith(SAFETENSORS_SUFFIX):
        return _SafetensorsFile(path)
    if SHARD_INDEX.fullmatch(path.name):
        return WeightParts(path, [("", weight_file_at(shard)) for shard in _shards(path)])
    if path.suffix in TORCH_SUFFIXES:
        return _TorchFile(path)
    known = ", ".join((*TORCH_SUFFIXES, SAFETENSORS_SUFFIX, ".safetensors.index.json", ".bin.index.json"))
    raise ValueError(f"`paths` has {str(path)!r}, but a file of weights must end in one of {known}.")


def _shards(index: Path) -> list[Path]:
    try:
        names = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
        shards = [index.parent / Path(name).name for name in sorted(set(names), key=natural_key)]
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise ValueError(f"{index} is broken, or is not an index of a model's shards: {error!r}") from error
    if missing := [shard.name for shard in shards if not shard.is_file()]:
        raise ValueError(f"{index} names shards that are not in its folder: {', '.join(missing)}. Put them there.")
    return shards


def _identity(tensor: Tensor) -> object:
    """A key that tied tensors share."""
    try:
        if start := tensor.data_ptr():
            return start, tensor.shape, tensor.stride()
    except RuntimeError:
        pass  # Sparse tensors have no memory of their own.
    return id(tensor)


def _require_some(tensors: dict[str, Tensor], file: WeightFile) -> dict[str, Tensor]:
    if not tensors:
        keys = ", ".join(map(repr, _STATE_DICTS))
        raise ValueError(f"{file} holds no weights: it has no tensor, neither at the top nor under one of {keys}.")
    return tensors
