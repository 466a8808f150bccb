# SPDX-License-Identifier: Apache-2.0
"""Draws the pictures of README and docs: ``python docs/pictures.py`` writes them to ``docs/images``.

It needs the packages of ``pip install -e ".[demo]"`` and about three minutes on one CPU core. ``docs/tab_picture.py``
draws the tab. The pictures of ``docs/reproduction.md`` are not made here.
"""

import re
import shutil
import tempfile
from io import StringIO
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch import LightningModule, Trainer, seed_everything
from lightning.pytorch.loggers import Logger
from matplotlib.figure import Figure
from rich.console import Console
from torch import Tensor, nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import MultiStepLR
from torch.utils.data import DataLoader

from lightning_rwc import RWCCallback
from lightning_rwc.cells import classify
from lightning_rwc.demo import demo_images, run_demo
from lightning_rwc.log_table import of_history
from lightning_rwc.movement import quantity_of
from lightning_rwc.terminal_map import TerminalMap

ROOT = Path(__file__).parent.parent
IMAGES = ROOT / "docs" / "images"


class Net(LightningModule):
    """Three blocks of two convolutions, and a linear layer."""

    def __init__(self, learning_rate: float = 0.02) -> None:
        super().__init__()
        self.learning_rate = learning_rate
        for number, (before, after) in enumerate(pairwise([1, 16, 32, 32]), start=1):
            block = nn.ModuleDict({"conv1": nn.Conv2d(before, after, 3, padding=1)})
            block["conv2"] = nn.Conv2d(after, after, 3, padding=1)
            for conv in block.values():
                nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
            self.add_module(f"block{number}", block)
        self.fc = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Class scores."""
        for block in (self.block1, self.block2, self.block3):
            x = block["conv2"](block["conv1"](x).relu()).relu()
            x = nn.functional.max_pool2d(x, 2)
        return self.fc(x.flatten(1))

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        """Cross-entropy, logged as ``loss``."""
        loss = nn.functional.cross_entropy(self(batch[0]), batch[1])
        self.log("loss", loss, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        """Accuracy, logged as ``accuracy``."""
        self.log("accuracy", (self(batch[0]).argmax(1) == batch[1]).float().mean())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """SGD with momentum."""
        return torch.optim.SGD(self.parameters(), lr=self.learning_rate, momentum=0.9)


class FrozenBlock(Net):
    """Somebody froze a block for an experiment, and forgot."""

    def __init__(self) -> None:
        super().__init__()
        self.block2.requires_grad_(False)


class DeadBlock(Net):
    """A bias so low that no unit of the block's first convolution ever fires, and no gradient comes through."""

    def __init__(self) -> None:
        super().__init__()
        nn.init.constant_(self.block2["conv1"].bias, -10)


class DecayingBlock(DeadBlock):
    """The same under AdamW, whose weight decay shrinks weights that get no gradient too."""

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW."""
        return AdamW(self.parameters(), lr=0.005)


class TooFast(Net):
    """The learning rate is thirty times too high."""

    def __init__(self) -> None:
        super().__init__(learning_rate=0.6)


class ExplodingLastLayer(Net):
    """The last layer has a learning rate of its own, which somebody multiplied by the batch size."""

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """SGD with two parameter groups."""
        body = [p for name, p in self.named_parameters() if not name.startswith("fc")]
        groups = [{"params": body}, {"params": self.fc.parameters(), "lr": 12.0}]
        return torch.optim.SGD(groups, lr=self.learning_rate, momentum=0.9)


class CutOff(Net):
    """A residual network of 12 layers without its third block."""

    def __init__(self) -> None:
        LightningModule.__init__(self)  # not the layers of `Net`
        self.learning_rate = 0.02
        self.stem = nn.Conv2d(1, 16, 3, padding=1)
        for number in range(1, 6):
            convs = {name: nn.Conv2d(16, 16, 3, padding=1) for name in ("conv1", "conv2")}
            self.add_module(f"block{number}", nn.ModuleDict(convs))
        self.fc = nn.Linear(16 * 4 * 4, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Class scores."""
        x = self.stem(x).relu()
        for number in range(1, 6):
            block = getattr(self, f"block{number}")
            change = block["conv2"](block["conv1"](x).relu())
            if number == 3:
                change = change.detach()  # the mistake
            x = (x + change).relu()
        return self.fc(nn.functional.max_pool2d(x, 2).flatten(1))


def fit(network: type[Net], logger: Logger | Literal[False] = False) -> RWCCallback:
    """Train a network for 20 epochs, print its loss and its accuracy, and return the callback that measured it."""
    train, validation = demo_images("digits", Path("data"))
    seed_everything(1, verbose=False)
    module, rwc = network(), RWCCallback(measures=("rotation",))
    quiet = {"logger": logger, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = Trainer(max_epochs=20, accelerator="cpu", callbacks=[rwc], enable_model_summary=False, **quiet)
    trainer.fit(module, DataLoader(train, batch_size=64, shuffle=True), DataLoader(validation, batch_size=512))
    loss, accuracy = (float(trainer.callback_metrics[name]) for name in ("loss", "accuracy"))
    print(f"{network.__name__:20} loss {loss:7.3f}   accuracy {accuracy:6.1%}")  # noqa: T201
    return rwc


def heatmap(rwc: RWCCallback, measure: str) -> Figure:
    """The heatmap of a measure as loggers get it."""
    return rwc.histories[measure].plot_heatmap(quantity_of(measure), findings=rwc.findings, causes=rwc.causes)


def terminal(rwc: RWCCallback, path: Path) -> None:
    """Write what ``lightning-rwc show`` draws of a run."""
    table = of_history(Path("lightning_logs/version_0"), rwc.history, quantity_of("rwc"), rwc.findings)
    console = Console(record=True, force_terminal=True, color_system="truecolor", width=100, file=StringIO())
    console.print(TerminalMap(table._replace(cells=classify(rwc.history.values, rwc.causes))))
    # Without the address of a font, so that readers fetch nothing.
    path.write_text(re.sub(r"@font-face \{.*?\}", "", console.export_svg(title="lightning-rwc show"), flags=re.S))


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


PATTERNS = {
    "healthy": Net,
    "frozen": FrozenBlock,
    "dead": DeadBlock,
    "decaying": DecayingBlock,
    "too_fast": TooFast,
    "exploding": ExplodingLastLayer,
}


def main() -> None:
    """Write all pictures, and print what their captions say."""
    for picture, network in PATTERNS.items():
        rwc = fit(network)
        heatmap(rwc, "rwc").savefig(IMAGES / f"pattern_{picture}.png")
        if picture == "decaying":
            heatmap(rwc, "rotation").savefig(IMAGES / "pattern_rotation.png")
    rwc = fit(CutOff)
    heatmap(rwc, "rwc").savefig(IMAGES / "sick.png")
    terminal(rwc, IMAGES / "show.svg")
    settling_rotation().savefig(IMAGES / "equilibrium.png")

    with tempfile.TemporaryDirectory() as folder:
        for path in run_demo("digits", Path("data"), epochs=10, log_dir=Path(folder)).files:
            if path.suffix == ".png":
                shutil.copy(path, IMAGES)


if __name__ == "__main__":
    main()
