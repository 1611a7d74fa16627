"""Suite ocr: codes of four characters in different colours and places."""

from __future__ import annotations

import random

from vr_eval.micro.data.page import Page
from vr_eval.micro.data.scene import Draft, Question, ask, split_of
from vr_eval.micro.data.vocabulary import DIGITS, HUES, LETTERS, PATCH

ALPHABET = DIGITS + "".join(letter for letter in LETTERS if letter not in "OIQ")
_LENGTH = 4
# Patch rows and first columns of each place; the bands keep at least one blank row between two codes.
_ROWS = {"top": (0, 2), "middle": (4, 7), "bottom": (9, 11)}
_COLUMNS = {"left": (0, 2), "right": (6, 8)}

_BY_COLOUR = (
    "Which code is printed in {colour}?",
    "What does the {colour} code say?",
    "Read the code in {colour}.",
)
_BY_PLACE = (
    "What is the code at the {place}?",
    "Which code is printed at the {place}?",
    "Read the code at the {place}.",
)


def _code(rng: random.Random, split: str) -> str:
    # Each single code belongs to one split, so that no code of a test image was ever seen in training.
    while True:
        code = "".join(rng.choice(ALPHABET) for _ in range(_LENGTH))
        if split_of(f"ocr:{code}") == split:
            return code


def draw(rng: random.Random, split: str) -> Draft:
    """Draw one image of 3 to 5 codes whose every code belongs to ``split``."""
    page = Page(rng)
    places = [(band, half) for band in _ROWS for half in _COLUMNS]
    count = rng.randint(3, 5)
    chosen = rng.sample(places, count)
    colours = rng.sample([*HUES, page.plain], count)
    codes: list[str] = []
    while len(codes) < count:
        code = _code(rng, split)
        if code not in codes:
            codes.append(code)

    parts: list[str] = []
    facts: list[str] = []
    questions: list[Question] = []
    for (band, half), colour, code in zip(chosen, colours, codes, strict=True):
        row, column = rng.randint(*_ROWS[band]), rng.randint(*_COLUMNS[half])
        framed = rng.random() < 0.25
        if framed:
            box = (column * PATCH, row * PATCH, (column + _LENGTH) * PATCH - 1, (row + 1) * PATCH - 1)
            page.draw.rectangle(box, outline=page.faint(0.6))
        page.text(row, column, code, colour, move=page.nudge(1 if framed else 2))
        place = f"{band} {half}"
        parts.append(f"{place}={colour}:{code}")
        facts += [f"{colour} {code}", f"{place} {code}"]
        questions.append(ask(rng, "ocr_colour", _BY_COLOUR, code, colour=colour))
        questions.append(ask(rng, "ocr_place", _BY_PLACE, code, place=place))
    key = "ocr|" + "|".join(sorted(parts))
    labels = (page.glyphs, page.colours, page.anchors)
    return Draft(key, page.finish(), *labels, tuple(questions), tuple(facts))
