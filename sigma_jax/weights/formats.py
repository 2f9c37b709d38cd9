"""All formats of weights: detecting the format of a path, reading and writing."""

import dataclasses
import json
import zipfile
from pathlib import Path

from etils import epath

from sigma_jax.checkpoints.manager import CheckpointError, find_checkpoint
from sigma_jax.runtime.errors import InvalidValue, NotThere
from sigma_jax.weights import huggingface, orbax_weights, published
from sigma_jax.weights.facts import agreed, check_names_of_head, with_facts_of_arrays
from sigma_jax.weights.pth import read_pth, write_pth
from sigma_jax.weights.weights_file import UnreadableWeights, Weights, read_npz, write_npz

FORMATS = ("npz", "orbax", "pth", "hf")
WHICH = ("model", "ema")


def detect_format(path: str | Path) -> str:
    """'npz' (ours), 'orbax' (a run folder or checkpoint), 'pth' (PyTorch) or 'hf' (Hugging Face folder or file).

    Raises:
      NotThere: the path does not exist.
      UnreadableWeights: it holds something else; the message says what, and what was expected.
    """
    place = epath.Path(path).expanduser()
    if not place.exists():
        raise NotThere(f"no weights at {path}: expected a file or folder in one of {', '.join(FORMATS)}")
    if place.is_dir():
        return _folder_format(place)
    with place.open("rb") as file:
        start = file.read(512)
    if start[:2] == b"PK":
        if not zipfile.is_zipfile(place):
            raise UnreadableWeights(f"{path} is truncated: it begins as a zip and has no end; copy it again")
        try:
            with zipfile.ZipFile(place) as archive:
                names = archive.namelist()
        except (zipfile.BadZipFile, NotImplementedError, ValueError) as error:
            raise UnreadableWeights(f"{path} is a damaged zip ({error}): copy it again") from error
        return "npz" if all(name.endswith(".npy") for name in names) else "pth"
    if start.lstrip()[:1] == b"<":
        text = " ".join(start[:60].decode("utf-8", "replace").split())
        raise UnreadableWeights(f"{path} is a web page ({text}...), not weights: the download needs another address")
    if start.startswith(b"version https://git-lfs"):
        raise UnreadableWeights(f"{path} is a pointer of Git LFS, not the weights: run git lfs pull, or download them")
    if start[8:9] == b"{" and b"\x00" in start[:8]:
        return "hf"
    if start[:1] == b"\x80":
        return "pth"
    what = "empty" if not start else f"unknown (it begins with {start[:8]!r})"
    raise UnreadableWeights(
        f"{path} is {what}: expected .npz, .pth, .safetensors, a run folder or a Hugging Face folder"
    )


def _folder_format(place: epath.Path) -> str:
    names = sorted(inner.name for inner in place.iterdir())
    if not names:
        raise UnreadableWeights(f"{place} is an empty folder: expected a run folder or a Hugging Face folder")
    try:
        find_checkpoint(place)
        return "orbax"
    except CheckpointError as error:  # a run folder has a config.json too
        if huggingface.CONFIG in names:
            return "hf"
        raise UnreadableWeights(
            f"{place} holds neither a checkpoint of ours ({error}) nor {huggingface.CONFIG} of Hugging Face"
        ) from error


def read_weights(
    path: str | Path,
    *,
    form: str | None = None,
    num_heads: int | None = None,
    decoder_num_heads: int | None = None,
    which: str = "model",
) -> Weights:
    """Reads weights from a path in any format.

    Args:
      path: a file or folder.
      form: one of FORMATS; None: it is detected.
      num_heads, decoder_num_heads: needed if the file does not record them and they are not width / 64.
      which: one of WHICH; 'ema' for the moving average of the weights, if the file holds it.

    Raises:
      NotThere, UnreadableWeights, WeightsMismatch, CheckpointError: each names the path.
    """
    weights = _read(path, form or detect_format(path), which, num_heads, decoder_num_heads)
    check_names_of_head(weights)
    return weights


def _read(path: str | Path, form: str, which: str, num_heads: int | None, decoder_num_heads: int | None) -> Weights:
    given = {"num_heads": num_heads, "decoder_num_heads": decoder_num_heads}
    if which not in WHICH:
        raise InvalidValue(f"weights {which!r} are unknown: choose one of {', '.join(WHICH)}")
    if which != "model" and form == "npz":
        raise UnreadableWeights(f"{path} holds one set of weights: nothing is averaged in it")
    if form == "npz":
        weights = read_npz(path)
        agreed(weights.sizes, given, weights.source)
        return dataclasses.replace(weights, sizes=with_facts_of_arrays(weights.params, weights.sizes))
    if form == "orbax":
        return orbax_weights.read_run(path, given, which)
    if form == "hf":
        return huggingface.read_folder(path, given, which)
    if form == "pth":
        return _read_pth(Path(path), given, which)
    raise InvalidValue(f"format {form!r} is unknown: choose one of {', '.join(FORMATS)}")


def _read_pth(path: Path, given: dict[str, int | None], which: str) -> Weights:
    """Reads a .pth with the authors' parameter names, or with Hugging Face's."""
    arrays, notes, recorded = published.state_dict_of(read_pth(path.expanduser()), str(path), which)
    if huggingface.has_names(arrays):
        return huggingface.read_folder(path, given, which)
    return published.weights_of(arrays, str(path), given, recorded, notes)


def write_weights(path: str | Path, weights: Weights, form: str) -> list[str]:
    """Writes weights in a format; returns notes on what the format cannot hold.

    Args:
      path: file or folder to write.
      weights: the weights.
      form: 'npz', a file; 'orbax', a run folder that `--init` and evaluation read; 'pth', a file with the authors'
        names; 'hf', a folder for `from_pretrained`.
    """
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    if form == "npz":
        write_npz(path, weights)
    elif form == "orbax":
        orbax_weights.write_run(path, weights)
    elif form == "pth":
        write_pth(path, published.published_arrays(weights), texts=published.recorded_facts(weights))
    elif form == "hf":
        return huggingface.write_folder(path, weights)
    else:
        raise InvalidValue(f"format {form!r} is unknown: choose one of {', '.join(FORMATS)}")
    return []


def describe(weights: Weights) -> str:
    """Kind and facts of weights in one line."""
    names = weights.sizes.get("class_names") or ()
    shown = {"class_names": f"{', '.join(names[:4])}{', ...' if len(names) > 4 else ''}"} if names else {}
    assumed = f", assumed: {', '.join(weights.assumed)}" if weights.assumed else ""
    return f"{weights.kind} {json.dumps(weights.sizes | shown)}{assumed}"
