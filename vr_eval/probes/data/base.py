"""What every set of images offers: a name for what it is, labels in memory, and images one by one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL.Image import Image

from vr_eval.errors import InputError, Problem

Labels = NDArray[np.int64]


class Split(Protocol):
    """One split of a data set."""

    @property
    def key(self) -> str:
        """Says what the images are; equal keys, equal images."""
        ...

    @property
    def labels(self) -> Mapping[str, Labels]:
        """Target to ``(n,)`` classes from 0; always `class`, and `place` where it is known."""
        ...

    def __len__(self) -> int: ...

    def image(self, index: int) -> Image:
        """Image number `index`, RGB. Raises InputError where it cannot be read."""
        ...


@dataclass(frozen=True)
class ProbeData:
    """Two splits of one data set.

    Attributes:
        name: As in probe files.
        summary: One line for the report: what it is, and how many images.
        source: Where it comes from, for the report.
        targets: Target to its number of classes.
        train: Probes are fitted on it, and their strength is chosen on a part of it.
        test: Numbers are reported on it.
    """

    name: str
    summary: str
    source: str
    targets: Mapping[str, int]
    train: Split
    test: Split


def check_classes(name: str, split: str, labels: Labels, names: list[str]) -> None:
    """Raises InputError naming every class of a split that has no sample."""
    counts = np.bincount(labels, minlength=len(names))
    empty = [names[index] for index in np.flatnonzero(counts == 0)]
    if empty:
        listed = ", ".join(empty[:5]) + (f" and {len(empty) - 5} more" if len(empty) > 5 else "")
        message = f"{len(empty)} of {len(names)} classes have no {split} images: {listed}"
        raise InputError(Problem(message, file=name, hint="A probe cannot learn a class that it never sees."))


def first_of_each(labels: Labels, count: int | None) -> NDArray[np.int64]:
    """Indices of the first `count` images of every class (None: all), in their order."""
    if count is None:
        return np.arange(len(labels))
    order = np.argsort(labels, kind="stable")
    ranked = np.empty(len(labels), dtype=np.int64)
    starts = np.r_[0, np.cumsum(np.bincount(labels))[:-1]]
    ranked[order] = np.arange(len(labels)) - starts[labels[order]]
    return np.flatnonzero(ranked < count)
