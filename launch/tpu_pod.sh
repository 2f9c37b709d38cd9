#!/usr/bin/env bash
# A TPU pod slice from creation to deletion. Everything runs on all hosts of the slice; the hosts find each other.
#   launch/tpu_pod.sh [--dry_run] create NAME ZONE TYPE          e.g. create sigma us-west4-a v5litepod-256 (SPOT=1: spot)
#   launch/tpu_pod.sh [--dry_run] setup  NAME ZONE GIT_URL       clone, install, mount BUCKET at /data if BUCKET is set
#   launch/tpu_pod.sh [--dry_run] doctor NAME ZONE FLAGS...      sigma_jax.tools.doctor on every host
#   launch/tpu_pod.sh [--dry_run] run    NAME ZONE FLAGS...      sigma_jax.main on every host, started again (restart_rules.sh);
#                                                              BUCKET as in setup: compiled programs are kept there
#   launch/tpu_pod.sh [--dry_run] stop|logs|delete NAME ZONE
# WORKER=3: only that host (default all), e.g. run once more on one that was started anew.
# VERSION: software version of the VM image (default v2-alpha-tpuv5-lite; v6e: v2-alpha-tpuv6e; v5p: v2-alpha-tpuv5).
set -euo pipefail

dry_run=
if [ "${1:-}" = --dry_run ]; then
  dry_run=1
  shift
fi
if [ $# -lt 3 ]; then
  sed -n '2,11s/^# \{0,1\}//p' "$0" >&2
  exit 2
fi
action=$1 name=$2 zone=$3
shift 3

do_it() {
  if [ -n "$dry_run" ]; then
    printf '%q ' "$@"
    echo
  else
    "$@"
  fi
}

tpu() { do_it gcloud compute tpus tpu-vm "$@"; }
everywhere() { tpu ssh "$name" "--zone=$zone" "--worker=${WORKER:-all}" "--command=$1"; }
quoted() { printf '%q ' "$@"; }

case "$action" in
  create)
    extra=()
    if [ -n "${SPOT:-}" ]; then extra=(--spot); fi
    tpu create "$name" "--zone=$zone" "--accelerator-type=${1:?type missing, such as v5litepod-256}" \
      "--version=${VERSION:-v2-alpha-tpuv5-lite}" ${extra[@]+"${extra[@]}"}
    ;;
  setup)
    mount=true
    if [ -n "${BUCKET:-}" ]; then
      mount="sudo mkdir -p /data && sudo chmod 777 /data && gcsfuse --implicit-dirs $(quoted "$BUCKET") /data"
    fi
    everywhere "git clone $(quoted "${1:?git address missing}") sigma_jax; cd sigma_jax && SIGMA_EXTRAS=tpu,cloud \
bash -c '. launch/environment.sh' && $mount"
    ;;
  doctor)
    everywhere "cd sigma_jax && . .venv/bin/activate && python -m sigma_jax.tools.doctor --distributed=on $(quoted "$@")"
    ;;
  run)
    # process 0 alone writes compiled programs: without a place for all, every restart compiles on all other hosts
    cache=
    if [ -n "${BUCKET:-}" ]; then cache="JAX_COMPILATION_CACHE_DIR=gs://$(quoted "$BUCKET/xla")"; fi
    # in braces: otherwise the number would be that of a shell around the script, and stop would only end that
    everywhere "cd sigma_jax && { $cache nohup launch/keep_running.sh tpu python -m sigma_jax.main --distributed=on \
$(quoted "$@") < /dev/null > run.log 2>&1 & echo \$! > run.pid; }"
    ;;
  stop) everywhere "kill -TERM \$(cat sigma_jax/run.pid)" ;;
  logs) tpu ssh "$name" "--zone=$zone" --worker=0 "--command=tail -n 50 -f sigma_jax/run.log" ;;
  delete) tpu delete "$name" "--zone=$zone" --quiet ;;
  *)
    echo "unknown action '$action': expected create, setup, doctor, run, stop, logs or delete" >&2
    exit 2
    ;;
esac
