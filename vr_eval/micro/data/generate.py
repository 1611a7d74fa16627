"""Scenes one after the other, each from its own seed."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from importlib import import_module

from vr_eval.catalog.generator import GENERATOR_VERSION
from vr_eval.errors import InputError, Problem, nearest
from vr_eval.micro.data.scene import Draft, Scene, choose
from vr_eval.micro.data.vocabulary import SPLITS, SUITES


def _one_of(word: str, name: str, names: tuple[str, ...]) -> None:
    if name not in names:
        problem = Problem(f"unknown {word}", given=name, allowed=", ".join(names), nearest=nearest(name, names))
        raise InputError(problem)


def _drawer(suite: str) -> Callable[[random.Random, str], Draft]:
    # Imported when first drawn: charts bring matplotlib, which the other suites do without.
    drawer: Callable[[random.Random, str], Draft] = import_module(f"vr_eval.micro.data.{suite}").draw
    return drawer


def scene(suite: str, split: str, index: int, *, seed: int = 0, questions: int = 4) -> Scene:
    """Draw one scene; the same arguments always give the same scene.

    It has ``questions`` questions, or fewer where the image does not offer so many (every image offers at least four).
    Fewer questions are a prefix of more.

    Raises:
        InputError: unknown suite or split, or a negative number.
    """
    _one_of("suite", suite, SUITES)
    _one_of("split", split, SPLITS)
    for word, number in (("index", index), ("seed", seed), ("number of questions", questions)):
        if number < 0:
            raise InputError(Problem(f"negative {word}", given=number, allowed="0 or more"))
    # A string seeds through SHA-512, so neighbouring indices are unrelated, and the stream is the same everywhere.
    rng = random.Random(f"vr-micro/{GENERATOR_VERSION}/{suite}/{split}/{seed}/{index}")
    draft = _drawer(suite)(rng, split)
    chosen = choose(rng, draft.candidates, questions)
    labels = (draft.glyphs, draft.colours, draft.anchors)
    return Scene(suite, split, index, draft.image, chosen, *labels, draft.facts, draft.key)


def generate(suite: str, split: str, count: int, seed: int = 0, questions: int = 4) -> Iterator[Scene]:
    """Draw scenes 0 to ``count`` - 1 of a suite; scene i does not depend on ``count``. Raises as ``scene`` does."""
    for index in range(count):
        yield scene(suite, split, index, seed=seed, questions=questions)
