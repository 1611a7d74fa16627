"""Tiny-ImageNet (Stanford CS231n): 200 classes, 100,000 training and 10,000 validation images of 64 x 64 pixels.

Two forms are read: the official folder (wnids.txt, words.txt, train/WNID/images, val with val_annotations.txt), and the
form of the `datasets` library (a folder saved or downloaded by it, or a name on the hub). The validation split is the
test here, as the official test split has no labels. The official folder also has bounding boxes: the place to be told
is the one of 3 x 3 fields in which a box's centre lies.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL.Image import Image

from vr_eval.config.document import NO_PATH
from vr_eval.errors import InputError, Problem
from vr_eval.probes.data.base import Labels, ProbeData, Split, check_classes, first_of_each
from vr_eval.probes.data.images import decoded
from vr_eval.probes.data.tiny_imagenet_rows import DOWNLOAD, Counts, from_datasets, saved_by_datasets

PLACES = 3
_SIDE_PX = 64
_SUMMARY = "which of 200 classes a photograph shows ({} training, {} test images)"

OFFICIAL = Counts()


@dataclass(frozen=True)
class FileSplit:
    """Image files with labels."""

    key: str
    labels: Mapping[str, Labels]
    files: Sequence[Path]

    def __len__(self) -> int:
        return len(self.files)

    def image(self, index: int) -> Image:
        return decoded(self.files[index], str(self.files[index]))


def tiny_imagenet(
    source: str, train_per_class: int | None, test_per_class: int | None, expected: Counts = OFFICIAL
) -> ProbeData:
    """Both splits, checked; images are opened when they are asked for.

    Args:
        source: Folder, or name on the hub.
        train_per_class: Use the first images of each class only.
        test_per_class: Likewise of the test.
        expected: What a complete copy holds.

    Raises:
        InputError: it is missing, partial or of another form; the message says what to download.
    """
    try:
        folder = Path(source).expanduser()
        source = str(folder) if folder.exists() else source
    except NO_PATH as error:
        raise InputError(Problem(f"this cannot be a path: {error}", file=source, hint=DOWNLOAD)) from error
    train: Split
    test: Split
    if (folder / "wnids.txt").is_file():
        train, test = _official(folder, expected)
    elif folder.is_dir() and not saved_by_datasets(folder):
        found = ", ".join(sorted(entry.name for entry in folder.iterdir())[:5]) or "nothing"
        message = f"this is no Tiny-ImageNet: wnids.txt is missing (found: {found})"
        raise InputError(Problem(message, file=source, hint=DOWNLOAD))
    else:
        train, test = from_datasets(source, expected)
    train, test = _first(train, train_per_class), _first(test, test_per_class)
    targets = {"class": expected.classes} | ({"place": PLACES**2} if "place" in train.labels else {})
    return ProbeData(
        name="tiny_imagenet",
        summary=_SUMMARY.format(f"{len(train):,}", f"{len(test):,}"),
        source=f"Tiny-ImageNet (Stanford CS231n), {source}",
        targets=targets,
        train=train,
        test=test,
    )


def _official(folder: Path, expected: Counts) -> tuple[FileSplit, FileSplit]:
    wnids = _lines(folder / "wnids.txt")
    problems = []
    if len(wnids) != expected.classes or len(set(wnids)) != len(wnids):
        message = f"wnids.txt must name {expected.classes} classes, each once"
        problems.append(Problem(message, file=str(folder / "wnids.txt"), given=len(wnids), hint=DOWNLOAD))
    words = {line.split("\t")[0] for line in _lines(folder / "words.txt")}
    unnamed = [wnid for wnid in wnids if wnid not in words]
    if unnamed:
        message = f"words.txt has no words for {len(unnamed)} classes, the first is {unnamed[0]}"
        problems.append(Problem(message, file=str(folder / "words.txt"), hint=DOWNLOAD))
    partial = []
    files: list[Path] = []
    classes: list[int] = []
    boxes: dict[str, int] = {}
    for number, wnid in enumerate(wnids):
        images = sorted(
            (folder / "train" / wnid / "images").glob("*.JPEG"), key=lambda path: (len(path.name), path.name)
        )
        if len(images) != expected.train_per_class:
            partial.append(f"{wnid} has {len(images)}")
        files += images
        classes += [number] * len(images)
        boxes |= _places(folder / "train" / wnid / f"{wnid}_boxes.txt", column=1)
    if partial:
        listed = ", ".join(partial[:3]) + (f" and {len(partial) - 3} more" if len(partial) > 3 else "")
        message = f"{len(partial)} classes do not have {expected.train_per_class} training images: {listed}"
        problems.append(Problem(message, file=str(folder / "train"), hint=DOWNLOAD))
    if problems:
        raise InputError(problems)
    train = _file_split("train", folder, files, classes, boxes)
    return train, _validation(folder, wnids, expected)


def _validation(folder: Path, wnids: Sequence[str], expected: Counts) -> FileSplit:
    path = folder / "val" / "val_annotations.txt"
    number = {wnid: index for index, wnid in enumerate(wnids)}
    rows = [line.split("\t") for line in _lines(path)]
    bad = [index for index, row in enumerate(rows) if len(row) != 6 or row[1] not in number]
    if bad:
        given = "\t".join(rows[bad[0]])
        message = "a line is not: file, class, and a box of four numbers"
        raise InputError(Problem(message, file=str(path), line=bad[0] + 1, given=given, hint=DOWNLOAD))
    files = [folder / "val" / "images" / row[0] for row in rows]
    missing = [file.name for file in files if not file.is_file()]
    if len(rows) != expected.val or missing:
        message = (
            f"the validation split must have {expected.val} images: {len(rows)} are listed, {len(missing)} missing"
        )
        raise InputError(Problem(message, file=str(folder / "val"), hint=DOWNLOAD))
    classes = [number[row[1]] for row in rows]
    check_classes(str(path), "validation", np.array(classes, dtype=np.int64), list(wnids))
    return _file_split("val", folder, files, classes, _places(path, column=2))


def _file_split(name: str, folder: Path, files: list[Path], classes: list[int], places: Mapping[str, int]) -> FileSplit:
    labels = {"class": np.array(classes, dtype=np.int64)}
    if all(file.name in places for file in files):
        labels["place"] = np.array([places[file.name] for file in files], dtype=np.int64)
    # Sizes stand for contents: hashing 100,000 files would take longer than many a probe.
    listed = "".join(f"{file.name} {file.stat().st_size}\n" for file in files)
    digest = hashlib.sha256(listed.encode()).hexdigest()[:16]
    return FileSplit(f"tiny_imagenet-official-{name}-{len(files)}-{digest}", labels, files)


def _places(path: Path, column: int) -> dict[str, int]:
    """File name to the field of its box's centre; empty without such a file. The box begins in `column`."""
    places = {}
    for line in _lines(path) if path.is_file() else ():
        row = line.split("\t")
        try:
            left, top, right, bottom = (int(value) for value in row[column : column + 4])
            centre = (left + right) / 2, (top + bottom) / 2
        except (ValueError, OverflowError):
            return {}
        x, y = (min(max(value, 0), _SIDE_PX - 1) for value in centre)
        places[row[0]] = int(y * PLACES / _SIDE_PX) * PLACES + int(x * PLACES / _SIDE_PX)
    return places


def _lines(path: Path) -> list[str]:
    try:
        return [line for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        raise InputError(Problem(f"cannot be read: {reason}", file=str(path), hint=DOWNLOAD)) from error


def _first(split: Split, per_class: int | None) -> Split:
    """The first images of each class of a split."""
    if per_class is None:
        return split
    chosen = first_of_each(split.labels["class"], per_class)
    return Subset(split, chosen, per_class)


class Subset:
    """Some images of a split."""

    def __init__(self, whole: Split, chosen: Labels, per_class: int) -> None:
        self.whole, self.chosen = whole, chosen
        self.key = f"{whole.key}-first-{per_class}"
        self.labels: Mapping[str, Labels] = {target: labels[chosen] for target, labels in whole.labels.items()}

    def __len__(self) -> int:
        return len(self.chosen)

    def image(self, index: int) -> Image:
        return self.whole.image(int(self.chosen[index]))
