"""Repetition counting (UCF-RC of SEVERE): how many cycles of a motion a clip shows.

The network looks at windows of two cycles and says how long the cycles left and right of their middle are. After Zhang
et al. 2020; the video transformer in it is our adaptation (models/repetition.py).

Letters: b new clips a step, G groups of them that are remembered, B = G * b windows, T frames of a clip, F frames of a
window.
"""

import dataclasses
from functools import partial
from typing import Any, Self

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
from sigma_jax.evals.multi_view import ResultFiles
from sigma_jax.evals.protocol import Evaluator
from sigma_jax.evals.severe.counting_test import CountingTest, look_fn
from sigma_jax.models.pretrain import Compute
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
from sigma_jax.ops.repetition_windows import window_frames
from sigma_jax.runtime.durations import Duration, read_duration
from sigma_jax.runtime.errors import InvalidValue
from sigma_jax.runtime.random import Moment, stream
from sigma_jax.runtime.trees import Params
from sigma_jax.tasks.base import Batch, Loss, Place, Reading, Task, TaskCost, reading_of
from sigma_jax.tasks.classify import ClassificationTask, model_fields


@dataclasses.dataclass(frozen=True)
class CyclesData:
    """Annotated clips of one data set; `clips` says what is cut out of a video in training."""

    clips: CyclesSpec
    name: str = "ucf_rc"
    split: str = "train"
    reading: Reading = Reading()


