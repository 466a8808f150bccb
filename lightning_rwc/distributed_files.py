# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of torch.distributed.checkpoint: a folder with the pieces that each rank wrote."""

import math
import pathlib
import pickle
import re
from collections.abc import Mapping
from functools import cached_property
from io import BytesIO
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.distributed.checkpoint.metadata import Metadata, MetadataIndex, TensorStorageMetadata
from typing_extensions import override

from lightning_rwc.natural import natural_key
from lightning_rwc.places import Place, RemotePath, read_range, size
from lightning_rwc.weight_files import WeightFile, load, require_some, state_dict_in, time_in

_METADATA = ".metadata"
# Lightning writes what is no weight, such as epoch and step, into this file.
_LIGHTNING = "meta.pt"
# The names of states in which programs keep an optimizer next to a model that is saved without a name of its own.
_OPTIMIZER = re.compile(r"optim(izers?)?([_-]?\d+)?\.")


def is_distributed(folder: Place) -> bool:
    """Whether a folder is a distributed checkpoint."""
    return (folder / _METADATA).is_file()


class DistributedFile(WeightFile):
    """A distributed checkpoint, read one tensor at a time, without a process group.

    The index ``.metadata`` is a pickle. Only what an index consists of is unpickled: PyTorch's classes for it, shapes,
    dtypes and paths. The pieces of tensors are unpickled as weights only, and so is Lightning's ``meta.pt``, of which
    epoch and step are used. They are unknown if it holds other objects.

    The state dict is what was saved under ``state_dict``, ``model`` or the like. Otherwise it is all tensors that were
    saved without another name, as torchtitan saves them. Those lose their order, so that natural order replaces it.

    """

    @cached_property
    def _index(self) -> Metadata:
        place = self.path / _METADATA
        try:
            index = _IndexUnpickler(BytesIO(place.read_bytes())).load()
        except OSError:
            raise
        except Exception as error:
            raise ValueError(
                f"{place} is broken, is from a newer PyTorch, or holds objects other than an index, which could run "
                f"any code when they are read. ({error})"
            ) from error
        if not isinstance(index, Metadata) or not isinstance(index.storage_data, Mapping):
            raise ValueError(f"{place} is not the index of a distributed checkpoint.")
        return index

    @cached_property
    def _keys(self) -> dict[str, str]:
        """The name of each tensor in the index."""
        content: dict[str, Any] = {}
        entries, paths = self._index.state_dict_metadata, self._index.planner_data
        paths = paths if isinstance(paths, Mapping) else {}
        # Only the paths are in the order of the state dict.
        for key in (*paths, *(key for key in entries if key not in paths)):
            if isinstance(entries.get(key), TensorStorageMetadata):
                *outer, name = paths.get(key, (key,))
                place = content
                for part in outer:
                    place = place.setdefault(part, {})
                place[name] = key
        state = state_dict_in(content)
        keys = {name: key for name, key in state.items() if isinstance(key, str)}
        if state is content:
            return {name: keys[name] for name in sorted(keys, key=natural_key) if not _OPTIMIZER.match(name)}
        return keys

    @property
    @override
    def time(self) -> tuple[int, int] | None:
        try:
            return time_in(load(self.path / _LIGHTNING)) if (self.path / _LIGHTNING).is_file() else None
        except ValueError:
            return None

    @cached_property
    @override
    def parameters(self) -> Mapping[str, Tensor]:
        ends: dict[str, int] = {}
        tensors = {}
        for name, key in self._keys.items():
            stored = self._stored(name)
            tensors[name] = torch.empty(stored.size, dtype=stored.properties.dtype, device="meta")
            if sum(math.prod(chunk.sizes) for chunk in stored.chunks) < tensors[name].numel():
                raise ValueError(f"{self} is broken: its index has only a part of {key!r}.")
            for _, info in self._pieces(name):
                ends[info.relative_path] = max(ends.get(info.relative_path, 0), info.offset + info.length)
        for file, end in ends.items():
            if (size(self.path / file) or 0) < end:
                raise ValueError(f"{self} is broken: {file} is missing, or has fewer than {end} bytes.")
        return require_some(tensors, self)

    def _stored(self, name: str) -> TensorStorageMetadata:
        stored = self._index.state_dict_metadata[self._keys[name]]
        assert isinstance(stored, TensorStorageMetadata)
        return stored

    def _pieces(self, name: str) -> list[tuple[tuple[slice, ...], Any]]:
        """Which part of a tensor each of its pieces is, and where it is stored."""
        pieces = []
        for chunk in self._stored(name).chunks:
            part = tuple(slice(start, start + n) for start, n in zip(chunk.offsets, chunk.sizes, strict=True))
            where = self._index.storage_data.get(MetadataIndex(self._keys[name], chunk.offsets))
            if where is None:
                raise ValueError(f"{self} is broken: its index does not say where its pieces are.")
            pieces.append((part, where))
        return pieces

    @override
    def close(self) -> None:
        kept = {name: self.__dict__[name] for name in ("_index",) if name in self.__dict__}
        super().close()
        if isinstance(self.path, RemotePath):
            # It would have to be downloaded again.
            self.__dict__.update(kept)

    @override
    def read(self, name: str) -> Tensor:
        stored = self._stored(name)
        tensor = torch.empty(stored.size, dtype=stored.properties.dtype)
        for part, info in self._pieces(name):
            content = read_range(self.path / info.relative_path, info.offset, info.offset + info.length)
            piece: Tensor = torch.load(BytesIO(content), map_location="cpu", weights_only=True)
            if piece.shape == tensor.shape:
                return piece
            tensor[part] = piece
        return tensor


class _Properties:
    """In place of PyTorch's class, which refuses what later versions add to it."""

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.dtype = state[0]


class _IndexUnpickler(pickle.Unpickler):
    """Refuses all but data, so that no code of the file runs."""

    _KNOWN: ClassVar = {
        "torch": {"Size", *(name for name, value in vars(torch).items() if isinstance(value, torch.dtype))},
        "torch.serialization": {"_get_layout"},
        "torch.distributed.checkpoint.filesystem": {"_StorageInfo"},
        "torch.distributed.checkpoint.metadata": {
            *("Metadata", "MetadataIndex", "StorageMeta", "_MEM_FORMAT_ENCODING"),
            *("TensorStorageMetadata", "BytesStorageMetadata", "ChunkStorageMetadata"),
        },
        "collections": {"OrderedDict"},
    }

    @override
    def find_class(self, module: str, name: str) -> Any:
        if name in self._KNOWN.get(module, ()):
            return super().find_class(module, name)
        if (module, name) == ("torch.distributed.checkpoint.metadata", "TensorProperties"):
            return _Properties
        if module.partition(".")[0] == "pathlib" and name in ("PosixPath", "WindowsPath"):
            # Where the checkpoint was saved, maybe under another operating system.
            return getattr(pathlib, f"Pure{name}")
        raise pickle.UnpicklingError(f"{module}.{name} is not part of an index")
