# SPDX-License-Identifier: Apache-2.0
"""What TensorBoard loads at its start: this must be quick, and must not fail."""

import logging
from typing import Any

from tensorboard.plugins.base_plugin import TBLoader, TBPlugin


class RWCLoader(TBLoader):
    """Loads the tab, or warns and leaves TensorBoard as it is."""

    def load(self, context: Any) -> TBPlugin | None:
        """The tab, for TensorBoard's ``context``."""
        try:
            from lightning_rwc.tensorboard.plugin import RWCPlugin

            return RWCPlugin(context)
        except Exception as error:
            logging.getLogger(__name__).warning("The tab RWC is not there: %s: %s", type(error).__name__, error)
            return None
