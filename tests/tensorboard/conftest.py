# SPDX-License-Identifier: Apache-2.0
import pytest

from tests.tensorboard.chromium import chromium


@pytest.fixture(scope="module")
def browser():
    """A headless browser."""
    with chromium() as browser:
        yield browser
