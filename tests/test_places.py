# SPDX-License-Identifier: Apache-2.0
import gc
import json
import shutil
import tempfile
import threading
import warnings
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import fsspec
import numpy as np
import pytest
import torch
import torch.distributed.checkpoint as dcp
from safetensors.torch import save_file
from typer.testing import CliRunner

from lightning_rwc.checkpoints import history_of_checkpoints
from lightning_rwc.cli import app
from lightning_rwc.weight_diff import diff_checkpoints
from lightning_rwc.weight_folders import find_weight_files
from tests.helpers import expected_table

LAYERS = ["fc9", "fc10"]


def states(count=3, dtype=torch.float32):
    """The second layer has a thousandth of the elements of the first."""
    generator = torch.Generator().manual_seed(0)
    shapes = {"fc10.weight": (300, 200), "fc9.weight": (6, 10), "fc9.bias": (6,), "scale": ()}
    return [
        {name: torch.randn(shape, generator=generator).to(dtype) for name, shape in shapes.items()}
        for _ in range(count)
    ]


def save_sharded(state, folder):
    folder.mkdir(parents=True)
    weight_map = {}
    for number, name in enumerate(state):
        save_file({name: state[name]}, folder / f"model-{number}.safetensors", metadata={"format": "pt"})
        weight_map[name] = f"model-{number}.safetensors"
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


def save_distributed(state, folder):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is")
        dcp.save({"model": state}, checkpoint_id=folder)


def save_torch(state, folder):
    folder.mkdir(parents=True)
    torch.save({"state_dict": state}, folder / "pytorch_model.bin")


@pytest.fixture
def bucket():
    """A folder of a store that is not on this machine's disk."""
    files = fsspec.filesystem("memory")
    # Other tests of this process have the same memory.
    if files.exists("/bucket"):
        files.rm("/bucket", recursive=True)
    yield files
    files.rm("/bucket", recursive=True)


@pytest.mark.parametrize("save", [save_sharded, save_distributed, save_torch])
@pytest.mark.parametrize("given", ["folder", "pattern", "one by one"])
def test_folders_of_a_store(given, save, bucket, tmp_path):
    series = states()
    for number, state in enumerate(series):
        save(state, tmp_path / "run" / f"checkpoint-{number * 5}")
    bucket.put(str(tmp_path / "run"), "/bucket/run", recursive=True)
    shutil.rmtree(tmp_path / "run")
    history = history_of_checkpoints(
        {
            "folder": "memory://bucket/run",
            "pattern": "memory://bucket/run/checkpoint-*",
            "one by one": [f"memory://bucket/run/checkpoint-{step}/" for step in (0, 5, 10)],
        }[given]
    )
    assert sorted(history.layers) == sorted(LAYERS)
    np.testing.assert_allclose(history.values, expected_table(series, layers=history.layers), rtol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.bfloat16, torch.float16, torch.float64])
def test_precisions(dtype, bucket, tmp_path):
    series = states(2, dtype)
    for number, state in enumerate(series):
        save_file(state, tmp_path / f"{number}.safetensors")
    bucket.put(str(tmp_path), "/bucket/run", recursive=True)
    history = history_of_checkpoints("memory://bucket/run")
    by_hand = [{name: tensor.double() for name, tensor in state.items()} for state in series]
    np.testing.assert_allclose(history.values, expected_table(by_hand, layers=LAYERS), rtol=1e-6)


@pytest.mark.parametrize("name", ["", "/adapter_model.safetensors"])
def test_an_adapter_in_a_store_is_measured_as_what_it_adds(name, bucket, tmp_path):
    weight, a, b = (torch.full(shape, value) for shape, value in (((3, 4), 2.0), ((1, 4), 1.0), ((3, 1), 3.0)))
    (tmp_path / "adapter").mkdir()
    torch.save({"q.weight": weight}, tmp_path / "base.pt")
    save_file({"q.lora_A.weight": a, "q.lora_B.weight": b}, tmp_path / "adapter" / "adapter_model.safetensors")
    (tmp_path / "adapter" / "adapter_config.json").write_text('{"peft_type": "LORA", "lora_alpha": 2}')
    bucket.put(str(tmp_path), "/bucket", recursive=True)
    diff = diff_checkpoints("memory://bucket/base.pt", f"memory://bucket/adapter{name}")
    assert [(one.layer, one.l1) for one in diff.layers] == [("q", 2 * 1 * 3 / 2)]


def test_an_index_in_a_store_is_downloaded_once(bucket, tmp_path, monkeypatch):
    save_distributed(states(1)[0], tmp_path / "saved")
    bucket.put(str(tmp_path / "saved"), "/bucket/saved", recursive=True)
    (file,) = find_weight_files("memory://bucket/saved")
    names = [*file.parameters]
    file.close()
    monkeypatch.delitem(bucket.store, "/bucket/saved/.metadata")
    assert [*file.parameters] == names


class Ranges(SimpleHTTPRequestHandler):
    """Sends parts of files, as stores do, and counts the bytes of content."""

    def do_GET(self):
        content = Path(self.translate_path(self.path)).read_bytes()
        start, end = 0, len(content)
        if "Range" in self.headers:
            first, last = self.headers["Range"].removeprefix("bytes=").split("-")
            start, end = int(first), int(last) + 1
        self.send_response(206 if "Range" in self.headers else 200)
        self.send_header("Content-Length", str(end - start))
        self.send_header("Content-Range", f"bytes {start}-{end - 1}/{len(content)}")
        self.end_headers()
        # Before the client can go on.
        self.server.sent.append((self.path.rpartition("/")[2], end - start))
        self.wfile.write(content[start:end])

    def log_message(self, *args):
        pass


