"""The training images of the micro suites with their questions, as conversations."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vr_eval.micro.data.store import load

Turns = list[tuple[str, str]]
READ = "Read the image."


def reading(facts: Sequence[str], limit: int, image: int) -> Turns:
    """One turn that asks for everything on an image and lists up to `limit` of its facts; none for a limit of 0.

    A fact spends a few tokens where a question and its answer spend twenty, so a sequence of them teaches several times
    as much (as derendering a chart into its table does, DePlot, arXiv 2212.10505). Their order is drawn anew for every
    image: in the order of the page the next value would be found by its place, and not by what it is looked up by.
    """
    chosen = random.Random(image).sample(facts, min(limit, len(facts)))
    return [(READ, "\n".join(chosen))] if chosen else []


@dataclass(frozen=True)
class Corpus:
    """Row i of everything is about image i; one suite after the other."""

    images: Sequence[Image.Image]
    """RGB, decoded when asked for; a slice is a list of images."""
    keys: list[str]
    """The scenes' keys, which begin with the suite."""
    turns: list[Turns]
    facts: list[list[str]]
    """What each image says, one short statement each: what is looked up, and its value."""
    labels: dict[str, NDArray[np.uint8]] = field(repr=False)
    """Classes of each patch, ``(n, G*G)`` each: `glyphs`, `colours` and `anchors`."""


def training_corpus(images: int, questions: int) -> Corpus:
    """The first `images` training images of every suite with up to `questions` questions each; drawn once, kept.

    Raises:
        InputError: nowhere to write them, or a kept file that is damaged.
    """
    data = load("train", images, questions)
    asked = zip(data["questions"], data["answers"], strict=True)
    turns = [list(zip(texts, answers, strict=True)) for texts, answers in asked]
    labels = {name: np.array(list(data[name]), dtype=np.uint8) for name in ("glyphs", "colours", "anchors")}
    return Corpus(data["image"], list(data["key"]), turns, list(data["facts"]), labels)
