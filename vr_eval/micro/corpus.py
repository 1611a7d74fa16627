"""The training images of the micro suites with their questions, as conversations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vr_eval.micro.data.store import load

Turns = list[tuple[str, str]]


@dataclass(frozen=True)
class Corpus:
    """Row i of everything is about image i; one suite after the other."""

    images: Sequence[Image.Image]
    """RGB, decoded when asked for; a slice is a list of images."""
    suites: list[str]
    turns: list[Turns]
    glyphs: NDArray[np.uint8] = field(repr=False)
    """``(n, G*G)`` class of each patch."""
    colours: NDArray[np.uint8] = field(repr=False)
    """``(n, G*G)`` colour class of each patch."""


def training_corpus(images: int, questions: int) -> Corpus:
    """The first `images` training images of every suite with up to `questions` questions each; drawn once, kept.

    Raises:
        InputError: nowhere to write them, or a kept file that is damaged.
    """
    data = load("train", images, questions)
    asked = zip(data["questions"], data["answers"], strict=True)
    turns = [list(zip(texts, answers, strict=True)) for texts, answers in asked]
    glyphs, colours = (np.array(list(data[name]), dtype=np.uint8) for name in ("glyphs", "colours"))
    return Corpus(data["image"], list(data["suite"]), turns, glyphs, colours)
