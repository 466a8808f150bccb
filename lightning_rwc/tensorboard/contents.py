# SPDX-License-Identifier: Apache-2.0
"""What a log holds for the tab. The callback writes it and the plugin reads it, so nobody has to guess."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, NamedTuple

from tensorboard.compat.proto.summary_pb2 import DATA_CLASS_TENSOR, Summary, SummaryMetadata
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
from tensorboard.compat.proto.types_pb2 import DT_FLOAT, DT_STRING

from lightning_rwc.findings.finding import Finding
from lightning_rwc.quantity import SCALES, Quantity

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

PLUGIN_NAME = "lightning_rwc"
POINTS = 1000
"""How many measurements the tab shows."""
UNITS = b"units"
"""What tells the metadata of :func:`unit_summary` from that of :func:`summary`."""
_VERSION = 1
_MOST_UNITS = 2**31


class Contents(NamedTuple):
    """The layers and the tables of one callback in one run."""

    layers: list[str]
    """In definition order."""
    tables: dict[str, Quantity]
    """What the scalar tags of a table start with, and what its numbers are."""
    units: Mapping[str, Sequence[str] | range] = {}
    """Layer to the names of its units, or to a range of their numbers."""
    unit_tables: Mapping[str, Quantity] = {}
    """For each row of a :func:`unit_summary`: the table of layers that it belongs to, and what its numbers are."""
    findings: Sequence[Finding] | None = None
    """What is wrong, oldest finding first, or ``None`` if nobody looked for it."""
    causes: Mapping[str, Sequence[tuple[int, int]]] = {}
    """Layer to the steps at which the cause of its standstill changes, and to which number of
    :class:`~lightning_rwc.cells.Cell`."""
    shapes: Mapping[str, str] = {}
    """Layer to its modules' classes and its parameters' shapes."""
    strip: str = ""
    """What tags leave out at the start of a layer's name."""


def summary(tag: str, contents: Contents) -> Summary:
    """The summary that tells the tab what a log holds. Write it again whenever ``contents`` have changed.

    Everything is in the tensor, as JSON in one string. TensorBoard keeps the newest tensor of a tag, but only the first
    metadata.

    Args:
        tag: :attr:`Tags.layers <lightning_rwc.tags.Tags.layers>`, after the logger's own prefix.
        contents: all layers that have been measured so far. What the tags of a table start with, such as ``rwc`` and
            ``rwc_strength``, comes after the logger's own prefix.

    Example:
        >>> contents = Contents(["conv", "fc"], {"rwc_strength": Quantity("strength", signed=True)})
        >>> proto = summary("rwc_summary/layers", contents)
        >>> read(proto.value[0].tensor.string_val[0]).layers
        ['conv', 'fc']

    """
    content = {
        "version": _VERSION,
        "layers": contents.layers,
        "tables": _described(contents.tables),
    }
    if contents.units:
        content["units"] = {layer: _shortened(names) for layer, names in contents.units.items()}
        content["unit_tables"] = _described(contents.unit_tables)
    if contents.findings is not None:
        content["findings"] = [asdict(finding) for finding in contents.findings]
    content |= {"causes": dict(contents.causes), "shapes": dict(contents.shapes), "strip": contents.strip}
    tensor = TensorProto(
        dtype=DT_STRING, tensor_shape=TensorShapeProto(), string_val=[json.dumps(content).encode("ascii")]
    )
    return _of(tag, tensor, b"")


def unit_summary(tag: str, values: "npt.NDArray[np.float32]") -> Summary:
    """The summary of one measurement of the units of a layer.

    Args:
        tag: :meth:`Tags.unit_values <lightning_rwc.tags.Tags.unit_values>`, after the logger's own prefix.
        values: of shape ``(quantities, units)``. The rows are those of :attr:`Contents.unit_tables`.

    """
    shape = TensorShapeProto(dim=[TensorShapeProto.Dim(size=size) for size in values.shape])
    tensor = TensorProto(dtype=DT_FLOAT, tensor_shape=shape, tensor_content=values.astype("<f4").tobytes())
    return _of(tag, tensor, UNITS)


def read(text: Any) -> Contents | None:
    """What :func:`summary` wrote, or ``None`` for anything else: a log can come from anyone."""
    try:
        content = json.loads(text)
        if content["version"] != _VERSION:
            return None
        content = {"units": {}, "unit_tables": [], "findings": None, "causes": {}, "shapes": {}, "strip": ""} | content
        layers = [*dict.fromkeys(content["layers"])]
        tables, unit_tables = (_quantities(content[name]) for name in ("tables", "unit_tables"))
        units = {layer: _names(names) for layer, names in content["units"].items()}
        told = content["findings"]
        findings = None if told is None else tuple(_finding(**one) for one in told)
        causes = {
            layer: [(int(step), _byte(cause)) for step, cause in changes]
            for layer, changes in content["causes"].items()
        }
        shapes = {layer: shape for layer, shape in content["shapes"].items() if shape.encode()}
        for name in [content["strip"], *layers, *units]:
            name.encode()  # only text, and only what can be in a tag
    except (AttributeError, KeyError, RecursionError, TypeError, ValueError):
        return None
    return Contents(layers, tables, units, unit_tables, findings, causes, shapes, content["strip"])


def _of(tag: str, tensor: TensorProto, content: bytes) -> Summary:
    plugin = SummaryMetadata.PluginData(plugin_name=PLUGIN_NAME, content=content)
    metadata = SummaryMetadata(plugin_data=plugin, data_class=DATA_CLASS_TENSOR)
    return Summary(value=[Summary.Value(tag=tag, metadata=metadata, tensor=tensor)])


def _described(tables: Mapping[str, Quantity]) -> list[dict[str, Any]]:
    return [{"root": root, **one._asdict()} for root, one in tables.items()]


def _quantities(tables: Any) -> dict[str, Quantity]:
    found = {}
    for one in tables:
        own = Quantity(**{name: one[name] for name in Quantity._fields if name in one})
        for text in (one["root"], own.label, own.zero, own.infinite):
            text.encode()
        found[one["root"]] = own._replace(
            signed=bool(one["signed"]), share=bool(own.share), scale=own.scale if own.scale in SCALES else "auto"
        )
    return found


def _finding(kind: str, layers: Sequence[str], epoch: int, step: int, message: str) -> Finding:
    for text in (kind, message, *layers):
        text.encode()
    return Finding(kind, tuple(layers), int(epoch), int(step), message)


def _byte(number: Any) -> int:
    return bytes([number])[0]


def _shortened(names: Sequence[str] | range) -> list[str] | int:
    count = len(names)
    return count if [*map(str, range(count))] == [*map(str, names)] else [*map(str, names)]


def _names(names: Any) -> Sequence[str] | range:
    if isinstance(names, int):
        if not 0 <= names < _MOST_UNITS:
            raise ValueError("a number of units is out of range")
        return range(names)
    for name in names:
        name.encode()
    return [*names]
