"""Numbering classes: by a label map, else by sorted names; labels of a list that are numbers stay as they are."""

import re
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

from sigma_jax.data import metadata, records
from sigma_jax.data.class_names import comparable, spelling
from sigma_jax.datasets.classes import check_names, shipped_names
from sigma_jax.datasets.listing import Entry, Listing, Refusal, some
from sigma_jax.datasets.specs import SPECS
from sigma_jax.runtime.errors import InvalidValue

LABELS_ARE = ("auto", "names", "numbers")


@dataclass(frozen=True)
class LabelSource:
    """Where labels come from, and where the label map is written."""

    out: Path  # folder of the shards and of label_map.txt
    name: str  # of the data set; one of specs.SPECS brings its label map
    origin: Path  # the list or the folder
    is_list: bool
    labels: Path | None = None  # file with the class names
    labels_are: str = "auto"  # one of LABELS_ARE


@dataclass(frozen=True)
class Numbered:
    """Videos with numbered classes.

    Attributes:
      entries: videos whose class has a number.
      labels: number of each class, by its label.
      names: class names in order; [] if classes are numbers only.
      refused: the other videos.
    """

    entries: list[Entry]
    labels: dict[str, int]
    names: list[str]
    refused: list[Refusal]


def are_numbers(entries: list[Entry]) -> bool:
    """Whether the labels of a list are numbers, that is, most of them: single wrong lines do not decide."""
    labels = [entry.label for entry in entries if entry.label]
    return 2 * sum(map(_is_number, labels)) > len(labels) or not labels


def _is_number(label: str) -> bool:
    return re.fullmatch(r"-?[0-9]{1,9}", label) is not None


def number_labels(
    entries: list[Entry], known: list[str], num_classes: int = 0, numbers: bool | None = None
) -> tuple[dict[str, int], list[str]]:
    """(label text -> class index, class names in order). Labels without an index are absent.

    Args:
      known: class names of an existing label map; [] numbers the names in sorted order.
      num_classes: upper limit of labels that are numbers, 0: none.
      numbers: whether labels are class numbers (-1: no class) rather than names; None: are_numbers decides.
    """
    texts = sorted({entry.label for entry in entries} - {""})
    if are_numbers(entries) if numbers is None else numbers:
        limit = len(known) or num_classes or 10**9
        return {text: int(text) for text in texts if _is_number(text) and -1 <= int(text) < limit} | {"": -1}, known
    spelled = sorted(set(map(comparable, texts)))
    names = known or (sorted(spelled, key=int) if all(map(_is_number, texts)) else spelled)
    indices = {comparable(name): index for index, name in enumerate(names)}
    found = {text: indices[comparable(text)] for text in texts if comparable(text) in indices}
    return found | {"": -1}, names


def number_classes(source: LabelSource, listing: Listing, class_names: list[str]) -> Numbered:
    """Numbers the classes of videos by the label map in `source.out`, that of the data set, or anew.

    Args:
      source: where labels come from.
      listing: the videos.
      class_names: class names in order, if the list or a file states them; else [].

    Raises:
      InvalidValue: two label maps contradict each other, or some splits have class names and others numbers.
    """
    known = metadata.read_label_map(source.out)
    _check_label_map(source, known)
    twice = sorted(name for name, count in Counter(map(comparable, known or class_names)).items() if count > 1)
    if twice:
        raise InvalidValue(
            f"{source.labels or source.out / metadata.LABEL_MAP} names {twice[0]!r} twice: one name a class"
        )
    if known and class_names and list(map(spelling, known)) != list(map(spelling, class_names)):
        raise InvalidValue(
            f"{source.out / metadata.LABEL_MAP} has other classes than --labels={source.labels}: use another --out"
        )
    entries = [entry for entry in listing.entries if len(entry.label.splitlines()) <= 1]  # label_map.txt: one a line
    refused = [
        Refusal(e.key, f"label {e.label!r} is more than a line")
        for e in listing.entries
        if len(e.label.splitlines()) > 1
    ]
    numbers = _labels_are_numbers(source, entries, known, class_names)
    entries, known = _match_known(source, entries, known or class_names, numbers)
    num_classes = SPECS[source.name].num_classes if source.name in SPECS else 0
    labels, names = number_labels(entries, known, num_classes, numbers)
    if names and not known:
        _check_unnamed_splits(source)
    if numbers and not names:
        why = f"is not a class number: expected 0..{num_classes - 1 if num_classes else 'n'}, or -1 for no class"
    else:
        why = "is not in the label map"
    refused += [Refusal(e.key, f"label {e.label!r} {why}") for e in entries if e.label not in labels]
    good = [entry for entry in entries if entry.label in labels]
    if not numbers:  # in one spelling
        good = [replace(entry, label=names[labels[entry.label]]) if entry.label else entry for entry in good]
        labels |= {name: number for number, name in enumerate(names)}
    return Numbered(good, labels, names, refused)


