# SPDX-License-Identifier: Apache-2.0
"""What TensorBoard's tab costs: at the start, of the server, and of the page."""

import os
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from functools import partial
from urllib.request import urlopen

import numpy as np

from tests.benchmarks.timing import summary
from tests.tensorboard.chromium import CHROMIUM, chromium
from tests.tensorboard.logs import served, write
from tests.tensorboard.test_tab import Tab

_START = """
import time
from tensorboard import default, main
from tensorboard.plugins.base_plugin import TBContext
start = time.perf_counter()
from lightning_rwc.tensorboard.loader import RWCLoader
RWCLoader().load(TBContext())
print(1e3 * (time.perf_counter() - start))
"""


def tab(repeats, quick):
    """the tab RWC of TensorBoard"""
    loads, starts = [], []
    with tempfile.TemporaryDirectory() as cache:
        environ = {**os.environ, "PYTHONPYCACHEPREFIX": cache, "PYTHONDONTWRITEBYTECODE": ""}
        start = partial(subprocess.run, [sys.executable, "-c", _START], check=True, capture_output=True, env=environ)
        start()  # compiles
        for _ in range(repeats):
            begin = time.perf_counter()
            loads.append(float(start().stdout))
            starts.append(1e3 * (time.perf_counter() - begin))
    rows = {"RWC": summary(loads) | {"share %": 100 * float(np.median(np.divide(loads, starts)))}}
    yield "start", "of the import of TensorBoard and its plugins", rows

    layers, steps = (30, 100) if quick else (300, 1000)
    with _served(["run"], layers, steps) as url:
        times = []
        for _ in range(repeats):
            begin = time.perf_counter()
            answer = urlopen(f"{url}data/plugin/lightning_rwc/table?run=run&prefix=rwc").read()
            times.append(1e3 * (time.perf_counter() - begin))
        yield "answer", "", {f"{layers} x {steps:,}": summary(times) | {"MB": len(answer) / 1e6}}
        if CHROMIUM:
            yield "page", "from opening the tab in headless Chromium", _page(url, repeats)
    if CHROMIUM:
        with _served([f"run_{number}" for number in range(20)], 60, 100) as url:
            yield "all runs", "20 runs of 60 layers x 100, from opening the tab", _all_runs(url, repeats)


@contextmanager
def _served(runs, layers, steps):
    """The address of a TensorBoard that has read ``runs`` of so many layers and measurements."""
    rng, names = np.random.default_rng(0), [f"layers.{number}.weight" for number in range(layers)]
    with tempfile.TemporaryDirectory() as folder:
        for run in runs:
            write(f"{folder}/{run}", names, 10 ** rng.normal(-2, 0.5, (layers, steps)))
        with served(folder, named=f'{runs[-1]}"') as url:
            time.sleep(5)  # until the logs have been read
            yield url


def _all_runs(url, repeats):
    drawn = []
    with chromium() as browser:
        for _ in range(repeats):
            page = Tab(browser, url, view="all").drawn()
            assert page.frame.evaluate("document.querySelectorAll('#smallMaps figure.small').length") == 20
            drawn.append(page.frame.evaluate("performance.getEntriesByName('rwc drawn')[0].startTime"))
            page.close()
    return {"drawn": summary(drawn)}


def _page(url, repeats):
    drawn, hovered = [], []
    with chromium() as browser:
        for _ in range(repeats):
            page = Tab(browser, url).drawn()
            drawn.append(page.frame.evaluate("performance.getEntriesByName('rwc drawn')[0].startTime"))
            # From moving the pointer to the frame that shows it.
            hovered += page.frame.evaluate(
                """async () => {
                    const map = document.querySelector('canvas.map'), took = [];
                    for (let i = 0; i < 20; i++) {
                        const start = performance.now();
                        const at = {clientX: 300 + 9 * i, clientY: 200 + 11 * i, bubbles: true};
                        map.dispatchEvent(new PointerEvent('pointermove', at));
                        await new Promise(requestAnimationFrame);
                        took.push(performance.now() - start);
                    }
                    return took;
                }"""
            )
            page.close()
    return {"drawn": summary(drawn), "hover": summary(hovered)}
