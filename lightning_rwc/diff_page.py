# SPDX-License-Identifier: Apache-2.0
"""What changed from one saved model to another, as a page with the charts of the tab."""

import json
import re
from base64 import b64encode
from importlib import resources
from typing import Any

import numpy as np

from lightning_rwc.cells import APPEARANCE, Cell, classify
from lightning_rwc.diff_result import MEASURES, WeightDiff
from lightning_rwc.diff_words import statements
from lightning_rwc.movement import MOVEMENTS
from lightning_rwc.names import blocks, shown
from lightning_rwc.quantity import CHANGE_SINCE_START, Quantity
from lightning_rwc.scale import described

_STATIC = resources.files("lightning_rwc.tensorboard").joinpath("static")
_IMPORTED = re.compile(r"from '(?:rwc|\.)/(\w+)(?:\.js)?'")


def diff_page(diff: WeightDiff) -> str:
    """The page of a comparison. It is HTML that needs no other file and no network."""
    page = resources.files(__package__).joinpath("diff_page.html").read_text("utf-8")
    parts = {
        "/*STYLE*/": _STATIC.joinpath("style.css").read_text("utf-8"),
        "/*MODULES*/": json.dumps({"imports": _modules(page)}),
        # Names may hold anything. As JSON without this character, they cannot end the script.
        "/*CONTENT*/": json.dumps(_content(diff)).replace("<", "\\u003c"),
    }
    # In one pass, because names may also hold what stands for a part.
    return re.sub("|".join(map(re.escape, parts)), lambda match: parts[match[0]], page)


def _modules(page: str) -> dict[str, str]:
    """The modules of the tab that the page imports, and those that these import, as addresses that hold them."""
    ahead, found = set(_IMPORTED.findall(page)), {}
    while ahead:
        name = ahead.pop()
        # An address that holds a module is no place from which another one could be found.
        source = re.sub(r"from '\./(\w+)\.js'", r"from 'rwc/\1'", _STATIC.joinpath(f"{name}.js").read_text("utf-8"))
        found[f"rwc/{name}"] = f"data:text/javascript;base64,{_base64(source.encode())}"
        ahead |= {one for one in _IMPORTED.findall(source) if f"rwc/{one}" not in found}
    return found


def _content(diff: WeightDiff) -> dict[str, Any]:
    layers = [one.layer for one in diff.layers]
    shapes = ["×".join(map(str, one.shape)) for one in diff.layers]
    return {
        "base": diff.base,
        "tuned": diff.tuned,
        "statements": statements(diff),
        "appearance": json.loads(APPEARANCE.read_text("utf-8")),
        "common": {
            "layers": layers,
            "short": shown(layers),
            "blocks": blocks(layers),
            "shapes": dict(zip(layers, shapes, strict=True)),
            "steps": [0],
            "epochs": [None],
        },
        "tables": {measure: _table(diff, measure) for measure in MEASURES},
    }


def _table(diff: WeightDiff, measure: str) -> dict[str, Any]:
    quantity = _quantity(measure)
    values = np.array([[getattr(one, measure) for one in diff.layers]])
    lost = np.isnan([[one.l1 for one in diff.layers]])
    cells = classify(values, np.where(lost, Cell.NOT_FINITE, Cell.VALUE).astype(np.uint8), quantity)
    with np.errstate(over="ignore"):
        numbers = values.astype("<f4").tobytes()
    return {**described(quantity), "values": _base64(numbers), "cells": _base64(cells.tobytes())}


def _quantity(measure: str) -> Quantity:
    if measure in MOVEMENTS:
        quantity = MOVEMENTS[measure].quantity
        # Nothing is known of the steps between two models.
        return quantity._replace(scale="measurement") if quantity.scale == "step" else quantity
    return CHANGE_SINCE_START._replace(label=f"relative weight change, {measure} (ratio)")


def _base64(content: bytes) -> str:
    return b64encode(content).decode("ascii")