def _labels_are_numbers(source: LabelSource, entries: list[Entry], known: list[str], class_names: list[str]) -> bool:
    """Whether labels are class numbers; if `class_names` are given, list_formats has already replaced them by names.

    Raises InvalidValue where they could also be the class names in `known`, if these are numbers in another order.
    """
    if class_names or source.labels_are == "names":
        return False
    if source.labels_are == "numbers":
        return True
    numbers = source.is_list and are_numbers(entries)
    if numbers and {entry.label for entry in entries} <= {"", *known} and known != [str(i) for i in range(len(known))]:
        raise InvalidValue(
            f"the classes in {source.out / metadata.LABEL_MAP} are called by numbers ({some(known)}), and so are those "
            f"of {source.origin}: say --labels_are=names, or --labels_are=numbers where they count lines of that file"
        )
    return numbers


def splits_there(out: Path) -> dict[str, dict]:
    """The reports, by split, of the splits whose shards are in a folder."""
    report = metadata.read_reports(out)
    return {split: part for split, part in report.items() if any(out.glob(f"*-{split}-*-of-*.tfrecord"))}


def _check_label_map(source: LabelSource, known: list[str]) -> None:
    """Raises InvalidValue where label_map.txt is not the one by which the splits in --out were numbered."""
    for split, stated in splits_there(source.out).items():
        wanted = stated.get("label_hash")
        if wanted and wanted != metadata.label_hash(known):
            found = f"has hash {metadata.label_hash(known)}" if known else "is gone"
            raise InvalidValue(
                f"{source.out / metadata.LABEL_MAP} {found}; the classes of split {split!r} were numbered by one with "
                f"{wanted}: put that one back or use another --out"
            )


def _check_unnamed_splits(source: LabelSource) -> None:
    """Raises InvalidValue where a split in --out has class numbers only, and this one has names."""
    for split, stated in splits_there(source.out).items():
        if not stated.get("label_hash") and set(stated["videos_per_class"]) - {"", "-1"}:
            raise InvalidValue(
                f"the classes of split {split!r} in {source.out} are numbers without names, those of "
                f"{source.origin} are names: use another --out, or a list of numbers"
            )


def _match_known(
    source: LabelSource, entries: list[Entry], names: list[str], numbers: bool
) -> tuple[list[Entry], list[str]]:
    """(videos with class names spelled as in the data set --name, class names in order).

    Raises InvalidValue where the label map of the list or of --out is not that of the data set.
    """
    shipped = shipped_names(source.name)
    if names:
        try:
            found = source.out if (source.out / metadata.LABEL_MAP).exists() else source.origin
            check_names(
                source.name, names, f"--labels={source.labels}" if source.labels else f"the label map of {found}"
            )
        except records.DataSetError as error:
            raise InvalidValue(f"{error}. For other classes choose another --name") from error
        if shipped and found != source.out:
            names = shipped  # the list may write `brush_hair`
    elif not shipped or numbers:
        return entries, []  # numbers: which names they stand for is not known
    if not shipped:
        return entries, names
    names = names or shipped
    spelled = {spelling(name): name for name in names}
    return [replace(entry, label=spelled.get(spelling(entry.label), entry.label)) for entry in entries], names
