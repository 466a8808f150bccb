# SPDX-License-Identifier: Apache-2.0
"""Optional packages: the message when one is missing."""

from collections.abc import Iterator
from contextlib import contextmanager


def install(extra: str) -> str:
    """What to do to get the packages of ``extra``."""
    return f"Install the extra `{extra}` of lightning-rwc."


class MissingPackageError(ModuleNotFoundError):
    """An optional package is missing. The message says which extra to install."""


@contextmanager
def needs(packages: str, *, extra: str, what: str) -> Iterator[None]:
    """Wrap imports: if one fails, say what to install.

    Args:
        packages: the names of the packages, for the message.
        extra: the extra of lightning-rwc that installs them.
        what: the feature that needs them. The message begins with it.

    Raises:
        MissingPackageError: in place of the error of the import.

    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise MissingPackageError(f"{what} needs {packages}. {install(extra)}", name=error.name) from error
