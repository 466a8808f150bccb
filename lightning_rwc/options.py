# SPDX-License-Identifier: Apache-2.0
"""Checks of the options that the callback, the metric and the commands share."""

from collections.abc import Sequence
from typing import Literal, TypeAlias, get_args

from lightning_rwc.norms import definition

RelativeTo: TypeAlias = Literal["previous", "initial"]


def check_norm(norm: str) -> None:
    """Raise ``ValueError`` unless ``norm`` is defined."""
    definition(norm)


def check_relative_to(relative_to: str) -> None:
    """Raise ``ValueError`` unless ``relative_to`` is ``"previous"`` or ``"initial"``."""
    if relative_to not in get_args(RelativeTo):
        known = ", ".join(map(repr, get_args(RelativeTo)))
        raise ValueError(f"`relative_to` must be one of {known}, but got {relative_to!r}.")


def check_count(name: str, value: int) -> None:
    """Raise unless ``value``, the argument ``name``, is an int of at least 1."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"`{name}` must be an int, but got {value!r}.")
    if value < 1:
        raise ValueError(f"`{name}` must be at least 1, but got {value}.")


def check_max_elements(max_elements: int | None, norm: str) -> None:
    """Raise unless ``max_elements`` is None, or a number of elements from which ``norm`` can be estimated."""
    if max_elements is None:
        return
    if isinstance(max_elements, bool) or not isinstance(max_elements, int):
        raise TypeError(f"`max_elements` must be None or an int, but got {max_elements!r}.")
    if max_elements < 256:
        raise ValueError(
            f"`max_elements` must be at least 256, but got {max_elements}. Estimates from fewer elements are too far "
            "off. 65536 elements give a standard error of about half a percent."
        )
    if definition(norm).is_mean:
        raise ValueError(
            f"`max_elements={max_elements}` does not work with `norm={norm!r}`. A few weights near zero carry that "
            "mean, and a sample misses them. Choose `norm='l1'` or `norm='l2'`, or leave out `max_elements`."
        )


def check_units_with_samples(max_elements: int | None, units: object, movements: Sequence[str]) -> None:
    """Raise ``ValueError`` if ``max_elements`` is given, but all elements of a unit are needed."""
    other = f"`units={units!r}`" if units is not None else "the measure 'still'" if "still" in movements else ""
    if max_elements is not None and other:
        raise ValueError(
            f"`max_elements={max_elements}` does not work with {other}, because a sample has too few elements of each "
            "unit. Leave out one of them."
        )


def check_snapshot_device(snapshot_device: str | None) -> None:
    """Raise ``ValueError`` unless ``snapshot_device`` is None or the CPU."""
    if snapshot_device not in (None, "cpu"):
        raise ValueError(
            f"`snapshot_device` must be None, for the device of the model, or 'cpu', but got {snapshot_device!r}."
        )


def check_prefix(prefix: str) -> None:
    """Raise ``ValueError`` unless ``prefix`` is a string that is not blank."""
    if not isinstance(prefix, str) or not prefix.strip():
        raise ValueError(f"`prefix` must be a string that is not blank, such as 'rwc', but got {prefix!r}.")


def check_strip_prefix(strip_prefix: str) -> None:
    """Raise ``TypeError`` unless ``strip_prefix`` is a string."""
    if not isinstance(strip_prefix, str):
        raise TypeError(f"`strip_prefix` must be a string, such as 'model.base_model.', but got {strip_prefix!r}.")


def check_findings(findings: bool) -> None:
    """Raise ``TypeError`` unless ``findings`` is a bool."""
    if not isinstance(findings, bool):
        raise TypeError(f"`findings` must be True or False, but got {findings!r}.")


def check_ignore_findings(ignored: Sequence[str], kinds: Sequence[str]) -> None:
    """Raise unless ``ignored`` is a sequence of some of ``kinds``."""
    if isinstance(ignored, str) or not isinstance(ignored, Sequence):
        raise TypeError(f"`ignore_findings` must be a list of names, such as ['burst'], but got {ignored!r}.")
    if unknown := [kind for kind in ignored if kind not in kinds]:
        raise ValueError(f"`ignore_findings` has {unknown[0]!r}, but findings are of these kinds: {', '.join(kinds)}.")


def check_heatmap(heatmap: bool | int) -> None:
    """Raise unless ``heatmap`` is a bool, or an int of at least 1."""
    if not isinstance(heatmap, bool):
        check_count("heatmap", heatmap)
