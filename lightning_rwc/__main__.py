# SPDX-License-Identifier: Apache-2.0
"""Start the command ``lightning-rwc``, or say what to install for it."""

import sys
from io import TextIOWrapper

from lightning_rwc.extras import install


def main() -> None:
    """Run the command."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            # Not all encodings have the bars and quotes of the output.
            stream.reconfigure(errors="replace")
    try:
        from lightning_rwc.cli import app
    except ModuleNotFoundError as error:
        sys.stderr.write(f"The command needs the package {error.name}. {install('cli')}\n")
        sys.exit(2)
    app()


if __name__ == "__main__":
    main()
