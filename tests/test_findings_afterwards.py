# SPDX-License-Identifier: Apache-2.0
"""What a table or saved weights tell after a run."""

import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from typer.testing import CliRunner

from lightning_rwc import RWCCallback, RWCHistory
from lightning_rwc.checkpoints import compare_checkpoints, history_of_checkpoints
from lightning_rwc.cli import app
from tests.helpers import LAYERS, Net, images, net, trainer


def table(columns, every=10, first=None, **options):
    """A history with a row every few steps."""
    values = np.array([*columns.values()], dtype=float).T
    steps = [(every - 1 if first is None else first) + every * row for row in range(len(values))]
    return RWCHistory([*columns], range(len(values)), steps, values, **options)


def told(found):
    return [(finding.kind, finding.layers, finding.epoch, finding.step) for finding in found]


def healthy(count=12, seed=0):
    return 0.1 * np.exp(np.random.default_rng(seed).normal(0, 0.3, count))


def test_table_of_a_healthy_run():
    assert table({"a": healthy(), "b": healthy(seed=1)}).findings() == []
    assert table({"a": [np.inf, *healthy(11)], "late": [np.nan] * 3 + [*healthy(9)]}).findings() == []
    assert RWCHistory().findings() == []
    assert RWCHistory(["a"], [], [], np.zeros((0, 1))).findings() == []


def test_table_with_layers_that_never_move():
    history = table({"stem": np.zeros(12), "a": healthy(), "head": np.zeros(12), "later": [0.0] * 8 + [0.1] * 4})
    (finding,) = history.findings()
    assert told([finding]) == [("unchanged", ("stem", "head"), 11, 119)]
    assert finding.message.startswith(
        "'stem' and 'head' have not changed in 120 steps, while other layers have. If they"
    )
    (finding,) = table({"a": np.zeros(2), "b": np.zeros(2)}).findings()
    assert finding.message.startswith("'a' and 'b' have not changed in 20 steps. If they are frozen")


def test_table_of_few_steps_or_of_a_sample_does_not_tell_that_layers_never_move():
    columns = {"stem": np.zeros(9), "a": healthy(9)}
    assert table(columns, every=1).findings() == []
    assert table(columns, standard_errors=np.full((9, 2), 1e-6)).findings() == []
    # The first row may be compared with a state shortly before it.
    assert table({name: column[:3] for name, column in columns.items()}, every=3, first=1000).findings() == []


def test_table_with_layers_that_become_nan():
    nan = np.nan
    columns = {"a": [0.1, 0.2, nan, nan], "b": [0.1, 0.1, 0.1, nan], "c": [0.1, nan, nan, nan], "never": [nan] * 4}
    (finding,) = table(columns).findings()
    assert told([finding]) == [("non_finite", ("c",), 1, 19)]
    assert "As other layers move on, it may have been removed" in finding.message
    (finding,) = table({"a": [0.1, nan], "b": [0.1, nan]}).findings()
    assert finding.layers == ("a", "b")
    assert "removed" not in finding.message
    assert table({"a": [0.1, nan, 0.1], "b": [0.1, 0.1, 0.1]}).findings() == []  # one row could not be measured


def test_table_of_a_run_that_hardly_moves():
    columns = {"a": [1e-5] * 12, "b": [3e-5] * 12}
    (finding,) = table(columns).findings()
    assert told([finding]) == [("learning_rate_low", ("a", "b"), 11, 119)]
    assert "In 120 steps no layer has moved by more than 0.0004 of its size." in finding.message
    assert table({**columns, "c": healthy()}).findings() == []
    assert table(columns, every=2).findings() == []
    assert table(columns, first=5000).findings() == []  # the end of a longer run


@pytest.mark.parametrize("jump", [100.0, 1e-4])
def test_table_does_not_accuse_jumps_that_a_norm_or_a_schedule_makes(jump):
    columns = {f"layer{number}": healthy(40, number) for number in range(6)}
    columns["layer2"][30] *= jump
    columns["layer4"] *= 1e-3
    assert table(columns).findings() == []


