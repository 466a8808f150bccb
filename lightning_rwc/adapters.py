# SPDX-License-Identifier: Apache-2.0
"""LoRA adapters that PEFT saved: what each of them adds to a matrix of its base model."""

import json
import math
import re
from collections.abc import Mapping
from functools import cached_property
from os import PathLike, fspath
from typing import Any, NamedTuple

import torch
from torch import Tensor
from typing_extensions import override

from lightning_rwc.functional import Sums
from lightning_rwc.places import Place, place_at
from lightning_rwc.weight_files import WeightFile
from lightning_rwc.weight_folders import weight_file_at

_CONFIG = "adapter_config.json"
_FILES = ("adapter_model.safetensors", "adapter_model.bin")
# Older versions of PEFT keep the name of the adapter behind `lora_A`.
_FACTOR = re.compile(r"(?P<module>.*)\.lora_(embedding_)?(?P<which>[AB])(\.(?!bias$)\w+)?")
# Initialisations that take what the factors hold out of the base model.
_CHANGES_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")
# What variants of LoRA store next to the factors, such as a magnitude or a diagonal, does more than add a product.
_MORE = re.compile(r".*\.(?P<what>lora_(?!(embedding_)?[AB](\.|$))\w+).*")
_REMEDY = "Merge the adapter into its base model (`merge_and_unload()`), save that, and give its folder as TUNED."
_BLOCK = 2**18  # elements


