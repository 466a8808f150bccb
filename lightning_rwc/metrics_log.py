# SPDX-License-Identifier: Apache-2.0
"""The ``metrics.csv`` of Lightning's CSVLogger."""

import csv
import io
import re
from pathlib import Path
from typing import Any

import numpy as np

from lightning_rwc.findings.finding import Finding
from lightning_rwc.history import RWCHistory
from lightning_rwc.log_table import LogTable, NothingYetError, choice, of_history, sizes, without
from lightning_rwc.natural import natural_key
from lightning_rwc.quantity import RELATIVE_WEIGHT_CHANGE, Quantity
from lightning_rwc.tags import Tags

METRICS, FINDINGS = "metrics.csv", "_findings.md"
"""How the names of its files end."""
_EPOCH = Tags("").epoch
_HEADING = re.compile(r"\*\*(?P<kind>\w+)\*\*(?: · (?P<layers>.*))? · epoch (?P<epoch>-?\d+), step (?P<step>\d+)")


class MetricsLog:
    """The tables of a CSVLogger."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def state(self) -> object:
        """The sizes of the files."""
        return sizes([self._path, *self._path.parent.glob(f"*{FINDINGS}")])

    def tables(self) -> dict[str, str]:
        """What the tags of each table start with, and what those of its callback start with."""
        header = _header(self._path)
        prefixes = [column.removesuffix(_EPOCH) for column in header if column.endswith(_EPOCH)]
        found: dict[str, str] = {}
        # A prefix such as `rwc_l2` is no measure of the callback whose prefix is `rwc`.
        for prefix in sorted(prefixes, key=len):
            further = (column[len(prefix) :].partition("/")[0] for column in header if column.startswith(f"{prefix}_"))
            found |= dict.fromkeys([prefix, *(prefix + root for root in further)], prefix)
        return {root: prefix for root, prefix in found.items() if root not in {Tags(one).roots[1] for one in prefixes}}

    def read(self, prefix: str | None) -> LogTable:
        """The table that tags with ``prefix`` have; see :meth:`Log.read <lightning_rwc.logs.Log.read>`."""
        tables = self.tables()
        if not tables:
            raise NothingYetError(
                f"{str(self._path)!r} has no column that ends in {_EPOCH!r}. An RWCCallback adds one."
            )
        chosen = choice(prefix, [*tables])
        main = tables[chosen]
        measure = chosen.removeprefix(main).removeprefix("_")
        with self._path.open(encoding="utf-8", newline="") as file:
            text = file.read()
        whole = text[: text.rfind("\n") + 1]  # the last line may still be written
        rows = [
            row
            for row in csv.DictReader(io.StringIO(whole, newline=""))
            if row.get(Tags(main).epoch) and row.get("step")
        ]
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
        own = Quantity(measure, signed=bool((values < 0).any()))
        quantity = quantities().get(measure, own) if measure else RELATIVE_WEIGHT_CHANGE
        findings = [] if measure else self._findings(main)
        return of_history(self._path, history, quantity, findings)._replace(other_prefixes=without(tables, chosen))

    def _findings(self, prefix: str) -> list[Finding]:
        path = self._path.with_name(f"{prefix.replace('%', '%25').replace('/', '%2F')}{FINDINGS}")
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


def is_metrics(path: Path) -> bool:
    """Whether the CSV file at ``path`` is one of a CSVLogger, and not a history."""
    return any(column.endswith(_EPOCH) for column in _header(path)) or path.name == METRICS


def _header(path: Path) -> list[str]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        return next(csv.reader(file), [])


def quantities() -> dict[str, Quantity]:
    """What the numbers of each further measure of this package are."""
    from lightning_rwc.equilibrium import EQUILIBRIUM
    from lightning_rwc.measures import MEASURES
    from lightning_rwc.movement import MOVEMENTS

    measures: list[Any] = [*MOVEMENTS.items(), *MEASURES.items(), (EQUILIBRIUM.name, EQUILIBRIUM)]
    return {name: measure.quantity for name, measure in measures}
