# SPDX-License-Identifier: Apache-2.0
"""The routes of the tab: its own files, the list of all tables, one table, and scalars to sort runs by."""

import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from importlib import resources
from typing import Any, NamedTuple

from tensorboard import errors, plugin_util
from tensorboard.backend import http_util
from tensorboard.data.provider import RunTagFilter
from tensorboard.plugins.base_plugin import FrontendMetadata, TBContext, TBPlugin
from tensorboard.plugins.scalar import metadata
from werkzeug import wrappers

from lightning_rwc.cells import APPEARANCE
from lightning_rwc.names import blocks, shown
from lightning_rwc.quantity import Quantity
from lightning_rwc.scale import described
from lightning_rwc.tags import Tags
from lightning_rwc.tensorboard.contents import PLUGIN_NAME, POINTS, UNITS, Contents, read
from lightning_rwc.tensorboard.series import as_table, as_unit_table

# Only these files are served. No path is ever made from a request.
_SCRIPTS = (
    "align",
    "all_runs",
    "app",
    "canvas",
    "cells",
    "charts",
    "colourbar",
    "comparison",
    "controls",
    "data",
    "depths",
    "difference",
    "dom",
    "empty",
    "exports",
    "findings",
    "frames",
    "heatmap",
    "help",
    "index",
    "key",
    "links",
    "notes",
    "panels",
    "pins",
    "playing",
    "polling",
    "profile",
    "raster",
    "readout",
    "rows",
    "scales",
    "selection",
    "small_maps",
    "store",
    "sweep",
    "theme",
    "view",
)
_FILES = {
    **{f"{name}.js": "text/javascript" for name in (*_SCRIPTS, "vendor/uPlot.esm")},
    APPEARANCE.name: "application/json",
    "style.css": "text/css",
    "vendor/uPlot.min.css": "text/css",
}
_HEADERS = [("X-Content-Type-Options", "nosniff"), ("Content-Security-Policy", "default-src 'none'")]

_Handler = Callable[["RWCPlugin", wrappers.Request], wrappers.Response]


def _get(handler: _Handler) -> Callable[..., Any]:
    """A WSGI application that answers GET only, and reports the client's errors to the client."""

    def answer(plugin: "RWCPlugin", request: wrappers.Request) -> wrappers.Response:
        if request.method != "GET":
            headers = [*_HEADERS, ("Allow", "GET")]
            return http_util.Respond(request, "Only GET.", "text/plain", code=405, headers=headers)
        try:
            return handler(plugin, request)
        except errors.PublicError as error:
            return http_util.Respond(request, str(error), "text/plain", code=error.http_code, headers=_HEADERS)

    def application(plugin: "RWCPlugin") -> Any:
        return wrappers.Request.application(lambda request: answer(plugin, request))

    return application


