# SPDX-License-Identifier: Apache-2.0
"""The tables in logs and files: event files of TensorBoard, ``metrics.csv`` of Lightning's CSVLogger, histories."""

import csv
import logging
import os
import re
from base64 import b64decode
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from lightning_rwc.cells import classify
from lightning_rwc.findings.finding import Finding
from lightning_rwc.history import RWCHistory
from lightning_rwc.natural import natural_key
from lightning_rwc.quantity import RELATIVE_WEIGHT_CHANGE, Quantity, ScaleName
from lightning_rwc.scale import spans
from lightning_rwc.tags import Tags

_METRICS = "metrics.csv"
_EVENTS = "tfevents"
_EPOCH = Tags("").epoch
_HEADING = re.compile(r"\*\*(?P<kind>\w+)\*\*(?: · (?P<layers>.*))? · epoch (?P<epoch>-?\d+), step (?P<step>\d+)")
_MOST_NAMED = 12


class LogTable(NamedTuple):
    """A table of one run, and what is known about it."""

    title: str
    """Which run, and where it is."""
    quantity: Quantity
    layers: Sequence[str]
    epochs: Sequence[int | None]
    """The epoch of each measurement, where it is known."""
    steps: Sequence[int]
    values: npt.NDArray[np.float64]
    """Of shape ``(measurements, layers)``."""
    spans: npt.NDArray[np.float64]
    """Over how many optimizer steps each measurement reaches."""
    cells: npt.NDArray[np.uint8]
    """What each cell is, as :class:`~lightning_rwc.cells.Cell`."""
    findings: Sequence[Finding]
    """Oldest first."""
    other_runs: Sequence[str] = ()
    """The newest first."""
    other_prefixes: Sequence[str] = ()
    """What the tags of the run's other tables start with."""


class NothingYetError(ValueError):
    """There is no measurement in a log yet. There may be some later."""


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
    if _EVENTS in path.name:
        return _Events(path)
    if path.suffix == ".csv" and _is_metrics(path):
        return _Metrics(path)
    return _History(path)


