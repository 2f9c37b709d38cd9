"""SIGMA (Sinkhorn-Guided Masked Video Modeling, ECCV 2024) in JAX.

Where each term of the paper lives:

  space-time tube                 ops/tubes.py
  tube mask                       ops/masking.py
  position table                  ops/posembed.py
  Sinkhorn, assignments           ops/sinkhorn.py
  video model: encoder, decoder   models/encoder.py, models/decoder.py; all of it: models/pretrain.py
  projection network              models/projection.py
  frozen DINO teacher             models/dino.py
  prototypes                      models/prototypes.py
  targets                         objective/targets.py
  symmetric cross-prediction      objective/sigma.py
  VideoMAE control (L2)           objective/reconstruction.py
  a training step's loss          tasks/pretrain.py, tasks/classify.py; base.py is the protocol
  video object segmentation       evals/segmentation/ (Benchmark II), drawn by report/overlays.py (figure 3)
  prototypes of one video         report/prototype_tubes.py (figures 4 and 5)
  SEVERE, eight scores            configs/severe.py; evals/severe/ (Benchmark III), drawn by report/severe.py
  repetition counting             tasks/repetition.py, objective/repetition.py, ops/repetition_windows.py
  several labels at once          tasks/multi_label.py, data/multi_label.py
  what is measured, and when      evals/, one file per evaluator; tasks list theirs, train/loop.py runs them
"""

import sys

from sigma_jax.runtime.starting import is_command, tell_interrupts

__version__ = "0.1.0"

if is_command(sys.orig_argv):
    tell_interrupts()


def load(path, *, num_heads: int | None = None, decoder_num_heads: int | None = None, weights: str = "model"):
    """A model from published or own weights, ready for features.

        model = sigma_jax.load("sigma_b.npz")         # .npz, .pth, Hugging Face folder, run folder
        clip = model.preprocess(frames)                # a video, uint8 [F y x 3], any size -> [1 16 224 224 3]
        features = model.features(clip)                # [1 768]; video [B F y x 3], uint8 0..255 or float in [0, 1]

    `model.module` and `model.params` are the Flax module and its parameters. Heads are width / 64 unless the file or
    the caller says otherwise; weights="ema" takes averaged weights where the file has them. Raises FileNotFoundError or
    ValueError that say what was found and what was expected.
    """
    from sigma_jax.weights import frozen  # here, so that importing sigma_jax costs nothing

    return frozen.load(path, num_heads=num_heads, decoder_num_heads=decoder_num_heads, weights=weights)
