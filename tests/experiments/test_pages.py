# SPDX-License-Identifier: Apache-2.0
"""The pages of docs that are made from committed curves say what the curves say."""

import numpy as np
import pandas as pd
import pytest

from docs import alexnet_parts, reproduction
from docs.alexnet_parts import Parts
from lightning_rwc.experiments import authors, modern


def shapes(network):
    return [tuple(parameter.shape) for parameter in network.parameters()]


def test_with_no_part_it_is_the_modern_alexnet_and_with_all_the_authors():
    assert shapes(alexnet_parts.alexnet(Parts())) == shapes(modern.alexnet(1, 10))
    everything = alexnet_parts.alexnet(Parts(stem=True, second=True, head=True, dropout=True))
    assert shapes(everything) == shapes(authors.alexnet(1, 10))
    assert [type(module) for module in everything.classifier] == [
        type(module) for module in authors.alexnet(1, 10).classifier
    ]


@pytest.fixture(scope="module")
def committed(tmp_path_factory):
    return reproduction.experiments(tmp_path_factory.mktemp("pictures"))


def test_the_page_has_the_tables_of_the_committed_curves(committed):
    page = reproduction.PAGE.read_text(encoding="utf-8")
    for name, experiment in committed.items():
        assert f"<!-- {name} -->\n\n{reproduction.section(name, experiment)}\n\n<!-- end -->" in page
    assert reproduction.claims(committed) in page


def test_the_ratio_of_early_to_middle_layers_is_that_of_the_table(committed):
    table = pd.read_csv(reproduction.EXPERIMENTS / "alexnet-fashion-mnist" / "seed_0" / "rwc.csv")
    early = table["features.0"]
    middle = (table["features.3"] + table["features.6"]) / 2
    results = committed["alexnet-fashion-mnist"].results
    assert results.seeds[0] == 0
    groups = [results.group_curves("l1", layers)[0] for layers in (["features.0"], ["features.3", "features.6"])]
    np.testing.assert_allclose(groups, [early, middle], rtol=1e-12)
    comparisons = committed["alexnet-fashion-mnist"].tables["comparisons"]
    row = comparisons.query("comparison == 'early < middle' and norm == 'l1' and summary == 'mean'").iloc[0]
    if results.seeds == [0]:
        assert row.ratio == pytest.approx(early.mean() / middle.mean(), rel=1e-9)
    assert 0 <= row["share of epochs"] <= 1