class _Folder:
    """All runs below a folder."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._events: _Events | None = None

    def state(self) -> object:
        return _sizes(self._files())

    def _files(self) -> Iterator[Path]:
        for folder, _, names in os.walk(self._path, followlinks=True):
            yield from (Path(folder, name) for name in names if _EVENTS in name or name == _METRICS)

    def read(self, run: str | None, prefix: str | None) -> LogTable:
        files = [*self._files()]
        runs: dict[str, tuple[float, Callable[[], LogTable]]] = {}
        for path in files:
            if path.name == _METRICS:
                with suppress(FileNotFoundError):  # its logger is replacing it
                    one = _Metrics(path)
                    if one.tables():
                        name = path.parent.relative_to(self._path).as_posix()
                        runs[name] = path.stat().st_mtime, partial(one.read, None, prefix)
        if any(path.name != _METRICS for path in files):
            events = self._events = self._events or _Events(self._path)  # it keeps what it has read
            for name, newest in events.runs().items():
                runs[name] = newest, partial(events.read, name, prefix)
        if not runs:
            raise NothingYetError(self._nothing_there(files))
        names = sorted(runs, key=lambda name: (-runs[name][0], natural_key(name)))
        if run is not None and run not in runs:
            raise ValueError(f"`--run` must be one of {_some(names)}, but got {run!r}.")
        chosen = names[0] if run is None else run
        where = self._path if chosen == "." else self._path / chosen
        return runs[chosen][1]()._replace(title=str(where), other_runs=_without(names, chosen))

    def _nothing_there(self, files: Sequence[Path]) -> str:
        there = f"{str(self._path)!r} has {len(files)} logs" if files else f"{str(self._path)!r} has no log"
        histories = sorted(path.name for path in self._path.iterdir() if path.suffix in (".csv", ".npz", ".parquet"))
        hint = f" To show a history, name its file: {_some(histories)}." if histories else ""
        return (
            f"{there}{' without any relative weight change' if files else ''}. A run appears after its first "
            f"measurement, if the Trainer has an RWCCallback and a TensorBoardLogger or CSVLogger.{hint}"
        )


class _Events:
    """What TensorBoard's tab reads, through the routes of the tab itself."""

    def __init__(self, path: Path) -> None:
        from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
        from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
        from tensorboard.plugins.scalar.metadata import PLUGIN_NAME as SCALARS
        from werkzeug.test import Client

        from lightning_rwc.tensorboard.contents import PLUGIN_NAME, POINTS
        from lightning_rwc.tensorboard.plugin import RWCPlugin

        logging.getLogger("tensorboard").setLevel(logging.ERROR)
        self._path = path
        self._multiplexer = EventMultiplexer(tensor_size_guidance={SCALARS: POINTS, PLUGIN_NAME: 1, "images": 1})
        plugin = RWCPlugin(SimpleNamespace(data_provider=MultiplexerDataProvider(self._multiplexer, str(path))))
        self._apps = {route: Client(app) for route, app in plugin.get_plugin_apps().items()}

    def state(self) -> object:
        return _sizes([self._path])

    def runs(self) -> dict[str, float]:
        """Each run, and when its newest measurement was written."""
        return {name: max(table["newest"] for table in tables) for name, tables in self._tables().items()}

    def read(self, run: str | None, prefix: str | None) -> LogTable:
        tables = self._tables()
        if not tables:
            raise NothingYetError(
                f"{str(self._path)!r} has no relative weight change. A log has some after the first measurement."
            )
        name = run if run is not None else max(tables, key=lambda one: max(table["newest"] for table in tables[one]))
        if name not in tables:
            raise ValueError(f"`--run` must be one of {_some([*tables])}, but got {run!r}.")
        prefixes = [table["prefix"] for table in tables[name]]
        chosen = _choice(prefix, prefixes)
        answer = self._get("/table", run=name, prefix=chosen)
        shape = len(answer["steps"]), len(answer["layers"])
        values = _decoded(answer["values"], "<f4", shape).astype(np.float64)
        scale: ScaleName = answer["scales"]["default"] if answer["scales"] else "auto"
        words = answer["words"]["zero"], answer["words"]["from_zero"]
        quantity = Quantity(answer["label"], answer["signed"], *words, answer["share"], scale)
        findings = [Finding(**one | {"layers": tuple(one["layers"])}) for one in answer["findings"]]
        return LogTable(
            str(self._path),
            quantity,
            answer["layers"],
            answer["epochs"],
            answer["steps"],
            values,
            np.nan_to_num(np.array(answer["spans"], dtype=np.float64), nan=1.0),
            _decoded(answer["cells"], "u1", shape),
            findings,
            other_prefixes=_without(prefixes, chosen),
        )

    def _tables(self) -> dict[str, list[Any]]:
        """The tables of layers, by run."""
        if self._path.is_dir():
            self._multiplexer.AddRunsFromDirectory(str(self._path))
        else:
            self._multiplexer.AddRun(str(self._path), ".")
        self._multiplexer.Reload()
        tables: dict[str, list[Any]] = {}
        for one in self._get("/runs")["series"]:
            if one["layer"] is None:
                tables.setdefault(one["run"], []).append(one)
        return tables

    def _get(self, route: str, **arguments: str) -> Any:
        answer = self._apps[route].get(route, query_string=arguments)
        if answer.status_code != 200:
            raise ValueError(answer.text)
        return answer.json


