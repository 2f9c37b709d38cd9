#!/usr/bin/env bash
# Compiler flags per platform, in one place. Sourced: . launch/xla_flags.sh; set_xla_flags tpu|gpu|cpu
# Flags already in XLA_FLAGS or LIBTPU_INIT_ARGS stay and come last, so yours win. None of them changes results beyond
# rounding. They are other projects' published settings. On one H100 they change nothing (launch/BENCHMARKS.md), elsewhere
# they are not measured: time your own step with and without (SIGMA_XLA_FLAGS=off leaves them out).

set_xla_flags() {
  [ "${SIGMA_XLA_FLAGS:-on}" = off ] && return 0
  case "$1" in
    tpu)
      # async collective fusion: gradients of one block travel while the next one is computed
      # (MaxText benchmarks/xla_flags_library.py, its all-reduce overlap set)
      local tpu="--xla_tpu_enable_async_collective_fusion=true"
      tpu="$tpu --xla_tpu_enable_async_collective_fusion_fuse_all_gather=true"
      tpu="$tpu --xla_tpu_enable_async_collective_fusion_multiple_steps=true"
      # data-parallel all-reduces of different sizes are combined and scheduled late; matters between slices (same source)
      tpu="$tpu --xla_tpu_enable_data_parallel_all_reduce_opt=true"
      tpu="$tpu --xla_tpu_data_parallel_opt_different_sized_ops=true"
      export LIBTPU_INIT_ARGS="$tpu ${LIBTPU_INIT_ARGS:-}"
      ;;
    gpu)
      # (how products are compiled is the step's own matter: step_compilation in sigma_jax/runtime/compilation.py)
      # collectives overlap with compute (JAX GPU performance tips: latency hiding scheduler)
      local gpu="--xla_gpu_enable_latency_hiding_scheduler=true"
      export XLA_FLAGS="$gpu ${XLA_FLAGS:-}"
      # more of the memory than the default 75 % (JAX docs, GPU memory allocation)
      export XLA_PYTHON_CLIENT_MEM_FRACTION="${XLA_PYTHON_CLIENT_MEM_FRACTION:-.9}"
      # one hardware queue per device keeps communication from being overtaken on Hopper (JAX-Toolbox GPU_performance.md)
      export CUDA_DEVICE_MAX_CONNECTIONS="${CUDA_DEVICE_MAX_CONNECTIONS:-1}"
      ;;
    cpu)
      # simulated devices: with fewer threads than devices their collectives can wait for each other for ever
      export PJRT_NPROC="${PJRT_NPROC:-16}"
      ;;
    *)
      echo "set_xla_flags: platform '$1' is unknown, expected tpu, gpu or cpu" >&2
      return 1
      ;;
  esac
}
