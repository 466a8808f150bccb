# SPDX-License-Identifier: Apache-2.0
"""The results as Markdown tables, for docs/performance.md and docs/verified.md."""

import math


def tables(checks, state):
    """All results of ``checks`` that are in ``state``, the content of the file of results."""
    results = {name: state["results"][name] for name in checks if name in state["results"]}
    parts = [_header(state, results), "## For docs/performance.md"]
    parts += [
        f"### {name}: {checks[name].shows}\n\n{_figures(r['figures'])}" for name, r in results.items() if r["figures"]
    ]
    return "\n\n".join([*parts, "## For docs/verified.md", _verified(checks, results)])


def _header(state, results):
    devices = sorted({record.get("device", "unknown") for record in results.values()})
    packages = [
        f"{device}: " + ", ".join(f"{key} {value}" for key, value in state["machines"][device].items())
        for device in devices
        if device in state["machines"]
    ]
    rehearsal = any(record["rehearsal"] for record in results.values())
    title = "# Rehearsal on a CPU: no figure here is one of a GPU" if rehearsal else "# Results on a GPU"
    return "\n\n".join([title, f"Commit {state['commit']}.", *packages])


def _figures(rows):
    """A table of ``rows``: row name to column name to number or text."""
    columns = list(dict.fromkeys(column for row in rows.values() for column in row))
    lines = [[name, *(_cell(row.get(column, "")) for column in columns)] for name, row in rows.items()]
    return _markdown(["", *columns], lines)


def _verified(checks, results):
    lines = [
        [f"`{name}`", checks[name].shows, _result(record), record.get("device", "")] for name, record in results.items()
    ]
    return _markdown(["check", "shows", "result", "on"], lines)


def _result(record):
    reason = record.get("reason", "").partition("\n")[0][:120].replace("|", "\\|")
    status = "probe failed" if record["status"] == "failed" and record["kind"] == "probe" else record["status"]
    status += " in a rehearsal" * (record["rehearsal"] and status != "not here")
    return f"{status}: {reason}" if reason else status


def _markdown(header, lines):
    return "\n".join(f"| {' | '.join(line)} |" for line in [header, ["---"] * len(header), *lines])


def _cell(value):
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (int, str)):
        return f"{value}".replace("|", "\\|")
    if not math.isfinite(value) or value == 0:
        return str(value)
    # Three digits.
    return f"{value:,.{min(max(2 - math.floor(math.log10(abs(value))), 0), 9)}f}"
