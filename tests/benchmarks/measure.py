# SPDX-License-Identifier: Apache-2.0
"""What a measurement costs: beside other ways, in half precision, and as everything grows."""

import time
from functools import partial

import numpy as np
import torch
from torch import nn

from lightning_rwc import RelativeWeightChange, RWCHistory
from lightning_rwc.findings.gradients import Gradients
from lightning_rwc.layers import LayerSelection
from lightning_rwc.norms import NORMS
from lightning_rwc.replicas import marks
from lightning_rwc.sums import prepare_sums
from tests.benchmarks.peers import OTHERS, bound, ours, tracked
from tests.benchmarks.timing import extra_memory, has_memory, interleaved, summary


def stack(layers, rows, columns, dtype=torch.float32, device="cpu"):
    """Linear layers, of weights alone."""
    kind = {"bias": False, "dtype": dtype, "device": device}
    module = nn.Sequential(*(nn.utils.skip_init(nn.Linear, columns, rows, **kind) for _ in range(layers)))
    for weight in tracked(module):
        weight.uniform_(-0.05, 0.05)
    return module


def _torchvision(name):
    import torchvision

    model = getattr(torchvision.models, name)(weights=None)
    for weight in tracked(model):
        if not weight.any():
            weight.uniform_(0.01, 0.02)  # the item loop would divide by zero
    return model


_MODELS = {
    "toy": lambda: stack(2000, 25, 40),
    "resnet18": lambda: _torchvision("resnet18"),
    "resnet50": lambda: _torchvision("resnet50"),
    "vit_b_16": lambda: _torchvision("vit_b_16"),
    "vgg19": lambda: _torchvision("vgg19"),
    "stack_1b": lambda: stack(60, 4096, 4096),
}
_LARGE = 5e8  # from so many weights on there is memory for fewer others, and patience for fewer repeats


def changing(*modules):
    """A function that moves every weight, there and back again in turn."""
    amount = 1e-3

    def change():
        nonlocal amount
        amount = -amount
        for weight in (weight for module in modules for weight in tracked(module)):
            weight.add_(amount)

    return change


def measure(repeats, quick):
    """A measurement beside other ways to watch weights."""
    for name in ("toy", "resnet18") if quick else _MODELS:
        if name != "stack_1b" or has_memory(17):
            yield _side_by_side(name, _MODELS[name](), repeats)
        else:
            yield name, "left out: it takes 17 GiB of free memory", {}


def _side_by_side(name, module, repeats):
    weights, change = tracked(module), changing(module)
    count = sum(w.numel() for w in weights)
    others = OTHERS if count < _LARGE else {"authors": OTHERS["authors"]}
    ways = {"bound": bound(count), "ours": ours(module)} | {other: make(weights) for other, make in others.items()}
    if "item loop" in ways:
        change()
        np.testing.assert_allclose(ways["ours"](), ways["item loop"](), rtol=1e-3)
    times = interleaved(ways, repeats if count < _LARGE else min(repeats, 3), change)
    rows = {way: summary(taken) for way, taken in times.items()}
    for way, row in rows.items():
        ratios = {f"times {other}": row["ms"] / rows[other]["ms"] for other in ("bound", "ours")}
        rows[way] |= ratios | extra_memory(ways[way], change)
    return name, f"{count / 1e6:,.1f} M weights in {len(weights):,} layers", rows


def pieces(repeats, quick):
    """The sums of every unit beside those of every layer."""
    for name in ("resnet18",) if quick else ("resnet18", "resnet50", "vit_b_16", "vgg19"):
        module = _MODELS[name]()
        weights = [weight.flatten() for weight in tracked(module)]
        units = [len(weight) for weight in tracked(module)]
        count, previous = sum(map(len, weights)), [weight.clone() for weight in weights]
        ways = {"bound": bound(count)}
        for way, cuts in (("every layer", None), ("every unit", units)):
            ways[way] = partial(prepare_sums(previous, weights, cuts), "l1", True)
        times = interleaved(ways, repeats, changing(module))
        rows = {way: summary(taken) for way, taken in times.items()}
        for row in rows.values():
            row["times bound"] = row["ms"] / rows["bound"]["ms"]
        yield name, f"{count / 1e6:,.1f} M weights of {sum(units):,} units in {len(weights):,} layers", rows


