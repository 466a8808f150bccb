# SPDX-License-Identifier: Apache-2.0
import math
import os
import struct
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from matplotlib.figure import Figure

from lightning_rwc import RWCHistory

SUFFIXES = [".csv", ".parquet", ".npz"]
NAMES = st.text(st.characters(blacklist_categories=("Cs", "Cc")), min_size=1, max_size=20).map(str.strip).filter(bool)

HOSTILE = ["a,b", 'a"b', '"', "two\nlines", "a\rreturn", "both\r\n", " padded ", "層🙂", "'", "#", "", "nan"]


def bits(array):
    return [struct.pack("<d", value) if not math.isnan(value) else "nan" for value in np.ravel(array)]


@st.composite
def histories(draw):
    names = NAMES | st.sampled_from(["epoch", "step", "statistic", "value", "0", "1e5", *HOSTILE])
    layers = draw(st.lists(names, max_size=5, unique=True))
    count = draw(st.integers(0, 5))
    integers = st.lists(st.integers(0, 10**9), min_size=count, max_size=count)
    tables = hnp.arrays(np.float64, (count, len(layers)))
    return RWCHistory(layers, draw(integers), draw(integers), draw(tables), draw(st.none() | tables))


@pytest.mark.parametrize("suffix", SUFFIXES)
@given(history=histories())
@settings(max_examples=60)
def test_files_keep_every_bit(suffix, history, tmp_path_factory):
    path = tmp_path_factory.mktemp("history") / "new folder" / f"rwc{suffix}"
    history.save(path)
    loaded = RWCHistory.load(path)
    assert (loaded.layers, loaded.epochs, loaded.steps) == (history.layers, history.epochs, history.steps)
    assert loaded.values.shape == history.values.shape
    assert bits(loaded.values) == bits(history.values)
    assert bits(loaded.standard_errors) == bits(history.standard_errors)


def test_csv_is_a_plain_table_whatever_layers_are_called(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    path = tmp_path / "rwc.csv"
    twice = [*HOSTILE, *HOSTILE[:1]]
    values = [0.1 + 0.2, 1e-5, 1e16, 5e-324, -0.0, 0.0, 1 / 3, math.inf, -math.inf, math.nan, 1.0, 123456.789, 0.25]
    RWCHistory(twice, [0, 10], [9, 10**9], [values, values[::-1]]).save(path)
    lines = (
        'epoch,step,"a,b","a""b","""","two\nlines","a\rreturn","both\r\n", padded ,層🙂,\',#,,nan,"a,b"',
        "0,9,0.30000000000000004,1e-05,1e+16,5e-324,-0.0,0.0,0.3333333333333333,inf,-inf,nan,1.0,123456.789,0.25",
        "10,1000000000,0.25,123456.789,1.0,nan,-inf,inf,0.3333333333333333,0.0,-0.0,5e-324,1e+16,1e-05,"
        "0.30000000000000004",
    )
    assert path.read_bytes().decode("utf-8") == "".join(line + os.linesep for line in lines)
    loaded = RWCHistory.load(path)
    assert (loaded.layers, loaded.epochs, loaded.steps) == (twice, [0, 10], [9, 10**9])
    assert bits(loaded.values) == bits([values, values[::-1]])


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("start", ["", "\ufeff"])
def test_csv_as_pandas_or_a_spreadsheet_writes_it(newline, start, tmp_path):
    path = tmp_path / "rwc.csv"
    lines = [
        'epoch,step,statistic,conv,"a,b"',
        "0,9,value,0.30000000000000004,inf",
        "0,9,standard error,0.015625,0.0",
        "1,19,value,nan,1e-05",
        "1,19,standard error,0.0,0.25",
        "",
    ]
    path.write_bytes((start + newline.join(lines)).encode())
    loaded = RWCHistory.load(path)
    assert (loaded.layers, loaded.epochs, loaded.steps) == (["conv", "a,b"], [0, 1], [9, 19])
    assert bits(loaded.values) == bits([[0.1 + 0.2, math.inf], [math.nan, 1e-5]])
    assert bits(loaded.standard_errors) == bits([[0.015625, 0], [0, 0.25]])


def test_missing_packages_are_named(tmp_path, monkeypatch):
    RWCHistory(["conv"], [0], [9], [[0.5]]).save(tmp_path / "there.parquet")
    for missing in ("pandas", "pyarrow"):
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, missing, None)
            needed = "Parquet needs pandas and pyarrow. Install the extra `parquet` of lightning-rwc"
            with pytest.raises(ModuleNotFoundError, match=needed):
                RWCHistory.load(tmp_path / "there.parquet")
            with pytest.raises(ModuleNotFoundError, match=needed):
                RWCHistory(["conv"], [0], [9], [[0.5]]).save(tmp_path / "new.parquet")
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(
        ModuleNotFoundError, match=r"to_frame needs pandas\. Install the extra `pandas` of lightning-rwc"
    ):
        RWCHistory().to_frame()


