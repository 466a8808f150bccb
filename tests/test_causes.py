# SPDX-License-Identifier: Apache-2.0
"""Why layers did not move, at each measurement."""

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.loggers import CSVLogger
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_rwc import RWCCallback
from lightning_rwc.cells import LOOKS, Cell, classify
from lightning_rwc.findings.causes import Causes
from lightning_rwc.plotting import to_image
from lightning_rwc.quantity import CHANGE_SINCE_START, Quantity
from tests.faults.training import quiet_trainer

VALUE, MISSING, NOT_FINITE, FROZEN = Cell.VALUE, Cell.MISSING, Cell.NOT_FINITE, Cell.FROZEN
NO_GRADIENT, ONLY_DECAYS, NOT_IN_OPTIMIZER = Cell.NO_GRADIENT, Cell.ONLY_DECAYS, Cell.NOT_IN_OPTIMIZER


class Net(LightningModule):
    """Four layers side by side: one learns, one is frozen, one gets no gradient, and one is in no optimizer."""

    def __init__(self, decay=0.0):
        super().__init__()
        self.learns, self.frozen, self.dead, self.alone = (nn.Linear(4, 4) for _ in range(4))
        self.frozen.requires_grad_(False)
        self.decay = decay

    def training_step(self, batch, batch_idx):
        (x,) = batch
        x = self.learns(x) + self.frozen(x) + 0 * self.dead(x) + self.alone(x)
        return x.square().mean()

    def configure_optimizers(self):
        held = [*self.learns.parameters(), *self.dead.parameters()]
        return torch.optim.AdamW(held, lr=0.01, weight_decay=self.decay)


def fit(module, epochs=3, checkpoint=None, logger=None, **options):
    callback = RWCCallback(heatmap=logger is not None, **options)
    trainer = quiet_trainer([callback], epochs)
    trainer.loggers = [logger] if logger is not None else []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.fit(module, DataLoader(TensorDataset(torch.rand(48, 4)), 4), ckpt_path=checkpoint)
    return callback, trainer


@pytest.mark.parametrize(("decay", "dead"), [(0.0, NO_GRADIENT), (0.1, ONLY_DECAYS)])
def test_every_layer_that_does_not_learn_has_its_cause(decay, dead):
    callback, _ = fit(Net(decay))
    assert callback.history.layers == ["learns", "frozen", "dead", "alone"]
    np.testing.assert_array_equal(callback.causes, [[VALUE, FROZEN, dead, NOT_IN_OPTIMIZER]] * 3)


def test_without_findings_only_frozen_layers_are_known():
    callback, _ = fit(Net(), epochs=2, findings=False)
    np.testing.assert_array_equal(callback.causes, [[VALUE, FROZEN, VALUE, VALUE]] * 2)


@pytest.mark.parametrize(("options", "per_step"), [({}, True), ({"scale": "auto"}, False)])
def test_loggers_get_pictures_with_causes_in_the_scale_that_was_chosen(options, per_step, tmp_path):
    logger = CSVLogger(tmp_path)
    callback, _ = fit(Net(), logger=logger, **options)
    with Image.open(Path(logger.log_dir) / "rwc_heatmap.png") as image:
        drawn = np.asarray(image)
    told = {"findings": callback.findings, "causes": callback.causes}
    expected = [to_image(callback.history.plot_heatmap(**told, scale=scale)) for scale in ("step", "auto")]
    np.testing.assert_array_equal(drawn, expected[0 if per_step else 1])
    assert expected[0].shape != expected[1].shape


def test_changes_since_the_start_are_coloured_per_measurement(tmp_path):
    logger = CSVLogger(tmp_path)
    callback, _ = fit(Net(), logger=logger, relative_to="initial")
    told = {"findings": callback.findings, "causes": callback.causes}
    with Image.open(Path(logger.log_dir) / "rwc_heatmap.png") as image:
        expected = to_image(callback.history.plot_heatmap(CHANGE_SINCE_START, **told, scale="measurement"))
        np.testing.assert_array_equal(np.asarray(image), expected)


