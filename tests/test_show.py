# SPDX-License-Identifier: Apache-2.0
"""The command ``show``: what it reads, and the colours and characters that it draws."""

import io
import json
import os
import pty
import re
import select
import shutil
import signal
import subprocess
import sys
import time
from importlib import resources

import numpy as np
import pytest
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from rich.console import Console
from typer.testing import CliRunner

from lightning_rwc import RWCCallback, RWCHistory
from lightning_rwc.cli import app
from lightning_rwc.findings.finding import Finding
from lightning_rwc.logs import open_log
from lightning_rwc.scale import FIXED
from lightning_rwc.tags import Tags
from lightning_rwc.terminal_map import TerminalMap
from tests.helpers import Net, images, net, trainer

SPECIAL = json.loads(resources.files("lightning_rwc").joinpath("appearance.json").read_text("utf-8"))["cells"]
LOW, HIGH = (FIXED["step"][end].value for end in (0, -1))
# The ends and the middle of viridis are (0.267, 0.005, 0.329), (0.128, 0.567, 0.551) and (0.993, 0.906, 0.144), of 255.
DARKEST, MIDDLE, BRIGHTEST = "#440154", "#20908c", "#fde724"


def show(*args, **env):
    return CliRunner().invoke(app, ["show", *map(str, args)], env={"COLUMNS": "80", **env})


def drawn(table, scale=None, *, width=80, height=40, colour="truecolor", **options):
    """Each line as a list of characters, their colours and those behind them."""
    console = Console(
        width=width, height=height, force_terminal=colour is not None, color_system=colour, file=io.StringIO()
    )
    lines = console.render_lines(TerminalMap(table, scale, **options), pad=False)
    return [
        [
            (character, _hex(style and style.color), _hex(style and style.bgcolor))
            for part, style, _ in line
            for character in part
        ]
        for line in lines
    ]


def _hex(colour):
    return colour.triplet.hex if colour and colour.triplet else None


def text(line):
    return "".join(character for character, *_ in line)


def row_of(lines, name):
    """The cells of the line of a layer."""
    [line] = [line for line in lines if re.match(rf" *{re.escape(name)} [ ▸]", text(line))]
    return line[re.match(rf" *{re.escape(name)} [ ▸]", text(line)).end() :]


def table_of(tmp_path, values, *, steps=None, layers=None, findings=()):
    values = np.array(values, dtype=float)
    steps = range(9, 10 * len(values), 10) if steps is None else steps
    layers = [f"layer{number}" for number in range(values.shape[1])] if layers is None else layers
    RWCHistory(layers, range(len(values)), steps, values).save(tmp_path / "rwc.csv")
    return open_log(tmp_path / "rwc.csv").read(None, None)._replace(title="run", findings=findings)


def test_colours_are_those_of_the_fixed_scale_per_step(tmp_path):
    # Ten steps lie between measurements.
    middle = (LOW * HIGH) ** 0.5
    values = [[10 * LOW, 10 * middle], [10 * HIGH, 1e-30], [1e30, 10 * middle]]
    lines = drawn(table_of(tmp_path, values))
    colours = [[DARKEST, BRIGHTEST, BRIGHTEST], [MIDDLE, DARKEST, MIDDLE]]
    for name, expected in zip(("layer0", "layer1"), colours, strict=True):
        assert row_of(lines, name) == [(" ", None, colour) for colour in expected for _ in range(6)]


def test_colours_of_the_fixed_scale_per_measurement(tmp_path):
    low, high = (FIXED["measurement"][end].value for end in (0, -1))
    lines = drawn(table_of(tmp_path, [[low], [(low * high) ** 0.5], [high]]), "measurement")
    assert [cell[2] for cell in row_of(lines, "layer0")][::6] == [DARKEST, MIDDLE, BRIGHTEST]


