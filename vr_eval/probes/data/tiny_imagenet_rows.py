"""Tiny-ImageNet in the form of the datasets library: a folder that it saved or downloaded, or a name on the hub."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL.Image import Image

from vr_eval.errors import InputError, Problem
from vr_eval.probes.data.base import Labels, check_classes
from vr_eval.probes.data.images import decoded

DOWNLOAD = (
    "Download http://cs231n.stanford.edu/tiny-imagenet-200.zip (237 MB), unpack it and name the folder "
    "tiny-imagenet-200 under the key tiny_imagenet."
)


@dataclass(frozen=True)
class Counts:
    """How many there must be."""

    classes: int = 200
    train_per_class: int = 500
    val: int = 10_000


@dataclass(frozen=True)
class HubSplit:
    """Rows of a `datasets.Dataset` whose images are still encoded."""

    key: str
    labels: Mapping[str, Labels]
    rows: Any
    name: str

    def __len__(self) -> int:
        return len(self.rows)

    def image(self, index: int) -> Image:
        name = f"{self.name}, image {index}"
        try:
            row = self.rows[index]["image"] or {"bytes": None, "path": None}
        except Exception as error:  # whatever the libraries raise of a damaged table
            raise InputError(Problem(f"this row cannot be read: {error}", file=name, hint=DOWNLOAD)) from error
        if row["bytes"] is None and row["path"] is None:
            raise InputError(Problem("there is no image in this row", file=name, hint=DOWNLOAD))
        return decoded(Path(row["path"]) if row["bytes"] is None else row["bytes"], name)


def saved_by_datasets(folder: Path) -> bool:
    """Whether the datasets library wrote this folder."""
    return (folder / "dataset_dict.json").is_file() or any(folder.rglob("*.parquet"))


def from_datasets(source: str, expected: Counts) -> tuple[HubSplit, HubSplit]:
    """Both splits. Raises InputError: they cannot be loaded, are not whole, or lack images or labels."""
    import datasets

    folder = Path(source)
    try:
        if (folder / "dataset_dict.json").is_file():
            loaded = datasets.load_from_disk(source)
        else:
            loaded = datasets.load_dataset(source)
    except Exception as error:  # the library raises whatever its readers, the hub's client or the network raise
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        message = f"Tiny-ImageNet is neither a folder here nor a data set that can be loaded: {reason}"
        raise InputError(Problem(message, file=source, hint=DOWNLOAD)) from error
    test_name = next((name for name in ("valid", "validation", "val") if name in loaded), None)
    if "train" not in loaded or test_name is None:
        message = "the data set must have the splits train and valid"
        raise InputError(Problem(message, file=source, given=", ".join(loaded), hint=DOWNLOAD))
    wanted = {"train": expected.classes * expected.train_per_class, test_name: expected.val}
    train, test = (_hub_split(source, name, loaded[name], count, expected) for name, count in wanted.items())
    return train, test


def _hub_split(source: str, name: str, rows: Any, count: int, expected: Counts) -> HubSplit:
    import datasets

    feature = rows.features.get("label")
    names = getattr(feature, "names", None)
    if names is None or "image" not in rows.features:
        message = f"the split {name} must have the columns image and label (a ClassLabel)"
        raise InputError(Problem(message, file=source, given=", ".join(rows.features), hint=DOWNLOAD))
    if len(names) != expected.classes or len(rows) != count:
        message = f"the split {name} must have {count} images of {expected.classes} classes"
        raise InputError(Problem(message, file=source, given=f"{len(rows)} of {len(names)}", hint=DOWNLOAD))
    if not isinstance(rows.features["image"], datasets.Image):
        given = f"image: {rows.features['image']}"
        raise InputError(Problem(f"the split {name} holds no images", file=source, given=given, allowed="an Image"))
    labels = rows["label"]
    unlabelled = [index for index, label in enumerate(labels) if label is None or label < 0]
    if unlabelled:
        message = f"{len(unlabelled)} images of the split {name} have no label, the first is number {unlabelled[0]}"
        raise InputError(Problem(message, file=source, hint=DOWNLOAD))
    classes = np.array(labels, dtype=np.int64)
    check_classes(source, name, classes, list(names))
    rows = rows.cast_column("image", datasets.Image(decode=False))
    fingerprint = getattr(rows, "_fingerprint", "")
    return HubSplit(
        f"tiny_imagenet-datasets-{name}-{count}-{fingerprint}", {"class": classes}, rows, f"{source} {name}"
    )
