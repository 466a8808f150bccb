# SPDX-License-Identifier: Apache-2.0
"""Where a check runs, and what each check gets."""

import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple


class NotHere(Exception):
    """This machine cannot run the check. The message says why."""


class Here(NamedTuple):
    """The machine: one with a GPU, or in a rehearsal any machine."""

    rehearsal: bool
    folder: Path
    """An empty folder, the same for all processes of the check, which goes when the check ends."""

    @property
    def device(self):
        """The device of the weights, which is also Lightning's name of the accelerator."""
        return "cpu" if self.rehearsal else "cuda"

    def pick(self, full, small):
        """``full`` on a GPU, ``small`` in a rehearsal."""
        return small if self.rehearsal else full

    def needs_cuda(self):
        """Stop here in a rehearsal."""
        if self.rehearsal:
            raise NotHere("needs CUDA")

    def wait(self):
        """Wait until the GPU has done everything."""
        if not self.rehearsal:
            import torch

            torch.cuda.synchronize()


@contextmanager
def folder():
    """A folder for the time of a check."""
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)
