# SPDX-License-Identifier: Apache-2.0
"""TensorBoard as a server inside this process."""

from pathlib import Path


def serve(log_dir: Path) -> str:
    """Start TensorBoard in a thread. It stops when the process ends.

    Args:
        log_dir: the folder of the runs.

    Returns:
        The address of the tab RWC. TensorBoard takes port 6006, or the next free one, and already listens there.

    """
    from tensorboard.program import TensorBoard

    from lightning_rwc.tensorboard.plugin import RWCPlugin

    tensorboard = TensorBoard()
    tensorboard.configure(logdir=str(log_dir))
    return f"{tensorboard.launch()}#{RWCPlugin.plugin_name}"