class RWCPlugin(TBPlugin):
    """The tab."""

    plugin_name = PLUGIN_NAME

    def __init__(self, context: TBContext) -> None:
        self._provider = context.data_provider

    def get_plugin_apps(self) -> dict[str, Any]:
        """Route to WSGI application."""
        files = {f"/{name}": _file(name, mime)(self) for name, mime in _FILES.items()}
        return files | {"/runs": _runs(self), "/table": _table(self), "/scalars": _scalars(self)}

    def is_active(self) -> bool:
        """Always: the tab of an empty log says what to do, and looking through a large log takes time."""
        return True

    def frontend_metadata(self) -> FrontendMetadata:
        """Where the tab's module is, and what the tab is called."""
        return FrontendMetadata(es_module_path="/index.js", tab_name="RWC")

    def runs(self, request: wrappers.Request) -> list[dict[str, Any]]:
        """Each table of each run: ``run``, ``prefix``, ``layer``, ``label``, how many ``layers``, and ``newest``.

        A table of units has the name of their layer as ``layer``, and any other table has ``None``. ``newest`` is when
        the newest of its points was written. Tables without any point are left out.

        """
        found, units = self._tables(request)
        if not found:
            return []
        # The layers of a measurement are written in order, so the last one of them has the newest point.
        ends = {key: {table.epoch, *[*table.tags][-1:]} for key, table in found.items()}
        scalars = self._provider.list_scalars(
            **_experiment(request),
            plugin_name=metadata.PLUGIN_NAME,
            run_tag_filter=RunTagFilter(runs={run for run, _ in found}, tags=set().union(*ends.values())),
        )
        listed = []
        for (run, prefix), table in found.items():
            there = scalars.get(run, {})
            times = [there[tag].max_wall_time for tag in ends[run, prefix] if tag in there]
            if times:
                label, newest = table.quantity.label, max(table.written, *times)
                size = len(table.tags)
                listed.append(
                    {"run": run, "prefix": prefix, "layer": None, "label": label, "layers": size, "newest": newest}
                )
        for (run, prefix, layer), one in units.items():
            label, size = one.quantity.label, one.shape[1]
            listed.append(
                {"run": run, "prefix": prefix, "layer": layer, "label": label, "layers": size, "newest": one.written}
            )
        return listed

    def table(self, request: wrappers.Request) -> dict[str, Any]:
        """The table of the ``run`` and ``prefix`` that the request names, or that of the units of a ``layer``."""
        run, prefix = _argument(request, "run"), _argument(request, "prefix")
        tables, units = self._tables(request, run)
        if "layer" in request.args:
            one = units.get((run, prefix, _argument(request, "layer")))
            if one is not None:
                tensors = self._provider.read_tensors(**self._of(request, run, [one.tag]), downsample=POINTS)
                epochs = self._scalars(request, run, [one.epoch]).get(one.epoch, [])
                points = tensors.get(run, {}).get(one.tag, [])
                return described(one.quantity) | as_unit_table(
                    points, one.shape, one.row, one.names, epochs, one.quantity, one.causes
                )
        elif (table := tables.get((run, prefix))) is not None:
            found = self._scalars(request, run, [*table.tags, table.epoch, table.root.depth_correlation])
            curves = {layer: found[tag] for tag, layer in table.tags.items() if tag in found}
            # Other measures tell of other things.
            tells = prefix in (table.root.prefix, table.root.measure("rotation").prefix)
            findings = table.contents.findings if tells else None
            answer = described(table.quantity) | {
                "findings": None if findings is None else [asdict(finding) for finding in findings],
                "shapes": {layer: shape for layer, shape in table.contents.shapes.items() if layer in curves},
                "short": shown([*curves]),
                "blocks": blocks([*curves]),
            }
            points = as_table(curves, found.get(table.epoch, []), table.quantity, table.contents.causes)
            if prefix == table.root.prefix:
                rho = {datum.step: datum.value for datum in found.get(table.root.depth_correlation, [])}
                answer["depth_correlation"] = [_finite(rho.get(step)) for step in points["steps"]]
            return answer | points
        raise errors.NotFoundError("There is no such run, or no such table in it.")

    def scalars(self, request: wrappers.Request) -> dict[str, Any]:
        """The ``tags`` of scalars that several of our runs have, or the last value of one ``tag`` in each run.

        Layers are not among the tags. A value that is not finite is ``None``.

        """
        tables, _ = self._tables(request)
        runs = {run for run, _ in tables}
        arguments = {**_experiment(request), "plugin_name": metadata.PLUGIN_NAME}
        if "tag" in request.args:
            chosen = RunTagFilter(runs=runs, tags=[_argument(request, "tag")])
            found = self._provider.read_scalars(**arguments, downsample=1, run_tag_filter=chosen) if runs else {}
            last = {run: points[-1].value for run, tags in found.items() for points in tags.values() if points}
            return {"values": {run: value if math.isfinite(value) else None for run, value in last.items()}}
        listed = self._provider.list_scalars(**arguments, run_tag_filter=RunTagFilter(runs=runs)) if runs else {}
        of_layers = {run: {tag for (own, _), one in tables.items() if own == run for tag in one.tags} for run in runs}
        count = Counter(tag for run, tags in listed.items() for tag in {*tags} - of_layers[run])
        return {"tags": sorted(tag for tag, times in count.items() if times > 1)}

    def _scalars(self, request: wrappers.Request, run: str, tags: Sequence[str]) -> Mapping[str, Any]:
        """The points of each of ``tags`` in ``run``."""
        return self._provider.read_scalars(
            **_experiment(request),
            plugin_name=metadata.PLUGIN_NAME,
            downsample=POINTS,
            run_tag_filter=RunTagFilter(runs=[run], tags=tags),
        ).get(run, {})

    @staticmethod
    def _of(request: wrappers.Request, run: str | None, tags: Iterable[str] | None = None) -> dict[str, Any]:
        """The arguments that select our tensors."""
        runs_and_tags = RunTagFilter(runs=None if run is None else [run], tags=tags)
        return {**_experiment(request), "plugin_name": PLUGIN_NAME, "run_tag_filter": runs_and_tags}

    def _tables(
        self, request: wrappers.Request, run: str | None = None
    ) -> tuple[dict[tuple[str, str], "_Table"], dict[tuple[str, str, str], "_UnitTable"]]:
        """What callbacks have written into the log, or into one ``run`` of it.

        Returns:
            Tables by run and prefix, and tables of units by run, prefix and layer.

        """
        there = self._provider.list_tensors(**self._of(request, run))
        # The values of units take much longer to read.
        told = {tag for series in there.values() for tag, one in series.items() if one.plugin_content != UNITS}
        tensors = self._provider.read_tensors(**self._of(request, run, told), downsample=1) if told else {}
        found: dict[tuple[str, str], _Table] = {}
        units: dict[tuple[str, str, str], _UnitTable] = {}
        for name, series in tensors.items():
            for tag, data in sorted(series.items()):
                contents = read(data[-1].numpy.tolist()) if data else None
                if contents is None:
                    continue
                of = Tags(tag.removesuffix(Tags("").layers), contents.strip)
                for prefix, quantity in contents.tables.items():
                    tags = {Tags(prefix, contents.strip).layer(layer): layer for layer in contents.layers}
                    found[name, prefix] = _Table(tags, of, quantity, data[-1].wall_time, contents)
                for layer, names in contents.units.items():
                    if (values := there.get(name, {}).get(of.unit_values(layer))) is None:
                        continue
                    shape, written = (len(contents.unit_tables), len(names)), values.max_wall_time
                    for row, (prefix, quantity) in enumerate(contents.unit_tables.items()):
                        key = name, prefix, layer
                        tag_of_units = of.unit_values(layer)
                        units[key] = _UnitTable(
                            tag_of_units, of.epoch, quantity, written, names, shape, row, contents.causes.get(layer, ())
                        )
        return found, units


