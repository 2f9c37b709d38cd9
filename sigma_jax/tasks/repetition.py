"""Repetition counting (UCF-RC of SEVERE): the number of cycles of a motion in a clip.

The network's input is a window of two cycles; it predicts the lengths of the cycles left and right of its middle. After
Zhang et al. 2020; the video transformer is our adaptation (models/repetition.py).

Letters: b new clips a step, G groups of them in the ring, B = G * b windows, T frames of a clip, F frames of a window.
"""

import dataclasses
from functools import partial
from typing import Self

import jax
import jax.numpy as jnp
from einops import rearrange
from jax.sharding import Mesh
from ml_collections import ConfigDict

from sigma_jax.data.cycle_clips import CyclesSpec, longest_clip
from sigma_jax.data.cycles import MAX_FRAMES
from sigma_jax.data.loader import Loader, LoaderSpec, OnePass, Workers, open_loader
from sigma_jax.data.metadata import read_problems
from sigma_jax.data.source import open_source
from sigma_jax.evals.protocol import Evaluator
from sigma_jax.evals.severe.counting_test import CountingTest, look_fn
from sigma_jax.models.compute import Compute
from sigma_jax.models.repetition import NUM_OUTPUTS, split_heads, window_pixels
from sigma_jax.objective.repetition import (
    Ring,
    advance,
    empty_ring,
    next_windows,
    repetition_loss,
    replace_group,
    window_targets,
)
from sigma_jax.ops.attention import LEAN_KEYS
from sigma_jax.ops.repetition_windows import window_frames
from sigma_jax.runtime.errors import InvalidValue
from sigma_jax.runtime.random import Moment, stream
from sigma_jax.runtime.trees import Params
from sigma_jax.tasks.base import Batch, Loss, Place, TaskCost, reading_of
from sigma_jax.tasks.video import EvalSettings, VideoData, VideoTask, eval_settings


@dataclasses.dataclass(frozen=True, kw_only=True)
class CyclesData(VideoData):
    """Clips of one data set whose cycles are annotated."""

    clips: CyclesSpec


