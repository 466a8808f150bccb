# SPDX-License-Identifier: Apache-2.0
"""What importing costs, and that the rooms stay apart."""

import subprocess
import sys

import pytest

import lightning_rwc


def imported_by(statement):
    code = f"import sys\n{statement}\nprint(*sorted({{name.split('.')[0] for name in sys.modules}}))"
    return set(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split())


def test_public_names():
    assert set(lightning_rwc.__all__) == {
        "RWCCallback",
        "RWCHistory",
        "RelativeWeightChange",
        "relative_weight_change",
    }
    for name in lightning_rwc.__all__:
        assert getattr(lightning_rwc, name).__name__ == name
        assert name in dir(lightning_rwc)
    with pytest.raises(AttributeError, match="no attribute 'RWC'"):
        _ = lightning_rwc.RWC


@pytest.mark.parametrize(
    ("statement", "absent"),
    [
        ("import lightning_rwc", {"torch", "lightning", "matplotlib", "pandas", "numpy"}),
        ("from lightning_rwc import RWCHistory", {"torch", "lightning", "matplotlib"}),
        ("from lightning_rwc import relative_weight_change", {"lightning", "torchmetrics", "matplotlib"}),
        ("import lightning_rwc.sums, lightning_rwc.layers", {"lightning", "torchmetrics", "matplotlib"}),
        ("from lightning_rwc import RelativeWeightChange", {"lightning", "pytorch_lightning"}),
        ("import lightning_rwc.plotting", {"torch", "lightning", "pandas"}),
        ("import lightning_rwc.cli", {"torch", "lightning", "matplotlib", "sklearn", "torchvision"}),
        ("import lightning_rwc.weightscale", {"torch", "lightning", "matplotlib", "sklearn"}),
        ("from lightning_rwc import RWCCallback", {"sklearn", "wandb", "mlflow", "comet_ml"}),
    ],
)
def test_importing_brings_no_more_than_it_needs(statement, absent):
    assert imported_by(statement) & absent == set()
