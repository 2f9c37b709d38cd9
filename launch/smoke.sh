#!/usr/bin/env bash
# A smoke test on another Python, in an environment of its own: parity with the goldens, and the main command on a few
# rendered clips, interrupted and resumed. Skips, and says so, where that Python is not installed.
#
#   ./launch/smoke.sh 3.12
set -euo pipefail
version="${1:?which Python? for example: ./launch/smoke.sh 3.12}"
if ! "python$version" -c '' 2>/dev/null && command -v pyenv >/dev/null; then
  PYENV_VERSION="$(pyenv versions --bare | grep "^$version\." | tail -n 1 || true)"
  export PYENV_VERSION
fi
if ! "python$version" -c '' 2>/dev/null; then
  echo "smoke: python$version is not installed, skipped"
  exit 0
fi
export PYTHON="python$version" VENV=".venv-$version" JAX_PLATFORMS=cpu
# shellcheck source=launch/environment.sh
. "$(dirname "$0")/environment.sh"
python -c 'import jax, flax, sys; print("smoke: Python", sys.version.split()[0], "jax", jax.__version__, "flax", flax.__version__)'
python -m tests.parity tests/goldens/pretrain_mlp_swav.npz tests/goldens/pretrain_dino_swav.npz tests/goldens/sinkhorn.npz |
  grep -v '^  ok'
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python -m sigma_jax.tools.synthetic --out="$folder/data" --train=64 --bank=80 --val=40
for steps in 2 4; do
  python -m sigma_jax.main --config=configs/demo.py --workdir="$folder/run" --data_dir="$folder/data" \
    --config.batch_size=8 --config.total_steps="$steps" --config.log_every_steps=1 --config.data.num_workers=1 \
    --allow_config_change
done
python -m sigma_jax.tools.probe --workdir="$folder/run" --data_dir="$folder/data"
echo "smoke: passed"