@dataclasses.dataclass(frozen=True)
class CountingSettings:
    """What is measured while the model trains and after it. decisions: where the protocol is this project's."""

    every: Duration
    batch_size: int  # windows, global
    val_split: str = "val"
    test_split: str = "val"
    decisions: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class RepetitionTask(ClassificationTask):
    """Anchors and corrections of the two halves of a window, on clips that are seen through moving windows.

    lifetime: G, steps that a clip is seen for; a step sees lifetime times the batch's clips, one window of each. data,
    tests: None where only the loss is of interest, which then needs `clips`.
    """

    clips: CyclesSpec
    num_classes: int = NUM_OUTPUTS
    title: str = "repetition"
    lifetime: int = 8
    head_init_scale: float = 1.0
    data: CyclesData | None = None
    tests: CountingSettings | None = None

    @classmethod
    def resolve(cls, config: ConfigDict, data_dir: str) -> ConfigDict:
        return config

    @classmethod
    def from_config(cls, config: ConfigDict, mesh: Mesh, compute: Compute) -> Self:
        model, objective, data = config.model, config.objective, config.data
        if model.num_frames % 2 or objective.lifetime < 1:
            raise InvalidValue(
                f"model.num_frames={model.num_frames}, objective.lifetime={objective.lifetime}: expected an even number"
                " (half of the frames for each side of a window), and at least one step"
            )
        clips = CyclesSpec(MAX_FRAMES, model.image_size, objective.lifetime, data.flip, config.seed)
        splits = {"val_split": data.val_split, "test_split": data.test_split}
        return cls(
            **model_fields(config, mesh, compute),
            clips=clips,
            lifetime=objective.lifetime,
            data=CyclesData(clips, data.name, data.split, reading_of(data)),
            tests=CountingSettings(
                read_duration(config.evals, "val_every"),
                config.evals.batch_size,
                decisions=tuple(config.decisions),
                **splits,
            ),
        )

    @property
    def summary(self) -> str:
        return f"repetition counting on {self.data.name}" if self.data else "repetition counting"

    # Learning.

    def abstract_batch(self, clips: int) -> dict[str, jax.ShapeDtypeStruct]:
        return {
            "video": jax.ShapeDtypeStruct((clips, *self.clips.shape), jnp.uint8),
            "label": jax.ShapeDtypeStruct((clips, *self.clips.label_shape), jnp.int32),
        }

    def init_memory(self, clips: int) -> Params:
        ring = empty_ring(self.lifetime, clips, self.clips.max_frames, self.clips.image_size, self.lifetime)
        return {"ring": ring, "turn": jnp.zeros((), jnp.int32)}

    def loss(self, params: Params, frozen: Params, batch: Batch, seed: int, step: Moment) -> Loss:
        """Takes in new clips, looks through one window of every clip, and moves the windows on.

        Args:
          batch: 'video' [b T H W 3] uint8, 'label' int [b ...] (data/cycle_clips.py), 'memory' (the ring, and how
            often it took in clips).
        """
        memory = batch.get("memory") or self.init_memory(len(batch["video"]))
        labels = self.clips.unpack(batch["label"])
        fresh = {"video": batch["video"]} | {name: getattr(labels, name) for name in ("offsets", "windows", "length")}
        ring = replace_group(memory["ring"], fresh, memory["turn"])

        pixels = self.pixels(ring)
        rngs = {name: stream(seed, name, step) for name in ("drop_path", "dropout")}
        outputs = self.model.apply({"params": params}, pixels, train=True, rngs=rngs)
        heads = split_heads(rearrange(outputs, "(b G) n -> (G b) n", G=self.lifetime))

        state, offsets = (rearrange(ring[name], "G b ... -> (G b) ...") for name in ("state", "offsets"))
        loss, metrics = repetition_loss(heads, *window_targets(state, offsets[:, 0], offsets[:, 1]))

        length = rearrange(ring["length"], "G b -> (G b)")
        moved, is_over = next_windows(state, jax.lax.stop_gradient(heads), length, stream(seed, "windows", step))
        ring = advance(ring, moved.reshape(ring["state"].shape), is_over.reshape(ring["length"].shape))
        return loss, metrics | {"memory": {"ring": ring, "turn": memory["turn"] + 1}}

    def pixels(self, ring: Ring) -> jax.Array:
        """What the network sees of the ring, [b*G F H W 3]: clips of one group are apart, as devices hold them."""
        groups, clips = ring["length"].shape
        frames = window_frames(ring["state"].reshape(-1, 3), self.grid.num_frames).reshape(groups, clips, -1)
        pixels = jax.vmap(jax.vmap(window_pixels))(ring["video"], frames, ring["length"])
        return rearrange(pixels, "G b F H W c -> (b G) F H W c")

    # What it costs: every clip of a batch stands for `lifetime` windows.

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

    @property
    def clips_per_video(self) -> int:
        return 1

    def open_data(self, place: Place, batch_size: int, seed: int) -> Loader:
        return self.data.reading.open_training(place, self.data.split, self.data.clips, batch_size, seed)

    def facts(self, data_dir: str) -> dict[str, Any]:
        return Task.facts(self, data_dir) | {"pooling": self.pooling}

    def evaluators(self, place: Place) -> tuple[Evaluator, ...]:
        """Counting of the validation clips, which decides what the best weights are, and of the test clips."""
        tests = self.tests
        look = look_fn(self.logits, self.mesh, tests.batch_size)
        problems = read_problems(place.data_dir, {self.data.split, tests.test_split})
        source = place.source or str(place.workdir)
        files = ResultFiles(place.workdir / "eval", self._facts(), (), source, tuple(problems), place.origin)
        found = []
        for name, split, every, kept in (
            ("val", tests.val_split, tests.every, None),
            ("test", tests.test_split, None, files),
        ):
            clips = CyclesSpec(longest_clip(open_source(place.data_dir, split)), self.clips.image_size)
            open_clips = partial(self.open_clips, place.data_dir, split, clips)
            best_by = None if every is None else f"{name}/points"
            found.append(CountingTest(name, look, open_clips, clips, self.grid.num_frames, every, best_by, kept))
        return tuple(found)

    def open_clips(self, data_dir: str, split: str, clips: CyclesSpec) -> Loader:
        """One pass, one clip a batch, all of it on every process: they count together."""
        workers = Workers(min(self.data.reading.num_workers, 2))
        order = OnePass(allow_incomplete=True)
        return open_loader(LoaderSpec(data_dir, split, clips, order, 1, workers, self.data.reading.decoding))

    def _facts(self) -> dict[str, Any]:
        each = self.grid.num_frames // 2
        return {
            "data_set": self.data.name,
            "split": self.tests.test_split,
            "num_views": 1,
            "num_crops": 1,
            "model_size": self.size_name,
            "frames": f"windows of {each} + {each} frames, whole clips at {self.clips.image_size} pixels",
            "decisions": list(self.tests.decisions),
        }


TASK = RepetitionTask