class _Table(NamedTuple):
    tags: dict[str, str]
    """Scalar tag to layer, in definition order."""
    root: Tags
    """The tags of relative weight change in the same run."""
    quantity: Quantity
    written: float
    contents: Contents

    @property
    def epoch(self) -> str:
        return self.root.epoch


class _UnitTable(NamedTuple):
    tag: str
    epoch: str
    quantity: Quantity
    written: float
    names: Sequence[Any]
    shape: tuple[int, int]
    """Of each measurement: quantities × units."""
    row: int
    """Which of the quantities."""
    causes: Sequence[tuple[int, int]]
    """The steps at which the cause of the layer's standstill changes, and to which cause."""


def _finite(value: float | None) -> float | None:
    # JSON has no nan.
    return value if value is not None and math.isfinite(value) else None


def _experiment(request: wrappers.Request) -> dict[str, Any]:
    environ = request.environ
    return {"ctx": plugin_util.context(environ), "experiment_id": plugin_util.experiment_id(environ)}


def _argument(request: wrappers.Request, name: str) -> str:
    values = request.args.getlist(name)
    if len(values) != 1:
        raise errors.InvalidArgumentError(f"The argument {name!r} must be given once.")
    return str(values[0])


def _json(request: wrappers.Request, content: Mapping[str, Any]) -> wrappers.Response:
    return http_util.Respond(request, json.dumps(content), "application/json", headers=_HEADERS)


def _file(name: str, mime: str) -> Callable[..., Any]:
    static = resources.files(__package__).joinpath("static", *name.split("/"))
    content = APPEARANCE if name == APPEARANCE.name else static
    return _get(lambda plugin, request: http_util.Respond(request, content.read_bytes(), mime, headers=_HEADERS))


@_get
def _runs(plugin: RWCPlugin, request: wrappers.Request) -> wrappers.Response:
    return _json(request, {"series": plugin.runs(request)})


@_get
def _table(plugin: RWCPlugin, request: wrappers.Request) -> wrappers.Response:
    return _json(request, plugin.table(request))


@_get
def _scalars(plugin: RWCPlugin, request: wrappers.Request) -> wrappers.Response:
    return _json(request, plugin.scalars(request))
