"""Beam writes the shards that local processes write, byte for byte, and keeps what is finished."""

import importlib.util
import json
import random
from pathlib import Path

import pytest

from sigma_jax.datasets import beam_writing as beam_shards
from sigma_jax.datasets import preparing
from sigma_jax.datasets import writing as shard_writing
from sigma_jax.runtime.errors import InvalidValue
from sigma_jax.tools import prepare

CLIPS = Path(__file__).parents[1] / "data" / "clips"
NO_BEAM = importlib.util.find_spec("apache_beam") is None
needs_beam = pytest.mark.skipif(NO_BEAM, reason="apache-beam is not installed: pip install -e '.[beam]'")


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Five videos in two classes, and one that is refused."""
    folder = tmp_path_factory.mktemp("videos")
    for path in CLIPS.glob("*/*"):
        (folder / path.parent.name).mkdir(exist_ok=True)
        (folder / path.parent.name / path.name).write_bytes(path.read_bytes())
    (folder / "sign" / "broken.mp4").write_bytes(b"no video")
    return folder


def _prepare(videos, out, *flags):
    stored = ["--shards=2", "--payload=jpeg", "--short_side=64"]
    return prepare.main([f"--videos={videos}", f"--out={out}", *stored, *flags])


def _stop(jobs):
    """Ends a run before it clears the notes of its finished shards."""
    raise InvalidValue("stopped")


def _content(out):
    """All files but the index, whose archive holds the time of day."""
    return {path.name: path.read_bytes() for path in out.iterdir() if path.suffix != ".npz"}


@pytest.fixture(scope="module")
def local(videos, tmp_path_factory):
    out = tmp_path_factory.mktemp("local")
    assert _prepare(videos, out, "--workers=0") == 0
    return out


def _jobs(monkeypatch, videos, out):
    """The jobs of a local run, none of them done."""
    caught = []
    monkeypatch.setattr(preparing, "write_shards", lambda jobs, **_: caught.extend(jobs) or iter(()))
    monkeypatch.setattr(preparing, "remove_notes", _stop)
    assert _prepare(videos, out) in (1, 2)
    return caught


def test_records_in_any_order_make_the_same_shards(monkeypatch, videos, local, tmp_path):
    jobs = _jobs(monkeypatch, videos, tmp_path)
    found = [beam_shards.read_one(e, 60) for job in jobs for e in beam_shards._elements(job)]
    random.Random(0).shuffle(found)
    for key in {key for key, _ in found}:
        beam_shards.write_one(key, (value for shard, value in found if shard == key))
    for job in jobs:
        assert job.path.read_bytes() == (local / job.path.name).read_bytes()
        assert shard_writing.read_note(job) is not None
    refused = [refusal.key for job in jobs for refusal in shard_writing.read_note(job).refused]
    assert refused == ["sign/broken.mp4"] and not list(tmp_path.glob("*.tfrecord.*0*"))
    key, value = found[0]
    with pytest.raises(RuntimeError, match="got 1 of 3 videos"):
        beam_shards.write_one(key, [value])


def test_a_slow_video_and_a_full_disk(monkeypatch, videos, tmp_path):
    job = _jobs(monkeypatch, videos, tmp_path)[0]
    element = next(beam_shards._elements(job))
    assert beam_shards.read_one(element, 1e-6)[1][3] == "took more than 1e-06 s"
    monkeypatch.setattr(shard_writing, "_RESERVE", 2**62)
    shard, found = beam_shards.read_one(element, 60)
    with pytest.raises(shard_writing.OutOfSpace):
        beam_shards.write_one(shard, [found])
    assert not list(tmp_path.glob("*.tfrecord*"))


@needs_beam
def test_a_pipeline_writes_the_same_shards(videos, local, tmp_path, capsys):
    assert _prepare(videos, tmp_path, "--runner=DirectRunner", "--beam_options=--direct_num_workers=1") == 0
    assert _content(tmp_path) == _content(local)
    report = json.loads((tmp_path / "prepare_report.json").read_text())["train"]
    assert [refusal["key"] for refusal in report["refused"]] == ["sign/broken.mp4"]


@needs_beam
def test_finished_shards_are_kept_and_failures_named(monkeypatch, videos, local, tmp_path, capsys):
    with monkeypatch.context() as patched:
        patched.setattr(preparing, "remove_notes", _stop)
        assert _prepare(videos, tmp_path, "--workers=0") == 2
    (tmp_path / "videos-train.index.npz").unlink()
    lost, kept = sorted(tmp_path.glob("*.tfrecord"))
    lost.unlink()
    before = kept.stat().st_mtime_ns
    assert _prepare(videos, tmp_path, "--runner=NoSuchRunner") == 2
    assert "the Beam pipeline failed" in capsys.readouterr().err
    assert _prepare(videos, tmp_path, "--runner=DirectRunner") == 0
    assert kept.stat().st_mtime_ns == before and _content(tmp_path) == _content(local)


@pytest.mark.skipif(not NO_BEAM, reason="apache-beam is installed")
def test_without_beam_the_message_says_what_to_install(videos, tmp_path, capsys):
    assert _prepare(videos, tmp_path, "--runner=DirectRunner") == 2
    assert "pip install -e '.[beam]'" in capsys.readouterr().err


def test_options_without_a_runner_are_an_error(videos, tmp_path, capsys):
    assert _prepare(videos, tmp_path, "--beam_options=--project=x") == 2
    assert "needs a --runner of Apache Beam" in capsys.readouterr().err
