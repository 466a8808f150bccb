# SPDX-License-Identifier: Apache-2.0
import sys
from itertools import combinations, product

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.metrics import adjusted_rand_score

from lightning_rwc import RWCHistory
from lightning_rwc.weightscale import cluster_layers, cluster_within_kinds, save_clusters
from lightning_rwc.weightscale.cluster_scores import agreement, chosen_number, separation
from lightning_rwc.weightscale.k_means import k_means


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


def least_sum_of_squares(points, k):
    """Try every assignment of a few points to k clusters."""
    assignments = np.array(list(product(range(k), repeat=len(points))))
    return min(
        sum(((points[row == c] - points[row == c].mean(axis=0)) ** 2).sum() for c in set(row)) for row in assignments
    )


def test_k_means_finds_the_best_clusters_there_are():
    rng = np.random.default_rng(0)
    points = rng.normal(size=(8, 2))
    for k in (1, 2, 3):
        labels, sum_of_squares = k_means(points, k, 200, rng)
        assert len(set(labels)) == k
        assert sum_of_squares == pytest.approx(least_sum_of_squares(points, k))


def test_k_means_of_equal_points_has_fewer_clusters():
    points = np.repeat([[0.0, 0.0], [1.0, 1.0]], 3, axis=0)
    labels, sum_of_squares = k_means(points, 4, 5, np.random.default_rng(0))
    assert sum_of_squares == 0
    assert len({*labels[:3]} & {*labels[3:]}) == 0


def adjusted_rand_index(labels, other):
    """Count the pairs of points that are together in one clustering, in the other and in both."""
    pairs = list(combinations(range(len(labels)), 2))
    here, there = ({(i, j) for i, j in pairs if one[i] == one[j]} for one in (labels, other))
    by_chance = len(here) * len(there) / len(pairs)
    return (len(here & there) - by_chance) / ((len(here) + len(there)) / 2 - by_chance)


def test_agreement_is_the_mean_adjusted_rand_index():
    rng = np.random.default_rng(0)
    labels, others = rng.integers(0, 4, 30), [*rng.integers(0, 3, (5, 30))]
    assert agreement(labels, others) == pytest.approx(np.mean([adjusted_rand_index(labels, one) for one in others]))
    assert agreement(labels, [(labels + 1) % 4]) == 1


def test_separation_leaves_single_layers_out():
    points, labels = np.array([[0, 0], [0, 1], [3, 0], [3, 2], [99, 0]]), np.array([0, 0, 1, 1, 2])
    inside = silhouette_by_hand(points[:4], labels[:4])
    assert separation(points, labels) == pytest.approx(inside * 4 / 5)
    assert separation(points, np.array([0, 0, 0, 0, 1])) == 0


def test_a_stable_number_of_separate_clusters_is_chosen():
    assert chosen_number({2: 0.5, 3: 0.6, 4: 0.9}, {2: 0.9, 3: 0.6, 4: 0.9}, {2: 0.7, 3: 0.8, 4: 0.7}) == 3
    assert chosen_number({2: 0.0, 3: 0.0}, {2: 0.4, 3: 0.6}, {2: 0.7, 3: 0.7}) == 3  # neither has two shared clusters
    assert chosen_number({2: 0.3, 3: 0.5}, {2: 0.3, 3: 0.5}, {2: -0.1, 3: -0.2}) == 3


@pytest.mark.parametrize("frozen", [False, True])
def test_one_far_layer_does_not_decide_the_number_of_clusters(frozen):
    table = planted(PLANTED * 2, noise=0.3)
    table[3] = 0 if frozen else 1e30
    clusters = cluster_layers(history(table))
    assert clusters.k == 4
    groups = [9 if i == 3 else group for i, group in enumerate(PLANTED * 2)]
    assert adjusted_rand_score(groups, clusters.labels) == 1
    if not frozen:
        assert max(clusters.silhouette, key=clusters.silhouette.get) == 2


def test_stability_tells_clusters_from_chance():
    rng = np.random.default_rng(0)
    noise = cluster_layers(history(np.exp(rng.normal(size=(30, 20)))), k=3)
    assert noise.stability[3] < 0.3
    groups = cluster_layers(history(planted(PLANTED)))
    assert groups.stability[3] == 1
    assert list(groups.stability) == list(range(2, 11))
    assert list(cluster_layers(history(planted(PLANTED)), k=11).stability) == list(range(2, 12))
    assert str(noise).startswith("30 layers in 3 clusters of ")
    assert str(noise).endswith("other measurements would give other clusters.")
    assert str(groups) == "12 layers in 3 clusters of 4, 4, 4. Stability 1.00 (1: always the same, 0: chance)."
    assert str(cluster_layers(history(planted(PLANTED)), k=1)) == "12 layers in 1 cluster of 12."


def test_stability_is_that_of_a_slow_bootstrap():
    table = planted(PLANTED, noise=4.0, seed=4)
    clusters = cluster_layers(history(table), k=3)
    rng = np.random.default_rng(1)
    found = []
    for _ in range(60):
        logs = np.log10(table[:, rng.integers(0, 10, 10)])
        middle = np.median(logs, axis=1, keepdims=True)
        limit = 3 * 1.4826 * np.median(np.abs(logs - middle), axis=1, keepdims=True)
        limit[limit == 0] = np.inf
        plane = PCA(2).fit_transform(np.clip(logs, middle - limit, middle + limit))
        found.append(adjusted_rand_score(clusters.labels, KMeans(3, n_init=10, random_state=0).fit_predict(plane)))
    assert 0.2 < np.mean(found) < 0.9
    error = np.std(found) * (1 / 60 + 1 / 50) ** 0.5
    assert clusters.stability[3] == pytest.approx(np.mean(found), abs=4 * error)


