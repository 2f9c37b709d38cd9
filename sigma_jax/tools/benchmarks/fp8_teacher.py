"""Mode `fp8_teacher`: what a teacher with products of 8-bit numbers changes in the targets, on any machine.

Letters: B clips, N tubes, E teacher width, K prototypes.

The three teachers see the same frames: fp32, the reference; bf16, the default on accelerators; bf16 with 8-bit products
(compute.teacher_dtype=float8_e4m3fn), whose numbers are the same wherever they are computed. Prototypes are targets of
the reference, drawn at random, so that scores spread as those of trained prototypes do.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from einops import rearrange

from sigma_jax.models.dino import DinoVit, tube_features
from sigma_jax.models.prototypes import unit_rows
from sigma_jax.models.sizes import TEACHER_SIZES, TeacherSize, lookup
from sigma_jax.objective.targets import feature_targets
from sigma_jax.ops.scores import Sweeps, keep_scores
from sigma_jax.ops.sinkhorn import hard_assignments, prototype_scalings
from sigma_jax.runtime.errors import InvalidValue
from sigma_jax.runtime.trees import Params
from sigma_jax.tools.benchmarks import timing
from sigma_jax.tools.benchmarks.objective import OPTIONS  # with the flags of Sinkhorn
from sigma_jax.weights.formats import read_weights
from sigma_jax.weights.frozen import teacher_size

flags.DEFINE_string("teacher", None, "The teacher's weights; default: random ones.", flag_values=OPTIONS)
flags.DEFINE_string("teacher_size", "dino_b16", "Size of a random teacher.", flag_values=OPTIONS)
flags.DEFINE_integer("teacher_clips", 4, "Clips of 8 frames.", lower_bound=1, flag_values=OPTIONS)

FRAMES, GRID = 8, 14  # frames that a teacher sees of a clip, tubes along each side


def measure(overrides: dict[str, str]) -> dict[str, Any]:
    """Cosine of the targets and share of equal hard assignments, both against fp32; `overrides` is empty."""
    if overrides:
        raise InvalidValue(f"fp8_teacher takes no --config values, got {overrides}")
    size, params = _teacher()
    images = smooth_images(jax.random.key(1), OPTIONS.teacher_clips * FRAMES, GRID * size.patch_size)
    forms = {
        "float32": DinoVit(size, backend="lean"),
        "bfloat16": DinoVit(size, dtype=jnp.bfloat16, backend="lean"),
        "float8": DinoVit(size, dtype=jnp.bfloat16, backend="lean", fp8=True),
    }
    found = {
        name: np.asarray(jax.jit(targets_of, static_argnums=0)(form, params, images)) for name, form in forms.items()
    }
    wanted = found.pop("float32")
    rows = jax.random.permutation(jax.random.key(2), len(wanted))[: min(OPTIONS.prototypes, len(wanted) // 4)]
    assign = jax.jit(_assign)
    expected = np.asarray(assign(wanted, wanted[rows]))
    row: dict[str, Any] = {
        "mode": "fp8_teacher",
        "shape": [len(wanted), len(rows)],
        "teacher": OPTIONS.teacher or "random",
    }
    for name, features in found.items():
        row[f"cosine_{name}"] = float(np.mean(np.sum(features * wanted, axis=1)))
        row[f"equal_{name}"] = float(np.mean(np.asarray(assign(features, wanted[rows])) == expected))
    return row | {"median_s": timing.process_age(), **timing.machine()}


def _teacher() -> tuple[TeacherSize, Params]:
    if OPTIONS.teacher:
        weights = read_weights(OPTIONS.teacher)
        if weights.kind != "teacher":
            raise InvalidValue(f"--teacher={OPTIONS.teacher} is a {weights.kind}: give an image teacher")
        return teacher_size(weights.sizes), weights.params
    size = lookup(TEACHER_SIZES, OPTIONS.teacher_size, "teacher")
    image = jnp.zeros((1, GRID * size.patch_size, GRID * size.patch_size, 3), jnp.uint8)
    return size, jax.jit(DinoVit(size).init)(jax.random.key(0), image)["params"]


def smooth_images(key: jax.Array, count: int, side: int) -> jax.Array:
    """[count side side 3] uint8: noise of several scales, the coarsest the strongest, as in photographs."""
    total = jnp.zeros((count, side, side, 3))
    for index, cells in enumerate((4, 14, 56, side)):
        noise = jax.random.normal(jax.random.fold_in(key, index), (count, cells, cells, 3))
        total += jax.image.resize(noise, total.shape, "linear") / 2**index
    return jnp.clip(128 + 50 * total, 0, 255).astype(jnp.uint8)


def targets_of(teacher: DinoVit, params: Params, images: jax.Array) -> jax.Array:
    """Normalised targets of all tubes as unit rows, [B*N E]; the parameters are kept in the teacher's dtype."""
    params = jax.tree.map(lambda x: x.astype(teacher.dtype), params)
    maps = tube_features(teacher.apply({"params": params}, images), teacher.size, (GRID, GRID))
    features = rearrange(maps, "(B t) n E -> B (t n) E", t=FRAMES)
    everything = jnp.broadcast_to(jnp.arange(features.shape[1]), features.shape[:2])
    return unit_rows(feature_targets(features, everything).reshape(-1, features.shape[-1]))


def _assign(features: jax.Array, prototypes: jax.Array) -> jax.Array:
    scores = keep_scores(features, prototypes, Sweeps())
    scalings, _ = prototype_scalings(scores, epsilon=OPTIONS.epsilon, num_iters=OPTIONS.iterations)
    return hard_assignments(scores, scalings, OPTIONS.epsilon)
