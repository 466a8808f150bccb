# SPDX-License-Identifier: Apache-2.0
"""The pages of docs that are made from committed curves say what the curves say."""

import numpy as np
import pandas as pd
import pytest
from torch.nn import Dropout, Identity

from docs import alexnet_parts, reproduction
from docs.alexnet_parts import Parts
from lightning_rwc.experiments import authors, modern


def shapes(network):
    return [tuple(parameter.shape) for parameter in network.parameters()]


def kinds(network):
    leaves = [type(module) for module in network.modules() if not [*module.children()]]
    return [kind for kind in leaves if kind is not Identity]


def test_with_no_part_it_is_the_authors_alexnet_and_with_all_the_modern():
    assert shapes(alexnet_parts.alexnet(Parts())) == shapes(authors.alexnet(1, 10))
    assert kinds(alexnet_parts.alexnet(Parts())) == kinds(authors.alexnet(1, 10))
    everything = alexnet_parts.alexnet(Parts(stem=True, second=True, head=True, images=True))
    assert shapes(everything) == shapes(modern.alexnet(1, 10))
    without_dropout = kinds(alexnet_parts.alexnet(Parts(no_dropout=True)))
    assert without_dropout == [kind for kind in kinds(authors.alexnet(1, 10)) if kind is not Dropout]


@pytest.fixture(scope="module")
def committed(tmp_path_factory):
    return reproduction.experiments(tmp_path_factory.mktemp("pictures"))


def test_the_page_has_the_tables_of_the_committed_curves(committed):
    page = reproduction.PAGE.read_text(encoding="utf-8")
    for name, experiment in committed.items():
        assert f"<!-- {name} -->\n\n{reproduction.section(name, experiment)}\n\n<!-- end -->" in page
    assert reproduction.claims(committed) in page
    assert f"<!-- parts -->\n\n{reproduction.parts()}\n\n<!-- end -->" in page


def test_the_ratio_of_early_to_middle_layers_is_that_of_the_tables(committed):
    ratios, shares = [], []
    for seed in committed["alexnet-fashion-mnist"].results.seeds:
        table = pd.read_csv(reproduction.EXPERIMENTS / "alexnet-fashion-mnist" / f"seed_{seed}" / "rwc.csv")
        early, middle = table["features.0"], (table["features.3"] + table["features.6"]) / 2
        ratios.append(early.mean() / middle.mean())
        shares.append((early < middle).mean())
    comparisons = committed["alexnet-fashion-mnist"].tables["comparisons"]
    row = comparisons.query("comparison == 'early < middle' and norm == 'l1' and summary == 'mean'").iloc[0]
    assert row["ratio"] == pytest.approx(np.exp(np.log(ratios).mean()), rel=1e-9)
    assert row["share of epochs"] == pytest.approx(np.mean(shares))
