# SPDX-License-Identifier: Apache-2.0
"""Packages that are not installed with us: what to say where one is missing."""

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def needs(packages: str, *, extra: str, what: str) -> Iterator[None]:
    """Around imports: say what to install where one fails.

    Args:
        packages: the names of the packages, as one writes them.
        extra: the extra of lightning-rwc that brings them.
        what: what they are needed for; the message begins with it.

    Raises:
        ModuleNotFoundError: instead of that of the import.

    """
    try:
        yield
    except ModuleNotFoundError as error:
        message = f'{what} needs {packages}: pip install "lightning-rwc[{extra}]"'
        raise ModuleNotFoundError(message, name=error.name) from error
