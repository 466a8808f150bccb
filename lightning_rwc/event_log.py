# SPDX-License-Identifier: Apache-2.0
"""The event files of one run, read for the routes of TensorBoard's tab."""

import logging
from base64 import b64decode
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from werkzeug.test import Client

from lightning_rwc.findings.finding import Finding
from lightning_rwc.log_table import EVENTS, LogTable, NothingYetError, choice, sizes, without
from lightning_rwc.quantity import Quantity, ScaleName
from lightning_rwc.tensorboard.contents import PLUGIN_NAME, UNITS
from lightning_rwc.tensorboard.plugin import RWCPlugin

# It tells of each file that ends within an event, as that of a run that is alive does.
logging.getLogger("tensorboard").setLevel(logging.ERROR)


class _Point(NamedTuple):
    step: int
    wall_time: float
    value: float


class _Contents(NamedTuple):
    step: int
    wall_time: float
    numpy: npt.NDArray[Any]


class _Series(NamedTuple):
    max_wall_time: float
    plugin_content: bytes = b""


class EventFiles:
    """What the callback has written into event files, as the part of a data provider that the tab needs.

    TensorBoard's own provider takes three times as long, and keeps a sample of each curve.

    Args:
        run: the name of the run.
        paths: a function that returns its files.

    """

    def __init__(self, run: str, paths: Callable[[], Sequence[Path]]) -> None:
        self._run, self._paths = run, paths
        self._loaders: dict[Path, LegacyEventFileLoader] = {}
        self._scalars: dict[str, list[_Point]] = defaultdict(list)
        self._contents: dict[str, _Contents] = {}

    def reload(self) -> None:
        """Read what has been written since the last time."""
        for path in self._paths():
            if path not in self._loaders:
                self._loaders[path] = LegacyEventFileLoader(str(path))
            for event in self._loaders[path].Load():
                self._add(event)

    def _add(self, event: Event) -> None:
        if event.session_log.status == SessionLog.START:
            # A resumed run begins here, and takes the place of what was logged after it.
            for tag, points in self._scalars.items():
                self._scalars[tag] = [point for point in points if point.step < event.step]
        for value in event.summary.value:
            kind = value.WhichOneof("value")
            if kind == "simple_value":
                self._scalars[value.tag].append(_Point(event.step, event.wall_time, value.simple_value))
            elif kind == "tensor" and value.metadata.plugin_data.plugin_name == PLUGIN_NAME:
                if value.metadata.plugin_data.content == UNITS or not value.tensor.string_val:
                    continue
                text = np.array(value.tensor.string_val[0], dtype=object)
                self._contents[value.tag] = _Contents(event.step, event.wall_time, text)

    def list_scalars(self, *, run_tag_filter: Any, **_: Any) -> Mapping[str, Mapping[str, _Series]]:
        """Which scalars there are."""
        tags = self._scalars.keys() & run_tag_filter.tags
        return {self._run: {tag: _Series(self._scalars[tag][-1].wall_time) for tag in tags if self._scalars[tag]}}

    def read_scalars(self, *, run_tag_filter: Any, **_: Any) -> Mapping[str, Mapping[str, Sequence[_Point]]]:
        """Their points."""
        return {self._run: {tag: self._scalars[tag] for tag in run_tag_filter.tags if tag in self._scalars}}

    def list_tensors(self, **_: Any) -> Mapping[str, Mapping[str, _Series]]:
        """Which callbacks have said what they log. Units are left out."""
        return {self._run: {tag: _Series(one.wall_time) for tag, one in self._contents.items()}}

    def read_tensors(self, **_: Any) -> Mapping[str, Mapping[str, Sequence[_Contents]]]:
        """What they have said."""
        return {self._run: {tag: [one] for tag, one in self._contents.items()}}


class EventLog:
    """What TensorBoard's tab shows of one run, through the routes of the tab itself.

    Args:
        path: a folder with event files, or one of these.

    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._files = EventFiles(str(path), self._paths)
        plugin = RWCPlugin(SimpleNamespace(data_provider=self._files))
        self._apps = {route: Client(app) for route, app in plugin.get_plugin_apps().items()}

    def _paths(self) -> list[Path]:
        return sorted(self._path.glob(f"*{EVENTS}*")) if self._path.is_dir() else [self._path]

    def state(self) -> object:
        """The sizes of the files."""
        return sizes(self._paths())

    def read(self, prefix: str | None) -> LogTable:
        """The table that tags with ``prefix`` have; see :meth:`Log.read <lightning_rwc.logs.Log.read>`."""
        self._files.reload()
        prefixes = [table["prefix"] for table in self._get("/runs")["series"]]
        if not prefixes:
            raise NothingYetError(f"{str(self._path)!r} has no relative weight change yet.")
        chosen = choice(prefix, prefixes)
        answer = self._get("/table", run=str(self._path), prefix=chosen)
        shape = len(answer["steps"]), len(answer["layers"])
        values = _decoded(answer["values"], "<f4", shape).astype(np.float64)
        scale: ScaleName = answer["scales"]["default"] if answer["scales"] else "auto"
        words = answer["words"]["zero"], answer["words"]["from_zero"]
        quantity = Quantity(answer["label"], answer["signed"], *words, answer["share"], scale)
        findings = [Finding(**one | {"layers": tuple(one["layers"])}) for one in answer["findings"] or ()]
        return LogTable(
            str(self._path),
            quantity,
            answer["layers"],
            answer["epochs"],
            answer["steps"],
            values,
            np.array(answer["spans"], dtype=np.float64),
            _decoded(answer["cells"], "u1", shape),
            findings,
            other_prefixes=without(prefixes, chosen),
        )

    def _get(self, route: str, **arguments: str) -> Any:
        answer = self._apps[route].get(route, query_string=arguments)
        if answer.status_code != 200:
            raise ValueError(answer.text)
        return answer.json


def _decoded(text: str, kind: str, shape: tuple[int, int]) -> npt.NDArray[Any]:
    """Measurements × layers from a series of layers."""
    return np.frombuffer(b64decode(text), kind).reshape(shape[::-1]).T
