# SPDX-License-Identifier: Apache-2.0
"""Draws the pictures of README and docs: ``python docs/pictures.py`` writes them to ``docs/images``.

It needs the packages of ``pip install -e ".[demo]"`` and about three minutes on one CPU core. The pictures of the tab
and of ``docs/reproduction.md`` are not made here.
"""

import json
import shutil
import tempfile
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer, seed_everything
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import MultiStepLR
from torch.utils.data import DataLoader

from lightning_rwc import RWCCallback
from lightning_rwc.demo import demo_images, run_demo
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

    settling_rotation().savefig(IMAGES / "equilibrium.png")

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


class Settling(LightningModule):
    """A network with normalised layers, random labels among the right ones, and a strong weight decay."""

    def __init__(self) -> None:
        super().__init__()
        widths = [1, 16, 32, 32]
        for number, (before, after) in enumerate(pairwise(widths), start=1):
            self.add_module(f"conv{number}", nn.Conv2d(before, after, 3, padding=1, bias=False))
            self.add_module(f"norm{number}", nn.BatchNorm2d(after))
        self.fc = nn.Linear(32, 10)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """The loss of noisy labels."""
        x, labels = batch
        labels = torch.where(torch.rand(len(labels)) < 0.3, torch.randint(10, (len(labels),)), labels)
        for number in (1, 2, 3):
            x = getattr(self, f"norm{number}")(getattr(self, f"conv{number}")(x)).relu()
            x = nn.functional.max_pool2d(x, 2)
        return nn.functional.cross_entropy(self.fc(x.flatten(1)), labels)

    def configure_optimizers(self) -> Any:
        """AdamW, whose learning rate falls once."""
        optimizer = AdamW(self.parameters(), lr=0.004, weight_decay=0.5)
        return [optimizer], [MultiStepLR(optimizer, [20], gamma=0.25)]


def settling_rotation() -> Figure:
    """The curves of rotation every ten steps, beside the predicted one. The learning rate falls to a quarter."""
    seed_everything(0, verbose=False)
    callback = RWCCallback(measures=["rotation", "equilibrium"], every_n_train_steps=10)
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = Trainer(max_epochs=30, accelerator="cpu", callbacks=[callback], enable_model_summary=False, **quiet)
    trainer.fit(Settling(), DataLoader(demo_images("digits", Path("data"))[0], batch_size=32, shuffle=True))
    rotation, ratio = callback.histories["rotation"], callback.histories["equilibrium"]
    return rotation.plot_curves(quantity_of("rotation"), rotation.values / ratio.values)


if __name__ == "__main__":
    main()
