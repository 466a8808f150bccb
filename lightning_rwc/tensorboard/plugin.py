# SPDX-License-Identifier: Apache-2.0
"""The routes of the tab: its own files, the measures that there are, and the table of one of them."""

import json
from collections.abc import Callable, Mapping
from importlib import resources
from typing import Any

from tensorboard import errors, plugin_util
from tensorboard.backend import http_util
from tensorboard.data.provider import RunTagFilter
from tensorboard.plugins.base_plugin import FrontendMetadata, TBContext, TBPlugin
from tensorboard.plugins.scalar import metadata
from werkzeug import wrappers

from lightning_rwc.tags import Tags
from lightning_rwc.tensorboard.series import as_table, find_epochs, find_layers, written_by_callback

_POINTS = 1000
# Nothing but these is served: no path is ever made of what a request says.
_FILES = {
    "index.js": "text/javascript",
    "app.js": "text/javascript",
    "charts.js": "text/javascript",
    "colours.js": "text/javascript",
    "data.js": "text/javascript",
    "heatmap.js": "text/javascript",
    "style.css": "text/css",
    "vendor/uPlot.esm.js": "text/javascript",
    "vendor/uPlot.min.css": "text/css",
}
_HEADERS = [("X-Content-Type-Options", "nosniff"), ("Content-Security-Policy", "default-src 'none'")]

_Handler = Callable[["RWCPlugin", wrappers.Request], wrappers.Response]


def _get(handler: _Handler) -> Callable[..., Any]:
    """A WSGI application that answers GET alone, and errors that are the client's as such."""

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

    plugin_name = "lightning_rwc"

    def __init__(self, context: TBContext) -> None:
        self._provider = context.data_provider

    def get_plugin_apps(self) -> dict[str, Any]:
        """Route to WSGI application."""
        files = {f"/{name}": _file(name, mime)(self) for name, mime in _FILES.items()}
        return files | {"/runs": _runs(self), "/table": _table(self)}

    def is_active(self) -> bool:
        """Always: an empty log has something to say too, and looking through a large one takes time."""
        return True

    def frontend_metadata(self) -> FrontendMetadata:
        """Where the tab's module is, and its name."""
        return FrontendMetadata(es_module_path="/index.js", tab_name="RWC")

    def runs(self, request: wrappers.Request) -> dict[str, dict[str, dict[str, Any]]]:
        """Run to prefix to ``layers`` and ``newest``, the largest step; what has no measure is left out."""
        found: dict[str, dict[str, dict[str, Any]]] = {}
        for run, scalars in self._scalars(request).items():
            for prefix, layers in find_layers(scalars).items():
                tags = Tags(prefix)
                # The total comes after its layers: once it is there, they are.
                last = [tags.total] if tags.total in scalars else map(tags.layer, layers)
                newest = max(scalars[tag].max_step for tag in last)
                found.setdefault(run, {})[prefix] = {"layers": layers, "newest": newest}
        return found

    def table(self, request: wrappers.Request) -> dict[str, Any]:
        """The table of the ``run`` and ``prefix`` that the request names."""
        run, tags = _argument(request, "run"), Tags(_argument(request, "prefix"))
        scalars = self._scalars(request).get(run, {})
        layers = find_layers(scalars).get(tags.prefix)
        if layers is None:
            raise errors.NotFoundError("There is no such run, or no such measure in it.")
        epoch = find_epochs(scalars, tags.prefix)
        wanted = [*map(tags.layer, layers), tags.total, *([epoch] if epoch else [])]
        found = self._provider.read_scalars(
            plugin_util.context(request.environ),
            experiment_id=plugin_util.experiment_id(request.environ),
            plugin_name=metadata.PLUGIN_NAME,
            downsample=_POINTS,
            run_tag_filter=RunTagFilter(runs=[run], tags=wanted),
        ).get(run, {})
        curves = {layer: found[tags.layer(layer)] for layer in layers if tags.layer(layer) in found}
        return as_table(written_by_callback(curves, found.get(tags.total, [])), found.get(epoch, []))

    def _scalars(self, request: wrappers.Request) -> Mapping[str, Mapping[str, Any]]:
        ctx, experiment = plugin_util.context(request.environ), plugin_util.experiment_id(request.environ)
        return self._provider.list_scalars(ctx, experiment_id=experiment, plugin_name=metadata.PLUGIN_NAME)


def _argument(request: wrappers.Request, name: str) -> str:
    values = request.args.getlist(name)
    if len(values) != 1:
        raise errors.InvalidArgumentError(f"The argument {name!r} must be there once.")
    return str(values[0])


def _json(request: wrappers.Request, content: Mapping[str, Any]) -> wrappers.Response:
    return http_util.Respond(request, json.dumps(content), "application/json", headers=_HEADERS)


def _file(name: str, mime: str) -> Callable[..., Any]:
    content = resources.files(__package__).joinpath("static", *name.split("/"))
    return _get(lambda plugin, request: http_util.Respond(request, content.read_bytes(), mime, headers=_HEADERS))


@_get
def _runs(plugin: RWCPlugin, request: wrappers.Request) -> wrappers.Response:
    # A list: the page needs names, and how many layers, not theirs.
    listed = [
        {"run": run, "prefix": prefix, "layers": len(series["layers"]), "newest": series["newest"]}
        for run, measures in plugin.runs(request).items()
        for prefix, series in measures.items()
    ]
    return _json(request, {"series": listed})


@_get
def _table(plugin: RWCPlugin, request: wrappers.Request) -> wrappers.Response:
    return _json(request, plugin.table(request))
