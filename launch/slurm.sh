#!/usr/bin/env bash
# Slurm: 4 nodes x 8 GPUs, one process per node. Change the numbers below or on sbatch's command line.
#   sbatch launch/slurm.sh --config=configs/k400.py --workdir=/shared/runs/k400 --data_dir=/shared/k400
#   sbatch --ntasks-per-node=8 launch/slurm.sh ...              one process per GPU (not --gpus-per-task, which would
#                                                               hide the GPUs of a node from each other)
#   launch/slurm.sh --dry_run --config=...                      print the command only
#SBATCH --job-name=sigma
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --exclusive
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.log
# Two minutes before the time limit, and on preemption, every process gets SIGTERM: it saves and exits with 75.
#SBATCH --signal=TERM@120
# After that, or when a process died and the others noticed, the job goes back into the queue (restart_rules.sh).
set -euo pipefail

dry_run=
if [ "${1:-}" = --dry_run ]; then
  dry_run=1
  shift
fi
cd "${SLURM_SUBMIT_DIR:-$(dirname "${BASH_SOURCE[0]}")/..}"
# shellcheck source=launch/xla_flags.sh
. launch/xla_flags.sh
# shellcheck source=launch/restart_rules.sh
. launch/restart_rules.sh
set_xla_flags gpu
# shellcheck disable=SC1091
if [ -f .venv/bin/activate ]; then . .venv/bin/activate; fi

# A failed process is noticed by the others, who end by themselves: srun's status, the highest of all, is then the reason.
command=(srun --kill-on-bad-exit=0 python -m sigma_jax.main --distributed=on "$@")
if [ -n "$dry_run" ]; then
  printf '%q ' "${command[@]}"
  echo
  exit 0
fi
export SIGMA_PROGRESS_FILE="$PWD/sigma-$SLURM_JOB_ID.progress"
kept="$PWD/sigma-$SLURM_JOB_ID.tries" # from one start of the job to the next
: > "$SIGMA_PROGRESS_FILE"
code=0
"${command[@]}" || code=$?
if restart_wanted "$code" $((${SLURM_RESTART_COUNT:-0} + 1)); then
  tries=$(tries_after "$code" "$(cat "$kept" 2>/dev/null || echo 0)")
  if tries_left "$code" "$tries"; then
    echo "$tries" > "$kept"
    echo "exit status $code: back into the queue" >&2
    scontrol requeue "$SLURM_JOB_ID" # the same command resumes from the newest checkpoint
    exit "$code"
  fi
fi
rm -f "$SIGMA_PROGRESS_FILE" "$kept"
exit "$code"
