# SPDX-License-Identifier: Apache-2.0
"""Starts the command ``lightning-rwc``, or says what to install for it."""

import sys


def main() -> None:
    """Run the command."""
    try:
        from lightning_rwc.cli import app
    except ModuleNotFoundError as error:
        sys.stderr.write(f'This needs the package {error.name}: pip install "lightning-rwc[cli]"\n')
        sys.exit(2)
    app()


if __name__ == "__main__":
    main()
