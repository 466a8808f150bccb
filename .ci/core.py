"""Train with the package as it is installed, without any extra, and ask TensorBoard for its tab."""

import json
import re
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from urllib.request import urlopen

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint, ModelSummary, TQDMProgressBar
from lightning.pytorch.demos.boring_classes import BoringModel

import lightning_rwc
from lightning_rwc import RWCCallback, RWCHistory

assert Path(lightning_rwc.__file__).is_relative_to(sys.prefix), lightning_rwc.__file__
assert not [package for package in ("rich", "typer", "pandas") if find_spec(package)]

callback, every = RWCCallback(), ModelCheckpoint("saved", filename="{epoch}", save_top_k=-1)
trainer = Trainer(max_epochs=2, limit_train_batches=4, limit_val_batches=0, callbacks=[callback, every])
assert {TQDMProgressBar, ModelSummary} <= {type(one) for one in trainer.callbacks}
trainer.fit(BoringModel())
callback.history.save("history.csv")
assert RWCHistory.load("history.csv").values.shape == (2, 1)

command = [sys.executable, "-m", "tensorboard.main", "--logdir", trainer.log_dir, "--port", "0"]
with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as tensorboard:
    try:
        address = next(filter(None, (re.search(r"http://\S+", line) for line in tensorboard.stderr)))[0]
        plugin = f"{address}data/plugin/lightning_rwc/"
        listing = json.load(urlopen(f"{address}data/plugins_listing"))
        assert listing["lightning_rwc"]["loading_mechanism"]["module_path"] == "/data/plugin/lightning_rwc/index.js"
        static = Path(__file__).parent.parent / "lightning_rwc" / "tensorboard" / "static"
        for file in static.rglob("*.[jc]s*"):
            assert urlopen(plugin + file.relative_to(static).as_posix()).read() == file.read_bytes(), file
        deadline = time.monotonic() + 60
        while not (series := json.load(urlopen(f"{plugin}runs"))["series"]):
            assert time.monotonic() < deadline, "the run is not there"
            time.sleep(0.2)
        assert [(one["prefix"], one["layers"]) for one in series] == [("rwc", 1)], series
    finally:
        tensorboard.terminate()
