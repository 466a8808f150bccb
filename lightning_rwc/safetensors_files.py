# SPDX-License-Identifier: Apache-2.0
"""Files of safetensors, on this machine and elsewhere."""

import json
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from lightning_rwc.extras import needs
from lightning_rwc.natural import natural_key
from lightning_rwc.places import RemotePath
from lightning_rwc.weight_files import WeightFile, require_some


class SafetensorsFile(WeightFile):
    """A file on this machine, mapped into memory."""

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
        return require_some(tensors, self)

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


class RemoteSafetensorsFile(WeightFile):
    """A file elsewhere, of which only the header and the tensors that are read are downloaded."""

    keeps_order = False

    def __init__(self, path: RemotePath) -> None:
        super().__init__(path)
        self._file = path

    @cached_property
    def _header(self) -> dict[str, tuple[str, list[int], int, int]]:
        """The dtype and the shape of each tensor, and from where to where its bytes are."""
        first = 8 + int.from_bytes(self._file.read_start(8), "little")
        text = self._range(8, first)
        try:
            content = {name: of for name, of in json.loads(text).items() if name != "__metadata__"}
            header = {
                name: (of["dtype"], of["shape"], *(first + end for end in of["data_offsets"]))
                for name, of in content.items()
            }
            end = max((end for _, _, _, end in header.values()), default=first)
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise ValueError(f"{self} is broken, or no file of safetensors: {error!r}") from error
        self._require_bytes(end)
        return header

    @override
    def close(self) -> None:
        pass  # Nothing is open, and the header would have to be downloaded again.

    def _require_bytes(self, count: int) -> None:
        size = self._file.size()
        if size is not None and size < count:
            raise ValueError(f"{self} is broken, or no file of safetensors: it has {size} bytes, and not {count}.")

    def _range(self, start: int, end: int) -> bytes:
        self._require_bytes(end)
        content = self._file.read_range(start, end)
        if len(content) != end - start:
            raise ValueError(
                f"{self} cannot be read in parts: of {end - start} bytes, its server sent {len(content)}. Download the "
                "file, and give its path on this machine."
            )
        return content

    def _decode(self, dtype: str, shape: list[int], content: bytes) -> Tensor:
        """Let safetensors read a file of one tensor."""
        with needs("safetensors", extra="analysis", what=str(self)):
            from safetensors.torch import load
        header = json.dumps({"": {"dtype": dtype, "shape": shape, "data_offsets": [0, len(content)]}}).encode()
        tensor: Tensor = load(len(header).to_bytes(8, "little") + header + content)[""]
        return tensor

    @cached_property
    @override
    def parameters(self) -> Mapping[str, Tensor]:
        tensors = {}
        for name in sorted(self._header, key=natural_key):
            dtype, shape, _, _ = self._header[name]
            tensors[name] = torch.empty(shape, dtype=self._dtype(dtype), device="meta")
        return require_some(tensors, self)

    def _dtype(self, name: str) -> torch.dtype:
        try:
            return self._decode(name, [0], b"").dtype
        except ModuleNotFoundError:
            raise
        except Exception:
            # As for files on this machine.
            return torch.float32

    @override
    def read(self, name: str) -> Tensor:
        dtype, shape, start, end = self._header[name]
        return self._decode(dtype, shape, self._range(start, end))
