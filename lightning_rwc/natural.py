# SPDX-License-Identifier: Apache-2.0
"""The order in which people expect names with numbers."""

import re


def natural_key(name: str) -> list[tuple[int, int, str]]:
    """A key to sort by, for which numbers within names count as numbers.

    Example:
        >>> sorted(["epoch=10", "epoch=9"], key=natural_key)
        ['epoch=9', 'epoch=10']

    """
    # In pieces of at most 18 digits: Python refuses to read the longest numbers, which a foreign name may hold.
    parts = re.split(r"(\d{1,18})", name)
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts]