@pytest.mark.parametrize("procedure", ["robust", "reference"])
def test_shapes_do_not_know_the_level(procedure):
    t = np.linspace(0, 1, 10)
    courses = np.stack([10**-t, 10**t, 10 ** np.abs(2 * t - 1)])
    noise = np.exp(0.05 * np.random.default_rng(0).normal(size=(12, 10)))
    levels = 10.0 ** -np.arange(12)[::-1, None]
    table = courses[PLANTED] * levels * noise
    clusters = cluster_layers(history(table), of="shape", procedure=procedure)
    assert (clusters.of, clusters.labels.tolist()) == ("shape", PLANTED)
    assert cluster_layers(history(table), k=3).labels.tolist() != PLANTED
    other = cluster_layers(history(table * np.linspace(1, 9, 12)[:, None]), of="shape", procedure=procedure)
    np.testing.assert_allclose(other.curves, clusters.curves, atol=1e-9)
    if procedure == "robust":
        np.testing.assert_allclose(clusters.curves.mean(axis=1), 0, atol=1e-12)
    else:
        np.testing.assert_allclose(clusters.curves.mean(axis=1), 1)
    expected = 10 ** np.log10(table).mean(axis=1)
    if procedure == "reference":
        expected = [np.mean(reference_by_hand(curve)) for curve in table]
    np.testing.assert_allclose(clusters.to_frame()["mean"], expected, rtol=0.05)
    label = clusters.plot_curves().axes[0].get_ylabel()
    assert label == f"relative weight change ÷ the layer's mean, prepared: {procedure}"


def test_level_alone_leaves_no_shapes_to_cluster():
    table = 10.0 ** -np.arange(5)[:, None] * np.linspace(1, 3, 6)
    for procedure in ("robust", "reference"):
        assert cluster_layers(history(table), procedure=procedure).k > 1
        with pytest.raises(ValueError, match="all of its shapes are equal"):
            cluster_layers(history(table), of="shape", procedure=procedure)


def test_each_kind_is_clustered_alone():
    table = planted(PLANTED * 2)
    table[12:] *= 1e4  # far from the first kind
    runs = {"a": history(table[:12]), "b": history(table[12:])}
    kinds = {f"a/conv{i}": "first" for i in range(12)} | {f"b/conv{i}": "second" for i in range(11)}
    with pytest.warns(UserWarning, match=r"too few layers to cluster: 'other' \(1\)"):
        clusters = cluster_within_kinds(runs, kinds)
    assert list(clusters) == ["first", "second"]
    assert clusters["first"].labels.tolist() == PLANTED
    assert clusters["second"].labels.tolist() == PLANTED[:11]
    assert clusters["second"].layers[0] == "b/conv0"
    alone = cluster_layers(runs["a"])
    np.testing.assert_allclose(clusters["first"].components, alone.components)
    with pytest.raises(ValueError, match="Kind 'second': `k` must be from 1 to 11 for these 11 layers, but got 12"):
        cluster_within_kinds(runs, kinds | {"b/conv11": "first"}, k=12)
    with pytest.raises(ValueError, match=r"no kind with at least 3 layers to cluster: 'x' \(1\), 'y' \(2\)"):
        cluster_within_kinds(history(table[:3]), {"conv0": "x", "conv1": "y", "conv2": "y"})
    with pytest.raises(ValueError, match="`kinds` names none of the layers"):
        cluster_within_kinds(runs, {"fc": "x"})
    with pytest.raises(ValueError, match="`of` must be one of 'curves', 'shape', but got 'level'"):
        cluster_within_kinds(runs, kinds, of="level")


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
    assert (one.sse, one.silhouette, one.stability) == (same.sse, same.silhouette, same.stability)
    assert max(one.sse) == 18
    assert cluster_layers(history(table), k=9, seed=8).stability != one.stability


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
        (planted(PLANTED), {"of": "level"}, "`of` must be one of 'curves', 'shape', but got 'level'"),
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
    monkeypatch.setitem(sys.modules, "sklearn", None)
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
    scree = few.plot_scree()
    drawn = [line.get_ydata().tolist() for axes in scree.axes for line in axes.lines[1:]]
    scores = [few.sse, few.separation, few.silhouette, few.stability]
    assert drawn == [list(one.values()) for one in scores]
    assert all(axes.lines[0].get_xdata() == [3, 3] for axes in scree.axes)
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
    files = save_clusters(paths, tmp_path / "new" / "out", patterns={"^conv[0-2]": "early"}, k=3)
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


def test_clusters_of_each_kind_are_saved(tmp_path):
    history(planted(PLANTED)).save(tmp_path / "rwc.csv")
    patterns = {r"conv[0-5]$": "early ones", r"conv\d+": "early/ones"}
    files = save_clusters(
        tmp_path / "rwc.csv", tmp_path / "out", patterns=patterns, within_kinds=True, of="curves", k=2
    )
    pictures = [f"{kind}/{name}.png" for kind in ("early_ones", "early_ones_") for name in ("plane", "scree", "curves")]
    assert [file.relative_to(tmp_path / "out").as_posix() for file in files] == ["clusters.csv", *pictures]
    frame = pd.read_csv(files[0])
    assert frame["kind"].tolist() == ["early ones"] * 6 + ["early/ones"] * 6
    assert frame.groupby("kind")["cluster"].nunique().tolist() == [2, 2]
    with pytest.raises(ValueError, match=r"`within_kinds` \(.*\) needs `patterns`"):
        save_clusters(tmp_path / "rwc.csv", tmp_path / "none", within_kinds=True)