class _Metrics:
    """The tables of a CSVLogger."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def state(self) -> object:
        return _sizes([self._path])

    def tables(self) -> dict[str, str]:
        """What the tags of each table start with, and what those of its callback start with."""
        header = _header(self._path)
        found: dict[str, str] = {}
        for prefix in (column.removesuffix(_EPOCH) for column in header if column.endswith(_EPOCH)):
            further = (column[len(prefix) :].partition("/")[0] for column in header if column.startswith(f"{prefix}_"))
            found |= dict.fromkeys([prefix, *(prefix + root for root in further)], prefix)
            found.pop(Tags(prefix).roots[1])
        return found

    def read(self, run: str | None, prefix: str | None) -> LogTable:
        if run is not None:
            raise ValueError(
                f"`--run` chooses among the runs of a folder: leave it out for the file {str(self._path)!r}."
            )
        tables = self.tables()
        if not tables:
            raise NothingYetError(
                f"{str(self._path)!r} has no column that ends in {_EPOCH!r}. An RWCCallback adds one."
            )
        chosen = _choice(prefix, [*tables])
        main = tables[chosen]
        measure = chosen.removeprefix(main).removeprefix("_")
        with self._path.open(encoding="utf-8", newline="") as file:
            rows = [row for row in csv.DictReader(file) if row.get(Tags(main).epoch) and row.get("step")]
        # Where a step was measured again, the later row counts.
        at = {int(float(row["step"])): row for row in rows}
        steps = sorted(at)
        # The callback writes all its values into one row. The logger has sorted the columns by name.
        tags = [
            tag for tag in _header(self._path) if tag.startswith(f"{chosen}/") and any(row.get(tag) for row in rows)
        ]
        tags.sort(key=natural_key)
        values = np.array([[float(at[step].get(tag) or "nan") for tag in tags] for step in steps], dtype=np.float64)
        epochs = [int(float(at[step][Tags(main).epoch])) for step in steps]
        history = RWCHistory([Tags(chosen).layer_of(tag) for tag in tags], epochs, steps, values)
        quantity = _quantities().get(measure, Quantity(measure)) if measure else RELATIVE_WEIGHT_CHANGE
        findings = [] if measure else self._findings(main)
        return _of_history(self._path, history, quantity, findings)._replace(other_prefixes=_without(tables, chosen))

    def _findings(self, prefix: str) -> list[Finding]:
        path = self._path.with_name(f"{prefix.replace('%', '%25').replace('/', '%2F')}_findings.md")
        if not path.is_file():
            return []
        found: list[Finding] = []
        for line in path.read_text("utf-8").splitlines():
            if heading := _HEADING.fullmatch(line):
                # Of many layers, only some are there.
                listed = heading["layers"] or ""
                names = () if listed.endswith("layers)") else tuple(re.findall(r"'([^']*)'", listed))
                found.append(Finding(heading["kind"], names, int(heading["epoch"]), int(heading["step"]), ""))
            elif found and line:
                last = found[-1]
                found[-1] = Finding(last.kind, last.layers, last.epoch, last.step, f"{last.message} {line}".strip())
        return found


class _History:
    """A file of a history."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def state(self) -> object:
        return _sizes([self._path])

    def read(self, run: str | None, prefix: str | None) -> LogTable:
        for name, value in (("run", run), ("prefix", prefix)):
            if value is not None:
                raise ValueError(f"`--{name}` chooses within a log: leave it out for the history {str(self._path)!r}.")
        history = RWCHistory.load(self._path)
        if not len(history):
            raise NothingYetError(f"{str(self._path)!r} has no measurement.")
        # What `lightning-rwc checkpoints` calls its files.
        quantity = _quantities().get(self._path.stem.removesuffix("_history"), RELATIVE_WEIGHT_CHANGE)
        findings = history.findings() if quantity == RELATIVE_WEIGHT_CHANGE else []
        return _of_history(self._path, history, quantity, findings)


def _of_history(path: Path, history: RWCHistory, quantity: Quantity, findings: Sequence[Finding]) -> LogTable:
    cells = classify(history.values, linear=quantity.linear)
    times = history.epochs, history.steps
    reach = spans(history.steps)
    return LogTable(str(path), quantity, history.layers, *times, history.values, reach, cells, findings)


def _sizes(paths: Iterable[Path]) -> list[tuple[str, int, int]]:
    found = []
    for path in paths:
        with suppress(FileNotFoundError):
            stat = path.stat()
            found.append((str(path), stat.st_size, stat.st_mtime_ns))
    return sorted(found)


def _is_metrics(path: Path) -> bool:
    return any(column.endswith(_EPOCH) for column in _header(path)) or path.name == _METRICS


def _header(path: Path) -> list[str]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        return next(csv.reader(file), [])


def _quantities() -> dict[str, Quantity]:
    """What the numbers of each further measure of this package are."""
    from lightning_rwc.equilibrium import EQUILIBRIUM
    from lightning_rwc.measures import MEASURES
    from lightning_rwc.movement import MOVEMENTS

    measures: list[Any] = [*MOVEMENTS.items(), *MEASURES.items(), (EQUILIBRIUM.name, EQUILIBRIUM)]
    return {name: measure.quantity for name, measure in measures}


def _choice(prefix: str | None, prefixes: Sequence[str]) -> str:
    if prefix is not None and prefix not in prefixes:
        raise ValueError(f"`--prefix` must be one of {_some(prefixes)} in this run, but got {prefix!r}.")
    return prefixes[0] if prefix is None else prefix


def _decoded(text: str, kind: str, shape: tuple[int, int]) -> npt.NDArray[Any]:
    """Measurements × layers from a series of layers."""
    return np.frombuffer(b64decode(text), kind).reshape(shape[::-1]).T


def _without(names: Iterable[str], chosen: str) -> list[str]:
    return [name for name in names if name != chosen]


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    return ", ".join(map(repr, names[:_MOST_NAMED])) + more
