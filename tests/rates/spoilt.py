# SPDX-License-Identifier: Apache-2.0
"""The command ``python -m tests.rates.spoilt``: are vanishing gradients, odd layers and bursts found?"""

import logging
import random
import warnings
from collections import defaultdict
from itertools import product
from typing import Annotated

import torch
import typer

from lightning_rwc import RWCCallback
from lightning_rwc.findings.likely import LIKELY
from lightning_rwc.layers import LayerSelection
from tests.faults.training import Training, quiet_trainer
from tests.rates.data import Batches, images
from tests.rates.replay import HEALTHY
from tests.rates.runs import CADENCES, quality
from tests.rates.spoils import ALL, BATCH, EPOCHS, IMAGES, SPOILS, candidates, twin, weight_of

VERDICTS = ("right", "named", "nothing")
# A twin of lower accuracy says nothing of whether spoilt trainings learn.
LEARNT = 0.5
_LIKELY = {rule.kind for rule in LIKELY}


def main(seeds: Annotated[int, typer.Option(min=1, help="the number of seeds")] = 2) -> None:
    """Spoil trainings so that one likely kind should be told, and train a healthy twin of each.

    The table says how many were found, measured every epoch and every step: with the right layers; or the layer that
    was spoilt is named in another way; or nothing names it. Some learn all the same: they reach 95 % of the accuracy of
    their twin, if the twin learns. It takes about twelve minutes. The exit code is 1 if a twin has a likely finding.
    """
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    twins, records = {}, []
    with typer.progressbar([*plan(seeds)], label="Trainings") as bar:
        for title, name, optimizer, seed in bar:
            key = twin(name), optimizer, seed
            if key not in twins:
                twins[key] = train(*key)
            records.append(judge(title, train(name, optimizer, seed, title), twins[key]))
    print(table(records))
    wrong = [(key, kinds) for key, run in twins.items() if (kinds := false_alarms(run))]
    print(f"\nHealthy twins with a likely finding: {len(wrong)} of {len(twins)}")
    for key, kinds in wrong:
        print("-", *key, kinds)
    raise typer.Exit(bool(wrong))


def plan(seeds):
    """What is spoilt, architecture, optimizer and seed of each training."""
    for title, spoil in SPOILS.items():
        yield from product([title], spoil.architectures, spoil.optimizers, range(seeds))


def train(name, optimizer, seed, title=None):
    """Train once, spoilt or not. Returns what was told at each cadence, and how well it learnt."""
    train, labels, test, truth = images("digits")
    torch.manual_seed(seed)
    training = Training(ALL[name], optimizer)
    layers = LayerSelection().find(training)
    layer = random.Random(f"{name} {seed}").choice(candidates(layers))
    if title:
        SPOILS[title].change(training, weight_of(layers[layer]), [*layers[layer].values()])
    callbacks = {
        "epoch": RWCCallback(heatmap=False, prefix="epoch"),
        "step": RWCCallback(heatmap=False, prefix="step", every_n_train_steps=1),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quiet_trainer([*callbacks.values()], EPOCHS).fit(training, Batches(train[:IMAGES], labels[:IMAGES], BATCH))
    return {
        "layer": layer,
        "layers": [*layers],
        "quality": quality(training, test, truth),
        "found": {by: callback.findings for by, callback in callbacks.items()},
    }


def judge(title, run, healthy):
    """Say of a spoilt run what was told of it at each cadence, beyond what was told of its healthy twin.

    ``"right"``: the kind, with the right layers. ``"named"``: another kind, or other layers too, but the layer that was
    spoilt is among them. ``"nothing"``: nothing that names it.
    """
    spoil, layers = SPOILS[title], run["layers"]
    spoilt = {"one": {run["layer"]}, "most": {*layers}, "first": {layers[0]}}[spoil.names]
    record = {"title": title, "twin learns": healthy["quality"] >= LEARNT}
    record["learns"] = record["twin learns"] and run["quality"] >= HEALTHY * healthy["quality"]
    for by in CADENCES:
        before = {(finding.kind, layer) for finding in healthy["found"][by] for layer in finding.layers}
        told = [one for one in run["found"][by] if one.step >= spoil.since - 1]
        found = [(one.kind, {layer for layer in one.layers if (one.kind, layer) not in before}) for one in told]
        first = next((named for kind, named in found if kind == spoil.kind), set())
        named = any(some & spoilt for _, some in found)
        record[by] = "right" if _are_right(spoil.names, first, run) else "named" if named else "nothing"
    return record


def _are_right(names, named, run):
    layers = run["layers"]
    if names == "one":
        return named == {run["layer"]}
    if names == "most":
        return 2 * len(named) > len(layers)
    return named.issuperset(layers[: len(layers) // 3]) and layers[-1] not in named


def false_alarms(run):
    """The likely kinds that are told of a healthy run, by cadence."""
    kinds = {by: sorted({one.kind for one in run["found"][by]} & _LIKELY) for by in CADENCES}
    return {by: some for by, some in kinds.items() if some}


def table(records):
    """Of the trainings spoilt in each way, how many were found and how many learn, as Markdown."""
    groups = defaultdict(list)
    for record in records:
        groups[record["title"]].append(record)
    verdicts = [(by, verdict) for by in CADENCES for verdict in VERDICTS]
    header = ["", "trainings", *(f"{by}: {verdict}" for by, verdict in verdicts), "learn"]
    lines = [header, ["---"] * len(header)]
    for title, some in groups.items():
        counts = [sum(one[by] == verdict for one in some) for by, verdict in verdicts]
        learn = f"{sum(one['learns'] for one in some)} of {sum(one['twin learns'] for one in some)}"
        lines.append([title, *map(str, (len(some), *counts)), learn])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    typer.run(main)
