# SPDX-License-Identifier: Apache-2.0
"""Logs as the callback writes them."""

import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from urllib.request import urlopen

import numpy as np
from torch.utils.tensorboard import SummaryWriter

from lightning_rwc.quantity import RELATIVE_WEIGHT_CHANGE, Quantity
from lightning_rwc.tags import Tags
from lightning_rwc.tensorboard.contents import Contents, summary, unit_summary

STRENGTH = Quantity("mean node strength", signed=True)
SHARE = Quantity("share of units", share=True)
ROTATION = Quantity("rotation (radians)")


def write_measurement(writer, step, epoch, rows, head="", prefix="rwc"):
    """Write the scalars of one measurement.

    Args:
        rows: for ``"rwc"`` and each further measure, layer name to value.
        head: the logger's own prefix, with what joins it to a tag.

    """
    tags = Tags(f"{head}{prefix}")
    for name, row in rows.items():
        root = tags if name == "rwc" else tags.measure(name)
        for layer, value in row.items():
            writer.add_scalar(root.layer(layer), value, step)
        if name == "rwc":
            writer.add_scalar(tags.total, 1.0, step)
            writer.add_scalar(tags.epoch, epoch, step)


def announce(writer, step, layers, measures=(), head="", prefix="rwc", units=None, shares=(), **known):
    """Write what the tab needs to know. ``units`` maps layers to the names of their units.

    Args:
        known: ``findings``, ``causes`` and ``shapes`` of :class:`~lightning_rwc.tensorboard.contents.Contents`.

    """
    tags = Tags(f"{head}{prefix}")
    tables = {tags.prefix: RELATIVE_WEIGHT_CHANGE} | {tags.measure(name).prefix: STRENGTH for name in measures}
    tables |= {tags.measure(name).prefix: SHARE for name in shares}
    of_units = {tags.prefix: RELATIVE_WEIGHT_CHANGE, tags.measure("rotation").prefix: ROTATION} if units else {}
    contents = Contents([*layers], tables, units or {}, of_units, **{"findings": ()} | known)
    writer.file_writer.add_summary(summary(tags.layers, contents), step)


def write_units(writer, step, layer, changes, rotations, head="", prefix="rwc"):
    """Write one measurement of the units of a layer."""
    tag = Tags(f"{head}{prefix}").unit_values(layer)
    writer.file_writer.add_summary(unit_summary(tag, np.array([changes, rotations], np.float32)), step)


def write(folder, layers, values, first=0, epoch_length=10, correlations=(), **known):
    """Write a table of layers × measurements, and a user's own metrics. Lightning's scalar ``epoch`` is not there.

    Args:
        correlations: the depth correlation of each measurement, if that is logged.
        known: as for :func:`announce`.

    """
    with SummaryWriter(str(folder)) as writer:
        for epoch, row in enumerate(np.asarray(values).T, start=first):
            step = epoch_length * (epoch + 1) - 1
            write_measurement(writer, step, epoch, {"rwc": dict(zip(layers, row, strict=True))})
            writer.add_scalar("rwc/own", 1.0, step)
            if epoch - first < len(correlations):
                writer.add_scalar(Tags("rwc").depth_correlation, correlations[epoch - first], step)
            if epoch == first:
                announce(writer, step, layers, **known)


@contextmanager
def served(folder, *flags, runs=0, named=""):
    """The address of a TensorBoard, which ends afterwards.

    Args:
        folder: the folder of logs.
        flags: of TensorBoard.
        runs: how many tables of runs the tab must know first.
        named: a run that it must know first.

    """
    process, address = _start(folder, *flags)
    try:
        while True:
            answer = urlopen(f"{address}data/plugin/lightning_rwc/runs").read().decode()
            if answer.count('"run"') >= runs and f'"{named}' in answer:
                break
            time.sleep(0.2)
        yield address
    finally:
        process.terminate()
        process.wait()


def _start(folder, *flags):
    """Start TensorBoard; returns its process and address."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(folder), "--port", str(port)]
    process = subprocess.Popen([*command, "--reload_interval", "1", *flags], stderr=subprocess.DEVNULL)
    url = f"http://localhost:{port}/"
    for _ in range(600):
        with socket.socket() as attempt:
            if attempt.connect_ex(("localhost", port)) == 0:
                return process, url
        assert process.poll() is None
        time.sleep(0.1)
    raise TimeoutError("TensorBoard does not answer")
