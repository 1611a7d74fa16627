"""Handwritten digits of scikit-learn: 1,797 real scans of 8 x 8 pixels (UCI, Alpaydin and Kaynak 1998), 10 classes."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage
from PIL.Image import Image

from vr_eval.errors import InputError, Problem
from vr_eval.probes.data.base import Labels, ProbeData, first_of_each

_TRAIN_PER_CLASS, _TEST_PER_CLASS = 60, 50  # of about 180


class DigitSplit:
    """Scans, black on white as they were on paper."""

    def __init__(self, name: str, scans: NDArray[np.uint8], classes: Labels) -> None:
        self.scans = scans
        self.labels: Mapping[str, Labels] = {"class": classes}
        self.key = f"digits-{name}-{hashlib.sha256(scans.tobytes()).hexdigest()[:16]}"

    def __len__(self) -> int:
        return len(self.scans)

    def image(self, index: int) -> Image:
        """One scan, 8 x 8 pixels; the image processor enlarges it."""
        return PillowImage.fromarray(self.scans[index]).convert("RGB")


def digits(train_per_class: int | None, test_per_class: int | None) -> ProbeData:
    """The scans that come with scikit-learn: by default 60 of every digit to train and 50 others to test.

    Training images are the first of each digit and test images the last.
    """
    from sklearn.datasets import load_digits  # not needed for other data

    loaded = load_digits()
    scans = np.round(255 - loaded.images * (255 / 16)).astype(np.uint8)
    classes = loaded.target.astype(np.int64)
    counts = train_per_class or _TRAIN_PER_CLASS, test_per_class or _TEST_PER_CLASS
    fewest = int(np.bincount(classes).min())
    if sum(counts) > fewest:
        message = f"there are {fewest} scans of the rarest digit for both splits together"
        given = f"{counts[0]} training and {counts[1]} test images of each"
        raise InputError(Problem(message, key="train_per_class", given=given, allowed=f"together at most {fewest}"))
    train = first_of_each(classes, counts[0])
    test = np.sort(len(classes) - 1 - first_of_each(classes[::-1], counts[1]))
    return ProbeData(
        name="digits",
        summary=f"which digit was written by hand ({len(train)} training, {len(test)} test scans)",
        source="scikit-learn load_digits (UCI, optical recognition of handwritten digits)",
        targets={"class": 10},
        train=DigitSplit("train", scans[train], classes[train]),
        test=DigitSplit("test", scans[test], classes[test]),
    )
