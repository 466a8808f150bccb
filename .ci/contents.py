"""Check that wheel and sdist hold what belongs there of the repository's files, and nothing else."""

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
listed = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
files = {name for name in listed if Path(name).exists()}

wheel, sdist = sys.argv[1:]
in_wheel = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
with tarfile.open(sdist) as archive:
    in_sdist = {member.name.partition("/")[2] for member in archive.getmembers() if member.isfile()} - {"PKG-INFO"}

for archive, there, wanted in (
    (wheel, in_wheel, {name for name in files if name.startswith("lightning_rwc/")}),
    (sdist, in_sdist, {name for name in files if not name.startswith(".ci/")}),
):
    if there != wanted:
        sys.exit(f"{archive} lacks {sorted(wanted - there)} and has {sorted(there - wanted)} that should not be there")