def test_auto_spans_the_values_from_the_2nd_to_the_98th_percentile(tmp_path):
    # Of 101 equal steps, percentiles are values.
    values = np.append(np.geomspace(1e-3, 1e-1, 101), 0.0)[:, None]
    lines = drawn(table_of(tmp_path, values), "auto", width=200)
    colours = [cell[2] for cell in row_of(lines, "layer0")]
    assert colours[:4] == [DARKEST, DARKEST, DARKEST, "#440357"]  # 256 / 96 = 2.67: the colour of index 2
    assert colours[50] == MIDDLE
    assert colours[98:] == [BRIGHTEST] * 3 + [SPECIAL["zero"]["fill"]]
    assert [text(line).split() for line in lines if "0.01" in text(line)] == [
        ["0.0011", "0.0033", "0.01", "0.03", "0.091"]
    ]


def test_cells_that_are_no_value_have_their_pattern(tmp_path):
    nan, inf = float("nan"), float("inf")
    table = table_of(tmp_path, [[nan, inf, 0.0], [0.01, 0.01, 0.01], [0.01, nan, 0.0]])
    lines = drawn(table)
    kinds = {
        "layer0": [None, "value", "value"],
        "layer1": ["from_zero", "value", "not_finite"],
        "layer2": ["zero", "value", "zero"],
    }
    glyphs = {"from_zero": "○", "not_finite": "╱", "zero": " "}
    for name, expected in kinds.items():
        for cell, kind in zip(row_of(lines, name)[::6], expected, strict=True):
            if kind is None:
                assert cell == (" ", None, None)  # not measured yet: the ground of the terminal
            elif kind != "value":
                assert cell == (glyphs[kind], SPECIAL[kind]["ink"], SPECIAL[kind]["fill"])
    key = " ".join(map(text, lines))
    assert "╱╱╱ nan: not finite" in key
    assert "○○○ inf: moved from all zeros" in key
    assert "not measured" not in key
    assert any(text(line).startswith("not finite since epoch 2: layer1") for line in lines)


def test_without_colour_shades_stand_for_the_words(tmp_path):
    words = {tick.word: tick.value for tick in FIXED["step"] if tick.word}
    assert [*words] == ["still", "slow", "typical", "fast", "replaced"]
    values = [[10 * value, 10 * value] for value in words.values()]
    nan, inf = float("nan"), float("inf")
    table = table_of(tmp_path, [*values, [0.0, inf], [nan, 1e-30]])
    lines = drawn(table, colour=None)
    assert "".join(dict.fromkeys(text(row_of(lines, "layer0")))) == "·░▒▓█0!"
    assert "".join(dict.fromkeys(text(row_of(lines, "layer1")))) == "·░▒▓█o"
    assert text(row_of(lines, "layer1")) == "".join(6 * shade for shade in "·░▒▓█o·")
    assert any(text(line) == "· still   ░ slow   ▒ typical   ▓ fast   █ replaced" for line in lines)
    assert not any(colours != (None, None) for line in lines for _, *rest in line for colours in [tuple(rest)])


def test_two_layers_share_a_line_if_there_are_more_than_lines(tmp_path):
    nan = float("nan")
    values = np.full((2, 40), 10 * LOW)
    values[:, 1] = 10 * HIGH
    values[0, 2], values[0, 3] = nan, 10 * HIGH
    lines = drawn(table_of(tmp_path, values), height=40)
    assert len(lines) < 40
    assert not any("layer1 " in text(line) for line in lines)
    assert row_of(lines, "layer0") == [("▀", DARKEST, BRIGHTEST)] * 12
    assert row_of(lines, "layer2") == [("▄", BRIGHTEST, None)] * 6 + [(" ", None, DARKEST)] * 6
    assert len([line for line in drawn(table_of(tmp_path, values), every_row=True) if "layer" in text(line)]) == 40


def test_layers_of_findings_have_lines_of_their_own_with_patterns(tmp_path):
    values = np.full((2, 40), 10 * HIGH)
    values[:, 7] = 0
    finding = Finding("stuck", ("layer7",), 0, 9, "It is stuck.")
    table = table_of(tmp_path, values, findings=[finding])
    table.cells[:, 7] = 8  # not in an optimizer
    lines = drawn(table, height=40)
    look = SPECIAL["not_in_optimizer"]
    assert row_of(lines, "layer7") == [("╳", look["ink"], look["fill"])] * 12
    named = [int(match[1]) for line in lines if (match := re.match(r" *layer(\d+) [ ▸]", text(line)))]
    assert named == [0, 2, 4, 6, 7, *range(8, 40, 2)]


