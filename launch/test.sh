#!/usr/bin/env bash
# Runs the whole test suite on CPU (eight simulated devices, two test processes; WORKERS=1 for one).
# Arguments go to pytest: ./launch/test.sh tests/ops -x
set -euo pipefail
# shellcheck source=launch/environment.sh
. "$(dirname "$0")/environment.sh"
ruff check sigma_jax configs tests
exec python -m pytest -n "${WORKERS:-2}" "$@"
