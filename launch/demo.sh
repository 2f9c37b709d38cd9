#!/usr/bin/env bash
# The demo: data, training, restore, measurement, pictures. Three to six minutes on two cores after the
# installation; run again, it finds everything done and only restores and measures.
#
#   ./launch/demo.sh                     labelled moving shapes, rendered to video files
#   ./launch/demo.sh FOLDER_OF_VIDEOS    your own videos (class sub-folders or a flat folder)
#
# WORKDIR=FOLDER chooses where results go (default: demo_run, or demo_run_FOLDER for your own videos).
set -euo pipefail
videos="${1:+$(realpath "$1")}"
# shellcheck source=launch/environment.sh
. "$(dirname "$0")/environment.sh"
export JAX_PLATFORMS="${JAX_PLATFORMS:-cpu}"
settings=(--config=configs/demo.py --config.compute.remat=none --config.evals.knn.every_steps=0) # the model is small

train() {
  python -m sigma_jax.main "${settings[@]}" --workdir="$workdir/train" --data_dir="$data" --noreport
}

if [ -z "$videos" ]; then
  workdir="${WORKDIR:-demo_run}"
  data="$workdir/data"
  echo "1/4 Data: shapes that move in 8 ways (half a minute)..."
  python -m sigma_jax.tools.synthetic --out="$data" --train=8000 # each is seen seven times in 900 steps
  echo "2/4 Training configs/demo.py: 900 steps, one to three minutes..."
  train
  echo "3/4 Restoring the checkpoint; what did it learn?"
  python -m sigma_jax.tools.probe --workdir="$workdir/train" --data_dir="$data" --cache="$workdir/features"
  echo "4/4 Drawing pictures..."
  python -m sigma_jax.tools.report --workdir="$workdir/train" --data_dir="$data" --videos=tests/data/clips
  echo "Is that how this run should look? Beside reference runs of the same config:"
  python -m sigma_jax.tools.compare "$workdir/train" || [ $? = 3 ] # 3: some curve left its band, which it says
else
  [ -d "$videos" ] || { echo "demo: $videos is no folder of videos" >&2; exit 2; }
  workdir="${WORKDIR:-demo_run_$(basename "$videos")}"
  data="$workdir/data"
  echo "1/3 Data: checking and packing the videos of $videos..."
  if ! [ -f "$data/dataset_info.json" ]; then
    # the demo's model sees 32 x 32 pixels: small frames are read fast, however large the videos are
    python -m sigma_jax.tools.prepare --videos="$videos" --out="$data" --payload=jpeg --short_side=64
  fi
  echo "2/3 Training configs/demo.py on them: 900 steps, some minutes..."
  settings+=(--config.evals.segmentation.every_steps=0 --config.data.crop=multi_scale --config.data.frame_stride=2 --config.data.cache_decoded=false)
  train
  echo "3/3 Drawing pictures..."
  python -m sigma_jax.tools.report --workdir="$workdir/train" --data_dir="$data" --videos="$videos"
fi
echo
echo "Open $workdir/train/report.html for curves, masks and what the prototypes stand for."
