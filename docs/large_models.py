# SPDX-License-Identifier: Apache-2.0
"""Estimate what a measurement of a large model costs under FSDP2, and write it into `docs/performance.md`.

    python -m docs.large_models

Nothing here is timed. The constants are figures of `docs/performance.md` and the nominal bandwidth of a GPU's memory.
"""

from pathlib import Path
from typing import NamedTuple

from docs import marked

PAGE = Path(__file__).parent / "performance.md"
RANKS = (8, 64, 512)
BANDWIDTH = 3.35e12
"""Bytes a second: the memory of an H100 SXM, as its maker states it."""
OVERHEAD, PER_LAYER = 1e-3, 4.4e-6
"""Seconds of Python at a measurement, and for each layer (`python -m tests.benchmarks --only measure`)."""
LOGGING = 9e-3 / 300
"""Seconds for each layer's scalar in TensorBoard, on rank 0 (`--only logging`)."""
SUMS, SUM_BYTES, WEIGHT_BYTES = 6, 8, 2
SAMPLE_BYTES = 39e6 / 300
"""Bytes of the snapshot of a larger layer with `max_elements=65536`."""


class Model(NamedTuple):
    """The shapes of a Llama."""

    blocks: int
    width: int
    feedforward: int
    keys: int
    vocabulary: int

    @property
    def layers(self) -> int:
        """Matrices: seven in each block, the embedding and the head."""
        return 7 * self.blocks + 2

    @property
    def weights(self) -> int:
        """The number of weights in these matrices."""
        attention = 2 * self.width * self.width + 2 * self.width * self.keys
        return self.blocks * (attention + 3 * self.width * self.feedforward) + 2 * self.vocabulary * self.width


MODELS = {
    "7 B": Model(32, 4096, 11008, 4096, 32000),
    "70 B": Model(80, 8192, 28672, 1024, 32000),
    "405 B": Model(126, 16384, 53248, 1024, 128256),
}


def table() -> str:
    """Return the estimates as Markdown."""
    rows = []
    for name, model in MODELS.items():
        for ranks in RANKS:
            share = WEIGHT_BYTES * model.weights / ranks
            seconds = OVERHEAD + PER_LAYER * model.layers + 3 * share / BANDWIDTH
            rows.append(
                [
                    name,
                    f"{ranks}",
                    f"{share / 1e9:.2f} GB",
                    f"{min(SAMPLE_BYTES * model.layers / ranks, share) / 1e6:.1f} MB",
                    f"{3e3 * share / BANDWIDTH:.1f} ms",
                    f"{1e3 * seconds:.1f} ms",
                    f"{SUMS * SUM_BYTES * model.layers / 1e3:.0f} kB",
                    f"{1e3 * LOGGING * model.layers:.0f} ms",
                ]
            )
    header = ["model", "ranks", "snapshot", "with `max_elements=65536`", "reading and writing", "with Python"]
    return marked.table([*header, "all-reduce", "TensorBoard, rank 0"], rows)


def main() -> None:
    """Write the table between the comments that name it."""
    PAGE.write_text(marked.filled(PAGE.read_text(encoding="utf-8"), {"large models": table()}), encoding="utf-8")


if __name__ == "__main__":
    main()
