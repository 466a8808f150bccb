# SPDX-License-Identifier: Apache-2.0
"""What a comparison of two saved models yields: a table of layers, and what else must be known."""

import csv
from importlib import import_module
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from lightning_rwc.extras import needs

if TYPE_CHECKING:
    import pandas as pd

MEASURES = ("l1", "l2", "rotation", "radial", "moved")


class LayerDiff(NamedTuple):
    """How a layer changed. Where dtypes differ, BASE is first cast to that of TUNED."""

    layer: str
    l1: float
    """‖c − p‖₁ / ‖p‖₁"""
    l2: float
    """‖c − p‖₂ / ‖p‖₂"""
    rotation: float
    """The angle between the weights, in radians."""
    radial: float
    """‖c‖₂ / ‖p‖₂ − 1"""
    moved: float
    """The share of elements that differ."""
    elements: int
    shape: tuple[int, ...]
    dtypes: tuple[str, str]
    """Those of BASE and of TUNED."""
    rounded: float
    """The share of elements of BASE that the cast to the dtype of TUNED changes. It is 0 if dtypes are the same."""
    identical: bool
    """Whether all bits are the same."""


class WeightDiff(NamedTuple):
    """What changed from BASE to TUNED."""

    base: str
    tuned: str
    layers: list[LayerDiff]
    """In definition order, as far as a file keeps it."""
    total: LayerDiff
    """All of them that are finite, measured as one layer."""
    pairs: int
    """How many tensors both have, those outside of :attr:`layers` too."""
    only_base: list[str]
    only_tuned: list[str]
    reshaped: dict[str, tuple[tuple[int, ...], tuple[int, ...]]]
    """The tensors of another shape, with both shapes."""
    left_out: dict[str, str]
    """The tensors that cannot be measured, with the reason."""
    others: list[str]
    """Other tensors that differ. They are compared only if all of :attr:`layers` are bit-identical."""
    notes: list[str]
    """How names were matched, and what else must be known to read the numbers."""
    unsure: list[str]
    """Tensors without which the two cannot be called identical: floating-point ones that only one of them has, and
    those that cannot be compared."""

    @property
    def identical(self) -> bool:
        """Whether all tensors are the same, bit for bit. Integers that only one of the two has do not count."""
        return all(one.identical for one in self.layers) and not (self.others or self.reshaped or self.unsure)

    def to_frame(self) -> "pd.DataFrame":
        """A data frame with the columns ``layer``, ``l1``, ``l2``, ``rotation``, ``radial`` and ``moved``.

        Raises:
            ModuleNotFoundError: if pandas is missing.

        """
        with needs("pandas", extra="pandas", what="WeightDiff.to_frame"):
            import pandas as pd
        return pd.DataFrame([_row(one) for one in self.layers], columns=["layer", *MEASURES])

    def save(self, path: str | PathLike[str]) -> None:
        """Write the columns of :meth:`to_frame` to a file. Numbers keep every bit.

        Args:
            path: the file, of suffix ``.csv`` or ``.parquet`` (needs the extra ``parquet``).

        Raises:
            ValueError: if the suffix is another one.
            ModuleNotFoundError: if the suffix is ``.parquet`` and pandas or pyarrow is missing.

        """
        path = Path(path)
        if path.suffix == ".parquet":
            with needs("pandas and pyarrow", extra="parquet", what=f"Writing {path}"):
                import_module("pyarrow")
            self.to_frame().to_parquet(path, index=False)
        elif path.suffix == ".csv":
            with path.open("w", encoding="utf-8", newline="") as file:
                csv.writer(file).writerows([["layer", *MEASURES], *map(_row, self.layers)])
        else:
            raise ValueError(f"`path` must end in .csv or .parquet, but got {str(path)!r}.")


def _row(one: LayerDiff) -> list[str | float]:
    return [one.layer, *(getattr(one, measure) for measure in MEASURES)]
