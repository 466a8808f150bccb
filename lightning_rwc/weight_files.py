# SPDX-License-Identifier: Apache-2.0
"""Files and folders of saved weights: which files are a model's, and which tensors they hold."""

import glob
import json
import pickle
import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cached_property
from os import PathLike, fspath
from pathlib import Path
from shlex import quote
from typing import Any
from zipfile import is_zipfile

import torch
from torch import Tensor

from lightning_rwc.extras import needs
from lightning_rwc.natural import natural_key

_TORCH_SUFFIXES = (".ckpt", ".pt", ".pth", ".bin")
_SAFETENSORS = ".safetensors"
# A variant, "fp16" for one, stands on either side of "index".
_INDEX = re.compile(r".+\.(safetensors|bin)(\.\w+)?\.index(\.\w+)?\.json")
# Under these a file may hold its state dict beside other things: Lightning's is the first, that of PyTorch's recipe for
# distributed checkpoints the last.
_STATE_DICTS = ("state_dict", "model_state_dict", "model", "app")
# What Transformers and Accelerate, PEFT, and Diffusers call a model; the names in one row are of the same model.
_MODELS = (
    ("model", "pytorch_model", "pytorch_model_fsdp"),
    ("adapter_model",),
    ("diffusion_pytorch_model",),
    ("pytorch_lora_weights",),
)
_FORMS = ("{}.safetensors", "{}.safetensors.index.json", "{}.bin", "{}.bin.index.json")
_VARIANT_FORMS = tuple(
    form
    for variant in ("fp16", "bf16", "fp32", "ema", "non_ema")
    for kind in ("safetensors", "bin")
    for form in (f"{{}}.{variant}.{kind}", f"{{}}.{kind}.index.{variant}.json", f"{{}}.{kind}.{variant}.index.json")
)
# What they save beside it.
_NO_MODEL = re.compile(
    r"(optimizer|scheduler|scaler|sampler|rng_state|random_states|training_args|custom_checkpoint)([_-]?\d+)*(\.\w+)?"
)


def weight_files(paths: str | PathLike[str] | Sequence[str | PathLike[str]]) -> list["WeightFile"]:
    """The saved states of a model that files, folders and patterns hold, in their order.

    Raises:
        ValueError: if a file is of another kind, or a folder holds nothing but a distributed checkpoint.
        FileNotFoundError: if a path or pattern is of nothing.

    """
    return [file for path in ([paths] if isinstance(paths, str | PathLike) else paths) for file in _files(path)]


class WeightFile(ABC):
    """One saved state of a model, of one file or several."""

    keeps_order = True

    def __init__(self, path: Path) -> None:
        self.path = path

    def __str__(self) -> str:
        return str(self.path)

    @property
    def time(self) -> tuple[int, int] | None:
        """Epoch and step, if the file knows."""
        return None

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

    def close(self) -> None:
        """Let go of what is mapped; it is opened again on demand."""
        for name in [name for name, value in vars(type(self)).items() if isinstance(value, cached_property)]:
            self.__dict__.pop(name, None)


class _TorchFile(WeightFile):
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

    @property
    def time(self) -> tuple[int, int] | None:
        try:
            loop = self._content["loops"]["fit_loop"]["epoch_loop.state_dict"]
            # The callback logs under the step of the last batch.
            return self._content["epoch"], loop["_batches_that_stepped"] - 1
        except (KeyError, TypeError):
            return None

    @cached_property
    def parameters(self) -> Mapping[str, Tensor]:
        state = self._content
        while nested := [state[name] for name in _STATE_DICTS if isinstance(state.get(name), Mapping)]:
            state = nested[0]
        tensors: dict[str, Tensor] = {}
        seen = set()
        for name, tensor in state.items():
            if isinstance(tensor, Tensor) and (place := _place(tensor)) not in seen:
                tensors[name] = tensor
                seen.add(place)
        return _some(tensors, self)

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
    def parameters(self) -> Mapping[str, Tensor]:
        tensors = {}
        for name in sorted(self._handle.keys(), key=natural_key):
            part = self._handle.get_slice(name)
            tensors[name] = torch.empty(part.get_shape(), dtype=self._dtype(name, part), device="meta")
        return _some(tensors, self)

    def _dtype(self, name: str, part: Any) -> torch.dtype:
        try:
            # An empty tensor of the same kind tells the dtype, which the header has under a name of its own.
            dtype: torch.dtype = part[..., :0].dtype if part.get_shape() else self.read(name).dtype
        except Exception:
            # Floats of 4 or 6 bits, which PyTorch may not know: to read the tensor then fails likewise.
            return torch.float32
        return dtype

    def read(self, name: str) -> Tensor:
        tensor: Tensor = self._handle.get_tensor(name)
        return tensor


class _Parts(WeightFile):
    """A model in several files; each file's names get a prefix, which is empty for shards."""

    def __init__(self, path: Path, parts: Sequence[tuple[str, WeightFile]]) -> None:
        super().__init__(path)
        self._parts = parts
        self.keeps_order = any(part.keeps_order for _, part in parts)

    @cached_property
    def _homes(self) -> dict[str, tuple[WeightFile, str]]:
        homes = {f"{prefix}{name}": (part, name) for prefix, part in self._parts for name in part.parameters}
        return homes if self.keeps_order else {name: homes[name] for name in sorted(homes, key=natural_key)}

    @cached_property
    def parameters(self) -> Mapping[str, Tensor]:
        return {name: part.parameters[inner] for name, (part, inner) in self._homes.items()}

    def read(self, name: str) -> Tensor:
        part, inner = self._homes[name]
        return part.read(inner)

    def close(self) -> None:
        super().close()
        for _, part in self._parts:
            part.close()


