#!/usr/bin/env bash
# GPU nodes without a scheduler: start this on every node, with its own NODE_RANK.
#   NODES=4 NODE_RANK=0 COORDINATOR=node0:12355 launch/gpu_node.sh --config=configs/k400.py --workdir=... --data_dir=...
#   NODES=1 launch/gpu_node.sh ...          one node: no coordinator needed
#   PER_GPU=8 ...                           one process per GPU instead of one per node (its GPUs: 0 to PER_GPU-1)
#   launch/gpu_node.sh --dry_run ...        print the commands only
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

dry_run=
if [ "${1:-}" = --dry_run ]; then
  dry_run=1
  shift
fi
nodes=${NODES:-1} rank=${NODE_RANK:-0} per_gpu=${PER_GPU:-0}
if [ "$rank" -ge "$nodes" ]; then
  echo "NODE_RANK=$rank with NODES=$nodes: ranks go from 0 to $((nodes - 1))" >&2
  exit 2
fi
per_node=$((per_gpu > 0 ? per_gpu : 1))
total=$((nodes * per_node))
if [ "$total" -gt 1 ] && [ -z "${COORDINATOR:-}" ]; then
  if [ "$nodes" -gt 1 ]; then
    echo "COORDINATOR is missing: host:port of node 0, reachable from all nodes" >&2
    exit 2
  fi
  COORDINATOR=localhost:12355
fi

pids=()
trap 'for pid in ${pids[@]+"${pids[@]}"}; do kill -TERM "$pid" 2>/dev/null || true; done' TERM INT
for ((i = 0; i < per_node; i++)); do
  command=(launch/keep_running.sh gpu python -m sigma_jax.main)
  if [ "$total" -gt 1 ]; then
    command+=("--coordinator=$COORDINATOR" "--num_processes=$total" "--process_id=$((rank * per_node + i))")
  fi
  command+=("$@")
  if [ "$per_gpu" -gt 0 ]; then command=(env "CUDA_VISIBLE_DEVICES=$i" "${command[@]}"); fi
  if [ -n "$dry_run" ]; then
    printf '%q ' "${command[@]}"
    echo
  else
    "${command[@]}" &
    pids+=($!)
  fi
done
code=0
for pid in ${pids[@]+"${pids[@]}"}; do
  wait "$pid" || code=$?
done
exit "$code"
