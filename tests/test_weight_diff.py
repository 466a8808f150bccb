# SPDX-License-Identifier: Apache-2.0
"""What changed from one saved model to another."""

import io
import json
import math
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from typer.testing import CliRunner

from lightning_rwc import weight_diff
from lightning_rwc.__main__ import main
from lightning_rwc.cli import app
from lightning_rwc.diff_words import statements
from lightning_rwc.terminal_diff import profile
from lightning_rwc.weight_diff import diff_checkpoints
from tests.oracle import MOVES, numpy_moves, numpy_rwc, wide

SHAPES = {"conv.weight": (4, 1, 3, 3), "norm.weight": (4,), "fc.weight": (2, 64), "fc.bias": (2,)}
COLUMNS = ["layer", "l1", "l2", "rotation", "radial", "moved"]


def everything(name, parameter):
    return True


def state(seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=generator).to(dtype) for name, shape in SHAPES.items()}


def two(folder, base, tuned, save=torch.save, suffix=".pt"):
    paths = folder / f"base{suffix}", folder / f"tuned{suffix}"
    for path, content in zip(paths, (base, tuned), strict=True):
        save(content, path)
    return paths


def save_sharded(content, folder):
    folder.mkdir()
    for number, name in enumerate(content):
        save_file({name: content[name]}, folder / f"model-{number}.safetensors")
    index = {"weight_map": {name: f"model-{number}.safetensors" for number, name in enumerate(content)}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def check(one, p, c):
    """Compare a layer's numbers with NumPy's."""
    moves = {name: numpy_moves([p], [c], name) for name in MOVES}
    expected = {"l1": numpy_rwc([p], [c], "l1"), "l2": numpy_rwc([p], [c], "l2"), **moves}
    for name, value in expected.items():
        np.testing.assert_allclose(getattr(one, name), value, rtol=1e-6, atol=1e-9, err_msg=f"{one.layer}, {name}")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize(
    ("save", "suffix"),
    [
        (torch.save, ".pt"),
        (lambda content, path: torch.save({"state_dict": content, "epoch": 3}, path), ".ckpt"),
        (save_file, ".safetensors"),
        (save_sharded, ""),
    ],
)
def test_numbers_are_those_of_numpy(save, suffix, dtype, tmp_path, monkeypatch):
    base, tuned = state(0, dtype), state(1, dtype)
    tuned["fc.weight"][0] = base["fc.weight"][0]
    paths = two(tmp_path, base, tuned, save, suffix)
    diff = diff_checkpoints(*paths)
    assert sorted(one.layer for one in diff.layers) == ["conv", "fc"]
    for one in diff.layers:
        check(one, base[f"{one.layer}.weight"], tuned[f"{one.layer}.weight"])
    # However little is read ahead.
    monkeypatch.setattr(weight_diff, "_AHEAD", 0)
    diff = diff_checkpoints(*paths, layers=everything)
    assert {one.layer for one in diff.layers} == {"conv", "norm", "fc.weight", "fc.bias"}
    for one in diff.layers:
        name = one.layer if one.layer in base else f"{one.layer}.weight"
        check(one, base[name], tuned[name])
        assert one.shape == SHAPES[name]
    whole = [torch.cat([tensor.flatten() for tensor in content.values()]) for content in (base, tuned)]
    check(diff.total, *whole)
    assert diff.total.elements == 36 + 4 + 128 + 2


@pytest.mark.parametrize(
    ("base", "tuned", "rules"),
    [
        ("", "", []),
        ("model.", "model.", []),
        ("", "module.", ["“module.” is left out of 4 names of TUNED."]),
        ("model.", "model.model.", ["“model.” is left out of 4 names of TUNED."]),
        (
            "module._orig_mod.",
            "base_model.model.",
            [
                "“_orig_mod.” is left out of 4 names of BASE.",
                "“module.” is left out of 4 names of BASE.",
                "“base_model.model.” is left out of 4 names of TUNED.",
            ],
        ),
    ],
)
def test_names_that_differ_by_wrapping_are_matched_and_the_rule_is_told(base, tuned, rules, tmp_path):
    first, second = state(0), state(1)
    stored = ({f"{start}{k}": v for k, v in content.items()} for start, content in ((base, first), (tuned, second)))
    diff = diff_checkpoints(*two(tmp_path, *stored))
    for one, name in zip(diff.layers, ("conv.weight", "fc.weight"), strict=True):
        check(one, first[name], second[name])
    assert diff.notes == rules
    assert (diff.only_base, diff.only_tuned) == ([], [])


def test_inner_wrappers_and_names_that_would_be_ambiguous(tmp_path):
    ones = torch.ones(2, 2)
    base = {"a.weight": ones, "b.weight": ones.clone(), "model.b.weight": ones.clone()}
    tuned = {"a.base_layer.weight": 3 * ones, "module.b.weight": ones.clone()}
    diff = diff_checkpoints(*two(tmp_path, base, tuned))
    assert [(one.layer, one.l1) for one in diff.layers] == [("a", 2.0)]
    assert diff.only_base == ["b.weight", "model.b.weight"]
    assert diff.only_tuned == ["module.b.weight"]
    assert "Only BASE has 2 tensors: b.weight, model.b.weight." in statements(diff)
    assert "Only TUNED has 1 tensor: module.b.weight." in statements(diff)


def test_prefixes_and_names_of_ones_own(tmp_path):
    first, second = state(0), state(1)
    base = {f"encoder.blocks.{name}": tensor for name, tensor in first.items()}
    tuned = {f"net.layers.{name}": tensor for name, tensor in second.items()}
    paths = two(tmp_path, base, tuned)
    diff = diff_checkpoints(*paths, strip_prefix="net", rename={"encoder.blocks": "layers"})
    assert [one.layer for one in diff.layers] == ["encoder.blocks.conv", "encoder.blocks.fc"]
    check(diff.layers[1], first["fc.weight"], second["fc.weight"])
    with pytest.raises(ValueError, match=r"no name in common.*--map OLD=NEW"):
        diff_checkpoints(*paths)
    with pytest.raises(ValueError, match=r"`strip_prefix` has 'nets\.', but no name begins with it"):
        diff_checkpoints(*paths, strip_prefix="nets.")
    with pytest.raises(ValueError, match=r"`rename` has 'block', but no name of BASE has that part"):
        diff_checkpoints(*paths, rename={"block": "layers"})
    torch.save({f"body.{name}": tensor for name, tensor in base.items()}, paths[1])
    with pytest.raises(ValueError, match="Try `--strip-prefix body`"):
        diff_checkpoints(*paths)
    torch.save({"net.fc.weight": first["fc.weight"], "fc.weight": second["fc.weight"]}, paths[1])
    with pytest.raises(ValueError, match=r"call 'net.fc.weight' and 'fc.weight' of TUNED both 'fc.weight'"):
        diff_checkpoints(*paths, strip_prefix="net")


def test_rounding_is_told_apart_from_training(tmp_path):
    base = state(0)
    tuned = {name: tensor.bfloat16() for name, tensor in base.items()}
    diff = diff_checkpoints(*two(tmp_path, base, tuned, save_file, ".safetensors"))
    assert [(one.l1, one.moved, one.identical) for one in diff.layers] == [(0.0, 0.0, False)] * 2
    changed = {name: np.mean(wide(tensor) != wide(tensor.bfloat16())) for name, tensor in base.items()}
    assert [one.rounded for one in diff.layers] == [changed["conv.weight"], changed["fc.weight"]]
    assert any("nothing differs after it: nothing was trained" in line for line in statements(diff))
    assert not diff.identical

    tuned["fc.weight"][1] *= 2
    diff = diff_checkpoints(*two(tmp_path, base, tuned, save_file, ".safetensors"))
    fc = diff.layers[1]
    assert (fc.moved, fc.rounded, fc.dtypes) == (0.5, changed["fc.weight"], ("float32", "bfloat16"))
    check(fc, base["fc.weight"].bfloat16(), tuned["fc.weight"])
    # The other way round, the cast changes nothing.
    back = diff_checkpoints(tmp_path / "tuned.safetensors", tmp_path / "base.safetensors").layers[1]
    assert back.rounded == 0
    check(back, tuned["fc.weight"], base["fc.weight"])


def test_what_is_bit_identical_is_said_to_be_so(tmp_path):
    base = state(0) | {"steps": torch.tensor(7), "norm.running_mean": torch.zeros(4)}
    diff = diff_checkpoints(*two(tmp_path, base, base))
    assert diff.identical
    assert statements(diff) == ["BASE and TUNED are bit-identical: 6 tensors, and no bit differs."]

    diff = diff_checkpoints(*two(tmp_path, base, base | {"fc.bias": base["fc.bias"] + 1, "steps": torch.tensor(8)}))
    assert not diff.identical
    assert diff.others == ["fc.bias", "steps"]
    assert statements(diff)[0] == "No layer moved: 2 layers are bit-identical."

    # A zero of the other sign is the same number, but not the same bits. What is not finite is no number.
    tuned = base | {"fc.weight": torch.zeros(2, 64), "conv.weight": torch.full((4, 1, 3, 3), torch.nan)}
    paths = two(tmp_path, base | {"fc.weight": -torch.zeros(2, 64), "conv.weight": tuned["conv.weight"]}, tuned)
    conv, fc = diff_checkpoints(*paths).layers
    assert (fc.moved, fc.l1, fc.identical) == (0, 0, False)
    assert math.isnan(conv.l1)
    assert conv.identical


def test_what_has_no_partner_or_another_shape_or_no_numbers_is_listed(tmp_path):
    base = state(0) | {"head.weight": torch.ones(3, 3), "packed.weight": torch.ones(4, 4)}
    tuned = state(1) | {"head.weight": torch.ones(5, 3), "packed.weight": torch.ones(4, 4, dtype=torch.int8)}
    diff = diff_checkpoints(*two(tmp_path, base, tuned | {"new.weight": torch.ones(2, 2)}))
    assert [one.layer for one in diff.layers] == ["conv", "fc"]
    assert diff.reshaped == {"head.weight": ((3, 3), (5, 3))}
    assert diff.only_tuned == ["new.weight"]
    assert diff.left_out == {"packed": "it is torch.int8 in TUNED"}
    assert "1 tensor changed shape, and is not measured: head.weight 3×3 → 5×3." in statements(diff)
    with pytest.raises(ValueError, match="all that are chosen have other shapes"):
        diff_checkpoints(*two(tmp_path, base, tuned), layers="head")
    with pytest.raises(ValueError, match=r"`tuned` must give one state of a model.* gives 2"):
        diff_checkpoints(tmp_path / "base.pt", tmp_path)


def save_adapter(folder, tensors, **config):
    folder.mkdir(exist_ok=True)
    save_file(
        {f"base_model.model.{name}": tensor for name, tensor in tensors.items()}, folder / "adapter_model.safetensors"
    )
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 2, "lora_alpha": 6} | config))
    return folder


