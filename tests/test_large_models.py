# SPDX-License-Identifier: Apache-2.0
"""The estimates in `docs/performance.md` for models that are too large to try."""

import pytest

from docs import large_models


@pytest.mark.parametrize(("name", "published"), [("7 B", 6.738e9), ("70 B", 68.977e9), ("405 B", 405.85e9)])
def test_models_have_the_size_that_their_authors_state(name, published):
    """The published numbers include norms, which are few."""
    assert large_models.MODELS[name].weights == pytest.approx(published, rel=1e-3)


def test_the_page_has_the_estimates():
    page = large_models.PAGE.read_text(encoding="utf-8")
    assert f"<!-- large models -->\n\n{large_models.table()}\n\n<!-- end -->" in page
    # By hand: 68.97e9 weights of 2 bytes on 64 ranks, three times over 3.35e12 bytes a second, and 562 layers of 4.4 µs
    # and 30 µs.
    assert "| 70 B | 64 | 2.16 GB | 1.1 MB | 1.9 ms | 5.4 ms | 27 kB | 17 ms |" in page
