#!/usr/bin/env bash
# Measures what this repository claims on one GPU, beside the authors' step, and prints a table (launch/BENCHMARKS.md).
#
#   launch/measure_gpu.sh [--budget=SECONDS] [--only=STAGE,STAGE] [--list] [--smoke] [--peer_python=PYTHON]
#
# The same command goes on with the stages that are not done. The flags are explained by --help.
set -euo pipefail
cd "$(dirname "$0")/.."
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" TF_CPP_MIN_LOG_LEVEL=2
exec "${PYTHON:-python}" -m sigma_jax.tools.measure "$@"
