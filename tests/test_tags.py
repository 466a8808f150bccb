# SPDX-License-Identifier: Apache-2.0
"""No two things share a tag, whatever layers, prefixes, measures and users' own metrics are called."""

import csv
import warnings
from itertools import combinations, product
from pathlib import Path

import numpy as np
import pytest
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from torch import nn

from lightning_rwc import RWCCallback
from lightning_rwc.measures import Measure
from lightning_rwc.quantity import Quantity
from lightning_rwc.tags import Tags, find_shared
from tests.helpers import LAYERS, Net, Recorder, events, expected_table, images, net, trainer

AWKWARD = [f"{picture}{'_' * count}" for picture in ("heatmap", "curves") for count in range(4)]
ORDINARY = [
    "fc",
    "heatmaps",
    "Heatmap",
    "heatmap_1",
    "_heatmap",
    "a/heatmap",
    "heatmap.fc",
    "heatmap/",
    "",
    "heatmap\n",
]


def test_no_layer_has_the_tag_of_a_picture_or_of_another_layer():
    tags = [Tags("rwc").layer(name) for name in AWKWARD + ORDINARY]
    assert len({*tags, "rwc/heatmap", "rwc/curves"}) == len(tags) + 2
    assert tags[len(AWKWARD) :] == [f"rwc/{name}" for name in ORDINARY]
    assert tags[:2] == ["rwc/heatmap_", "rwc/heatmap__"]


@pytest.mark.parametrize(
    ("prefixes", "shared"),
    [
        ([], None),
        (["rwc", "rwc_strength", "rwc_fluctuation", "l2", "l2_strength"], None),
        (["rwc", "rwc_strength", "rwc_strength"], ("rwc_strength", "rwc_strength")),
        (["rwc", "rwc2", "rwc_l2", "my/rwc", "your/rwc"], None),
        (["rwc", "l2", "rwc"], ("rwc", "rwc")),
        (["rwc", "rwc_summary"], ("rwc", "rwc_summary")),
        (["rwc_summary/x", "strength", "rwc"], ("rwc_summary/x", "rwc")),
        (["rwc/l2", "rwc"], ("rwc/l2", "rwc")),
        (["a", "a/b_summary"], ("a", "a/b_summary")),
    ],
)
def test_prefixes_that_can_share_a_tag_are_found(prefixes, shared):
    assert find_shared(prefixes) == shared


def test_a_measure_s_tags_continue_the_prefix():
    tags = Tags("my/rwc").measure("strength")
    assert (tags.layer("fc"), tags.layer("heatmap")) == ("my/rwc_strength/fc", "my/rwc_strength/heatmap_")
    assert (tags.heatmap, tags.curves) == ("my/rwc_strength/heatmap", "my/rwc_strength/curves")
    for name in ("summary", "summary/x"):
        assert find_shared(["rwc", Tags("rwc").measure(name).prefix]) == ("rwc", f"rwc_{name}")


def test_tags_of_units_continue_the_prefix():
    tags = Tags("my/rwc")
    assert tags.unit_change("a/b") == "my/rwc_units/a/b/change"
    assert tags.unit_rotation("a/b") == "my/rwc_units/a/b/rotation"
    assert tags.unit_values("a/b") == "my/rwc_summary/units/a/b"
    with pytest.raises(ValueError, match="could give one tag to two things"):
        RWCCallback(units="fc", measures=[Named("units")])
    RWCCallback(measures=[Named("units")])
    RWCCallback(units="fc", measures=[Named("unit")])


class Named(Measure):
    quantity = Quantity("something")

    def __init__(self, name):
        self.name = name

    def __call__(self, layers):
        return {}


def test_prefixes_that_are_let_pass_share_no_tag():
    prefixes = ["a", "b", "a/b", "a/b/a", "ab", "a_summary", "a_summary/b", "b_summary", "a/b_summary", "a_units"]
    words = ["a", "b", "total", "epoch", "b_summary", "heatmap", "curves", "units"]
    layers = ["/".join(path) for length in (1, 2, 3) for path in product(words, repeat=length)]

    def every_tag(prefix):
        tags = Tags(prefix)
        own = tags.total, tags.depth_correlation, tags.epoch, tags.layers, tags.heatmap, tags.curves
        named = (tags.layer, tags.unit_change, tags.unit_rotation, tags.unit_values)
        all_tags = [*own, *(tag(layer) for tag in named for layer in layers)]
        assert len({*all_tags}) == len(all_tags)
        return {*all_tags}

    def shared(one, other):
        return find_shared([root for prefix in (one, other) for root in (prefix, Tags(prefix).units)])

    passed = [pair for pair in combinations(prefixes, 2) if shared(*pair) is None]
    assert {("a", "b"), ("a", "ab"), ("b", "a/b_summary")} <= set(passed)
    assert ("a", "a_units") not in passed
    for one, other in passed:
        assert not every_tag(one) & every_tag(other)


