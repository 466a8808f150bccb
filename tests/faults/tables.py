# SPDX-License-Identifier: Apache-2.0
"""The results as Markdown tables."""

from collections import defaultdict

from tests.faults.faults import FAULTS, OUTSIDE
from tests.faults.others import OTHERS
from tests.faults.runs import CADENCES


def tables(records):
    """All tables of the records of :func:`tests.faults.runs.run`."""
    wrong = wrongs(records)
    parts = [
        "## Faults\n\nFound in so many of the trainings, in exactly the right layers; later the median number of the "
        f"measurement.\n\n{_cases(records, is_fault=True)}",
        f"## Healthy trainings\n\nTrainings with a false alarm, of all.\n\n{_cases(records, is_fault=False)}",
        f"## Architectures\n\n{_architectures(records)}",
        f"## False alarms\n\n{_false_alarms(records)}",
        "## Wrong\n\n" + ("\n".join(map(_sentence, wrong)) or "Nothing."),
        "## Outside: what weights cannot show\n\n" + "\n".join(f"- {name}: {why}" for name, why in OUTSIDE.items()),
    ]
    return "\n\n".join(parts)


def wrongs(records):
    """The records of the callback that are not as they should be, and those of healthy runs that do not learn."""
    return [
        record
        for record in records
        if record["by"] in CADENCES
        and (record["verdict"] not in ("exact", "quiet") or record["false"] or _learns_nothing(record))
    ]


def _learns_nothing(record):
    # The loss of the discriminator of a GAN may rise.
    is_asked = record["case"] == "healthy" and record["by"] == "epoch" and record["architecture"] != "GAN"
    return is_asked and not record["losses"][-1] < record["losses"][0]


def _sentence(record):
    about = "- " + "; ".join(str(record[key]) for key in ("case", "architecture", "optimizer", "seed", "by"))
    if _learns_nothing(record):
        return f"{about}: does not learn, losses {record['losses']}"
    return f"{about}: {record['verdict']}; expected {record['expected']}; found {record['found']}"


def _cases(records, is_fault):
    groups = _grouped([r for r in records if (r["case"] in FAULTS) == is_fault], "case", "by")
    return _markdown(
        ["", *CADENCES, *OTHERS],
        [
            [case, *((_found if is_fault else _alarms)(columns.get(by, [])) for by in (*CADENCES, *OTHERS))]
            for case, columns in groups.items()
        ],
    )


def _found(records):
    due = [r for r in records if r["expected"]]
    exact = sorted(r["when"] for r in due if r["verdict"] == "exact")
    some = sum(r["verdict"] == "other layers" for r in due)
    text = f"{len(exact)} of {len(due)}" + (f", {some} in other layers" if some else "")
    return text + (f"; {exact[len(exact) // 2]}" if exact and exact[-1] else "")


def _alarms(records):
    return f"{sum(bool(r['false']) for r in records)} of {len(records)}"


def _architectures(records):
    groups = _grouped([r for r in records if r["case"] in FAULTS], "architecture", "by")
    return _markdown(
        ["", *CADENCES, *OTHERS],
        [[name, *(_found(columns.get(by, [])) for by in (*CADENCES, *OTHERS))] for name, columns in groups.items()],
    )


def _false_alarms(records):
    groups = _grouped(records, "by", "case")
    lines = []
    for by, cases in groups.items():
        faults = [r for case, rs in cases.items() if case in FAULTS for r in rs]
        healthy = [r for case, rs in cases.items() if case not in FAULTS for r in rs]
        lines.append([by, _alarms(faults), _alarms(healthy)])
    return _markdown(["", "trainings with a fault", "healthy trainings"], lines)


def _grouped(records, *keys):
    groups = defaultdict(lambda: defaultdict(list))
    for record in records:
        groups[record[keys[0]]][record[keys[1]]].append(record)
    return groups


def _markdown(header, lines):
    return "\n".join(f"| {' | '.join(line)} |" for line in [header, ["---"] * len(header), *lines])
