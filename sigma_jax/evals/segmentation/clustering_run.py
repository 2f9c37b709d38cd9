"""Clustering and overclustering of a whole set, which can be interrupted, with one batch of clips in memory."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from sigma_jax.evals.segmentation import benchmark, frames
from sigma_jax.evals.segmentation.layouts import BadSequence, DataSet, Note
from sigma_jax.evals.segmentation.layouts import Sequence as AnnotatedSequence
from sigma_jax.evals.segmentation.result_folder import ResultFolder, check_any, remarks
from sigma_jax.evals.segmentation.settings import ClusteringSettings


@dataclasses.dataclass(frozen=True)
class ClusteringRun:
    """The measurement of a set with a frozen model.

    Attributes:
      data: the set.
      model: the model.
      folder: of the results.
      protocols: any of PROTOCOLS; they share the features.
      settings: of the protocols.
      each: called after every clip with the seed and its results, one per protocol.
      tick: called with the number of steps done; a clip takes two, features and clusters.
    """

    data: DataSet
    model: benchmark.DenseModel
    folder: ResultFolder
    protocols: tuple[str, ...]
    settings: ClusteringSettings
    each: Callable[[int, list[benchmark.ScoredClip]], None] = lambda seed, scored: None
    tick: Callable[[int], None] = lambda steps: None

    @property
    def num_steps(self) -> int:
        """Steps of the whole run."""
        return 2 * len(self.data.sequences) * len(self.settings.seeds)

    def run(self) -> None:
        """Measures every clip that is not finished."""
        size = self.settings.batch_size
        for seed in self.settings.seeds:
            for low in range(0, len(self.data.sequences), size):
                self._run_batch(self.data.sequences[low : low + size], seed)

    def _run_batch(self, batch: Sequence[AnnotatedSequence], seed: int) -> None:
        """Measures the unfinished clips of a batch; all of its clips are read, as they share statistics."""
        unfinished = {sequence.name for sequence in batch if self.folder.clip(sequence.name, seed) is None}
        if not unfinished:
            self.tick(2 * len(batch))
            return
        clips, tokens = [], []
        for sequence in batch:
            clip = self._read(sequence, seed)
            if clip is not None:
                clips.append(clip)
                tokens.append(self._tokens(clip, seed))
            self.tick(1 if clip is not None else 2)
        for entries in benchmark.score_batch(clips, tokens, self.protocols, self.settings) if clips else ():
            if entries[0].clip.name in unfinished:
                self._finish(entries, seed)
            self.tick(1)
        self.folder.drop_tokens()

    def _read(self, sequence: AnnotatedSequence, seed: int) -> frames.Clip | None:
        """The clip of this seed; None if it cannot be measured, which is recorded with the reason."""
        settings = self.settings
        numbers = frames.draw_frames(sequence.name, len(sequence.frames), settings.num_frames, settings.draw, seed)
        size = (settings.image_size,) * 2
        try:
            return frames.read_clip(sequence, numbers, size, void=settings.void, categories=settings.categories)
        except BadSequence as error:
            self.folder.leave_out(sequence.name, error, seed)
            return None

    def _tokens(self, clip: frames.Clip, seed: int) -> np.ndarray:
        return self.folder.tokens(clip.name, seed, lambda: benchmark.clip_tokens(self.model, clip.video, self.settings))

    def _finish(self, entries: list[benchmark.ScoredClip], seed: int) -> None:
        clip = entries[0].clip
        content = {
            "frames": [int(number) for number in clip.frame_numbers],
            "notes": [[note.kind, note.sentence] for note in clip.notes],
            "scores": {entry.protocol: entry.numbers for entry in entries},
        }
        self.folder.finish(clip.name, content, seed)
        self.each(seed, entries)


def clustering_result(
    data: DataSet, folder: ResultFolder, protocols: Sequence[str], settings: ClusteringSettings
) -> dict[str, Any]:
    """The content of result.json: means over clips per seed in per cent, their mean and spread; clips; left-out ones.

    Raises:
      InvalidValue: no clip could be measured; the message says why the first one could not.
    """
    clips: dict[str, dict] = {}
    left_out, notes = list(data.left_out), []
    for sequence in data.sequences:
        for seed in settings.seeds:
            known = folder.clip(sequence.name, seed)
            if "left_out" in known:
                left_out.append(Note(sequence.name, known["left_out"], known["reason"]))
            else:
                clips.setdefault(sequence.name, {})[str(seed)] = known
                notes += [Note(sequence.name, kind, sentence) for kind, sentence in known["notes"]]
    left_out, notes = list(dict.fromkeys(left_out)), list(dict.fromkeys(notes))  # the same with every seed
    check_any(clips, left_out)
    scores = {}
    for protocol in protocols:
        per_seed = []
        for seed in map(str, settings.seeds):
            measured = [by_seed[seed]["scores"][protocol] for by_seed in clips.values() if seed in by_seed]
            if not measured:
                continue
            foreground = 100 * float(np.mean([numbers["miou_without_background"] for numbers in measured]))
            means = benchmark.averages([numbers["miou"] for numbers in measured], settings)
            per_seed.append(means | {"without_background": foreground})
        scores[protocol] = {name: float(np.mean([entry[name] for entry in per_seed])) for name in per_seed[0]}
        scores[protocol] |= {"spread": float(np.std([entry["score"] for entry in per_seed])), "per_seed": per_seed}
    return {"scores": scores, "num_clips": len(clips)} | remarks(left_out, notes) | {"clips": clips}