def test_an_adapter_is_measured_as_what_it_adds(tmp_path, monkeypatch):
    monkeypatch.setattr("lightning_rwc.adapters._BLOCK", 16)
    generator = torch.Generator().manual_seed(0)

    def draw(*shape):
        return torch.randn(shape, generator=generator)

    base = {
        "model.q.weight": draw(5, 7),
        "model.gpt.weight": draw(7, 5),
        "model.square.weight": draw(4, 4),
        "model.conv.weight": draw(3, 2, 3, 3),
        "model.embed.weight": draw(9, 4),
        "model.head.weight": draw(3, 4),
        "model.free.weight": draw(3, 3),
    }
    factors = {
        "model.q": (draw(2, 7), draw(5, 2)),
        "model.gpt": (draw(3, 7), draw(5, 3)),
        "model.square": (draw(2, 4), draw(4, 2)),
        "model.conv": (draw(2, 2, 3, 3), draw(3, 2, 1, 1)),
    }
    stored = {f"{name}.lora_{x}.weight": y for name, pair in factors.items() for x, y in zip("AB", pair, strict=True)}
    embedding = draw(2, 9), draw(4, 2)
    stored |= {"model.embed.lora_embedding_A": embedding[0], "model.embed.lora_embedding_B": embedding[1]}
    head = draw(3, 4)
    torch.save(base, tmp_path / "base.pt")
    folder = tmp_path / "adapter"
    for rslora in (False, True):
        save_adapter(
            folder,
            stored | {"model.head.weight": head},
            alpha_pattern={"gpt": 9},
            use_rslora=rslora,
            fan_in_fan_out=True,
        )
        scale = {
            name: (9 if name == "model.gpt" else 6) / (len(a) ** (0.5 if rslora else 1))
            for name, (a, _) in factors.items()
        }
        # As PEFT does: what is stored as inputs × outputs takes the transposed product, and an embedding always does.
        products = {
            name: scale[name] * wide(b).reshape(len(b), -1) @ wide(a).reshape(len(a), -1)
            for name, (a, b) in factors.items()
        }
        products = {
            name: product.T if name in ("model.gpt", "model.square") else product for name, product in products.items()
        }
        products["model.embed"] = (6 / (2 ** (0.5 if rslora else 1))) * (
            embedding[1].double() @ embedding[0].double()
        ).T.numpy()
        for tuned in (folder, folder / "adapter_model.safetensors"):
            diff = diff_checkpoints(tmp_path / "base.pt", tuned)
            found = {one.layer: one for one in diff.layers}
            assert found.keys() == {*products, "model.head"}
            for name, product in products.items():
                p = base[f"{name}.weight"].double()
                check(found[name], p, p + torch.from_numpy(product).reshape(p.shape))
            check(found["model.head"], base["model.head.weight"], head)
    assert "It adds B·A·scale to 5 of the 7 tensors of BASE" in " ".join(diff.notes)
    assert (diff.only_base, diff.only_tuned) == ([], [])