@pytest.mark.parametrize("colour", ["truecolor", None])
@pytest.mark.parametrize("height", [12, 30, 50])
def test_of_very_many_layers_some_are_drawn_and_those_of_findings(tmp_path, height, colour):
    finding = Finding("stuck", ("layer501", "layer502"), 0, 9, "They are stuck.")
    table = table_of(tmp_path, np.full((2, 1000), 0.01), findings=[finding])
    lines = drawn(table, height=height, colour=colour)
    if colour is None:  # no terminal: it may scroll
        assert sum("layer" in text(line)[:10] for line in lines) == 1000
        return
    named = [int(match[1]) for line in lines if (match := re.match(r" *layer(\d+) [ ▸]", text(line)))]
    count = int(re.match(r"(\d+) of 1,000 layers, evenly spaced", text(lines[1]))[1])
    assert len(named) <= count <= 2 * len(named)
    marked = [text(line).partition(" ▸")[0].strip() for line in lines if "▸" in text(line)]
    assert marked == ["layer501", "layer502"] if height > 12 else len(marked) == 1
    others = [number for number in named if number not in (501, 502)]
    assert others[0] == 0
    apart = np.diff([*others, 1000])
    assert apart.max() - apart.min() <= apart.mean() + 2 or height == 12
    assert len(lines) - 2 < height  # but for the blank line and the message


def test_a_dumb_terminal_gets_a_layer_a_line(tmp_path, monkeypatch):
    monkeypatch.setenv("TERM", "dumb")
    table = table_of(tmp_path, np.full((2, 100), 10 * HIGH))
    console = Console(width=80, height=30, force_terminal=True, file=io.StringIO())
    console.print(TerminalMap(table))
    lines = console.file.getvalue().splitlines()
    rows = [line for line in lines if line.strip().startswith("layer")]
    assert all(re.fullmatch(r" *layer\d+  █{12}", line) for line in rows)
    assert 15 < len(rows) < 30 > len(lines)
    assert not any("\x1b" in line for line in lines)


def test_of_many_measurements_evenly_spaced_ones_are_drawn(tmp_path):
    values = np.full((1000, 1), 0.01)
    values[[0, -1]] = 0
    lines = drawn(table_of(tmp_path, values, steps=range(1000)), "measurement", width=80)
    cells = row_of(lines, "layer0")
    assert len(cells) == 80 - len("layer0") - 2
    assert [cells[0][2], cells[-1][2]] == [SPECIAL["zero"]["fill"]] * 2
    assert SPECIAL["zero"]["fill"] not in {cell[2] for cell in cells[1:-1]}


