# SPDX-License-Identifier: Apache-2.0
"""Run one check in this process: ``python -m tests.gpu.child MODULE FUNCTION RESULT LIMIT REHEARSE ARGUMENTS…``."""

import faulthandler
import json
import os
import sys
import time
import traceback
from importlib import import_module
from pathlib import Path

from tests.gpu.here import Here, NotHere


def main(module, function, result, limit, rehearse, *arguments):
    """Run the check and write its record to the file ``result``."""
    # A hang ends with the stacks of all threads, and even if the command that started this has died.
    faulthandler.dump_traceback_later(int(limit), exit=True)
    start = time.perf_counter()
    record = {"status": "passed", "figures": {}}
    try:
        check = getattr(import_module(module), function)
        record["figures"] = check(Here(rehearse == "1", _empty_folder(result)), *arguments) or {}
    except NotHere as reason:
        record |= {"status": "not here", "reason": str(reason)}
    except Exception as error:
        record |= {
            "status": "failed",
            "reason": f"{type(error).__name__}: {str(error).strip()}",
            "error": traceback.format_exc(),
        }
    record["seconds"] = round(time.perf_counter() - start, 1)
    # A strategy of several devices starts this program once more for each of them.
    if os.environ.get("LOCAL_RANK", "0") == "0":
        if "torch" in sys.modules:
            from tests.benchmarks.timing import machine

            record["machine"] = machine()
        partial = Path(f"{result}.partial")
        partial.write_text(json.dumps(record), encoding="utf-8")
        partial.replace(result)
    return record["status"] == "failed"


def _empty_folder(result):
    folder = Path(result).parent / "files"
    folder.mkdir(exist_ok=True)
    return folder


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
