# SPDX-License-Identifier: Apache-2.0
"""Messages to the user, which only rank 0 gives."""

import logging
import warnings

from lightning_rwc.shards import rank

LIGHTNING = "lightning.pytorch.rwc"
"""A log that Lightning shows."""


def rank_zero_warn(message: str) -> None:
    """Warn with ``message``."""
    if rank() == 0:
        warnings.warn(message, stacklevel=3)


def rank_zero_info(message: str, log: str = LIGHTNING) -> None:
    """Write ``message`` to the log of this name."""
    if rank() == 0:
        logging.getLogger(log).info(message)
