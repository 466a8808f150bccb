# SPDX-License-Identifier: Apache-2.0
"""What a log holds for the tab. The callback writes it and the plugin reads it, so nobody has to guess."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from tensorboard.compat.proto.summary_pb2 import DATA_CLASS_TENSOR, Summary, SummaryMetadata
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
from tensorboard.compat.proto.types_pb2 import DT_STRING

from lightning_rwc.quantity import Quantity

PLUGIN_NAME = "lightning_rwc"
_VERSION = 1


class Contents(NamedTuple):
    """The layers and the tables of one callback in one run."""

    layers: list[str]
    """In definition order."""
    tables: dict[str, Quantity]
    """What the scalar tags of a table start with, and what its numbers are."""


def summary(tag: str, layers: Sequence[str], tables: Mapping[str, Quantity]) -> Summary:
    """The summary that tells the tab what a log holds. Write it again whenever one of the arguments has changed.

    Everything is in the tensor, as JSON in one string. TensorBoard keeps the newest tensor of a tag, but only the first
    metadata.

    Args:
        tag: :attr:`Tags.layers <lightning_rwc.tags.Tags.layers>`, after the logger's own prefix.
        layers: the names of all layers that have been measured so far, in definition order.
        tables: for relative weight change and each measure, what the tags of its scalars start with (such as ``rwc``
            and ``rwc_strength``, after the logger's own prefix), and its quantity.

    Example:
        >>> proto = summary("rwc_summary/layers", ["conv", "fc"], {"rwc_strength": Quantity("strength", signed=True)})
        >>> read(proto.value[0].tensor.string_val[0]).layers
        ['conv', 'fc']

    """
    content = {
        "version": _VERSION,
        "layers": list(layers),
        "tables": [{"root": root, "label": one.label, "signed": one.signed} for root, one in tables.items()],
    }
    tensor = TensorProto(
        dtype=DT_STRING, tensor_shape=TensorShapeProto(), string_val=[json.dumps(content).encode("ascii")]
    )
    plugin = SummaryMetadata.PluginData(plugin_name=PLUGIN_NAME)
    metadata = SummaryMetadata(plugin_data=plugin, data_class=DATA_CLASS_TENSOR)
    return Summary(value=[Summary.Value(tag=tag, metadata=metadata, tensor=tensor)])


def read(text: Any) -> Contents | None:
    """What :func:`summary` wrote, or ``None`` for anything else: a log can come from anyone."""
    try:
        content = json.loads(text)
        if content["version"] != _VERSION:
            return None
        layers = [*dict.fromkeys(content["layers"])]
        tables = {one["root"]: Quantity(one["label"], bool(one["signed"])) for one in content["tables"]}
        for name in [*layers, *tables, *(one.label for one in tables.values())]:
            name.encode()  # only text, and only what can be in a tag
    except (AttributeError, KeyError, RecursionError, TypeError, ValueError):
        return None
    return Contents(layers, tables)
