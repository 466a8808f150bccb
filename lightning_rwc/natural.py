# SPDX-License-Identifier: Apache-2.0
"""Natural order of names: by the value of the numbers in them."""

import re


def natural_key(name: str) -> list[tuple[int, int, str]]:
    """A sort key that compares the numbers within names by value.

    Example:
        >>> sorted(["epoch=10", "epoch=9"], key=natural_key)
        ['epoch=9', 'epoch=10']

    """
    # Python refuses to convert very long numbers, so they are split after 18 digits.
    parts = re.split(r"(\d{1,18})", name)
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts]