def test_an_untrained_adapter_adds_nothing(tmp_path):
    torch.save({"q.weight": torch.ones(4, 4)}, tmp_path / "base.pt")
    tensors = {"q.lora_A.weight": torch.ones(2, 4), "q.lora_B.weight": torch.zeros(4, 2)}
    diff = diff_checkpoints(tmp_path / "base.pt", save_adapter(tmp_path / "adapter", tensors))
    assert [(one.l1, one.moved) for one in diff.layers] == [(0, 0)]
    merged = {f"base_model.model.{name}": tensor for name, tensor in tensors.items()} | {
        "q.base_layer.weight": torch.ones(4, 4)
    }
    torch.save(merged, tmp_path / "unmerged.pt")
    assert "holds LoRA factors that are not merged" in " ".join(
        diff_checkpoints(tmp_path / "base.pt", tmp_path / "unmerged.pt").notes
    )


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"peft_type": "LOHA"}, "is an adapter of the kind LOHA, but only LORA can be measured. Merge"),
        ({"use_dora": True}, "DoRA, which does more than add a product. Merge"),
        ({"kasa_config": {"beta": 0.1}}, "KaSA, which does more than add a product. Merge"),
        ({"peft_type": None, "lora_alpha": "x"}, "is broken, or is no configuration"),
    ],
)
def test_adapters_of_other_kinds_are_refused(config, message, tmp_path):
    torch.save({"q.weight": torch.ones(4, 4)}, tmp_path / "base.pt")
    tensors = {"q.lora_A.weight": torch.ones(2, 4), "q.lora_B.weight": torch.zeros(4, 2)}
    with pytest.raises(ValueError, match=message):
        diff_checkpoints(tmp_path / "base.pt", save_adapter(tmp_path / "adapter", tensors, **config))
    save_adapter(tmp_path / "adapter", tensors)
    torch.save({"q.weight": torch.ones(4, 5)}, tmp_path / "base.pt")
    with pytest.raises(ValueError, match=r"its product has the shape \(4, 4\), but BASE has \(4, 5\)"):
        diff_checkpoints(tmp_path / "base.pt", tmp_path / "adapter")
    (tmp_path / "adapter" / "adapter_model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"has adapter_config\.json but no adapter_model\.safetensors"):
        diff_checkpoints(tmp_path / "base.pt", tmp_path / "adapter")


def test_an_adapter_that_peft_saved_equals_the_merged_model(tmp_path):
    peft = pytest.importorskip("peft", reason="needs the package peft, which is not installed here")

    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(11, 6), nn.Linear(6, 8), nn.Conv1d(1, 3, 3), nn.Linear(3, 2))
    base = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    torch.save(base, tmp_path / "base.pt")
    config = peft.LoraConfig(
        r=2,
        lora_alpha=5,
        target_modules=["0", "1", "2"],
        modules_to_save=["3"],
        rank_pattern={"1": 4},
        alpha_pattern={"1": 3},
        use_rslora=True,
    )
    adapted = peft.get_peft_model(model, config)
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn_like(parameter))
    adapted.save_pretrained(tmp_path / "adapter")
    merged = adapted.merge_and_unload().state_dict()
    diff = diff_checkpoints(tmp_path / "base.pt", tmp_path / "adapter")
    assert [one.layer for one in diff.layers] == ["0", "1", "2", "3"]
    for one in diff.layers:
        before, after = base[f"{one.layer}.weight"], merged[f"{one.layer}.weight"]
        # The merged model has float32 weights, and so has rounded them.
        np.testing.assert_allclose(one.l1, numpy_rwc([before], [after], "l1"), rtol=1e-5)
        np.testing.assert_allclose(one.rotation, numpy_moves([before], [after], "rotation"), rtol=1e-5)


