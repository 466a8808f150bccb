# SPDX-License-Identifier: Apache-2.0
"""What TensorBoard loads when it starts. It must be quick, and it must not fail."""

import logging
from typing import Any

from tensorboard.plugins.base_plugin import TBLoader, TBPlugin

from lightning_rwc.tensorboard.contents import PLUGIN_NAME, POINTS


class RWCLoader(TBLoader):
    """Loads the tab. If that fails, it warns, and TensorBoard starts without the tab."""

    def fix_flags(self, flags: Any) -> None:
        """Let TensorBoard keep as many measurements of units as of scalars, unless the user has said how many."""
        samples = getattr(flags, "samples_per_plugin", None)
        if isinstance(samples, dict):
            samples.setdefault(PLUGIN_NAME, POINTS)

    def load(self, context: Any) -> TBPlugin | None:
        """The tab for TensorBoard's ``context``, or ``None`` if it cannot be loaded."""
        try:
            from lightning_rwc.tensorboard.plugin import RWCPlugin

            return RWCPlugin(context)
        except Exception as error:
            logging.getLogger(__name__).warning("The RWC tab cannot be loaded: %s: %s", type(error).__name__, error)
            return None
