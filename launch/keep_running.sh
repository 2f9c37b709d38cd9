#!/usr/bin/env bash
# Runs a training command and starts it again while it exits with 75 (preempted, state saved).
#   launch/keep_running.sh [--dry_run] tpu|gpu|cpu python -m sigma_jax.main --config=... --workdir=...
# RESTARTS (default 100): how often at most.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=launch/xla_flags.sh
. launch/xla_flags.sh

dry_run=
if [ "${1:-}" = --dry_run ]; then
  dry_run=1
  shift
fi
if [ $# -lt 2 ]; then
  echo "usage: $0 [--dry_run] tpu|gpu|cpu COMMAND..." >&2
  exit 2
fi
set_xla_flags "$1"
shift
if [ -n "$dry_run" ]; then
  echo "XLA_FLAGS='${XLA_FLAGS:-}' LIBTPU_INIT_ARGS='${LIBTPU_INIT_ARGS:-}' $*"
  exit 0
fi
# shellcheck disable=SC1091
if [ -f .venv/bin/activate ]; then . .venv/bin/activate; fi

child=
# A stop notice goes on to the training process, which saves and exits with 75; then we stop too.
trap 'stopping=1; if [ -n "$child" ]; then kill -TERM "$child" 2>/dev/null; fi' TERM INT
stopping=
for ((i = 0; i <= ${RESTARTS:-100}; i++)); do
  "$@" &
  child=$!
  code=0
  wait "$child" || code=$?
  # a trapped signal ends `wait` early: wait for the process itself
  while kill -0 "$child" 2>/dev/null; do
    code=0
    wait "$child" || code=$?
  done
  if [ "$code" -ne 75 ] || [ -n "$stopping" ]; then
    exit "$code"
  fi
  echo "preempted, starting again ($((i + 1)))" >&2
done
exit 75