def test_the_command_prints_and_writes(tmp_path):
    base, tuned = state(0), state(1)
    tuned["conv.weight"] = base["conv.weight"]
    paths = [*map(str, two(tmp_path, base, {f"module.{name}": tensor for name, tensor in tuned.items()}))]
    out = tmp_path / "out"
    result = CliRunner().invoke(app, ["diff", *paths, "--out", str(out), "--parquet"], env={"COLUMNS": "120"})
    assert result.exit_code == 0, result.output
    assert "- 1 layer did not move and is bit-identical: conv." in result.output
    assert "- “module.” is left out of 4 names of TUNED." in result.output
    l1 = numpy_rwc([base["fc.weight"]], [tuned["fc.weight"]], "l1")
    assert f"│ fc    │ {l1:.3g} " in result.output
    for table in (pd.read_csv(out / "diff.csv"), pd.read_parquet(out / "diff.parquet")):
        assert [*table.columns] == COLUMNS
        assert [*table["layer"]] == ["conv", "fc"]
        np.testing.assert_allclose(table["l1"], [0, l1], rtol=1e-12)
        np.testing.assert_array_equal(table["moved"], [0, 1])
    assert {path.name for path in out.iterdir()} == {"diff.csv", "diff.parquet", "diff.html"}
    result = CliRunner().invoke(app, ["diff", *paths, "--all", "--map", "fc=fc"])
    assert "elements in 4 layers moved" in result.output
    assert "0.0 %" not in result.output


