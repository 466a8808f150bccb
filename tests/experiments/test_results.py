# SPDX-License-Identifier: Apache-2.0
import json

import numpy as np
import pytest
from scipy import stats

from lightning_rwc import RWCHistory
from lightning_rwc.experiments.results import NORMS, RECORDED, load_results
from tests.experiments.synthetic import ALEXNET, MIDDLE, SIZES, settings, store

LEVELS = [0.1, 0.2, 0.3, 0.4, 0.5, 0.05]


def test_results_are_read_in_the_order_of_seeds(tmp_path):
    tables = store(tmp_path / "run", LEVELS, seeds=(123, 0, 42))
    results = load_results(tmp_path / "run")
    assert (results.architecture, results.like, results.data) == ("alexnet", "authors", "fashion-mnist")
    assert (results.precision, results.seeds, results.layers) == ("bf16-mixed", [0, 42, 123], ALEXNET)
    np.testing.assert_allclose(results.accuracy(), 0.88 + np.sin([0, 42, 123]) / 1000)
    np.testing.assert_array_equal(results.sizes, SIZES)
    assert set(results.curves) == set(NORMS)
    for norm, unsorted in tables.items():
        table = unsorted[[1, 2, 0]]
        np.testing.assert_array_equal(results.curves[norm], table)
        means = table[:, :, MIDDLE].mean(axis=2)
        np.testing.assert_allclose(results.group_curves(norm, ["features.3", "features.6"]), means)


def test_summaries_over_epochs_are_those_of_scipy_and_numpy(tmp_path):
    table = store(tmp_path / "run", LEVELS, spread=1.0)["l1"]
    results = load_results(tmp_path / "run")
    np.testing.assert_allclose(results.by_layer("l1", "mean"), table.mean(axis=1))
    np.testing.assert_allclose(results.by_layer("l1", "geometric mean"), stats.gmean(table, axis=1))
    np.testing.assert_allclose(results.by_layer("l1", "median"), np.median(table, axis=1))


def test_one_spike_moves_the_mean_alone(tmp_path):
    def spike(seed, recording):
        table = np.full((21, 6), 0.1)
        table[7, 2] = 100.0
        return table

    store(tmp_path / "run", spike)
    results = load_results(tmp_path / "run")
    assert results.by_layer("l1", "mean")[0, 2] > 4
    assert results.by_layer("l1", "geometric mean")[0, 2] == pytest.approx(0.1 * 1000 ** (1 / 21))
    assert results.by_layer("l1", "median")[0, 2] == pytest.approx(0.1)


def test_recordings_count_if_every_seed_has_them(tmp_path):
    store(tmp_path / "run", LEVELS, recordings=tuple(RECORDED))
    (tmp_path / "run" / "seed_1" / "rwc_rotation.csv").unlink()
    assert set(load_results(tmp_path / "run").curves) == set(RECORDED) - {"rotation"}


def test_layers_are_matched_by_name(tmp_path):
    table = store(tmp_path / "run", LEVELS, recordings=tuple(RECORDED))["rotation"]
    file = tmp_path / "run" / "seed_0" / "rwc_rotation.csv"
    RWCHistory.load(file).reordered(ALEXNET[::-1]).save(file)
    lines = (tmp_path / "run" / "layers.csv").read_text().splitlines()
    (tmp_path / "run" / "layers.csv").write_text("\n".join([lines[0], *lines[:0:-1]]))
    results = load_results(tmp_path / "run")
    np.testing.assert_array_equal(results.curves["rotation"], table)
    np.testing.assert_array_equal(results.sizes, SIZES)


@pytest.mark.parametrize(("accuracy", "kept"), [(0.1, [0, 1]), (0.43, [0, 1]), (0.45, [0, 1, 2])])
def test_a_run_that_has_not_learned_is_left_out(accuracy, kept, tmp_path):
    table = store(tmp_path / "run", LEVELS)["l1"]
    file = tmp_path / "run" / "seed_2" / "finished.json"
    file.write_text(json.dumps({"seed": 2, "test_top1": accuracy, "test_top5": 0.5}))
    results = load_results(tmp_path / "run")  # the others have 0.88
    assert results.seeds == kept
    assert [run["seed"] for run in results.failed] == [seed for seed in (0, 1, 2) if seed not in kept]
    np.testing.assert_array_equal(results.curves["l1"], table[kept])
    assert len(results.accuracy()) == len(kept)


def test_older_folders_are_read(tmp_path):
    older = settings() | {"model": {"architecture": "alexnet", "learning_rate": 0.1}, "precision": "16-mixed"}
    del older["trainer"]
    store(tmp_path / "run", LEVELS, sizes=None, **older)
    results = load_results(tmp_path / "run")
    assert (results.like, results.precision) == (None, "16-mixed")
    assert np.isnan(results.sizes).all()


def test_runs_that_ended_after_different_epochs_are_named(tmp_path):
    store(tmp_path / "run", LEVELS, seeds=(0, 3))  # of 4 epochs each
    RWCHistory(ALEXNET, range(2), range(2), [LEVELS] * 2).save(tmp_path / "run" / "seed_3" / "rwc.csv")
    with pytest.raises(ValueError, match=r"different numbers of epochs: 4 \(seed_0\), 2 \(seed_3\)"):
        load_results(tmp_path / "run")


def test_nothing_finished_is_an_error(tmp_path):
    store(tmp_path / "run", LEVELS, seeds=())
    with pytest.raises(FileNotFoundError, match="has no finished run"):
        load_results(tmp_path / "run")
