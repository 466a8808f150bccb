# SPDX-License-Identifier: Apache-2.0
import sys

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from lightning_rwc import RWCHistory
from lightning_rwc.weightscale import cluster_layers, save_clusters


def history(table, layers=None):
    """``table`` has layers as rows, as the curves of the clusters have."""
    table = np.asarray(table, dtype=float)
    times = range(table.shape[1])
    return RWCHistory(layers or [f"conv{i}" for i in range(len(table))], times, times, table.T)


def planted(groups, noise=0.02, seed=0):
    """Curves of 10 measurements around three shapes that lie decades apart."""
    t = np.linspace(0, 1, 10)
    shapes = np.stack([0.3 * 0.1**t, 0.001 * 10**t, np.full(10, 1e-4)])
    return shapes[groups] * np.exp(noise * np.random.default_rng(seed).normal(size=(len(groups), 10)))


PLANTED = [0, 0, 1, 0, 1, 2, 2, 1, 0, 2, 2, 1]


def reference_by_hand(curve):
    finite = [x for x in curve if np.isfinite(x)]
    mean = sum(finite) / len(finite)
    filled = [x if np.isfinite(x) else mean for x in curve]
    deviation = (sum((x - mean) ** 2 for x in filled) / len(filled)) ** 0.5
    return [mean if abs(x - mean) > 2 * deviation else x for x in filled]


def test_reference_preparation():
    table = planted(PLANTED, noise=0.3)
    table[0, 3], table[4, 0], table[7, 9], table[5, 5] = np.inf, np.nan, 5.0, 0.0
    curves = cluster_layers(history(table), procedure="reference").curves
    expected = [reference_by_hand(curve) for curve in table]
    np.testing.assert_allclose(curves, expected, rtol=1e-12)
    assert curves[7, 9] < 1  # the planted outlier is found


def test_robust_preparation():
    calm = [1e-2, 1e-3, 1e-2, 1e-1, 1e-2]  # of logarithms −2, −3, −2, −1, −2: MAD 0
    burst = [1e-3, 1e-1, 1e-2, 10**-1.5, 10**-2.5, 1e4, np.inf]  # median −1.75, deviations .25 .25 .75 .75 1.25 5.75
    frozen = [0.0] * 7
    curves = cluster_layers(history([[*calm, 1e-2, 1e-2], burst, frozen])).curves
    np.testing.assert_allclose(curves[0], [-2, -3, -2, -1, -2, -2, -2])
    limit = -1.75 + 3 * 1.4826 * 0.75
    np.testing.assert_allclose(curves[1], [-3, -1, -2, -1.5, -2.5, limit, -1.75])
    np.testing.assert_allclose(curves[2], [-4] * 7)  # a tenth of 1e-3


@pytest.mark.parametrize("procedure", ["robust", "reference"])
def test_components_centroids_and_sse_are_those_of_numpy(procedure):
    clusters = cluster_layers(history(planted(PLANTED, noise=0.4)), procedure=procedure, k=4)
    centred = clusters.curves - clusters.curves.mean(axis=0)
    _, singular, axes = np.linalg.svd(centred, full_matrices=False)
    expected = centred @ axes[:2].T
    np.testing.assert_allclose(np.abs(clusters.components), np.abs(expected), atol=1e-10)
    np.testing.assert_allclose(clusters.explained_variance, singular[:2] ** 2 / (singular**2).sum())
    for column in range(2):  # signs: a curve raised everywhere lies further to the right and to the top
        loading = np.linalg.lstsq(centred, clusters.components[:, column], rcond=None)[0]
        assert loading.sum() > 0
    centroids = [clusters.components[clusters.labels == cluster].mean(axis=0) for cluster in range(4)]
    np.testing.assert_allclose(clusters.centroids, centroids, atol=1e-10)
    squares = sum(((p - centroids[c]) ** 2).sum() for p, c in zip(clusters.components, clusters.labels, strict=True))
    assert clusters.sse[4] == pytest.approx(squares)
    assert clusters.sse[1] == pytest.approx(((clusters.components) ** 2).sum())
    assert list(clusters.sse) == list(range(1, 13))
    assert list(clusters.silhouette) == list(range(2, 12))


def silhouette_by_hand(points, labels):
    distances = np.linalg.norm(points[:, None] - points[None], axis=2)
    scores = []
    for i, own in enumerate(labels):
        mates = (labels == own) & (np.arange(len(labels)) != i)
        nearest = min(distances[i, labels == other].mean() for other in set(labels) - {own})
        inside = distances[i, mates].mean() if mates.any() else None
        scores.append(0 if inside is None else (nearest - inside) / max(nearest, inside))
    return np.mean(scores)


