# SPDX-License-Identifier: Apache-2.0
"""Every Python block of README and docs runs, in the order of the page, and every YAML block configures a Trainer."""

import re
from importlib.util import find_spec
from pathlib import Path

import pytest
from lightning.pytorch.cli import LightningCLI

from lightning_rwc import RWCCallback
from tests.test_lightning_cli import Data

ROOT = Path(__file__).parent.parent
ALL_PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
PAGES = [page for page in ALL_PAGES if "```python" in page.read_text(encoding="utf-8")]


def test_readme_has_code():
    assert ROOT / "README.md" in PAGES


def run_blocks(page, without=()):
    namespace = {}
    for block in re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), flags=re.M | re.S):
        if not re.search(rf"^(from|import) ({'|'.join(without) or '-'})\b", block, flags=re.M):
            exec(compile(block, str(page), "exec"), namespace)


@pytest.mark.integration
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_blocks_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run_blocks(page, without=[package for package in APART if find_spec(package) is None])


# Packages that the tests do not install.
APART = {
    "composer": "Composer needs an older PyTorch than the tests have",
    "fastai": "fastai brings thirty packages, such as spaCy",
}


@pytest.mark.integration
@pytest.mark.parametrize("package", APART)
def test_blocks_of_packages_apart_run(package, tmp_path, monkeypatch):
    if find_spec(package) is None:
        pytest.skip(f"{APART[package]}. Install {package} to run its example.")
    monkeypatch.chdir(tmp_path)
    run_blocks(ROOT / "docs" / "elsewhere.md", without=[other for other in APART if other != package])


YAML = [
    (page.name, block)
    for page in ALL_PAGES
    for block in re.findall(r"^```yaml\n(.*?)^```", page.read_text(encoding="utf-8"), flags=re.M | re.S)
]


@pytest.mark.integration
@pytest.mark.parametrize(("page", "block"), YAML)
def test_yaml_blocks_configure_a_trainer(page, block, tmp_path):
    (tmp_path / "config.yaml").write_text(block, encoding="utf-8")
    cli = LightningCLI(Data, args=["--config", str(tmp_path / "config.yaml")], run=False)
    assert any(isinstance(callback, RWCCallback) for callback in cli.trainer.callbacks)
