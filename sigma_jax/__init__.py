"""SIGMA (Sinkhorn-Guided Masked Video Modeling, ECCV 2024) in JAX.

Where each term of the paper lives:

  space-time tube                 ops/tubes.py
  tube mask                       ops/masking.py
  positional embedding            ops/posembed.py
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
  several labels per video        tasks/multi_label.py, data/multi_label.py

Where the rest lives:

  data of a task                  `open_data` of the task in tasks/; it returns a data/loader.py Loader
  what is measured, and when      `evaluators` of the task; each has a schedule `every`; train/loop.py runs them
  a new evaluation                one file in evals/ (evals/protocol.py), listed by a task: CONTRIBUTING.md
  loading weights                 `load` below; formats in weights/formats.py
"""

import sys

from sigma_jax.runtime.starting import is_command, tell_interrupts

__version__ = "0.1.0"

if is_command(sys.orig_argv):
    tell_interrupts()


def load(path, *, num_heads: int | None = None, decoder_num_heads: int | None = None, weights: str = "model"):
    """Loads a model from published weights or from those of a run, ready to compute features.

        model = sigma_jax.load("sigma_b.npz")         # .npz, .pth, Hugging Face folder, run folder
        clip = model.preprocess(frames)                # a video, uint8 [F y x 3], any size -> [1 16 224 224 3]
        features = model.features(clip)                # [1 768]; video [B F y x 3], uint8 0..255 or float in [0, 1]

    `model.module` and `model.params` are the Flax module and its parameters.

    Args:
      path: file or folder of weights in any format of launch/WEIGHTS.md.
      num_heads, decoder_num_heads: attention heads, where the file does not record them and they are not width / 64.
      weights: "model", or "ema" for averaged weights, where the file has them.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: the weights do not fit a model; the message says what was found and what was expected.
    """
    from sigma_jax.weights import frozen  # here, so that importing sigma_jax costs nothing

    return frozen.load(path, num_heads=num_heads, decoder_num_heads=decoder_num_heads, weights=weights)