class Dies(LightningModule):
    """From its second epoch on, its loss is multiplied by zero."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def training_step(self, batch, batch_idx):
        return self.fc(batch[0]).square().mean() * (self.current_epoch == 0)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def test_a_network_that_dies_as_a_whole_has_no_gradient():
    callback, _ = fit(Dies())
    np.testing.assert_array_equal(callback.causes, [[VALUE], [NO_GRADIENT], [NO_GRADIENT]])


class Thaws(Net):
    """Its frozen layer is thawed, another one becomes nan."""

    def on_train_epoch_start(self):
        if self.current_epoch == 1:
            self.frozen.requires_grad_(True)
            self.optimizers().add_param_group({"params": self.frozen.parameters()})
        if self.current_epoch == 2:
            self.alone.weight.data[0, 0] = float("nan")


def test_causes_begin_and_end_when_they_do():
    callback, _ = fit(Thaws())
    expected = [
        [VALUE, FROZEN, NO_GRADIENT, NOT_IN_OPTIMIZER],
        [VALUE, VALUE, NO_GRADIENT, NOT_IN_OPTIMIZER],
        # All gradients that pass through it are lost too, and the optimizer writes them into the weights.
        [NOT_FINITE, NOT_FINITE, NOT_FINITE, NOT_FINITE],
    ]
    np.testing.assert_array_equal(callback.causes, expected)


def test_a_resumed_run_knows_the_causes_from_before(tmp_path):
    _, trainer = fit(Net(), epochs=2)
    trainer.save_checkpoint(tmp_path / "two.ckpt")
    module = Net()
    module.dead.requires_grad_(False)
    callback, _ = fit(module, epochs=3, checkpoint=tmp_path / "two.ckpt")
    before, after = [VALUE, FROZEN, NO_GRADIENT, NOT_IN_OPTIMIZER], [VALUE, FROZEN, FROZEN, NOT_IN_OPTIMIZER]
    np.testing.assert_array_equal(callback.causes, [before, before, after])


def test_changes_are_kept_by_measurement_and_told_by_step():
    causes = Causes()
    rows = [{}, {"a": FROZEN}, {"a": FROZEN, "b": NOT_FINITE}, {"b": MISSING}]
    for measurement, row in enumerate(rows):
        causes.note(measurement, row)
    table = [[0, 0, 0], [5, 0, 0], [5, 2, 0], [0, 1, 0]]
    np.testing.assert_array_equal(causes.table(["a", "b", "c"], 4), table)
    assert causes.by_step([9, 19, 29, 39]) == {"a": [(19, 5), (39, 0)], "b": [(29, 2), (39, 1)]}
    for measurement in range(4, 1004):
        causes.note(measurement, {"c": FROZEN} if measurement % 2 else {})
    changes = causes.by_step(range(1004))["c"]
    assert len(changes) == 100
    assert changes[-2:] == [(1002, 0), (1003, 5)]


def test_cells_of_a_table_without_causes():
    nan, inf = np.nan, np.inf
    # Added later, lost, never measured while others are, from zero, back to zero.
    values = np.array([[nan, 0.1, nan, inf, 0.1], [0.1, nan, nan, 0.2, 0.0]])
    np.testing.assert_array_equal(classify(values), [[1, 0, 2, 3, 0], [0, 2, 2, 0, 4]])
    # Of a measure, nothing says why it has no value.
    signed, ratio = Quantity("growth", signed=True), Quantity("rotation over its prediction")
    np.testing.assert_array_equal(classify(values, None, signed), [[1, 0, 1, 3, 0], [0, 1, 1, 0, 0]])
    np.testing.assert_array_equal(classify(values, None, ratio), [[1, 0, 1, 3, 0], [0, 1, 1, 0, 4]])


def test_a_cause_counts_only_where_it_explains_the_value():
    values = np.array([[0.0, 0.5, 0.5, 0.5, np.nan, np.inf]])
    causes = np.array([[FROZEN, FROZEN, ONLY_DECAYS, Cell.ROUNDED_AWAY, MISSING, NO_GRADIENT]], np.uint8)
    expected = [[FROZEN, VALUE, ONLY_DECAYS, Cell.ROUNDED_AWAY, MISSING, Cell.FROM_ZERO]]
    np.testing.assert_array_equal(classify(values, causes), expected)
    lost = np.array([[0, 0, 0, 0, NOT_FINITE, 0]], np.uint8)
    np.testing.assert_array_equal(classify(values, lost), [[4, 0, 0, 0, 2, 3]])
    # What adds up since the start stays what it is, and a measure may be of weights that do not move.
    still = np.full((1, 6), ONLY_DECAYS, np.uint8)
    np.testing.assert_array_equal(classify(values, still, CHANGE_SINCE_START), [[7, 0, 0, 0, 1, 3]])
    np.testing.assert_array_equal(classify(values, still, Quantity("fluctuation")), [[4, 0, 0, 0, 1, 3]])
    with pytest.raises(ValueError, match=r"`causes` must have the shape of the values, \(1, 6\), but has \(2, 6\)"):
        classify(values, np.zeros((2, 6), np.uint8))


def test_every_kind_of_cell_has_a_look():
    assert {*LOOKS} == {*Cell} - {VALUE}
    assert len({(look.fill, look.ink, look.pattern) for look in LOOKS.values()}) == len(LOOKS)
