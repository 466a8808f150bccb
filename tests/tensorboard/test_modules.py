# SPDX-License-Identifier: Apache-2.0
"""Each module of the tab that needs no page, alone, by the test runner of Node.js."""

import subprocess
from pathlib import Path

import pytest

playwright = pytest.importorskip("playwright")

# Playwright brings a Node.js of its own.
NODE = next(Path(playwright.__file__).parent.joinpath("driver").glob("node*"), None)
TESTS = sorted(Path(__file__).with_name("modules").glob("*.test.js"))


@pytest.mark.skipif(NODE is None, reason="this Playwright has no Node.js")
@pytest.mark.parametrize("path", TESTS, ids=lambda path: path.stem)
def test_module(path):
    done = subprocess.run([NODE, "--test", path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "tests 0" not in done.stdout
