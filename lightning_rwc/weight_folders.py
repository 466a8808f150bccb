# SPDX-License-Identifier: Apache-2.0
"""Which files of a folder are saved states of a model, and in which order."""

import glob
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from os import PathLike, fspath
from pathlib import Path
from shlex import quote

from lightning_rwc.natural import natural_key
from lightning_rwc.weight_files import (
    SAFETENSORS_SUFFIX,
    SHARD_INDEX,
    TORCH_SUFFIXES,
    WeightFile,
    WeightParts,
    weight_file_at,
)

# The names that Transformers and Accelerate, PEFT and Diffusers give to a model. A row holds names of the same model.
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
# The names of what these programs save next to a model.
_NO_MODEL = re.compile(
    r"(optimizer|scheduler|scaler|sampler|rng_state|random_states|training_args|custom_checkpoint)([_-]?\d+)*(\.\w+)?"
)


def find_weight_files(paths: str | PathLike[str] | Sequence[str | PathLike[str]]) -> list[WeightFile]:
    """Find the saved states of a model in files, folders and patterns, in order.

    Raises:
        ValueError: if a file is of another kind, or a folder holds only a distributed checkpoint.
        FileNotFoundError: if a path does not exist or a pattern matches nothing.

    """
    return [file for path in ([paths] if isinstance(paths, str | PathLike) else paths) for file in _at_path(path)]


def _at_path(path_or_pattern: str | PathLike[str]) -> list[WeightFile]:
    text = fspath(path_or_pattern)
    path = Path(text)
    if path.is_dir():
        return _in_folder(path)
    if path.is_file():
        return [weight_file_at(path)]
    if matches := glob.glob(text, recursive=True):
        chosen = [match for match in matches if not _NO_MODEL.fullmatch(Path(match).name)]
        return [file for match in sorted(chosen, key=natural_key) for file in _at_path(match)]
    raise FileNotFoundError(
        f"`paths` has {text!r}, but there is no such file or folder, and none matches it as a pattern."
    )


def _in_folder(folder: Path) -> list[WeightFile]:
    subfolders = _subfolders(folder)
    series = [state for sub in _steps(subfolders) if (state := _state(sub))]
    if len(series) == 1:
        # With several steps, the final model is left out: it may equal any of them, for example the best.
        series += _models(folder)
    if not series:
        state = _state(folder)
        series = [state] if state else _loose(folder)
    if not series:
        _refuse_distributed(folder)
    return series


def _by_name(paths: Iterable[Path]) -> list[Path]:
    return sorted(paths, key=lambda path: natural_key(path.name))


def _subfolders(folder: Path) -> list[Path]:
    return _by_name(path for path in folder.iterdir() if path.is_dir())


def _steps(folders: Sequence[Path]) -> list[Path]:
    """The folders that are steps of one run: their names differ only in numbers, or are like ``checkpoint-500``."""
    names = {folder.name for folder in folders}
    kinds = Counter(re.sub(r"\d+", "#", name) for name in names)

    def is_step(name: str) -> bool:
        # A pipeline may have text_encoder_2 and text_encoder_3 next to text_encoder. These are not steps.
        kind, bare = re.sub(r"\d+", "#", name), re.sub(r"[_-]?\d+$", "", name)
        return kind != name and bare not in names and (kinds[kind] > 1 or name.startswith("checkpoint"))

    return [folder for folder in folders if is_step(folder.name)]


def _state(folder: Path) -> WeightFile | None:
    """The one state of a model in a folder, or in the folders of its parts, such as ``unet`` and ``text_encoder``."""
    if models := _models(folder):
        return models[0] if len(models) == 1 else WeightParts(folder, [("", model) for model in models])
    parts = [(f"{sub.name}.", model) for sub in _subfolders(folder) for model in _models(sub)]
    return WeightParts(folder, parts) if parts else None


def _models(folder: Path) -> list[WeightFile]:
    """The models that a folder holds under the names of model hubs, each once."""
    found = []
    for names in _MODELS:
        paths = [folder / form.format(name) for form in (*_FORMS, *_VARIANT_FORMS) for name in names]
        found += [path for path in paths if path.is_file()][:1]
    indices = [] if found else [path for path in sorted(folder.iterdir()) if SHARD_INDEX.fullmatch(path.name)]
    return [weight_file_at(path) for path in (*found, *indices[:1])]


def _loose(folder: Path) -> list[WeightFile]:
    """A series of files that may have any names, without second files of the same epoch and step."""
    paths = [path for path in folder.iterdir() if path.is_file() and not _NO_MODEL.fullmatch(path.name)]
    safe = [path for path in paths if path.suffix == SAFETENSORS_SUFFIX]
    stems = {path.stem for path in safe}
    others = [path for path in paths if path.suffix in TORCH_SUFFIXES and path.stem not in stems]
    files: list[WeightFile] = []
    times: set[tuple[int, int] | None] = set()
    for file in map(weight_file_at, _by_name([*safe, *others])):
        time = file.checked_time()
        if time is None or time not in times:
            files.append(file)
            times.add(time)
    return files


def _refuse_distributed(folder: Path) -> None:
    for pattern in (".metadata", "*/.metadata", "*/*/.metadata"):
        found = {path.parent for path in folder.glob(pattern)}
        for checkpoint in sorted(found, key=lambda path: natural_key(str(path))):
            if not _NO_MODEL.fullmatch(checkpoint.name):
                raise ValueError(
                    f"{checkpoint} is a distributed checkpoint, which consists of many pieces. Convert it to one file, "
                    "which can be measured: python -m torch.distributed.checkpoint.format_utils dcp_to_torch "
                    f"{quote(str(checkpoint))} {quote(f'{checkpoint}.pt')}"
                )
