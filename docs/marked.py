# SPDX-License-Identifier: Apache-2.0
"""Tables in Markdown, and the marks between which scripts write them into a page."""

import re
from collections.abc import Iterable, Mapping


def table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Return a table in Markdown."""
    head = [*header]
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, ["---"] * len(head), *rows])


def filled(page: str, blocks: Mapping[str, str]) -> str:
    """Return the page with other blocks between its marks, ``<!-- name -->`` and ``<!-- end -->``."""
    for name, block in blocks.items():
        page, found = re.subn(
            rf"(<!-- {name} -->\n).*?(<!-- end -->)", lambda m, b=block: f"{m[1]}\n{b}\n\n{m[2]}", page, flags=re.DOTALL
        )
        if found != 1:
            raise ValueError(f"The page must have one mark <!-- {name} -->, but has {found}.")
    return page
