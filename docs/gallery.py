# SPDX-License-Identifier: Apache-2.0
"""Draws the gallery of healthy and sick trainings: ``python docs/gallery.py CACHE --page`` writes ``docs/gallery.md``.

Trainings that the folder ``CACHE`` has are not repeated. All of them need the packages of ``pip install -e ".[demo]"``
and about five minutes on one CPU core.
"""

import argparse
import json
import logging
import pickle
import random
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path

import torch
from gallery_pictures import heatmap, save, side_by_side, with_findings
from gallery_runs import CASES, HEALTHY, RECIPES, TIMES, Case, Record, at_rate, train

PAGE = Path(__file__).parent / "gallery.md"
SEEDS = 3
_COLOURS = 128


def main(arguments: list[str] | None = None) -> None:
    """Train what is missing, and draw what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cache", type=Path, help="the folder in which trainings are kept")
    parser.add_argument("--only", nargs="*", default=["*"], help="names of trainings, such as 'mlp-*'")
    parser.add_argument("--epochs", type=int, help="another number of epochs")
    told = "draw the pictures of this page, by default docs/gallery.md, and update what it says of each training"
    parser.add_argument("--page", type=Path, nargs="?", const=PAGE, help=told)
    parser.add_argument("--blind", type=Path, help="write pictures in random order and without names to this folder")
    parser.add_argument("--strip", action="store_true", help="with what is said of each below it")
    parser.add_argument("--seed", type=int, default=0, help="the seed of the random order")
    parser.add_argument("--rates", action="store_true", help="train at many learning rates, and print accuracies")
    chosen = parser.parse_args(arguments)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    if chosen.rates:
        rates(chosen.cache)
        return
    cases = [case for case in CASES.values() if any(fnmatchcase(case.name, pattern) for pattern in chosen.only)]
    if chosen.epochs:
        cases = [replace(case, epochs=chosen.epochs) for case in cases]
    records = {case.name: trained(case, chosen.cache) for case in cases}
    if chosen.page:
        page(cases, records, chosen.page)
    if chosen.blind:
        blind(cases, records, chosen.blind, chosen.seed, chosen.strip)


def trained(case: Case, cache: Path) -> Record:
    """The record of a training, which is trained if the cache lacks it."""
    path = cache / f"{case.name}.pkl"
    if not path.exists():
        start = time.process_time()
        record = train(case)
        cache.mkdir(parents=True, exist_ok=True)
        path.write_bytes(pickle.dumps(record))
        kinds = ", ".join(finding.kind for finding in record.findings)
        print(f"{case.name:36} {time.process_time() - start:5.1f} s   accuracy {record.accuracy:6.1%}   {kinds}")  # noqa: T201
    return pickle.loads(path.read_bytes())


def rates(cache: Path) -> None:
    """Print the accuracy of each network at each learning rate, over some seeds."""
    lines = [["times its learning rate", *map(_times, TIMES)], ["---"] * (1 + len(TIMES))]
    for network, recipe in RECIPES.items():
        lines.append([f"{network}, {recipe.rate:g}"])
        for times in TIMES:
            cases = [HEALTHY[network] if times == 1 else at_rate(network, times)]
            cases += [replace(cases[0], name=f"{cases[0].name}-seed-{seed}", seed=seed) for seed in range(1, SEEDS)]
            accuracies = torch.tensor([trained(case, cache).accuracy for case in cases])
            lines[-1].append(f"{accuracies.mean():.0%} ({accuracies.min():.0%}–{accuracies.max():.0%})")
    print("\n".join(f"| {' | '.join(line)} |" for line in lines))  # noqa: T201


def _times(times: float) -> str:
    return f"{times:g}" if times >= 1 else f"1/{round(1 / times)}"


def page(cases: Iterable[Case], records: Mapping[str, Record], path: Path) -> None:
    """Draw each sick training beside its healthy twin, and write below it what is said of it."""
    text = path.read_text(encoding="utf-8")
    for case in cases:
        if not case.twin:
            continue
        pictures = []
        for measure in ("rwc", *case.measures):
            titles = _title(case), "its healthy twin"
            pair = [heatmap(records[name], measure) for name in (case.name, case.twin)]
            pictures.append(f"{case.name}.png" if measure == "rwc" else f"{case.name}-{measure}.png")
            save(side_by_side(titles, pair), path.parent / "images" / "gallery" / pictures[-1], colours=_COLOURS)
        start, end = f"<!-- {case.name} -->\n", "<!-- end -->"
        before, found, rest = text.partition(start)
        if found:
            text = before + start + _block(case, records, pictures) + end + rest.partition(end)[2]
    path.write_text(text, encoding="utf-8")


def _title(case: Case) -> str:
    return f"{case.network}: {', '.join(filter(None, (case.sickness, case.setting)))}"


def _block(case: Case, records: Mapping[str, Record], pictures: Sequence[str]) -> str:
    record, twin = records[case.name], records[case.twin]
    about = _title(case)
    images = "\n\n".join(f"![{about}, beside its healthy twin](images/gallery/{picture})" for picture in pictures)
    said = [f"- `{one.kind}`, epoch {one.epoch}: {one.message}" for one in record.findings] or ["- Nothing was found."]
    accuracies = f"*{about}. Accuracy {record.accuracy:.0%}; the twin reaches {twin.accuracy:.0%}.*"
    return "\n".join(["", images, "", accuracies, "", *said, ""])


def blind(cases: Iterable[Case], records: Mapping[str, Record], folder: Path, seed: int, strip: bool) -> None:
    """Write pictures without names to ``folder``, and what is true of them to a file beside it."""
    shuffled, key = list(cases), {}
    random.Random(seed).shuffle(shuffled)
    for number, case in enumerate(shuffled, start=1):
        picture = heatmap(records[case.name])
        if strip:
            picture = with_findings(picture, records[case.name])
        save(picture, folder / f"{number:02}.png")
        truth = {name: getattr(case, name) for name in ("name", "network", "sickness", "layers", "cause")}
        key[f"{number:02}"] = truth
    folder.with_name(f"{folder.name}-key.json").write_text(json.dumps(key, indent=1, ensure_ascii=False))


if __name__ == "__main__":
    main()