def replicas(repeats, quick):
    """What tells whether ranks have the same weights, beside a measurement."""
    for dtype in (torch.float32, torch.bfloat16):
        module = stack(16, 200 if quick else 2500, 2500, dtype)
        layers = LayerSelection().find(module)
        ways = {"ours": ours(module), "comparison": partial(marks, layers, [*layers], ())}
        change = changing(module)
        rows = {way: summary(taken) for way, taken in interleaved(ways, repeats, change).items()}
        for way, row in rows.items():
            rows[way] |= {"times ours": row["ms"] / rows["ours"]["ms"]} | extra_memory(ways[way], change)
        count = sum(weight.numel() for weight in tracked(module))
        yield str(dtype).removeprefix("torch."), f"{count / 1e6:,.1f} M weights", rows


def gradients(repeats, quick):
    """A look at the gradients before validation, beside a measurement and a training step."""
    for dtype in (torch.float32, torch.bfloat16):
        module = _MODELS["resnet18" if quick else "resnet50"]().to(dtype)
        optimizer = torch.optim.SGD(module.parameters(), lr=1e-3, momentum=0.9)
        images = torch.randn(4, 3, 224, 224, dtype=dtype)

        def step(module=module, optimizer=optimizer, images=images):
            optimizer.zero_grad()
            module(images).float().square().mean().backward()
            optimizer.step()

        layers = {layer: [*parameters.values()] for layer, parameters in LayerSelection().find(module).items()}
        ways = {"ours": ours(module), "look": lambda layers=layers: Gradients(layers).fetch(), "step": step}
        step()
        rows = {way: summary(taken) for way, taken in interleaved(ways, repeats).items()}
        for row in rows.values():
            row["times ours"] = row["ms"] / rows["ours"]["ms"]
        yield str(dtype).removeprefix("torch."), f"{len(images)} images a step", rows


def dtypes(repeats, quick):
    """Half precision beside float32, and the norms beside l1."""
    size = 200 if quick else 1600
    sizes = {torch.float32: size, torch.bfloat16: 2 * size, torch.float16: 2 * size}
    modules = {str(dtype).removeprefix("torch."): stack(16, rows, 1000, dtype) for dtype, rows in sizes.items()}
    ways = {name: ours(module) for name, module in modules.items()}
    times = interleaved(ways, repeats, changing(*modules.values()))
    rows = {name: summary(taken) for name, taken in times.items()}
    for row in rows.values():
        row["times float32"] = row["ms"] / rows["float32"]["ms"]
    yield "equal bytes", f"{16 * size * 4e-3:,.0f} MB of weights each, so twice as many in half precision", rows

    module = modules["float32"]
    times = interleaved({norm: ours(module, norm) for norm in NORMS}, repeats, changing(module))
    rows = {norm: summary(taken) for norm, taken in times.items()}
    for row in rows.values():
        row["times l1"] = row["ms"] / rows["l1"]["ms"]
    yield "norms", f"of {16e-3 * size:,.1f} M float32 weights", rows


def growth(repeats, quick):
    """More weights, more layers, a longer history."""
    rows = {}
    for power in range(5, 8 if quick else 10):
        if power < 9 or has_memory(13):
            row = _beside_bound(stack(10, 10 ** (power - 4), 1000), repeats if power < 9 else min(repeats, 3))
            rows[f"1e{power}"] = row | {"ns a weight": 1e6 * row["ms"] / 10**power}
    yield "weights", "in 10 layers", rows

    rows = {}
    for layers in (1000, 2000) if quick else (1000, 2000, 5000, 10_000):
        row = _beside_bound(stack(layers, 25, 40), repeats)
        rows[f"{layers:,}"] = row | {"us a layer": 1e3 * row["ms"] / layers}
        rows[f"{layers:,}"]["times first"] = rows[f"{layers:,}"]["us a layer"] / rows["1,000"]["us a layer"]
    yield "layers", "of 1,000 weights each", rows

    module, history, times = stack(20, 10, 10), RWCHistory(), []
    metric, change = RelativeWeightChange(module), changing(module)
    for step in range(1000):
        change()
        start = time.perf_counter()
        metric.update(module)
        values = metric.compute()
        history.record(step, step, dict(zip(values, torch.stack([*values.values()]).tolist(), strict=True)))
        times.append(1e3 * (time.perf_counter() - start))
    rows = {"first 100": summary(times[:100]), "last 100": summary(times[-100:])}
    rows["last 100"]["times first"] = rows["last 100"]["ms"] / rows["first 100"]["ms"]
    yield "history", "of 1,000 measurements of 20 layers", rows


def _beside_bound(module, repeats):
    ways = {"bound": bound(sum(w.numel() for w in tracked(module))), "ours": ours(module)}
    times = {way: summary(taken)["ms"] for way, taken in interleaved(ways, repeats, changing(module)).items()}
    return {"ms": times["ours"], "bound ms": times["bound"], "times bound": times["ours"] / times["bound"]}
