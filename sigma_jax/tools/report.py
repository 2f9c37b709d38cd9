"""Draws the report of a run again, with probe results and, if given, with videos of your own.

    python -m sigma_jax.tools.report --workdir=runs/demo --data_dir=DATA/shapes [--videos=FOLDER] [--video=FILE]

Reads the newest checkpoint; writes workdir/pictures and workdir/report.html. With --videos the page also shows the
first videos of a folder as the published recipe sees them: 16 frames of 224x224, 90 % of the tubes hidden. With --video
it shows what the model makes of one video, as tools.pictures does: its prototypes, or reconstructions.
"""

import argparse
from pathlib import Path

import jax
import numpy as np

from sigma_jax.checkpoints.manager import CheckpointError
from sigma_jax.data.augment import center_crop_resize
from sigma_jax.data.decode import BadVideo, decode_frames, probe
from sigma_jax.data.sampling import center_indices
from sigma_jax.ops.masking import mask_of, sample_mask
from sigma_jax.ops.tubes import TubeGrid
from sigma_jax.report.clips import write_animation, write_clips
from sigma_jax.report.page import Picture
from sigma_jax.report.run import write_report
from sigma_jax.runtime.command import Command, command_parser, leave
from sigma_jax.runtime.compilation import use_compilation_cache
from sigma_jax.runtime.config import load_json
from sigma_jax.runtime.errors import InvalidValue
from sigma_jax.runtime.logs import start_logging, telling
from sigma_jax.tools.pictures import CAPTIONS, draw, picture_of, read_clip
from sigma_jax.train.initial_weights import StartFrom
from sigma_jax.train.loop import open_checkpoints
from sigma_jax.train.setup import build
from sigma_jax.weights.frozen import load

PUBLISHED = TubeGrid()
NUM_VIDEOS, STRIDE = 4, 2
CAPTION = "Real videos as the published recipe sees them: 16 frames of 224x224, 90 % of the tubes hidden."


def video_pictures(folder: Path, videos: Path) -> list[Picture]:
    """Masked frames of the first readable videos below `videos`, as a picture and an animation.

    Raises:
      ValueError: not one file of the folder can be read as a video.
    """
    clips = []
    for path in sorted(p for p in videos.rglob("*") if p.is_file()):
        if len(clips) == NUM_VIDEOS:
            break
        try:
            data = path.read_bytes()
            count = probe(data).num_frames
            frames = decode_frames(data, center_indices(count, PUBLISHED.num_frames, STRIDE), count)
        except BadVideo:
            continue
        clips.append(center_crop_resize(frames, PUBLISHED.image_shape[0]))
    if not clips:
        raise InvalidValue(f"no readable video below {videos}: pass a folder that holds some")
    video = np.stack(clips)
    _, masked_idx = sample_mask(jax.random.key(0), len(video), PUBLISHED)
    mask = np.asarray(mask_of(masked_idx, PUBLISHED.num_tubes))
    folder.mkdir(parents=True, exist_ok=True)
    still = write_clips(folder / "videos.png", video, mask, PUBLISHED.tube_size)
    moving = write_animation(folder / "videos.gif", video, mask, PUBLISHED.tube_size)
    return [
        Picture(still, "Frames of real videos, and the same frames with hidden tubes grey", CAPTION),
        Picture(moving, "The same videos moving", "The same videos, moving."),
    ]


def one_video(args: argparse.Namespace) -> list[Picture]:
    """Prototypes or reconstruction of one video by the run's newest weights."""
    model = load(args.checkpoint_dir or args.workdir)
    kind = picture_of(model)
    folder = args.workdir / "pictures"
    folder.mkdir(exist_ok=True)
    teacher = load(args.teacher) if args.teacher else None
    path = draw(model, read_clip(args.video, model), folder / f"video_{kind}.png", kind, teacher=teacher)
    return [Picture(path, f"Picture of {kind} of {args.video.name}", f"{args.video.name}: {CAPTIONS[kind]}")]


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = command_parser("report", __doc__)
    parser.add_argument("--workdir", type=Path, required=True, help="folder of the run")
    parser.add_argument("--checkpoint_dir", help="checkpoints of the run, if training had this flag")
    parser.add_argument("--data_dir", required=True, help="folder of the run's record shards")
    parser.add_argument("--videos", type=Path, help="folder of videos to show with masks")
    parser.add_argument("--video", type=Path, help="video file whose prototypes or reconstruction are drawn")
    parser.add_argument("--teacher", help="weights of the frozen teacher, as in training")
    return parser.parse_args(argv)


def report(args: argparse.Namespace) -> int:
    """Restores the newest checkpoint and draws its page."""
    start_logging()
    use_compilation_cache()
    config = load_json(args.workdir / "config.json")
    start = StartFrom(teacher=args.teacher)
    run = build(config, args.workdir, args.data_dir, start=start, checkpoint_dir=args.checkpoint_dir)
    checkpoints = open_checkpoints(run, read_only=True)
    latest = checkpoints.latest_step()
    if latest is None:
        raise CheckpointError(f"no checkpoint in {run.checkpoint_dir}: train first")
    state, _, _ = checkpoints.restore(latest, run.program.abstract_state)
    more = video_pictures(args.workdir / "pictures", args.videos) if args.videos else []
    more += one_video(args) if args.video else []
    with telling("drawing pictures"):
        page = write_report(run.trained(state), run.place, more)
    print(f"report: {page}")
    return 0


main = Command("report", parse_arguments, report)

if __name__ == "__main__":
    leave(main())