class NoRanges(SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@pytest.fixture
def serve(tmp_path):
    """Start a server of the folder ``tmp_path``. Returns its address, and what it has sent."""
    servers = []

    def start(handler):
        server = ThreadingHTTPServer(("127.0.0.1", 0), partial(handler, directory=str(tmp_path)))
        server.sent = []
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}", server.sent

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def test_only_the_chosen_tensors_are_downloaded(serve, tmp_path):
    series = states(2)
    for number, state in enumerate(series):
        save_file(state, tmp_path / f"{number}.safetensors")
    address, sent = serve(Ranges)
    urls = [f"{address}/{number}.safetensors?download=true" for number in range(2)]
    history = history_of_checkpoints(urls, layers="fc9.weight")
    np.testing.assert_allclose(history.values, expected_table(series, layers=["fc9"]), rtol=1e-6)
    content = (tmp_path / "0.safetensors").read_bytes()
    header = int.from_bytes(content[:8], "little")
    for number in range(2):
        assert [size for name, size in sent if name.startswith(str(number))] == [8, header, 6 * 10 * 4]


def test_shards_that_are_not_needed_are_not_downloaded(serve, tmp_path):
    series = states(2)
    for number, state in enumerate(series):
        save_sharded(state, tmp_path / str(number))
    address, sent = serve(Ranges)
    urls = [f"{address}/{number}/model.safetensors.index.json" for number in range(2)]
    history = history_of_checkpoints(urls, layers="fc9.weight")
    np.testing.assert_allclose(history.values, expected_table(series, layers=["fc9"]), rtol=1e-6)
    assert sum(size for _, size in sent) < 4000  # The large layer alone has 240,000.
    (tmp_path / "1" / "model-2.safetensors").unlink()
    with pytest.raises(ValueError, match=r"index\.json names shards that are not in its folder: model-2\.safetensors"):
        history_of_checkpoints(urls)


def test_files_of_torch_are_downloaded_once_and_not_kept(serve, tmp_path, monkeypatch):
    series = states(3)
    for number, state in enumerate(series):
        torch.save(state, tmp_path / f"{number}.pt")
    address, sent = serve(Ranges)
    (tmp_path / "copies").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "copies"))
    history = history_of_checkpoints([f"{address}/{number}.pt" for number in range(3)])
    np.testing.assert_allclose(history.values, expected_table(series, layers=history.layers), rtol=1e-6)
    for number in range(3):
        size = (tmp_path / f"{number}.pt").stat().st_size
        assert sum(sent_size for name, sent_size in sent if name == f"{number}.pt") == size
    gc.collect()
    assert not [*(tmp_path / "copies").iterdir()]


def test_what_cannot_be_opened_is_told(serve, tmp_path):
    save_file(states(1)[0], tmp_path / "0.safetensors")
    address, _ = serve(NoRanges)
    for path, message in (
        (f"{address}/0.safetensors", "0.safetensors cannot be read in parts: .*Download the file, and give its path"),
        (f"{address}/1.safetensors", "no such file or folder"),
        ("memory://bucket/nothing", "no such file or folder"),
        ("memory://bucket/nothing*", "no such file or folder"),
        ("carrier-pigeon://0.safetensors", "'carrier-pigeon://0.safetensors', which cannot be opened: .*pigeon"),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            history_of_checkpoints([path, path])
    result = CliRunner().invoke(app, ["checkpoints", "carrier-pigeon://a.pt", "--out", str(tmp_path / "out")])
    assert result.exit_code == 2
    assert "cannot be opened" in result.output


def test_a_failure_on_the_way_leaves_out_no_layer(serve, tmp_path):
    class Breaks(Ranges):
        def do_GET(self):
            if len(self.server.sent) < 5:  # two headers of two requests each, and a tensor
                super().do_GET()

    for number, state in enumerate(states(2)):
        save_file(state, tmp_path / f"{number}.safetensors")
    address, sent = serve(Breaks)
    with pytest.raises(OSError, match=r"safetensors cannot be read: ServerDisconnected"):
        history_of_checkpoints([f"{address}/{number}.safetensors" for number in range(2)])
    assert len(sent) == 5


def test_broken_headers_are_told(bucket):
    for header, message in (
        (b"[1]", "is broken, or no file of safetensors: AttributeError"),
        (b'{"fc": {"dtype": "F32"}}', "is broken, or no file of safetensors: KeyError"),
        (b'{"fc": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}}', "it has 74 bytes, and not 90"),
        (b"{}", "holds no weights"),
        (None, "it has 8 bytes, and not"),
    ):
        bucket.pipe("/bucket/0.safetensors", len(header).to_bytes(8, "little") + header if header else b"notatall")
        with pytest.raises(ValueError, match=rf"memory://.*0\.safetensors.* {message}"):
            history_of_checkpoints(["memory://bucket/0.safetensors"] * 2)


def test_files_of_this_machine_may_be_addresses(tmp_path):
    series = states(2)
    for number, state in enumerate(series):
        torch.save(state, tmp_path / f"{number}.pt")
    history = history_of_checkpoints(f"file://{tmp_path}/*.pt")
    np.testing.assert_allclose(history.values, expected_table(series, layers=history.layers), rtol=1e-6)