def test_planted_clusters_are_found_and_numbered_by_depth():
    clusters = cluster_layers(history(planted(PLANTED)))
    assert clusters.k == 3
    assert clusters.labels.tolist() == PLANTED
    assert clusters.silhouette[3] == pytest.approx(silhouette_by_hand(clusters.components, np.array(PLANTED)))
    backwards = cluster_layers(history(planted(PLANTED[::-1])))
    assert backwards.labels.tolist() == [{2: 1, 1: 0, 0: 2}[group] for group in PLANTED[::-1]]
    assert repr(clusters) == "LayerClusters(12 layers, 3 clusters of 4, 4, 4, stability 1.00)"


def test_bursts_mislead_the_reference_but_not_the_robust_procedure():
    table = planted(PLANTED)
    table[2, :2], table[6, 4:6], table[1, 7] = 40.0, 60.0, np.inf
    assert cluster_layers(history(table), k=3).labels.tolist() == PLANTED
    assert cluster_layers(history(table), k=3, procedure="reference").labels.tolist() != PLANTED


def test_one_seed_gives_one_result():
    table = np.exp(np.random.default_rng(1).normal(size=(40, 8)))
    one, same = (cluster_layers(history(table), k=9, seed=7) for _ in range(2))
    np.testing.assert_array_equal(one.labels, same.labels)
    np.testing.assert_array_equal(one.components, same.components)
    assert (one.sse, one.silhouette) == (same.sse, same.silhouette)
    assert max(one.sse) == 18
    assert any(cluster_layers(history(table), k=9, seed=seed).sse != one.sse for seed in range(5))


def test_runs_are_pooled_and_their_ends_dropped():
    table = planted(PLANTED)
    runs = {"a": history(table[:6]), "b": history(table[6:])}
    clusters = cluster_layers(runs)
    assert clusters.layers == [f"{run}/conv{i}" for run in "ab" for i in range(6)]
    assert clusters.labels.tolist() == PLANTED
    assert cluster_layers(list(runs.values())).layers[6] == "run1/conv0"
    assert cluster_layers(runs, drop_ends=True).layers == [f"{run}/conv{i}" for run in "ab" for i in range(1, 5)]
    frame = clusters.to_frame({"conv1": "stem", "b/conv1": "head"})
    assert frame.index[frame["kind"] != "other"].tolist() == ["a/conv1", "b/conv1"]
    assert frame["kind"].tolist()[1::6] == ["stem", "head"]
    with pytest.raises(ValueError, match=r"different numbers of measurements: 10 \(a\), 9 \(b\)"):
        cluster_layers({"a": runs["a"], "b": history(table[6:, :9])})


def test_frame():
    table = planted(PLANTED)
    frame = cluster_layers(history(table)).to_frame()
    assert frame.columns.tolist() == ["cluster", "pc1", "pc2", "mean"]
    assert frame.loc["conv5", "cluster"] == 2
    np.testing.assert_allclose(frame["mean"], table.prod(axis=1) ** 0.1, rtol=0.05)
    np.testing.assert_allclose(
        cluster_layers(history(table), procedure="reference").to_frame()["mean"].iloc[5], table[5].mean(), rtol=0.05
    )
    with pytest.raises(ValueError, match=r"layers\. The layers have names like 'conv0'; `kinds` names 'fc'"):
        cluster_layers(history(table)).to_frame({"fc": "other"})


@pytest.mark.parametrize(
    ("table", "options", "message"),
    [
        (planted(PLANTED), {"procedure": "best"}, "`procedure` must be one of 'robust', 'reference', but got 'best'"),
        (planted(PLANTED), {"k": 0}, "`k` must be from 1 to 12 for these 12 layers, but got 0"),
        (planted(PLANTED * 2), {"k": 19}, "`k` must be from 1 to 18 for these 24 layers, but got 19"),
        (planted(PLANTED), {"seed": -1}, "`seed` must be from 0"),
        (planted([0, 1, 2, 2]), {"drop_ends": True}, "at least 3 layers to cluster, but has 2"),
        (planted(PLANTED)[:, :1], {}, "at least 2 measurements, but has 1"),
        (np.ones((4, 5)), {}, "all of its curves are equal"),
        (np.zeros((4, 5)), {}, "all of its curves are equal"),
        ([[1, 2], [2, 1], [np.inf, np.nan]], {}, "no finite value for the layer 'conv2'"),
        ([[1, 2], [2, 1], [1, -1]], {}, "negative values for the layer 'conv2'"),
        ([[1, 2], [1, 2], [2, 1]], {"k": 3}, "`k` must be from 1 to 2 for these 3 layers"),
    ],
)
def test_bad_values_are_refused(table, options, message):
    with pytest.raises(ValueError, match=message):
        cluster_layers(history(table), **options)


