"""The training images of the micro suites with their questions, as conversations."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pyarrow import parquet

from vr_eval.micro.data.store import build

Turns = list[tuple[str, str]]


@dataclass(frozen=True)
class Images(Sequence[Image.Image]):
    """Images kept as PNG bytes and decoded when asked for; a slice is a list of images."""

    encoded: Sequence[bytes]

    def __len__(self) -> int:
        return len(self.encoded)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self._decode(data) for data in self.encoded[index]]
        return self._decode(self.encoded[index])

    def __iter__(self) -> Iterator[Image.Image]:
        return map(self._decode, self.encoded)

    @staticmethod
    def _decode(data: bytes) -> Image.Image:
        return Image.open(io.BytesIO(data)).convert("RGB")


@dataclass(frozen=True)
class Corpus:
    """Row i of everything is about image i; the suites take turns."""

    images: Images
    turns: list[Turns]
    glyphs: NDArray[np.uint8] = field(repr=False)
    """``(n, G*G)`` class of each patch."""
    colours: NDArray[np.uint8] = field(repr=False)
    """``(n, G*G)`` colour class of each patch."""


def training_corpus(images: int, questions: int) -> Corpus:
    """The first `images` training images of every suite with up to `questions` questions each; drawn once, kept."""
    paths = build("train", images, questions)
    tables = [parquet.read_table(path) for path in paths]
    encoded = [row["bytes"] for table in tables for row in table["image"].to_pylist()]
    turns = [
        list(zip(asked, answers, strict=True))
        for table in tables
        for asked, answers in zip(table["questions"].to_pylist(), table["answers"].to_pylist(), strict=True)
    ]

    def labels(name: str) -> NDArray[np.uint8]:
        return np.concatenate([np.array(table[name].to_pylist(), dtype=np.uint8) for table in tables])

    return Corpus(Images(encoded), turns, labels("glyphs"), labels("colours"))
