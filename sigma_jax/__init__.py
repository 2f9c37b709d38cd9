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
"""

__version__ = "0.1.0"