def test_the_axis_has_epochs_or_else_steps(tmp_path):
    values = np.full((12, 1), 0.01)
    table = table_of(tmp_path, values)
    [axis] = [line for line in drawn(table) if text(line).startswith(" epoch")]
    ticks = [(match[0], match.start()) for match in re.finditer(r"\d+", text(axis))]
    # Cells are five characters wide, and a label is in the middle of its cell.
    assert ticks == [(str(epoch), 8 + 6 * epoch + (6 - len(str(epoch))) // 2) for epoch in range(12)]
    [axis] = [line for line in drawn(table._replace(epochs=[0] * 12)) if text(line).startswith("  step")]
    assert text(axis).split()[:3] == ["step", "9", "19"]


def test_findings_have_marks_and_words(tmp_path):
    message = "'layer1' gets no gradient. Look for a `detach()`."
    finding = Finding("no_gradient", ("layer1",), 1, 19, message)
    lines = drawn(table_of(tmp_path, np.full((3, 3), 0.01), findings=[finding]))
    assert [text(line)[:8] for line in lines if "layer" in text(line)[:8]] == ["layer0  ", "layer1 ▸", "layer2  "]
    [marks] = [line for line in lines if "▾" in text(line)]
    assert text(marks).index("▾") == 8 + 6 + 3
    words = " ".join(map(text, lines))
    assert f"Finding 'no_gradient' at epoch 1, step 19: {message}" in words
    short = " ".join(map(text, drawn(table_of(tmp_path, np.full((3, 3), 0.01), findings=[finding]), brief=True)))
    assert "'layer1' gets no gradient." in short
    assert "detach" not in short


def test_a_finding_of_all_layers_marks_none(tmp_path):
    finding = Finding("learning_rate_low", ("layer0", "layer1"), 1, 19, "Nothing moves.")
    lines = drawn(table_of(tmp_path, np.full((3, 2), 0.01), findings=[finding]))
    assert not any("▸" in text(line) for line in lines)


def test_names_are_short_and_cannot_steer_the_terminal(tmp_path):
    layers = ["model.net.\x1b[31mstem", "model.net.blocks.0." + "long" * 20 + ".q_proj"]
    table = table_of(tmp_path, np.full((2, 2), 0.01), layers=layers)
    finding = Finding("stuck", (layers[0],), 0, 9, f"{layers[0]!s} is stuck.")
    lines = drawn(table._replace(title="\x1b]0;me\x07", findings=[finding]))
    assert not any("\x1b" in text(line) or "\x07" in text(line) for line in lines)
    names = [text(line)[:28] for line in lines if re.search(r"stem ▸|q_proj ", text(line)[:28])]
    assert names[0] == " " * 16 + "�[31mstem ▸ "
    assert re.fullmatch(r"….0.lo\w*…\w*\.q_proj +", names[1])


class Own(Net):
    """A model with a layer that is called like a picture, and a metric of its own under our prefix."""

    def __init__(self):
        super().__init__()
        self.heatmap = self.fc
        del self.fc

    def loss(self, batch):
        hidden = self.block["conv2"](self.block["bn"](self.conv1(batch[0])).relu()).relu()
        return self.heatmap(hidden.flatten(1)).square().mean()

    def training_step(self, batch, batch_idx):
        self.log("rwc/mine", 5.0)
        return super().training_step(batch, batch_idx)


@pytest.fixture(scope="module")
def logs(tmp_path_factory):
    """Folder of logs, and the callback that wrote them: TensorBoard's in ``tb``, Lightning's in ``csv``."""
    folder = tmp_path_factory.mktemp("logs")
    loggers = [TensorBoardLogger(folder / "tb", "a", ""), CSVLogger(folder / "csv", "a", "")]
    callback = RWCCallback(measures=("rotation", "radial", "moved"), heatmap=False)
    trainer(callback, tmp_path=folder, logger=loggers).fit(net(Own), images())
    return folder, callback


NAMES = ["conv1", "block.conv2", "heatmap"]


@pytest.mark.parametrize("kind", ["tb", "csv"])
@pytest.mark.parametrize("measure", [None, "rotation", "radial", "moved"])
def test_a_log_has_the_table_of_its_callback(logs, kind, measure):
    folder, callback = logs
    history = callback.histories[measure or "rwc"]
    assert history.layers == NAMES
    table = open_log(folder / kind).read(None, measure and f"rwc_{measure}")
    order = NAMES if kind == "tb" else sorted(NAMES)  # a CSVLogger sorts its columns
    assert [*table.layers] == order
    np.testing.assert_allclose(table.values, history.reordered(order).values, rtol=1e-6)
    assert (table.epochs, table.steps) == ([0, 1, 2], [5, 11, 17])
    assert table.title == str(folder / kind / "a")
    prefixes = ["rwc", "rwc_rotation", "rwc_radial", "rwc_moved"]
    mine = f"rwc_{measure}" if measure else "rwc"
    assert sorted([mine, *table.other_prefixes]) == sorted(prefixes)
    assert (table.quantity.label, table.quantity.signed, table.quantity.share) == QUANTITIES[measure]


QUANTITIES = {
    None: ("relative weight change (ratio)", False, False),
    "rotation": ("rotation (radians)", False, False),
    "radial": ("growth of the norm (ratio)", True, False),
    "moved": ("share of elements that changed", False, True),
}


@pytest.mark.parametrize("kind", ["tb", "csv"])
def test_one_file_of_a_log_is_read_too(logs, kind):
    folder, callback = logs
    [path] = [path for path in (folder / kind / "a").iterdir() if re.search(r"tfevents|metrics\.csv", path.name)]
    table = open_log(path).read(None, None)
    order = [callback.history.layers.index(layer) for layer in table.layers]
    np.testing.assert_allclose(table.values, callback.history.values[:, order], rtol=1e-6)
    assert show(path).output.splitlines()[0].startswith(str(path)[:60])


def test_a_csv_log_of_two_callbacks_and_a_signed_measure(tmp_path):
    columns = {"step": 9, "rwc/fc": 0.5, "rwc_l2/fc": 0.25, "rwc_mine/fc": -2.0, "rwc_l2_rotation/fc": 0.1}
    columns |= {f"{prefix}_summary/{name}": 0 for prefix in ("rwc", "rwc_l2") for name in ("epoch", "total")}
    path = tmp_path / "metrics.csv"
    path.write_text(f"{','.join(columns)}\n{','.join(map(str, columns.values()))}\n")
    log = open_log(path)
    for prefix, value in (("rwc", 0.5), ("rwc_l2", 0.25), ("rwc_mine", -2.0), ("rwc_l2_rotation", 0.1)):
        table = log.read(None, prefix)
        assert table.values.tolist() == [[value]]
        others = {"rwc", "rwc_l2", "rwc_mine", "rwc_l2_rotation"} - {prefix}
        assert {*table.other_prefixes} == others
        assert show(path, "--prefix", prefix).exit_code == 0


@pytest.mark.parametrize("suffix", [".csv", ".npz", ".parquet"])
def test_a_history_is_read(tmp_path, suffix):
    path = tmp_path / f"rwc{suffix}"
    RWCHistory(["stem", "head"], [0, 1], [9, 19], [[0, 0.5], [0, 0.25]]).save(path)
    result = show(path, NO_COLOR="1")
    assert result.exit_code == 0
    # Per step, 0.05 is nearest to 0.1, and 0.025 to 0.01.
    assert re.search(r"^stem ▸000000000000$", result.output, re.M)
    assert re.search(r"^head  ██████▓▓▓▓▓▓$", result.output, re.M)
    assert "Finding 'unchanged' at epoch 1, step 19: 'stem' has not changed in 20 steps" in result.output.replace(
        "\n", " "
    )


def test_a_history_of_another_measure_has_its_scale(tmp_path):
    path = tmp_path / "radial_history.csv"
    RWCHistory(["stem", "head"], [0, 1], [9, 19], [[-0.5, 0.5], [0, 0]]).save(path)
    lines = drawn(open_log(path).read(None, None))
    # The ends of PuOr are (127, 59, 8) and (45, 0, 75), its middle is nearly white.
    assert [cell[2] for cell in row_of(lines, "stem")][::6] == ["#7f3b08", "#f6f6f6"]
    assert [cell[2] for cell in row_of(lines, "head")][::6] == ["#2d004b", "#f6f6f6"]


def test_the_newest_run_is_shown_and_others_are_named(logs, tmp_path):
    folder, _ = logs
    for name in ("old", "new/er"):
        shutil.copytree(folder / "csv" / "a", tmp_path / "log" / name)
    old = tmp_path / "log/old/metrics.csv"
    os.utime(old, (1e9, 1e9))
    shutil.copytree(folder / "tb" / "a", tmp_path / "log/board")
    os.utime(tmp_path / "log/new/er/metrics.csv", (4e9, 4e9))
    result = show(tmp_path / "log", COLUMNS="300")
    assert result.output.startswith(f"{tmp_path}/log/new/er: ")
    assert "--run also takes: board, old\n" in result.output
    assert "--prefix also takes: rwc_moved, rwc_radial, rwc_rotation\n" in result.output
    for name in ("old", "board"):
        assert show(tmp_path / "log", "--run", name, COLUMNS="300").output.startswith(f"{tmp_path}/log/{name}: ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none"], "There is nothing at 'none'. Give a folder of logs, a log or a history."),
        (["s3://bucket/log"], "LOG must be on this machine, but got the address 's3:/bucket/log'."),
        (["empty"], "'empty' has no log. A run appears after its first measurement"),
        (["histories"], "To show a history, name its file: 'rwc.csv'."),
        (["log", "--run", "b"], "`--run` must be one of 'a', but got 'b'."),
        (["log", "--prefix", "l2"], "`--prefix` must be one of 'rwc', 'rwc_moved', 'rwc_radial', 'rwc_rotation'"),
        (["log/a/metrics.csv", "--run", "a"], "`--run` chooses among the runs of a folder: leave it out"),
        (["histories/rwc.csv", "--run", "a"], "`--run` chooses within a log: leave it out"),
        (
            ["log", "--prefix", "rwc_radial", "--scale", "step"],
            "`--scale` must be auto for 'growth of the norm (ratio)'",
        ),
        (["log", "--scale", "linear"], "'linear' is not one of"),
        (["hparams.yaml"], "`path` must end in one of"),
        (["broken.npz"], "broken.npz is not a history written by RWCHistory.save"),
        (["other.csv"], "other.csv is not a history written by RWCHistory.save"),
        (["metrics.csv"], "'metrics.csv' has no column that ends in '_summary/epoch'."),
    ],
)
def test_what_cannot_be_shown_is_named(logs, arguments, message, tmp_path, monkeypatch):
    folder, _ = logs
    monkeypatch.chdir(tmp_path)
    (tmp_path / "log").symlink_to(folder / "csv")
    (tmp_path / "empty").mkdir()
    RWCHistory(["a"], [0], [0], [[1]]).save("histories/rwc.csv")
    for name in ("hparams.yaml", "broken.npz"):
        (tmp_path / name).write_text("lr: 1")
    for name in ("metrics.csv", "other.csv"):
        (tmp_path / name).write_text("loss,step\n1,0\n")
    result = show(*arguments, COLUMNS="200")
    assert result.exit_code == 2
    assert message in result.output


