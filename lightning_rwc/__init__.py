# SPDX-License-Identifier: Apache-2.0
"""Relative weight change, layer by layer, while PyTorch Lightning trains."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lightning_rwc.callback import RWCCallback
    from lightning_rwc.findings import Finding
    from lightning_rwc.functional import relative_weight_change
    from lightning_rwc.history import RWCHistory
    from lightning_rwc.metric import RelativeWeightChange

__all__ = ["Finding", "RWCCallback", "RWCHistory", "RelativeWeightChange", "relative_weight_change"]
__version__ = "0.1.0"

_HOME = {
    "Finding": "findings",
    "RWCCallback": "callback",
    "RWCHistory": "history",
    "RelativeWeightChange": "metric",
    "relative_weight_change": "functional",
}


def __getattr__(name: str) -> object:
    # Imported on first use: reading a history or a log needs neither Lightning nor torch.
    if name in _HOME:
        return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
