"""Counting and multi-label classification learn in seconds what clips show, and nothing from shuffled annotations."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax

from sigma_jax.data.cycle_clips import CyclesSpec
from sigma_jax.data.cycles import Interval, draw_window, phase_offsets
from sigma_jax.evals.severe.counting import count_cycles
from sigma_jax.evals.severe.counting_scores import count_scores
from sigma_jax.evals.severe.counting_test import look_fn
from sigma_jax.evals.severe.multi_label_scores import mean_average_precision
from sigma_jax.models.sizes import VideoSize
from sigma_jax.ops.ignored import IGNORED
from sigma_jax.ops.tubes import TubeGrid
from sigma_jax.runtime.config import load_config
from sigma_jax.train.setup import build_task

SMALL = VideoSize(width=32, depth=2, num_heads=2, decoder_width=8, decoder_depth=1, decoder_num_heads=2)
ROOM = CyclesSpec(max_frames=84, image_size=16, num_windows=2)
COUNTS, PERIODS, STEPS = (2, 9), (4, 11), 150


def flickering(rng, clips, shuffled=False):
    """Clips that grow bright and dark with every cycle, and their labels; shuffled: those of other clips."""
    counts, periods = rng.integers(*COUNTS, clips), rng.integers(*PERIODS, clips)
    shown = np.roll(periods, 1) if shuffled else periods
    video, labels = np.zeros((clips, *ROOM.shape), np.uint8), []
    for row, (count, period) in enumerate(zip(counts, periods, strict=True)):
        bounds = np.arange(count + 1) * period
        length = bounds[-1] + 1
        light = 128 + 100 * np.cos(2 * np.pi * np.arange(length) / shown[row]) + rng.normal(0, 5, length)
        video[row, :length] = light[:, None, None, None]
        offsets = np.full((2, ROOM.max_frames), IGNORED)
        offsets[:, :length] = phase_offsets(bounds)
        windows = [draw_window(Interval(0, length - 1, count), period, rng) for _ in range(ROOM.num_windows)]
        labels.append(np.concatenate([offsets.ravel(), np.ravel(windows), [length, count]]))
    return {"video": video, "label": np.stack(labels).astype(np.int32)}


def coloured(rng, clips, shuffled=False):
    """Clips whose upper and lower halves have one of three colours each, and the two labels of each clip."""
    levels = rng.integers(0, 3, (clips, 2))
    shown = np.eye(3)[np.roll(levels, 1, axis=0) if shuffled else levels]
    light = 40 + 160 * np.repeat(shown, 8, axis=1)[:, None, :, None] + rng.normal(0, 10, (clips, 8, 16, 16, 3))
    labels = np.concatenate([levels[:, :1] == range(3), levels[:, 1:] == range(3)], axis=1)
    return {"video": light.clip(0, 255).astype(np.uint8), "label": labels.astype(np.int32)}


def trainer(task, rate):
    """A function of batches that returns parameters after one update per batch, from random ones."""
    optimizer = optax.adam(rate)

    @jax.jit
    def update(params, state, memory, step, batch):
        rows = batch | ({"memory": memory} if memory else {})
        (_, metrics), grads = jax.value_and_grad(task.loss, has_aux=True)(params, {}, rows, 0, step)
        updates, state = optimizer.update(grads, state)
        return optax.apply_updates(params, updates), state, metrics.get("memory", memory)

    def train(batches):
        params = jax.jit(task.init)(jax.random.key(0))
        state, memory = jax.jit(optimizer.init)(params), task.init_memory(len(batches[0]["video"]))
        for step, batch in enumerate(batches):
            params, state, memory = update(params, state, memory, jnp.int32(step), batch)
        return params

    return train


def small_task(score, num_frames):
    """The toy's task at a size of seconds, on one device."""
    config = load_config(f"configs/severe.py:score={score},size=tiny")
    if score == "charades":
        config.data.num_classes = 6
    task = build_task(config, jax.devices()[:1])
    return dataclasses.replace(task, size=SMALL, grid=TubeGrid(num_frames, 16, (2, 8, 16)))


def test_counting_learns_from_the_cycles_of_its_clips_and_not_from_those_of_others():
    task = small_task("ucf_rc", 16)
    data = dataclasses.replace(task.data, clips=ROOM)
    task = dataclasses.replace(task, lifetime=ROOM.num_windows, data=data)
    train, look = trainer(task, 3e-3), look_fn(task.outputs, task.mesh, 8)
    tests = flickering(np.random.default_rng(1), 16)
    labels, errors = ROOM.unpack(tests["label"]), {}
    for shuffled in (False, True):
        rng = np.random.default_rng(0)
        params = train([flickering(rng, 16, shuffled) for _ in range(STEPS)])
        networks = [look(params, tests["video"][row], int(length)) for row, length in enumerate(labels.length)]
        pairs = zip(networks, labels.length.tolist(), strict=True)
        found = np.array([count_cycles(network, length, 16).count for network, length in pairs])
        errors[shuffled] = count_scores(found, labels.count)["relative_error"]
    assert errors[False] < 0.15 and errors[False] < 0.7 * errors[True], errors


def test_two_labels_are_learned_from_what_clips_show_and_not_from_the_labels_of_others():
    task = small_task("charades", 8)
    train, logits, tests = trainer(task, 3e-3), jax.jit(task.outputs), coloured(np.random.default_rng(1), 128)
    found = {}
    for shuffled in (False, True):
        rng = np.random.default_rng(0)
        params = train([coloured(rng, 16, shuffled) for _ in range(STEPS)])
        found[shuffled], _ = mean_average_precision(np.asarray(logits(params, tests["video"])), tests["label"])
    assert found[False] > 70 and found[True] < 50, found
