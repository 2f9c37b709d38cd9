#!/usr/bin/env bash
# Runs the whole test suite on CPU (eight simulated devices), two test processes at a time; WORKERS=1 for one.
# Runs of several processes have a test run to themselves: their collectives give up after 30 s on a busy machine.
# Arguments go to pytest instead: ./launch/test.sh tests/ops -x
set -euo pipefail
# shellcheck source=launch/environment.sh
. "$(dirname "$0")/environment.sh"
ruff check sigma_jax configs tests
ruff format --check --quiet sigma_jax configs tests
if [ $# -gt 0 ]; then
  exec python -m pytest "$@"
fi
python -m pytest tests/runtime/test_distributed.py
exec python -m pytest -n "${WORKERS:-2}" --dist=worksteal --durations=15 --ignore=tests/runtime/test_distributed.py
