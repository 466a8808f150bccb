# SPDX-License-Identifier: Apache-2.0
from pathlib import Path

import numpy as np
import pytest

from lightning_rwc import RWCHistory
from lightning_rwc.weightscale.curve_files import read_curves


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".npz"])
def test_own_files_are_read(suffix, tmp_path):
    saved = RWCHistory(["a", "b"], [3, 5], [9, 19], [[0.1, 0.2], [np.inf, np.nan]])
    saved.save(tmp_path / f"run{suffix}")
    read = read_curves(tmp_path / f"run{suffix}")
    assert (read.layers, read.epochs, read.steps) == (["a", "b"], [3, 5], [9, 19])
    np.testing.assert_array_equal(read.values, saved.values)


@pytest.mark.parametrize(
    "text",
    [
        "layer,epoch_1,epoch_2\nconv1,0.5,inf\nconv2,,2\n",
        "Layer,first,second\nconv1,0.5,inf\nconv2,,2\n",
        '\ufeff,1,2\r\n"conv1",0.5,inf\r\nconv2,,2\r\n',
        "epoch,conv1,conv2\n0,0.5,\n1,inf,2\n",
        ",conv1,conv2\nepoch 4,0.5,\nepoch 5,inf,2\n",
        "conv1,conv2\n0.5,nan\ninf,2\n",
    ],
)
def test_plain_tables_are_read_whichever_way_they_lie(text, tmp_path):
    path = tmp_path / "plain.csv"
    path.write_text(text, encoding="utf-8", newline="")
    read = read_curves(path)
    assert (read.layers, read.epochs, read.steps) == (["conv1", "conv2"], [0, 1], [0, 1])
    np.testing.assert_array_equal(read.values, [[0.5, np.nan], [np.inf, 2]])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "it needs a header"),
        (b"layer;1;2\nconv1;0.5;1\n", "separated by commas"),
        (b"layer,1,2\nconv1,0.5\n", "row 2 has 2 cells, but the header has 3"),
        (b"layer,1,2\nconv1,0.5,fast\n", "row 2 has 'fast' where a number is needed"),
        (b"layer,1,2\na,1,2\na,1,2\n", "it has the layer 'a' more than once"),
        (b"x,a,b\nc,1,2\n", "its first cell, 'x', does not say whether rows or columns are layers"),
        (b"\xff\xfe\x00", "codec can't decode"),
        (b'layer,1\n"conv', "unexpected end of data"),
        (b"epoch,step,a\n0,x,1\n", "not a history written by RWCHistory.save"),
    ],
)
def test_broken_files_are_named(content, message, tmp_path):
    path = tmp_path / "broken.csv"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"broken.csv is not .*{message}"):
        read_curves(path)
    with pytest.raises(FileNotFoundError, match=r"none\.csv"):
        read_curves(tmp_path / "none.csv")


def test_folders_are_refused_with_what_is_in_them(tmp_path):
    with pytest.raises(ValueError, match=r"is a folder, .* It has no \.csv"):
        read_curves(tmp_path)
    RWCHistory(["a"], [0], [0], [[1.0]]).save(tmp_path / "run.csv")
    with pytest.raises(ValueError, match=r"is a folder, .* Name its files one by one: run\.csv\."):
        read_curves(tmp_path)


@pytest.mark.parametrize("address", ["memory://run/rwc.csv", "s3://bucket/rwc.npz", "file:///tmp/rwc.csv"])
def test_addresses_are_refused(address, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    history = RWCHistory(["a"], [0], [0], [[1.0]])
    for use in (history.save, RWCHistory.load):
        with pytest.raises(ValueError, match=f"`path` must be a file on this machine, .* '{address}'. Save to a local"):
            use(address)
    with pytest.raises(ValueError, match="`path` must be a file on this machine"):
        history.save(Path(address))
    assert list(tmp_path.iterdir()) == []
