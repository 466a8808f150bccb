# SPDX-License-Identifier: Apache-2.0
"""Which files of a folder are saved states of a model, and in which order."""

import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from os import PathLike, fspath
from pathlib import PurePosixPath

from lightning_rwc.distributed_files import DistributedFile, is_distributed
from lightning_rwc.natural import natural_key
from lightning_rwc.places import Place, RemotePath, matches, place_at
from lightning_rwc.safetensors_files import RemoteSafetensorsFile, SafetensorsFile
from lightning_rwc.weight_files import TorchFile, WeightFile, WeightParts

_TORCH_SUFFIXES = (".ckpt", ".pt", ".pth", ".bin", ".pt.tar", ".pth.tar")
_SAFETENSORS_SUFFIX = ".safetensors"
# The name of a variant, such as "fp16", may stand before or after "index".
_SHARD_INDEX = re.compile(r".+\.(safetensors|bin)(\.\w+)?\.index(\.\w+)?\.json")

# The names that Transformers and Accelerate, PEFT and Diffusers give to a model. A row holds names of the same model.
_MODELS = (
    ("model", "pytorch_model", "pytorch_model_fsdp"),
    ("adapter_model",),
    ("diffusion_pytorch_model",),
    ("pytorch_lora_weights",),
)
# The last is a distributed checkpoint.
_FORMS = ("{}.safetensors", "{}.safetensors.index.json", "{}.bin", "{}.bin.index.json", "{}_0")
_VARIANT_FORMS = tuple(
    form
    for variant in ("fp16", "bf16", "fp32", "ema", "non_ema")
    for kind in ("safetensors", "bin")
    for form in (f"{{}}.{variant}.{kind}", f"{{}}.{kind}.index.{variant}.json", f"{{}}.{kind}.{variant}.index.json")
)
# The names of what these programs save next to a model.
_NO_MODEL = re.compile(
    r"(optimizer|scheduler|scaler|sampler|rng_state|random_states|training_args|custom_checkpoint)([_-]?\d+)*(\.\w+)*"
)
# Accelerate numbers several models and optimizers.
_NO_STEP = re.compile(rf"{_NO_MODEL.pattern}|pytorch_model_fsdp_\d+")


def find_weight_files(paths: str | PathLike[str] | Sequence[str | PathLike[str]]) -> list[WeightFile]:
    """Find the saved states of a model in files, folders and patterns, in order.

    Raises:
        ValueError: if a file is of another kind, an index is broken, or shards are missing.
        FileNotFoundError: if a path does not exist or a pattern matches nothing.

    """
    return [file for path in ([paths] if isinstance(paths, str | PathLike) else paths) for file in _at_path(path)]


def _at_path(path_or_pattern: str | PathLike[str]) -> list[WeightFile]:
    text = fspath(path_or_pattern)
    place = place_at(text)
    if place.is_dir() or place.is_file():
        return _at_place(place)
    if there := matches(place):
        chosen = [match for match in there if not _NO_MODEL.fullmatch(match.name)]
        return [
            file for match in sorted(chosen, key=lambda match: natural_key(str(match))) for file in _at_place(match)
        ]
    raise FileNotFoundError(
        f"`paths` has {text!r}, but there is no such file or folder, and none matches it as a pattern."
    )


def _at_place(place: Place) -> list[WeightFile]:
    return _in_folder(place) if place.is_dir() else [weight_file_at(place)]


def _in_folder(folder: Place) -> list[WeightFile]:
    series = []
    if not is_distributed(folder):
        series = _once(state for sub in _steps(_subfolders(folder)) if (state := _state(sub)))
    if len(series) == 1:
        # With several steps, the final model is left out: it may equal any of them, for example the best.
        series += _models(folder)
    if not series:
        state = _state(folder)
        series = [state] if state else _loose(folder)
    return series


def _by_name(paths: Iterable[Place]) -> list[Place]:
    return sorted(paths, key=lambda path: natural_key(path.name))


def _subfolders(folder: Place) -> list[Place]:
    return _by_name(path for path in folder.iterdir() if path.is_dir())


