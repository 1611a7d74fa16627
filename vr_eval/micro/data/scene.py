"""Scenes and questions, and the rule that keeps train, validation and test apart."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice, zip_longest

import numpy as np
from numpy.typing import NDArray
from PIL import Image


@dataclass(frozen=True)
class Question:
    """One question on an image. ``kind`` groups questions that ask for the same thing (``bar_value``)."""

    kind: str
    question: str
    answer: str


@dataclass(frozen=True)
class Draft:
    """A drawn scene before its questions are chosen: what one suite module returns.

    ``candidates`` holds the questions the suite can ask about the image, ``facts`` what it says, one short statement
    each: what is looked up, and then its value (``C 7``, ``red star 2``).
    """

    key: str
    image: Image.Image
    glyphs: NDArray[np.uint8]
    colours: NDArray[np.uint8]
    anchors: NDArray[np.uint8]
    candidates: tuple[Question, ...]
    facts: tuple[str, ...]


@dataclass(frozen=True)
class Scene:
    """One image with its questions, facts and dense labels.

    ``image`` is RGB, 192 x 192 pixels. ``glyphs``, ``colours`` and ``anchors`` are (12, 12), row by row from the top:
    indices into ``GLYPHS``, into ``COLOURS`` (0 is background, 1 the first colour), and 1 where an object is counted.
    ``key`` is a canonical string of everything that determines the answers.
    """

    suite: str
    split: str
    index: int
    image: Image.Image
    questions: tuple[Question, ...]
    glyphs: NDArray[np.uint8]
    colours: NDArray[np.uint8]
    anchors: NDArray[np.uint8]
    facts: tuple[str, ...]
    key: str

    @property
    def id(self) -> str:
        """Name of the image, unique over suites and splits of one seed: ``ocr-test-00017``."""
        return f"{self.suite}-{self.split}-{self.index:05d}"


def split_of(content: str) -> str:
    """The split that owns this content: 80 % train, 10 % validation, 10 % test, by SHA-256 (ours)."""
    bucket = int.from_bytes(hashlib.sha256(content.encode()).digest()[:4], "big") % 10
    return "test" if bucket == 9 else "validation" if bucket == 8 else "train"


def choose(rng: random.Random, candidates: Sequence[Question], count: int) -> tuple[Question, ...]:
    """Up to ``count`` candidates, taking the kinds in turn, so that no kind crowds out the others.

    A shorter choice is a prefix of a longer one.
    """
    by_kind: dict[str, list[Question]] = {}
    for candidate in candidates:
        by_kind.setdefault(candidate.kind, []).append(candidate)
    columns = [rng.sample(questions, len(questions)) for questions in by_kind.values()]
    rng.shuffle(columns)
    turns = (question for turn in zip_longest(*columns) for question in turn if question is not None)
    return tuple(islice(turns, count))


def ask(rng: random.Random, kind: str, templates: Sequence[str], answer: str, **names: str) -> Question:
    """A question in one of its wordings."""
    return Question(kind, rng.choice(templates).format(**names), answer)