def test_table_of_a_run_that_begins_anew():
    history = RWCHistory(["a", "b"], [0, 1, 0, 1], [1, 3, 1, 3], [[0, 0.1]] * 4)
    assert history.findings() == []  # 8 steps
    history = RWCHistory(["a", "b"], [0, 1, 0, 1], [2, 5, 2, 5], [[0, 0.1]] * 4)
    assert told(history.findings()) == [("unchanged", ("a",), 1, 5)]  # 12 steps


def test_findings_of_a_table_need_no_lightning():
    code = "import sys; from lightning_rwc import RWCHistory; RWCHistory(['a'], [0], [9], [[0.1]]).findings()"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}; print('lightning' in sys.modules, 'pytorch_lightning' in sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "False False\n"


STEPS = (0, 20, 40, 60)
RATE, DECAY = 0.1, 0.01


def after(steps, seed=0):
    """A state dict after so many steps: a layer that learns, one that is frozen, and one that only decays."""
    generator = torch.Generator().manual_seed(seed)
    first = {name: torch.randn(16, 16, generator=generator) for name in ("learns", "frozen", "decays")}
    for _ in range(steps):
        first["learns"] = first["learns"] + 0.01 * torch.randn(16, 16, generator=generator)
        # As an optimizer does it, step by step in float32.
        first["decays"] = first["decays"] * (1 - RATE * DECAY)
    return {f"{name}.weight": tensor for name, tensor in first.items()}


def save(states, folder, lightning=True, steps=STEPS):
    folder.mkdir(exist_ok=True)
    paths = []
    for number, (state, step) in enumerate(zip(states, steps, strict=True)):
        loops = {"fit_loop": {"epoch_loop.state_dict": {"_batches_that_stepped": step}}}
        content = {"state_dict": state, "epoch": number, "loops": loops} if lightning else state
        paths.append(folder / f"{number}.{'ckpt' if lightning else 'pt'}")
        torch.save(content, paths[-1])
    return paths


def test_series_decays_as_the_formula_says():
    states = [after(steps)["decays.weight"].double() for steps in STEPS]
    for earlier, later in pairwise(states):
        np.testing.assert_allclose(later, earlier * (1 - RATE * DECAY) ** 20, rtol=1e-5, atol=0)


@pytest.mark.parametrize("measure", ["rwc", "radial", "still"])
@pytest.mark.parametrize("relative_to", ["previous", "initial"])
@pytest.mark.parametrize("norm", ["l1", "elementwise"])
def test_weights_tell_frozen_layers_from_decaying_ones(norm, relative_to, measure, tmp_path):
    paths = save(map(after, STEPS), tmp_path)
    options = {"norm": norm, "relative_to": relative_to, "measure": measure}
    history, findings = compare_checkpoints(paths, **options)
    assert told(findings) == [("unchanged", ("frozen",), 3, 59), ("no_gradient", ("decays",), 3, 59)]
    assert findings[0].message.startswith("'frozen' has not changed over 4 files, while other layers have. If it is")
    assert findings[1].message.startswith("'decays' has changed only by weight decay, while other layers learn.")
    expected = history_of_checkpoints(paths, **options)
    assert (history.layers, history.steps) == (expected.layers, expected.steps)
    np.testing.assert_array_equal(history.values, expected.values)


def test_files_without_steps(tmp_path):
    """Rounding turns a layer that decays for 20 steps more than one step could."""
    paths = save(map(after, STEPS), tmp_path, lightning=False)
    assert told(compare_checkpoints(paths).findings) == [("unchanged", ("frozen",), 3, 3)]
    paths = save(map(after, range(4)), tmp_path, lightning=False)
    assert told(compare_checkpoints(paths).findings) == [
        ("unchanged", ("frozen",), 3, 3),
        ("no_gradient", ("decays",), 3, 3),
    ]


def test_few_steps_tell_nothing(tmp_path):
    assert compare_checkpoints(save(map(after, range(4)), tmp_path, steps=range(4))).findings == []


def test_layers_that_stop_or_begin_are_neither_frozen_nor_without_gradient(tmp_path):
    states = [after(steps) for steps in STEPS]
    for state, moves in zip(states, (0, 1, 1, 1), strict=True):
        state["frozen.weight"] = state["frozen.weight"] + 0.1 * moves * after(0, seed=1)["frozen.weight"]
        state["decays.weight"] = state["decays.weight"] + 0.1 * moves * after(0, seed=1)["decays.weight"]
    assert compare_checkpoints(save(states, tmp_path)).findings == []


def test_growing_by_a_factor_is_no_decay_and_one_number_cannot_turn(tmp_path):
    states = [{"a.weight": after(n)["learns.weight"], "b.weight": torch.ones(4, 4) * (1 + n)} for n in STEPS]
    assert compare_checkpoints(save(states, tmp_path)).findings == []
    states = [{"a.weight": after(n)["learns.weight"], "b.weight": torch.ones(1, 1) / (1 + n)} for n in STEPS]
    assert compare_checkpoints(save(states, tmp_path)).findings == []


def test_small_gradients_are_no_decay(tmp_path):
    """A layer whose updates vanish in rounding may shrink a little by chance."""
    weights = after(0)["frozen.weight"]
    states = [{"a.weight": after(n)["learns.weight"], "b.weight": weights.clone()} for n in STEPS]
    for number, state in enumerate(states):
        shrunk = state["b.weight"].view(-1)[: 8 * number]
        shrunk.copy_(torch.nextafter(shrunk, torch.zeros(())))
    assert compare_checkpoints(save(states, tmp_path)).findings == []


def test_vectors_of_a_layer_count_although_their_units_cannot_turn(tmp_path):
    """`still` has no unit in a bias, but the bias moves."""
    states = [{"a.weight": torch.ones(4, 4), "a.bias": torch.full((4,), 1.0 + n)} for n in STEPS]
    paths = save(states, tmp_path)
    for measure, value in (("still", 1.0), ("moved", 0.2)):
        options = {"layers": ".", "group_by": 1, "measure": measure}
        history, findings = compare_checkpoints(paths, **options)
        assert history.values[:, 0].tolist() == pytest.approx([value] * 3)
        assert findings == []


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("lightning", [True, False])
def test_weights_that_are_not_finite(lightning, bad, tmp_path):
    states = [after(steps) for steps in STEPS]
    for state in states[2:]:
        state["learns.weight"][3, 4] = bad
    states[3]["decays.weight"][0, 0] = bad
    found = compare_checkpoints(save(states, tmp_path, lightning=lightning)).findings
    time = (2, 39) if lightning else (2, 2)
    assert told(found)[0] == ("non_finite", ("learns",), *time)
    assert [finding.kind for finding in found] == ["non_finite", "unchanged"]


def test_layers_that_only_some_files_have(tmp_path):
    states = [after(steps) for steps in STEPS]
    for state in states[1:]:
        state["new.weight"] = torch.ones(4, 4)
    del states[3]["frozen.weight"]
    found = compare_checkpoints(save(states, tmp_path)).findings
    assert told(found) == [("unchanged", ("new",), 3, 59), ("no_gradient", ("decays",), 3, 59)]


def test_series_that_hardly_moves(tmp_path):
    start = after(0)
    states = [{name: tensor * (1 + 1e-4 * n * after(0, 1)[name]) for name, tensor in start.items()} for n in range(4)]
    (finding,) = compare_checkpoints(save(states, tmp_path)).findings
    assert told([finding]) == [("learning_rate_low", ("learns", "frozen", "decays"), 3, 59)]
    for steps, options in (((500, 520, 540, 560), {}), (STEPS, {"relative_to": "initial"})):
        assert compare_checkpoints(save(states, tmp_path, steps=steps), **options).findings == []
    assert compare_checkpoints(save(states, tmp_path, lightning=False)).findings == []


def test_series_with_a_burst_of_one_layer_or_of_all(tmp_path):
    rng = np.random.default_rng(0)
    weights = {name: rng.normal(size=(16, 16)) for name in "abcde"}
    for everything in (False, True):
        states = []
        for step in range(20):
            sizes = {name: 1.0 if step == 15 and (everything or name == "c") else 0.01 for name in weights}
            weights = {name: weights[name] + size * rng.normal(size=(16, 16)) for name, size in sizes.items()}
            states.append({f"{name}.weight": torch.tensor(weight) for name, weight in weights.items()})
        found = compare_checkpoints(save(states, tmp_path, steps=range(10, 210, 10))).findings
        assert told(found) == ([] if everything else [("burst", ("c",), 15, 159)])


def test_series_that_explodes(tmp_path):
    """From step to step, weights double and double again."""
    rng = np.random.default_rng(0)
    start = rng.normal(size=(16, 16))
    states = [{"a.weight": torch.tensor(start * 3.0**n + rng.normal(size=(16, 16)))} for n in range(12)]
    found = compare_checkpoints(save(states, tmp_path, steps=range(12))).findings
    assert [finding.kind for finding in found] == ["learning_rate_high"]
    assert compare_checkpoints(save(states, tmp_path, lightning=False, steps=range(12))).findings == []


class Faulty(Net):
    """The first layer is frozen, and the second gets a gradient of zero."""

    def __init__(self):
        super().__init__()
        self.conv1.requires_grad_(False)
        self.block["conv2"].register_forward_hook(lambda layer, inputs, output: output.detach())

    def training_step(self, batch, batch_idx):
        return super().training_step(batch, batch_idx) + 0 * self.block["conv2"].weight.sum()

    def configure_optimizers(self):
        return torch.optim.AdamW([p for p in self.parameters() if p.requires_grad], weight_decay=0.1)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A faulty run: the folder of its checkpoints, and its callback."""
    folder = tmp_path_factory.mktemp("run")
    callback = RWCCallback()
    saver = ModelCheckpoint(folder / "saved", filename="{epoch}", save_top_k=-1)
    trainer(callback, saver, tmp_path=folder, enable_checkpointing=True, max_epochs=12).fit(net(Faulty), images())
    return folder / "saved", callback


@pytest.mark.integration
def test_a_real_run(run):
    folder, callback = run
    frozen, dead, *_ = LAYERS
    assert [(f.kind, f.layers) for f in compare_checkpoints(folder).findings] == [
        ("unchanged", (frozen,)),
        ("no_gradient", (dead,)),
    ]
    assert [(f.kind, f.layers) for f in callback.findings] == [("no_gradient", (dead,))]
    # A table does not tell decay from learning.
    assert [(f.kind, f.layers) for f in callback.history.findings()] == [("unchanged", (frozen,))]


@pytest.mark.integration
def test_command_prints_findings(run, tmp_path):
    folder, callback = run
    result = CliRunner().invoke(app, ["checkpoints", str(folder), "--out", str(tmp_path)], env={"COLUMNS": "120"})
    assert result.exit_code == 0, result.output
    epoch, step = callback.history.epochs[-1], callback.history.steps[-1]
    starts = [line.partition(": ")[0] for line in result.output.splitlines() if line.startswith("Finding ")]
    assert starts == [f"Finding '{kind}' at epoch {epoch}, step {step}" for kind in ("unchanged", "no_gradient")]
    assert result.output.index("└") < result.output.index("Finding ")  # below the table
    assert "while other layers have. If it is frozen, this is meant." in result.output

    paths = save(({"a.weight": after(steps)["learns.weight"]} for steps in STEPS), tmp_path / "healthy")
    result = CliRunner().invoke(app, ["checkpoints", *map(str, paths), "--out", str(tmp_path)])
    assert result.exit_code == 0, result.output
    assert "\nNo finding.\n" in result.output