class Factors(NamedTuple):
    """What is added to a matrix: ``scale · left @ right``."""

    left: Tensor
    right: Tensor
    scale: float

    def sums(self, weight: Tensor) -> Tensor:
        """The rows of :class:`~lightning_rwc.functional.Sums` for the norm ``l1``, of shape ``(6, 1)``, block by block.

        Args:
            weight: the matrix of the base model, of as many elements as the product.

        """
        dtype = torch.float64 if self.left.dtype == torch.float64 else torch.float32
        left, right = self.scale * self.left.to(dtype), self.right.to(dtype)
        weight = weight.reshape(len(left), right.shape[1])
        rows = max(_BLOCK // right.shape[1], 1)
        total = torch.zeros(len(Sums._fields), dtype=torch.float64)
        for start in range(0, len(left), rows):
            size = weight[start : start + rows].double().flatten()
            change = (left[start : start + rows] @ right).double().flatten()
            moved = change.count_nonzero().double()
            dots = change @ size, change @ change, size @ size
            total += torch.stack([change.abs().sum(), size.abs().sum(), moved, *dots])
        return total[:, None]


class Adapter(WeightFile):
    """A LoRA adapter in a folder of PEFT.

    Its parameters have the names and shapes of the weights of the base model: those to which a product is added, and
    those that are saved whole, such as a new head.

    Args:
        folder: a folder with ``adapter_config.json`` and the adapter's weights.

    Raises:
        ValueError: if the adapter is none of LoRA, changes more than a product adds, or is broken.
        FileNotFoundError: if the folder lacks the weights.

    """

    def __init__(self, folder: Place) -> None:
        super().__init__(folder)
        self._config = _config(folder / _CONFIG)
        path = next((folder / name for name in _FILES if (folder / name).is_file()), None)
        if path is None:
            raise FileNotFoundError(f"{folder} has {_CONFIG} but no {' or '.join(_FILES)}. Save the adapter again.")
        self._file = weight_file_at(path)
        self.keeps_order = self._file.keeps_order

    @property
    def note(self) -> str | None:
        """What to know of the numbers, if anything."""
        start = str(self._config.get("init_lora_weights", "")).lower()
        if not start.startswith(_CHANGES_BASE):
            return None
        return f"The adapter was initialised by {start}, which changes the base too. Only B·A is measured here."

    @cached_property
    def _factors(self) -> dict[str, tuple[str, str]]:
        """Map names of weights of the base model to the names that ``A`` and ``B`` have in the file."""
        found: dict[str, dict[str, str]] = {}
        for name in self._file.parameters:
            if match := _FACTOR.fullmatch(name.removesuffix(".weight")):
                found.setdefault(f"{match['module']}.weight", {})[match["which"]] = name
        return {name: (pair["A"], pair["B"]) for name, pair in found.items() if len(pair) == 2}

    @property
    def added(self) -> set[str]:
        """The names of the weights to which a product is added."""
        return {*self._factors}

    @cached_property
    @override
    def parameters(self) -> Mapping[str, Tensor]:
        stored = self._file.parameters
        if more := next((match["what"] for match in map(_MORE.fullmatch, stored) if match), None):
            raise ValueError(f"{self} is an adapter with {more!r}, which does more than add a product. {_REMEDY}")
        taken = {name for pair in self._factors.values() for name in pair}
        products = {
            name: torch.empty(stored[second].shape[0], *stored[first].shape[1:], device="meta")
            for name, (first, second) in self._factors.items()
        }
        # PEFT also stores the frozen weights of embeddings to which a product is added.
        frozen = {name for name in stored if name.replace(".base_layer.", ".") in products}
        return products | {name: tensor for name, tensor in stored.items() if name not in taken | frozen}

    @override
    def read(self, name: str) -> Tensor:
        return self._file.read(name)

    def factors(self, name: str, shape: torch.Size) -> Factors:
        """Read what is added to the weight ``name`` of the base model.

        Raises:
            ValueError: if a weight of ``shape`` cannot take the product.

        """
        first, second = (self._file.read(one) for one in self._factors[name])
        rank, outputs = len(first), len(second)
        inputs = tuple(first.shape[1:])
        if second.numel() != outputs * rank or len(shape) != len(inputs) + 1:
            raise ValueError(f"its factors {tuple(second.shape)} and {tuple(first.shape)} are no product of matrices")
        left, right = second.reshape(outputs, rank), first.reshape(rank, -1)
        scale = self._scale(name, rank)
        is_embedding = ".lora_embedding_" in self._factors[name][0]
        straight, turned = tuple(shape) == (outputs, *inputs), tuple(shape) == (*inputs, outputs)
        if is_embedding or (turned and (self._config.get("fan_in_fan_out") or not straight)):
            straight, left, right = turned, right.T, left.T
        if not straight:
            raise ValueError(f"its product has the shape {(outputs, *inputs)}, but BASE has {tuple(shape)}")
        return Factors(left, right, scale)

    def _scale(self, name: str, rank: int) -> float:
        module = name.removesuffix(".weight").removeprefix("base_model.model.")
        patterns: Mapping[str, float] = self._config.get("alpha_pattern") or {}
        key = next((key for key in patterns if re.match(rf"(.*\.)?({key})$", module)), None)
        alpha = float(self._config["lora_alpha"] if key is None else patterns[key])
        return alpha / (math.sqrt(rank) if self._config.get("use_rslora") else rank)

    @override
    def close(self) -> None:
        super().close()
        self._file.close()


def adapter_at(path: str | PathLike[str]) -> Adapter | None:
    """Return the adapter that is at ``path``, a folder or the file of weights in it, or None if there is none."""
    folder = _folder(path)
    return Adapter(folder) if folder else None


def is_adapter(path: str | PathLike[str]) -> bool:
    """Whether an adapter of any kind is at ``path``, a folder or the file of weights in it."""
    return _folder(path) is not None


def has_factors(names: Mapping[str, Any]) -> bool:
    """Whether some of ``names`` are factors of LoRA."""
    return any(_FACTOR.fullmatch(name.removesuffix(".weight")) for name in names)


def _folder(path: str | PathLike[str]) -> Place | None:
    place = place_at(fspath(path))
    folder = place.parent if place.name in _FILES else place if place.is_dir() else None
    return folder if folder and (folder / _CONFIG).is_file() else None


def _config(path: Place) -> dict[str, Any]:
    try:
        config: dict[str, Any] = json.loads(path.read_bytes())
        kind, _ = config["peft_type"], float(config.get("lora_alpha", 0))
    except (ValueError, LookupError, TypeError) as error:
        raise ValueError(f"{path} is broken, or is no configuration of an adapter: {error!r}") from error
    if kind != "LORA":
        raise ValueError(f"{path.parent} is an adapter of the kind {kind}, but only LORA can be measured. {_REMEDY}")
    for key, variant in (("use_dora", "DoRA"), ("kasa_config", "KaSA")):
        if config.get(key):
            raise ValueError(
                f"{path.parent} is an adapter with {variant}, which does more than add a product. {_REMEDY}"
            )
    return config
