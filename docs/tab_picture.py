# SPDX-License-Identifier: Apache-2.0
"""Draws the tab RWC for ``docs/tab.md``: ``python -m docs.tab_picture`` writes ``docs/images/tab.png``.

It needs the packages of ``pip install -e ".[dev]"``, Chromium, and a minute.
"""

import tempfile
from io import BytesIO

from lightning.pytorch.loggers import TensorBoardLogger
from PIL import Image, ImageChops

from docs.pictures import IMAGES, CutOff, fit
from tests.tensorboard.chromium import chromium
from tests.tensorboard.logs import served
from tests.tensorboard.test_tab import Tab

_MARGIN = 12


def main() -> None:
    """Train the network whose block is cut off, open its tab, and write what it shows."""
    with tempfile.TemporaryDirectory() as folder:
        fit(CutOff, TensorBoardLogger(folder, name="cut_off"))
        with served(folder, named="cut_off") as url, chromium() as browser:
            tab = Tab(browser, url).drawn()
            tab.page.wait_for_timeout(5000)  # until the log has been read and TensorBoard's fonts are there
            picture = Image.open(BytesIO(tab.page.screenshot())).convert("RGB")
    below = picture.getpixel((picture.width // 2, picture.height - 1))
    box = ImageChops.difference(picture, Image.new("RGB", picture.size, below)).getbbox()
    # In all colours: with fewer, those of the heatmap and of its bar would not be exact.
    cropped = picture.crop((0, 0, picture.width, min(box[3] + _MARGIN, picture.height)))
    cropped.save(IMAGES / "tab.png", optimize=True)


if __name__ == "__main__":
    main()