def test_a_deep_model_prints_the_ends(tmp_path):
    weights = torch.ones(2, 2)
    base = {f"blocks.{number}.weight": weights.clone() for number in range(100)}
    tuned = {name: weights * (1 + number) for number, name in enumerate(base)}
    result = CliRunner().invoke(app, ["diff", *map(str, two(tmp_path, base, tuned))], env={"COLUMNS": "120"})
    rows = [line.split("│")[1].strip() for line in result.output.splitlines() if line.startswith("│")]
    assert rows == [f"blocks.{number}" for number in [*range(99, 89, -1), *range(10, 0, -1)]]
    assert "rank correlation with depth 1.00" in result.output


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--all", "--layers", "fc"], "`--all` measures all parameters"),
        (["--parquet"], "`--parquet` writes to a folder"),
        (["--map", "fc"], "`--map` must be OLD=NEW"),
        (["--layers", "decoder"], "matches no parameter"),
    ],
)
def test_the_command_names_what_is_wrong(options, message, tmp_path):
    result = CliRunner().invoke(app, ["diff", *map(str, two(tmp_path, state(0), state(1))), *options])
    assert result.exit_code == 2
    assert message in result.output


def test_frozen_weights_next_to_the_factors_are_not_those_of_tuned(tmp_path):
    # With these names in `target_modules`, PEFT saves the frozen embeddings too.
    generator = torch.Generator().manual_seed(0)
    base, a, b = (torch.randn(shape, generator=generator) for shape in ((6, 4), (2, 4), (6, 2)))
    torch.save({"model.lm_head.weight": base}, tmp_path / "base.pt")
    tensors = {"model.lm_head.lora_A.weight": a, "model.lm_head.lora_B.weight": b}
    folder = save_adapter(tmp_path / "adapter", tensors | {"model.lm_head.base_layer.weight": base})
    diff = diff_checkpoints(tmp_path / "base.pt", folder)
    (layer,) = diff.layers
    check(layer, base, base.double() + 3 * b.double() @ a.double())
    assert diff.only_tuned == []


def test_adapters_of_any_kind_are_compared_with_each_other(tmp_path):
    tensors = {"q.lora_A.weight": torch.ones(2, 4), "q.lora_magnitude_vector": torch.ones(4)}
    first = save_adapter(tmp_path / "first", tensors, use_dora=True)
    second = save_adapter(tmp_path / "second", tensors | {"q.lora_A.weight": 3 * torch.ones(2, 4)}, use_dora=True)
    assert [one.l1 for one in diff_checkpoints(first, second).layers] == [2]