def test_a_layer_is_found_again_by_its_tag():
    tags = Tags("a/b")
    for name in ("fc", "heatmap", "heatmap_", "curves__", "heatmap_hover", "findings/text_summary", "x/y"):
        assert tags.layer_of(tags.layer(name)) == name


def read_until(terminal, pattern, seconds=90):
    """What a program has written into a terminal, up to ``pattern``."""
    written, deadline = "", time.monotonic() + seconds
    while not re.search(pattern, written):
        assert time.monotonic() < deadline, written
        if select.select([terminal], [], [], 1)[0]:
            written += os.read(terminal, 65536).decode(errors="replace")
    return written


@pytest.mark.integration
def test_follow_draws_again_whenever_the_log_grows_until_ctrl_c(tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_text("loss,step\n1,0\n")
    main, terminal = pty.openpty()
    program = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a shell may have ignored it
    program += "from lightning_rwc.cli import app; app()"
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "80", "LINES": "30", "COLORTERM": "truecolor"}
    command = [sys.executable, "-c", program, "show", str(path), "--follow"]
    with subprocess.Popen(command, stdin=terminal, stdout=terminal, stderr=terminal, env=environment) as process:
        try:
            read_until(main, "no column that ends in")
            rows = ["rwc/fc,rwc_summary/epoch,step", "0.5,0,9", "0.5,1,19"]
            path.write_text("\n".join(rows[:2]) + "\n")
            assert "▾" not in read_until(main, r"epoch\s+0\b")
            path.write_text("\n".join(rows) + "\n")
            (tmp_path / "rwc_findings.md").write_text("**burst** · 'fc' · epoch 1, step 19\n\nIt jumps. Look.\n")
            read_until(main, r"epoch\s+0\s+1\b")
            process.send_signal(signal.SIGINT)
            assert process.wait(60) == 0
        finally:
            process.kill()
            os.close(main)
            os.close(terminal)