@dataclasses.dataclass(frozen=True, kw_only=True)
class RepetitionTask(VideoTask):
    """Classification of anchors and regression of lengths for the two halves of windows that move through clips.

    Attributes:
      lifetime: G, steps in which a clip is used; a step has `lifetime` times the batch's clips, one window of each.
      data: the clips.
      title, head_init_scale, num_outputs: see VideoTask.
    """

    title: str = "repetition"
    lifetime: int = 8
    head_init_scale: float = 1.0
    data: CyclesData

    num_outputs = NUM_OUTPUTS

    @classmethod
    def from_config(cls, config: ConfigDict, mesh: Mesh, compute: Compute) -> Self:
        model, objective, data = config.model, config.objective, config.data
        if model.num_frames % 2 or objective.lifetime < 1:
            raise InvalidValue(
                f"model.num_frames={model.num_frames}, objective.lifetime={objective.lifetime}: expected an even number"
                " (half of the frames for each side of a window), and at least one step"
            )
        clips = CyclesSpec(MAX_FRAMES, model.image_size, objective.lifetime, data.flip, config.seed)
        return cls(
            **cls.fields_of(config, mesh, compute),
            lifetime=objective.lifetime,
            data=CyclesData(clips=clips, name=data.name, split=data.split, reading=reading_of(data)),
            tests=eval_settings(config, EvalSettings),
        )

    # Learning.

    def init_memory(self, clips: int) -> Params:
        spec = self.data.clips
        ring = empty_ring(self.lifetime, clips, spec.max_frames, spec.image_size, self.lifetime)
        return {"ring": ring, "turn": jnp.zeros((), jnp.int32)}

    def loss(self, params: Params, frozen: Params, batch: Batch, seed: int, step: Moment) -> Loss:
        """Puts new clips into the ring, trains on one window of every clip, and moves the windows; see Task.loss.

        Args:
          batch: 'video' [b T H W 3] uint8, 'label' int [b ...] (data/cycle_clips.py), 'memory' (the ring, and the
            number of groups that were put into it).
        """
        memory = batch.get("memory") or self.init_memory(len(batch["video"]))
        labels = self.data.clips.unpack(batch["label"])
        fresh = {"video": batch["video"]} | {name: getattr(labels, name) for name in ("offsets", "windows", "length")}
        ring = replace_group(memory["ring"], fresh, memory["turn"])

        pixels = self.pixels(ring)
        outputs = self.training_outputs(params, pixels, seed, step)
        heads = split_heads(rearrange(outputs, "(b G) n -> (G b) n", G=self.lifetime))

        state, offsets = (rearrange(ring[name], "G b ... -> (G b) ...") for name in ("state", "offsets"))
        loss, metrics = repetition_loss(heads, *window_targets(state, offsets[:, 0], offsets[:, 1]))

        length = rearrange(ring["length"], "G b -> (G b)")
        moved, is_over = next_windows(state, jax.lax.stop_gradient(heads), length, stream(seed, "windows", step))
        ring = advance(ring, moved.reshape(ring["state"].shape), is_over.reshape(ring["length"].shape))
        return loss, metrics | {"memory": {"ring": ring, "turn": memory["turn"] + 1}}

    def pixels(self, ring: Ring) -> jax.Array:
        """The network's input from the ring, [b*G F H W 3], in the order in which the devices hold the clips."""
        groups, clips = ring["length"].shape
        frames = window_frames(ring["state"].reshape(-1, 3), self.grid.num_frames).reshape(groups, clips, -1)
        pixels = jax.vmap(jax.vmap(window_pixels))(ring["video"], frames, ring["length"])
        return rearrange(pixels, "G b F H W c -> (b G) F H W c")

    # Costs: every clip of a batch counts for `lifetime` windows.

    @property
    def cost(self) -> TaskCost:
        one = super().cost
        return one._replace(activation_bytes=self.lifetime * one.activation_bytes)

    def flops(self) -> dict[str, float]:
        return {part: self.lifetime * count for part, count in super().flops().items()}

    def traffic(self, clips: int, num_params: int) -> dict[str, float]:
        parts = super().traffic(clips * self.lifetime, num_params)
        return {part: self.lifetime * count for part, count in parts.items()}

    # Data and what is measured.

    def evaluators(self, place: Place) -> tuple[Evaluator, ...]:
        """Counting on validation clips unless never, by which the best weights are chosen, and on the test clips."""
        tests = self.tests
        look = look_fn(self.outputs, self.mesh, self._windows_at_once())
        problems = read_problems(place.data_dir, {self.data.split, tests.test_split})
        half = self.grid.num_frames // 2
        seen = f"windows of {half} + {half} frames, whole clips at {self.data.clips.image_size} pixels"
        files = self.result_files(place, {"num_views": 1, "num_crops": 1, "frames": seen}, problems=problems)
        found = []
        for name, split, every, kept in (
            ("val", tests.val_split, tests.val_every, None),
            ("test", tests.test_split, None, files),
        ):
            if every is not None and not every.amount:
                continue
            clips = CyclesSpec(longest_clip(open_source(place.data_dir, split)), self.data.clips.image_size)
            open_clips = partial(self.open_clips, place.data_dir, split, clips)
            best_by = None if every is None else f"{name}/points"
            found.append(CountingTest(name, look, open_clips, clips, self.grid.num_frames, every, best_by, kept))
        return tuple(found)

    def _windows_at_once(self) -> int:
        """Windows in one call of the test, over all devices.

        On CPUs one for each where the attention weights of a window fill the cache: more only wait for the memory.
        """
        on_cpu = self.mesh.devices.flat[0].platform == "cpu"
        return self.mesh.size if on_cpu and self.grid.num_tubes >= LEAN_KEYS else self.tests.batch_size

    def open_clips(self, data_dir: str, split: str, clips: CyclesSpec) -> Loader:
        """Opens one pass with one clip a batch; all processes read the same clips and count them together."""
        workers = Workers(min(self.data.reading.num_workers, 2))
        order = OnePass(allow_incomplete=True)
        return open_loader(LoaderSpec(data_dir, split, clips, order, 1, workers, self.data.reading.decoding))


TASK = RepetitionTask