def test_record_and_frame():
    history = RWCHistory()
    history.record(0, 9, {"conv": 0.5, "fc": math.inf})
    history.record(1, 19, {"conv": 0.25, "adapter": 0.125}, {"adapter": 0.01})
    assert history.layers == ["conv", "fc", "adapter"]
    np.testing.assert_array_equal(history.values, [[0.5, math.inf, math.nan], [0.25, math.nan, 0.125]])
    np.testing.assert_array_equal(history.standard_errors, [[0, 0, 0], [0, 0, 0.01]])
    frame = history.to_frame()
    assert frame.index.names == ["epoch", "step"]
    assert frame.index.tolist() == [(0, 9), (1, 19)]
    assert frame.columns.tolist() == history.layers
    assert frame.loc[(1, 19), "adapter"] == 0.125
    assert len(history) == 2
    assert RWCHistory().to_frame().shape == (0, 0)


def test_plots_are_figures_without_pyplot():
    import matplotlib.pyplot as plt

    history = RWCHistory(["conv", "fc"], [0, 1], [9, 19], [[0.5, 0.25], [0.25, 0.125]])
    assert isinstance(history.plot_heatmap(), Figure)
    assert isinstance(history.plot_curves(), Figure)
    assert plt.get_fignums() == []


def test_sizes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"`values` must have the shape .*, here \(1, 2\), but has the shape \(1, 3\)"):
        RWCHistory(["a", "b"], [0], [0], [[1, 2, 3]])
    with pytest.raises(ValueError, match="2 `steps`"):
        RWCHistory(["a"], [0], [0, 1], [[1]])


def test_files_that_are_no_history_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"`path` must end in one of .csv, .parquet, .npz, but got 'rwc.txt'"):
        RWCHistory().save("rwc.txt")
    with pytest.raises(FileNotFoundError, match=r"There is no file .*none.csv"):
        RWCHistory.load(tmp_path / "none.csv")
    for suffix in SUFFIXES:
        path = tmp_path / f"broken{suffix}"
        path.write_bytes(b"\x00\x01 not a history")
        with pytest.raises(ValueError, match=rf"broken{suffix} is not a history written by RWCHistory.save"):
            RWCHistory.load(path)
    with pytest.raises(ValueError, match="it is not an npz archive"):
        RWCHistory.load(tmp_path / "broken.npz")
    foreign = tmp_path / "foreign.csv"
    foreign.write_text("name,loss\nrun,0.5\n")
    with pytest.raises(ValueError, match=r"first columns must be \['epoch', 'step'\], but are \['name', 'loss'\]"):
        RWCHistory.load(foreign)
    (tmp_path / "cut.csv").write_text("epoch,step,conv,fc\n0,9,0.5,0.25\n1,19,0.5\n")
    with pytest.raises(ValueError, match=r"cut.csv .*row 3 has 3 cells, but the header has 4"):
        RWCHistory.load(tmp_path / "cut.csv")
    (tmp_path / "empty.csv").touch()
    with pytest.raises(ValueError, match=r"empty.csv is not a history"):
        RWCHistory.load(tmp_path / "empty.csv")
    np.savez(tmp_path / "foreign.npz", weights=np.ones(3))
    with pytest.raises(ValueError, match="layers is not a file in the archive"):
        RWCHistory.load(tmp_path / "foreign.npz")
    np.savez(tmp_path / "pickle.npz", layers=np.array([{}], dtype=object))
    with pytest.raises(ValueError, match="allow_pickle=False"):
        RWCHistory.load(tmp_path / "pickle.npz")