class Pictured(Net):
    """A model whose layers are called what the pictures are called."""

    def __init__(self):
        super().__init__()
        self.heatmap, self.curves = nn.Linear(2, 2), nn.Linear(2, 2)
        self.heatmap_ = nn.Linear(2, 2)

    def loss(self, batch):
        hidden = self.block["conv2"](self.block["bn"](self.conv1(batch[0])).relu()).relu()
        return self.heatmap_(self.curves(self.heatmap(self.fc(hidden.flatten(1))))).square().mean()


def test_layers_named_like_pictures_keep_their_numbers(tmp_path):
    callback, recorder = RWCCallback(heatmap=3), Recorder()
    loggers = [TensorBoardLogger(tmp_path), CSVLogger(tmp_path)]
    run = trainer(callback, recorder, tmp_path=tmp_path, logger=loggers)
    run.fit(net(Pictured), images())
    names = [*LAYERS, "heatmap", "curves", "heatmap_"]
    assert callback.history.layers == names
    expected = expected_table([recorder.start, *recorder.epochs], layers=names)
    log = events(loggers[0].log_dir)
    tags = [*(f"rwc/{layer}" for layer in LAYERS), "rwc/heatmap_", "rwc/curves_", "rwc/heatmap__"]
    assert set(log.Tags()["images"]) == {"rwc/heatmap", "rwc/curves"}
    assert not {"rwc/heatmap", "rwc/curves"} & set(log.Tags()["scalars"])
    with (Path(loggers[1].log_dir) / "metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["rwc/fc"]]
    for tag, curve in zip(tags, expected.T, strict=True):
        np.testing.assert_allclose([event.value for event in log.Scalars(tag)], curve, rtol=1e-6)
        np.testing.assert_allclose([float(row[tag]) for row in rows], curve, rtol=1e-6)
        assert run.callback_metrics[tag].item() == pytest.approx(curve[-1], rel=1e-6)


class Logging(Net):
    """A model that logs under our tags itself: one of a layer, one of a picture, and a further one."""

    def training_step(self, batch, batch_idx):
        self.log("rwc/fc", 7.0, on_step=True, on_epoch=True)
        self.log_dict({"rwc/own": 8.0, "rwc/curves": 9.0}, on_epoch=True, on_step=False)
        return super().training_step(batch, batch_idx)

    def on_train_epoch_end(self):
        self.log("rwc/conv1", 6.0)  # behind the callbacks, so that the first epoch has both


def test_metrics_of_the_user_are_left_alone(tmp_path):
    logger, callback, recorder = TensorBoardLogger(tmp_path), RWCCallback(heatmap=3), Recorder()
    run = trainer(callback, recorder, tmp_path=tmp_path, logger=logger)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run.fit(net(Logging), images())
    ours = [str(w.message) for w in caught if "RWCCallback" in str(w.message)]
    assert [message.partition(": ")[2][:12] for message in ours] == ["'rwc/fc', 'r", "'rwc/conv1'."]
    assert "'rwc/curves'" in ours[0]
    theirs = {"rwc/fc": 7, "rwc/own": 8, "rwc/curves": 9, "rwc/conv1": 6}
    assert {tag: run.callback_metrics[tag].item() for tag in theirs} == theirs
    log = events(logger.log_dir)
    for tag in ("rwc/fc_epoch", "rwc/own", "rwc/curves"):
        assert {event.value for event in log.Scalars(tag)} == {theirs[tag.removesuffix("_epoch")]}
    assert [event.value for event in log.Scalars("rwc/conv1")][1:] == [6, 6, 6]
    assert "rwc/fc" not in log.Tags()["scalars"]
    assert log.Tags()["images"] == ["rwc/heatmap"]
    expected = expected_table([recorder.start, *recorder.epochs])
    np.testing.assert_allclose(callback.history.values, expected, rtol=1e-12)
    np.testing.assert_allclose([event.value for event in log.Scalars("rwc/block.conv2")], expected[:, 1], rtol=1e-6)


def test_our_own_metrics_are_not_taken_for_somebody_elses(tmp_path):
    callbacks = RWCCallback(), RWCCallback(prefix="steps", every_n_train_steps=2, measures=["strength"])
    run = trainer(*callbacks, tmp_path=tmp_path)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*that something else logs")
        run.fit(net(), images(), images())
        run.fit_loop.max_epochs = 5
        run.fit(net(), images(), images())
    assert {f"{prefix}/fc" for prefix in ("rwc", "steps", "steps_strength")} <= set(run.callback_metrics)