def test_what_an_adapter_has_beside_its_product_is_told_or_refused(tmp_path):
    torch.save({"q.weight": torch.ones(4, 4)}, tmp_path / "base.pt")
    tensors = {"q.lora_A.weight": torch.ones(2, 4), "q.lora_B.weight": torch.ones(4, 2), "q.lora_B.bias": torch.ones(4)}
    folder = save_adapter(tmp_path / "adapter", tensors, init_lora_weights="lora_ga")
    diff = diff_checkpoints(tmp_path / "base.pt", folder)
    assert [one.l1 for one in diff.layers] == [2 * 3]
    assert "initialised by lora_ga, which changes the base too" in " ".join(diff.notes)
    save_adapter(folder, tensors | {"q.lora_diag.weight": torch.ones(2)})
    with pytest.raises(ValueError, match="an adapter with 'lora_diag', which does more than add a product"):
        diff_checkpoints(tmp_path / "base.pt", folder)


def test_quantised_tensors_are_compared_with_their_scales(tmp_path):
    def quantised(*scales):
        if len(scales) == 1:
            return torch.quantize_per_tensor(torch.ones(2, 3), *scales, 0, torch.qint8)
        return torch.quantize_per_channel(torch.ones(2, 3), torch.tensor(scales), torch.zeros(2), 0, torch.qint8)

    # Of the same integers, where 1 is out of range.
    for scales, others in (((1e-4,), (1e-3,)), ((1e-4, 1e-4), (1e-4, 1e-3))):
        base = state(0) | {"packed.weight": quantised(*scales)}
        same = diff_checkpoints(*two(tmp_path, base, base))
        assert (same.identical, same.others) == (True, [])
        differ = diff_checkpoints(*two(tmp_path, base, base | {"packed.weight": quantised(*others)}))
        assert (differ.identical, differ.others) == (False, ["packed.weight"])
    diff = diff_checkpoints(*two(tmp_path, base | {"packed.weight": torch.ones(2, 3)}, base))
    assert diff.left_out == {"packed": "it is torch.qint8 in TUNED"}


def test_what_cannot_be_compared_neither_differs_nor_is_identical(tmp_path):
    base = state(0) | {"table": torch.eye(3).to_sparse()}
    diff = diff_checkpoints(*two(tmp_path, base, base))
    assert (diff.identical, diff.others, [*diff.left_out]) == (False, [], ["table"])
    assert statements(diff)[0] == "No layer moved: 2 layers are bit-identical."
    assert "1 layer cannot be measured: table" in statements(diff)[1]


def test_tied_tensors_have_all_their_names(tmp_path):
    generator = torch.Generator().manual_seed(0)
    tied, head = (torch.randn(5, 4, generator=generator) for _ in range(2))
    base = {"wte.weight": tied, "lm_head.weight": tied}
    # Tied in both, and stored under either name.
    for names in (["wte", "lm_head"], ["lm_head"], ["lm_head", "wte"]):
        diff = diff_checkpoints(*two(tmp_path, base, {f"model.{name}.weight": tied for name in names}))
        assert diff.identical
        assert len(diff.layers) == diff.pairs == 1
        assert (diff.only_base, diff.only_tuned) == ([], [])
    # Tied in one of them only.
    untied = {"wte.weight": tied.clone(), "lm_head.weight": head}
    for order in (1, -1):
        sides = [base, untied][::order]
        diff = diff_checkpoints(*two(tmp_path, *sides))
        assert (diff.only_base, diff.only_tuned) == ([], [])
        found = {one.layer: one for one in diff.layers}
        assert found.keys() == {"wte", "lm_head"}
        assert found["wte"].identical
        check(found["lm_head"], *(side["lm_head.weight"] for side in sides))


def test_what_only_one_has_is_not_identical(tmp_path):
    base = state(0)
    assert not diff_checkpoints(*two(tmp_path, base, base | {"new.bias": torch.ones(2)})).identical
    diff = diff_checkpoints(*two(tmp_path, base, base | {"positions": torch.arange(3)}))
    assert statements(diff)[0] == "BASE and TUNED are bit-identical: 4 tensors that both have, and no bit differs."
    (one,) = diff_checkpoints(*two(tmp_path, {"fc.weight": torch.ones(2, 2)}, base | {"fc.weight": torch.ones(2, 2)}))[
        2
    ]
    assert one.identical