def _place(tensor: Tensor) -> object:
    """What tied tensors share."""
    try:
        if start := tensor.data_ptr():
            return start, tensor.shape, tensor.stride()
    except RuntimeError:
        pass  # Sparse tensors have no memory of their own.
    return id(tensor)


def _some(tensors: dict[str, Tensor], file: WeightFile) -> dict[str, Tensor]:
    if not tensors:
        raise ValueError(f"{file} holds no weights: there is no tensor in it, nor under {', '.join(_STATE_DICTS)}.")
    return tensors


def _files(path: str | PathLike[str]) -> list[WeightFile]:
    text = fspath(path)
    place = Path(text)
    if place.is_dir():
        return _in_folder(place)
    if place.is_file():
        return [_file(place)]
    if matches := glob.glob(text, recursive=True):
        chosen = [match for match in matches if not _NO_MODEL.fullmatch(Path(match).name)]
        return [file for match in sorted(chosen, key=natural_key) for file in _files(match)]
    raise FileNotFoundError(f"`paths` has {text!r}, but there is no such file or folder, and no file that it matches.")


def _file(path: Path) -> WeightFile:
    if path.name.endswith(_SAFETENSORS):
        return _SafetensorsFile(path)
    if _INDEX.fullmatch(path.name):
        return _Parts(path, [("", _file(shard)) for shard in _shards(path)])
    if path.suffix in _TORCH_SUFFIXES:
        return _TorchFile(path)
    known = ", ".join((*_TORCH_SUFFIXES, _SAFETENSORS, ".safetensors.index.json", ".bin.index.json"))
    raise ValueError(f"`paths` has {str(path)!r}, but a file of weights must end in one of {known}.")


def _shards(index: Path) -> list[Path]:
    try:
        names = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
        shards = [index.parent / Path(name).name for name in sorted(set(names), key=natural_key)]
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise ValueError(f"{index} is broken, or no index of a model's shards: {error!r}") from error
    if missing := [shard.name for shard in shards if not shard.is_file()]:
        raise ValueError(f"{index} names shards that are not beside it: {', '.join(missing)}. Fetch them too.")
    return shards


def _in_folder(folder: Path) -> list[WeightFile]:
    subfolders = _subfolders(folder)
    series = [state for sub in _numbered(subfolders) if (state := _state(sub))]
    if len(series) == 1:
        # Beside several, the final model is left out: it may be that of any of their steps, the best one for one.
        series += _models(folder)
    if not series:
        state = _state(folder)
        series = [state] if state else _loose(folder)
    if not series:
        _refuse_distributed(folder)
    return series


def _subfolders(folder: Path) -> list[Path]:
    return sorted((path for path in folder.iterdir() if path.is_dir()), key=lambda path: natural_key(path.name))


def _numbered(folders: Sequence[Path]) -> list[Path]:
    """Those whose names tell them to be steps of one run: alike but for numbers, or ``checkpoint-500``."""
    names = {folder.name for folder in folders}
    kinds = Counter(re.sub(r"\d+", "#", name) for name in names)

    def is_step(name: str) -> bool:
        # A pipeline's text_encoder_2 and text_encoder_3 stand beside its text_encoder.
        kind, bare = re.sub(r"\d+", "#", name), re.sub(r"[_-]?\d+$", "", name)
        return kind != name and bare not in names and (kinds[kind] > 1 or name.startswith("checkpoint"))

    return [folder for folder in folders if is_step(folder.name)]


def _state(folder: Path) -> WeightFile | None:
    """The one state of a model in a folder, or in the folders of its parts, as ``unet`` and ``text_encoder`` are."""
    if models := _models(folder):
        return models[0] if len(models) == 1 else _Parts(folder, [("", model) for model in models])
    parts = [(f"{sub.name}.", model) for sub in _subfolders(folder) for model in _models(sub)]
    return _Parts(folder, parts) if parts else None


def _models(folder: Path) -> list[WeightFile]:
    """The models that lie in a folder under the names of model hubs, each once."""
    found = []
    for names in _MODELS:
        places = [folder / form.format(name) for form in (*_FORMS, *_VARIANT_FORMS) for name in names]
        found += [place for place in places if place.is_file()][:1]
    indices = [] if found else [path for path in sorted(folder.iterdir()) if _INDEX.fullmatch(path.name)]
    return [_file(path) for path in (*found, *indices[:1])]


def _loose(folder: Path) -> list[WeightFile]:
    """A series of files of any name."""
    paths = [path for path in folder.iterdir() if path.is_file() and not _NO_MODEL.fullmatch(path.name)]
    safe = {path.stem for path in paths if path.suffix == _SAFETENSORS}
    chosen = [
        path
        for path in paths
        if path.suffix == _SAFETENSORS or (path.suffix in _TORCH_SUFFIXES and path.stem not in safe)
    ]
    files = [_file(path) for path in sorted(chosen, key=lambda path: natural_key(path.name))]
    times = [file.checked_time() for file in files]
    return [file for number, file in enumerate(files) if times[number] is None or times[number] not in times[:number]]


def _refuse_distributed(folder: Path) -> None:
    for pattern in (".metadata", "*/.metadata", "*/*/.metadata"):
        for place in sorted({path.parent for path in folder.glob(pattern)}, key=lambda path: natural_key(str(path))):
            if not _NO_MODEL.fullmatch(place.name):
                raise ValueError(
                    f"{place} is a distributed checkpoint, a folder of pieces. Make it one file, which can be measured:"
                    f" python -m torch.distributed.checkpoint.format_utils dcp_to_torch {quote(str(place))} "
                    f"{quote(f'{place}.pt')}"
                )
