"""Print the lowest supported version of every direct dependency, from pyproject.toml, as constraints."""

import re
import sys
from pathlib import Path

import tomllib  # Python 3.11

project = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]
lines = project["dependencies"] + [line for extra in project["optional-dependencies"].values() for line in extra]
for line in lines:
    match = re.match(r"([\w-]+)(?:\[[\w,]+\])?>=([\d.]+)", line)
    if match:
        print(f"{match[1]}=={match[2]}")
    elif not line.startswith("lightning-rwc["):
        sys.exit(f"{line!r} has no lower bound")