def test_a_cast_that_overflows_is_told(tmp_path):
    base = {"large.weight": torch.full((2, 2), 1e6), "fc.weight": torch.full((2, 2), 1 + 2**-20)}
    tuned = {"large.weight": torch.ones(2, 2).half(), "fc.weight": torch.tensor([[1, 1], [1, 2]]).half()}
    words = statements(diff_checkpoints(*two(tmp_path, base, tuned)))
    assert words[0].startswith("25 % of 4 elements in 1 layer moved. Measured as one layer, these have")
    assert words[1] == "1 layer is not finite in BASE or TUNED, or after the cast to float16: large."
    assert "alone changes 100 % of the elements, and 25 % differ after it where all are finite." in words[2]
    del base["fc.weight"], tuned["fc.weight"]
    words = statements(diff_checkpoints(*two(tmp_path, base, tuned)))
    assert words[0].startswith("1 layer is not finite")
    assert "alone changes 100 % of the elements. All" in words[1]
    torch.save({"large.weight": torch.full((2, 2), torch.nan)}, tmp_path / "nan.pt")
    words = statements(diff_checkpoints(tmp_path / "base.pt", tmp_path / "nan.pt"))
    assert words == ["1 layer is not finite in BASE or TUNED: large."]


def test_scales_of_quantised_weights_are_not_applied(tmp_path):
    base = {"fc.weight": torch.ones(2, 2).to(torch.float8_e4m3fn), "fc.weight_scale_inv": torch.ones(1, 1)}
    words = statements(diff_checkpoints(*two(tmp_path, base, base | {"fc.weight_scale_inv": 2 * torch.ones(1, 1)})))
    assert any("l1, l2 and radial of these layers mean nothing" in line for line in words)
    del base["fc.weight_scale_inv"]
    assert not any("scales" in line for line in statements(diff_checkpoints(*two(tmp_path, base, base))))


def test_a_layer_that_is_not_finite_does_not_hide_those_next_to_it(tmp_path):
    ones = torch.ones(2, 2)
    base = {f"blocks.{number}.weight": ones.clone() for number in range(144)}
    lost = {f"blocks.{number}.weight": torch.nan * ones for number in (0, 2, 3)}
    tuned = {name: 2 * weight for name, weight in base.items()} | lost
    bars = profile(diff_checkpoints(*two(tmp_path, base, tuned))).splitlines()[1]
    assert [position for position, bar in enumerate(bars) if bar == "?"] == [1]


def test_any_encoding_of_the_terminal_will_do(tmp_path, monkeypatch):
    paths = two(tmp_path, state(0), state(1))
    out = io.TextIOWrapper(io.BytesIO(), encoding="cp1252")
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "argv", ["lightning-rwc", "diff", *map(str, paths)])
    with pytest.raises(SystemExit, match="0"):
        main()
    out.flush()
    assert b"elements in 2 layers moved" in out.buffer.getvalue()


CHGNET = next((Path(place) for place in (getattr(find_spec("chgnet"), "submodule_search_locations", None) or ())), None)


@pytest.mark.skipif(CHGNET is None, reason="needs the models in the package chgnet, which is not installed here")
def test_a_published_pair():
    """CHGNet's weights for two functionals of energy, the second trained from the first."""
    paths = [next(CHGNET.glob(f"pretrained/{name}/*.pth.tar")) for name in ("0.3.0", "r2scan")]
    # The files hold more than weights, and come from the package index.
    base, tuned = (torch.load(path, map_location="cpu", weights_only=False)["model"]["state_dict"] for path in paths)
    diff = diff_checkpoints(*paths, layers=everything)
    assert len(base) == len(tuned) == len(diff.layers) == diff.pairs == 136
    names = {one.layer: one.layer if one.layer in base else f"{one.layer}.weight" for one in diff.layers}
    still = {names[one.layer] for one in diff.layers if one.identical}
    assert still == {name for name in base if name.startswith("angle_layers.2.")}
    assert len(still) == 8
    for one in diff.layers:
        p, c = wide(base[names[one.layer]]), wide(tuned[names[one.layer]])
        expected = np.abs(c - p).sum() / np.abs(p).sum() if np.any(p != c) else 0
        np.testing.assert_allclose(one.l1, expected, rtol=1e-9)
    # Kernels and matrices but for the table of elements, which has other energies.
    matrices = diff_checkpoints(*paths).layers
    moved = [one.l1 for one in matrices if not one.identical and one.layer != "composition_model.fc"]
    assert 0.049 < min(moved) < max(moved) < 0.44
