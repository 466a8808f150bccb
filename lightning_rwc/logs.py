# SPDX-License-Identifier: Apache-2.0
"""What can be read at a path: logs of TensorBoard and of Lightning's CSVLogger, and histories."""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from lightning_rwc.history import RWCHistory
from lightning_rwc.log_table import EVENTS, LogTable, NothingYetError, of_history, sizes, some, without
from lightning_rwc.metrics_log import FINDINGS, METRICS, MetricsLog, is_metrics, quantities
from lightning_rwc.natural import natural_key
from lightning_rwc.quantity import RELATIVE_WEIGHT_CHANGE

if TYPE_CHECKING:
    from lightning_rwc.event_log import EventLog


class Log(Protocol):
    """Something that holds tables, and may grow."""

    def state(self) -> object:
        """Something that is another one after the log has grown."""
        ...

    def read(self, run: str | None, prefix: str | None) -> LogTable:
        """The table that tags with ``prefix`` have in ``run``, by default the first one in the newest run.

        Raises:
            NothingYetError: if there is no measurement.
            ValueError: if there is no such table.

        """
        ...


def open_log(path: Path) -> Log:
    """What can be read at ``path``.

    Args:
        path: a folder in which TensorBoard or Lightning's CSVLogger has written, one file of them, or a history that
            :meth:`RWCHistory.save <lightning_rwc.RWCHistory.save>` wrote.

    Raises:
        FileNotFoundError: if there is nothing at ``path``.
        ValueError: if it is of another kind.

    """
    if re.match(r"[A-Za-z][\w+.-]+:/", address := os.fspath(path)):
        raise ValueError(f"LOG must be on this machine, but got the address {address!r}. Copy it to this machine.")
    if not path.exists():
        raise FileNotFoundError(f"There is nothing at {str(path)!r}. Give a folder of logs, a log or a history.")
    if path.is_dir():
        return _Folder(path)
    if EVENTS in path.name:
        return _File(_event_log(path), path)
    if path.suffix == ".csv" and is_metrics(path):
        return _File(MetricsLog(path), path)
    return _History(path)


class _Folder:
    """All runs below a folder."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._logs: dict[tuple[str, bool], MetricsLog | EventLog] = {}

    def state(self) -> object:
        return sizes(self._files())

    def _files(self) -> Iterator[Path]:
        for folder, _, names in os.walk(self._path, followlinks=True):
            yield from (
                Path(folder, name) for name in names if EVENTS in name or name == METRICS or name.endswith(FINDINGS)
            )

    def read(self, run: str | None, prefix: str | None) -> LogTable:
        # By the name of the run, and whether it is TensorBoard's, which knows more.
        newest: dict[tuple[str, bool], int] = {}
        for address, _, time in sizes(path for path in self._files() if not path.name.endswith(FINDINGS)):
            path = Path(address)
            key = path.parent.relative_to(self._path).as_posix(), path.name != METRICS
            newest[key] = max(time, newest.get(key, 0))
        of_run = {name: max(newest.get((name, kind), 0) for kind in (True, False)) for name, _ in newest}
        names = sorted(of_run, key=lambda name: (-of_run[name], natural_key(name)))
        if run is not None and run not in names:
            raise ValueError(f"`--run` must be one of {some(names)}, but got {run!r}.")
        for name in names if run is None else [run]:
            for key in ((name, True), (name, False)):
                if key in newest:
                    try:
                        table = self._log(*key).read(prefix)
                    except NothingYetError:
                        continue
                    where = str(self._path / name) if name != "." else str(self._path)
                    return table._replace(title=where, other_runs=without(names, name))
        raise NothingYetError(self._nothing_there(names if run is None else [run]))

    def _log(self, name: str, is_tensorboard: bool) -> "MetricsLog | EventLog":
        key, folder = (name, is_tensorboard), self._path / name
        if key not in self._logs:
            # It keeps what it has read.
            self._logs[key] = _event_log(folder) if is_tensorboard else MetricsLog(folder / METRICS)
        return self._logs[key]

    def _nothing_there(self, runs: list[str]) -> str:
        what = f"no relative weight change in {some(runs)}" if runs else "no log"
        histories = sorted(path.name for path in self._path.iterdir() if path.suffix in (".csv", ".npz", ".parquet"))
        hint = f" To show a history, name its file: {some(histories)}." if histories else ""
        return (
            f"{str(self._path)!r} has {what}. A run appears after its first measurement, if the Trainer has an "
            f"RWCCallback and a TensorBoardLogger or CSVLogger.{hint}"
        )


class _File:
    """One file of a run."""

    def __init__(self, log: "MetricsLog | EventLog", path: Path) -> None:
        self._log, self._path = log, path

    def state(self) -> object:
        return self._log.state()

    def read(self, run: str | None, prefix: str | None) -> LogTable:
        if run is not None:
            raise ValueError(
                f"`--run` chooses among the runs of a folder: leave it out for the file {str(self._path)!r}."
            )
        return self._log.read(prefix)


class _History:
    """A file of a history."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def state(self) -> object:
        return sizes([self._path])

    def read(self, run: str | None, prefix: str | None) -> LogTable:
        for name, value in (("run", run), ("prefix", prefix)):
            if value is not None:
                raise ValueError(f"`--{name}` chooses within a log: leave it out for the history {str(self._path)!r}.")
        history = RWCHistory.load(self._path)
        if not len(history):
            raise NothingYetError(f"{str(self._path)!r} has no measurement.")
        # What `lightning-rwc checkpoints` calls its files.
        quantity = quantities().get(self._path.stem.removesuffix("_history"), RELATIVE_WEIGHT_CHANGE)
        findings = history.findings() if quantity == RELATIVE_WEIGHT_CHANGE else []
        return of_history(self._path, history, quantity, findings)


def _event_log(path: Path) -> "EventLog":
    from lightning_rwc.event_log import EventLog

    return EventLog(path)
