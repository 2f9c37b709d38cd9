#!/usr/bin/env bash
# Runs a training command and starts it again when it was preempted, lost another host, or died (restart_rules.sh says
# which exit statuses count). An error that would come again ends it.
#   launch/keep_running.sh [--dry_run] tpu|gpu|cpu python -m sigma_jax.main --config=... --workdir=...
# RESTARTS (default 100): how often at most. TRIES (10): how often in a row without a new checkpoint. PAUSE (10): seconds
# before a start that follows one without a new checkpoint.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=launch/xla_flags.sh
. launch/xla_flags.sh
# shellcheck source=launch/restart_rules.sh
. launch/restart_rules.sh

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

SIGMA_PROGRESS_FILE=$(mktemp)
export SIGMA_PROGRESS_FILE
trap 'rm -f "$SIGMA_PROGRESS_FILE"' EXIT

child=
# A stop notice goes on to the training process, which saves and exits with 75; then we stop too.
trap 'stopping=1; if [ -n "$child" ]; then kill -TERM "$child" 2>/dev/null; fi' TERM INT
stopping=""
tries=0
for ((start = 1; ; start++)); do
  : > "$SIGMA_PROGRESS_FILE"
  "$@" &
  child=$!
  if [ -n "$stopping" ]; then kill -TERM "$child" 2>/dev/null || true; fi # the notice came before there was a child
  code=0
  wait "$child" || code=$?
  # a trapped signal ends `wait` early: wait for the process itself
  while kill -0 "$child" 2>/dev/null; do
    code=0
    wait "$child" || code=$?
  done
  child=
  if [ -n "$stopping" ] || ! restart_wanted "$code" "$start"; then exit "$code"; fi
  tries=$(tries_after "$code" "$tries")
  if [ "$start" -gt "${RESTARTS:-100}" ] || ! tries_left "$code" "$tries"; then exit "$code"; fi
  echo "exit status $code, starting again ($start)" >&2
  if [ "$tries" -gt 0 ]; then
    sleep "${PAUSE:-10}" &
    child=$!
    if [ -n "$stopping" ]; then kill "$child" 2>/dev/null || true; fi
    wait "$child" || true
    if [ -n "$stopping" ]; then exit "$code"; fi
  fi
done
