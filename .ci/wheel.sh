#!/usr/bin/env bash
# Build wheel and sdist, install the wheel away from the repository, and use what an editable installation cannot show:
# the core alone, the files that are not Python, and each extra's command with nothing but that extra.
# Usage: .ci/wheel.sh FOLDER, with the extra `dev` installed.
set -euo pipefail
trap 'echo ".ci/wheel.sh failed in line $LINENO" >&2' ERR
cd "$(dirname "$0")/.."
repository=$PWD
work=$(realpath "$1")

uv build --quiet --out-dir "$work/dist"
wheel=$(ls "$work"/dist/*.whl)
python .ci/contents.py "$wheel" "$work"/dist/*.tar.gz
mkdir "$work/away"
python -c "from pathlib import Path
from tests.helpers import fashion_mnist_files
fashion_mnist_files(Path('$work/away'), train=64, t10k=16)"
cd "$work/away"

uv venv --quiet --python "$(command -v python)" "$work/fresh"
only() { # have what the wheel brings with the extra $1, or with none, and no other package
  uv pip install --quiet --exact --python "$work/fresh/bin/python" "$wheel${1:+[$1]}"
}
rwc() { "$work/fresh/bin/lightning-rwc" "$@"; }

only ""
"$work/fresh/bin/python" "$repository/.ci/core.py"
[ "$(rwc 2>&1 || echo "exit code $?")" = 'The command needs the package typer. Install the extra `cli` of lightning-rwc.
exit code 2' ]

only cli
rwc checkpoints saved --out series
[ -s series/rwc_heatmap.png ]
rwc diff saved/epoch=0.ckpt saved/epoch=1.ckpt --out changed
[ -s changed/diff.html ]

only parquet
"$work/fresh/bin/python" -c 'from lightning_rwc import RWCHistory
RWCHistory.load("history.csv").save("history.parquet")
assert RWCHistory.load("history.parquet").to_frame().equals(RWCHistory.load("history.csv").to_frame())'

only demo
rwc demo --epochs 2
[ -s lightning_rwc_demo/digits/version_0/rwc_curves.png ]

only analysis
rwc cluster lightning_rwc_demo/digits/version_0/rwc_history.csv --out clusters
[ -s clusters/clusters.csv ]

only experiments
rwc reproduce --model vgg19_bn --data fashion-mnist --data-dir . --seeds 0 --epochs 1 --trainer.accelerator=cpu
[ -s rwc_experiments/vgg19_bn-fashion-mnist/report.html ]
grep -q 'weight_decay: 0.0005' rwc_experiments/vgg19_bn-fashion-mnist/settings.yaml # by the paper's file, not by default
