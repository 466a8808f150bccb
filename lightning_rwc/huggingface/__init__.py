# SPDX-License-Identifier: Apache-2.0
"""Relative weight change while the Trainer of transformers trains."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lightning_rwc.huggingface.callback import RWCTrainerCallback

__all__ = ["RWCTrainerCallback"]


def __getattr__(name: str) -> object:
    # Imported on first use: a class for transformers brings most of transformers.
    if name == "RWCTrainerCallback":
        from lightning_rwc.huggingface.callback import RWCTrainerCallback

        return RWCTrainerCallback
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