def test_bad_types_are_refused():
    for options in ({"k": 2.0}, {"k": True}, {"seed": "0"}):
        with pytest.raises(TypeError, match=f"`{next(iter(options))}` must be an int, but got"):
            cluster_layers(history(planted(PLANTED)), **options)
    with pytest.raises(TypeError, match=r"`history` must be an RWCHistory or several, but has 'rwc\.csv'"):
        cluster_layers(["rwc.csv"])
    with pytest.raises(TypeError, match="`history` must be an RWCHistory or several, but has None"):
        cluster_layers(None)


def test_missing_scikit_learn_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.cluster", None)
    with pytest.raises(ModuleNotFoundError, match="Install the extra `analysis` of lightning-rwc"):
        cluster_layers(history(planted(PLANTED)))


def test_figures_show_every_cluster():
    import matplotlib.pyplot as plt

    layers = ["_$a$", *(f"conv{i}" for i in range(11))]
    few, many = cluster_layers(history(planted(PLANTED), layers)), history(planted(PLANTED * 3, noise=0.5))
    many = cluster_layers(many, k=18)
    plane = few.plot_plane({"_$a$": "stem"})
    texts = {text.get_text() for text in plane.axes[0].texts}
    assert texts == {*layers, "0", "1", "2"}
    assert [t.get_text() for t in plane.legends[0].get_texts()] == [
        *(f"cluster {i}: 4 layers" for i in range(3)),
        "other",
        "stem",
    ]
    assert len(few.plot_curves().axes[0].lines) == 12 + 3
    assert few.plot_scree().axes[0].lines[1].get_ydata().tolist() == list(few.sse.values())
    assert {text.get_text() for text in many.plot_plane().axes[0].texts} == {str(i) for i in range(18)}
    handles = many.plot_curves().legends[0].get_lines()
    assert len({(line.get_color(), line.get_linestyle()) for line in handles}) == 18
    for figure in (plane, many.plot_plane(), many.plot_curves(), many.plot_scree()):
        assert isinstance(figure, Figure)
        figure.draw_without_rendering()
        box = figure.legends[0].get_window_extent() if figure.legends else figure.bbox
        assert figure.bbox.y0 <= box.y0
        assert box.x1 <= figure.bbox.x1
    assert plt.get_fignums() == []
    with pytest.raises(ValueError, match="`kinds` has 12 kinds, but there are 10 markers"):
        few.plot_plane({layer: layer for layer in layers})


def test_clusters_are_saved(tmp_path):
    for folder, rows in (("one", slice(0, 6)), ("two", slice(6, 12))):
        history(planted(PLANTED)[rows]).save(tmp_path / folder / "rwc.csv")
    paths = [tmp_path / "one" / "rwc.csv", tmp_path / "two" / "rwc.csv"]
    files = save_clusters(paths, tmp_path / "new" / "out", patterns={"conv[0-2]": "early"}, k=3)
    assert [file.name for file in files] == ["clusters.csv", "plane.png", "scree.png", "curves.png"]
    assert all(file.read_bytes().startswith(b"\x89PNG") for file in files[1:])
    frame = pd.read_csv(files[0], index_col="layer")
    assert frame["cluster"].tolist() == PLANTED
    assert frame.index[6] == "two/conv0"
    assert frame["kind"].tolist() == (["early"] * 3 + ["other"] * 3) * 2
    with pytest.raises(ValueError, match="must be different files"):
        save_clusters([paths[0], paths[0]], tmp_path / "twice")
    save_clusters(paths[0], tmp_path / "single")
    assert pd.read_csv(tmp_path / "single" / "clusters.csv")["layer"].tolist() == [f"conv{i}" for i in range(6)]
    with pytest.raises(ValueError, match=r"`patterns` .* has 'fc', which matches no layer. The layers are: 'conv0',"):
        save_clusters(paths[0], tmp_path / "kinds", patterns={"conv": "early", "fc": "late"})
    assert not (tmp_path / "kinds").exists()
