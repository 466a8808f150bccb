# SPDX-License-Identifier: Apache-2.0
"""Draws the pictures of README and docs: ``python docs/pictures.py`` writes them to ``docs/images``.

It needs the packages of ``pip install -e ".[demo]"`` and about two minutes on one CPU core. The tab's picture and those
of ``docs/reproduction.md`` are not made here.
"""

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule
from torch import Tensor, nn

from lightning_rwc.demo import run_demo
from lightning_rwc.movement import quantity_of

ROOT = Path(__file__).parent.parent
IMAGES = ROOT / "docs" / "images"
NOTEBOOK = ROOT / "notebooks" / "2_the_layer_that_does_not_learn.ipynb"
PATTERNS = {
    "healthy": "Net",
    "frozen": "FrozenBlock",
    "dead": "DeadBlock",
    "decaying": "DecayingBlock",
    "too_fast": "TooFast",
    "exploding": "ExplodingLastLayer",
}


def main() -> None:
    """Write all pictures, and print what their captions say."""
    notebook = run_notebook()
    for picture, network in PATTERNS.items():
        notebook["runs"][network][0]["rwc"].plot_heatmap().savefig(IMAGES / f"pattern_{picture}.png")
    rotation = notebook["runs"]["DecayingBlock"][0]["rotation"]
    rotation.plot_heatmap(quantity_of("rotation")).savefig(IMAGES / "pattern_rotation.png")

    histories, losses, accuracy = notebook["fit"](cut_off_network(notebook["Net"]))
    histories["rwc"].plot_heatmap().savefig(IMAGES / "sick.png")
    print(f"sick.png             loss {losses[-1]:7.3f}   accuracy {accuracy:6.1%}")  # noqa: T201

    with tempfile.TemporaryDirectory() as folder:
        for path in run_demo("digits", Path("data"), epochs=10, log_dir=Path(folder)).files:
            if path.suffix == ".png":
                shutil.copy(path, IMAGES)


def run_notebook() -> dict[str, Any]:
    """Run the notebook until its networks are trained: they are defined nowhere else."""
    names: dict[str, Any] = {}
    for cell in json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]:
        if cell["cell_type"] == "code" and "runs" not in names:
            exec("".join(line for line in cell["source"] if not line.startswith("%")), names)
    return names


def cut_off_network(net: type) -> type:
    """A residual network of 12 layers that trains as the notebook's ``net`` does, without its third block."""

    class CutOff(net):  # type: ignore[misc]  # known only once the notebook has run
        def __init__(self) -> None:
            LightningModule.__init__(self)  # not the layers of `net`
            self.learning_rate, self.losses = 0.02, []
            self.stem = nn.Conv2d(1, 16, 3, padding=1)
            for number in range(1, 6):
                convs = {name: nn.Conv2d(16, 16, 3, padding=1) for name in ("conv1", "conv2")}
                self.add_module(f"block{number}", nn.ModuleDict(convs))
            self.fc = nn.Linear(16 * 4 * 4, 10)

        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x).relu()
            for number in range(1, 6):
                block = getattr(self, f"block{number}")
                change = block["conv2"](block["conv1"](x).relu())
                if number == 3:
                    change = change.detach()  # the mistake
                x = (x + change).relu()
            return self.fc(nn.functional.max_pool2d(x, 2).flatten(1))

    return CutOff


if __name__ == "__main__":
    main()