def _steps(folders: Sequence[Place]) -> list[Place]:
    """The folders that are steps of one run: distributed checkpoints, or folders of models.

    The names of the latter differ only in numbers, or are like ``checkpoint-500``.

    """
    names = {folder.name for folder in folders}
    kinds = Counter(re.sub(r"\d+", "#", name) for name in names)

    def is_step(name: str) -> bool:
        # A pipeline may have text_encoder_2 and text_encoder_3 next to text_encoder. These are not steps.
        kind, bare = re.sub(r"\d+", "#", name), re.sub(r"[_-]?\d+$", "", name)
        return kind != name and bare not in names and (kinds[kind] > 1 or name.startswith("checkpoint"))

    others = [folder for folder in folders if not _NO_STEP.fullmatch(folder.name)]
    return [folder for folder in others if is_step(folder.name) or is_distributed(folder)]


def _state(folder: Place) -> WeightFile | None:
    """The one state of a model in a folder, or in the folders of its parts, such as ``unet`` and ``text_encoder``."""
    if is_distributed(folder):
        return DistributedFile(folder)
    if models := _models(folder):
        return models[0] if len(models) == 1 else WeightParts(folder, [("", model) for model in models])
    parts = [(f"{sub.name}.", model) for sub in _subfolders(folder) for model in _models(sub)]
    return WeightParts(folder, parts) if parts else None


def _models(folder: Place) -> list[WeightFile]:
    """The models that a folder holds under the names of model hubs, each once."""
    there = {path.name: path for path in _by_name(folder.iterdir())}
    found = []
    for names in _MODELS:
        forms = [form.format(name) for form in (*_FORMS, *_VARIANT_FORMS) for name in names]
        paths = [there[form] for form in forms if form in there]
        found += [path for path in paths if path.is_file() or is_distributed(path)][:1]
    indices = [] if found else [path for name, path in there.items() if _SHARD_INDEX.fullmatch(name)]
    return [file for path in (*found, *indices[:1]) for file in _at_place(path)]


def _loose(folder: Place) -> list[WeightFile]:
    """A series of files that may have any names."""
    paths = [path for path in folder.iterdir() if path.is_file() and not _NO_MODEL.fullmatch(path.name)]
    safe = [path for path in paths if path.name.endswith(_SAFETENSORS_SUFFIX)]
    stems = {path.stem for path in safe}
    others = [path for path in paths if path.name.endswith(_TORCH_SUFFIXES) and path.stem not in stems]
    return _once(map(weight_file_at, _by_name([*safe, *others])))


def _once(series: Iterable[WeightFile]) -> list[WeightFile]:
    """The series without second files of the same epoch and step."""
    files: list[WeightFile] = []
    times: set[tuple[int, int] | None] = set()
    for file in series:
        time = file.checked_time()
        if time is None or time not in times:
            files.append(file)
            times.add(time)
    return files


def weight_file_at(path: Place) -> WeightFile:
    """Return the saved state at ``path``, which can also be the index of its shards. The weights are not read yet.

    Raises:
        ValueError: if the name does not end like that of a file of weights, an index is broken, or shards are missing.

    """
    if path.name.endswith(_SAFETENSORS_SUFFIX):
        return RemoteSafetensorsFile(path) if isinstance(path, RemotePath) else SafetensorsFile(path)
    if _SHARD_INDEX.fullmatch(path.name):
        return WeightParts(path, [("", weight_file_at(shard)) for shard in _shards(path)])
    if path.name.endswith(_TORCH_SUFFIXES):
        return TorchFile(path)
    known = ", ".join((*_TORCH_SUFFIXES, _SAFETENSORS_SUFFIX, ".safetensors.index.json", ".bin.index.json"))
    raise ValueError(f"`paths` has {str(path)!r}, but a file of weights must end in one of {known}.")


def _shards(index: Place) -> list[Place]:
    try:
        names = json.loads(index.read_bytes())["weight_map"].values()
        shards = [index.parent / PurePosixPath(name).name for name in sorted(set(names), key=natural_key)]
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise ValueError(f"{index} is broken, or is not an index of a model's shards: {error!r}") from error
    if missing := [shard.name for shard in shards if not shard.is_file()]:
        raise ValueError(f"{index} names shards that are not in its folder: {', '.join(missing)}. Put them there.")
    return shards
