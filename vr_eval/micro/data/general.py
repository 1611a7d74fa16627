"""Suite general: coloured shapes; how many, what colour, what shape, is there, which is outermost."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from vr_eval.micro.data.page import Page
from vr_eval.micro.data.scene import Draft, Question, ask, split_of
from vr_eval.micro.data.vocabulary import GRID, HUES, PATCH, SHAPES, SIDE

_COVERED = 0.2  # a patch belongs to an object that covers at least this share of it
_PLURALS = {shape: f"{shape}s" for shape in SHAPES} | {"cross": "crosses"}

_COUNT_SHAPE = ("How many {shapes} are there?", "How many {shapes} do you see?", "Count the {shapes}.")
_COUNT_COLOUR = (
    "How many {colour} objects are there?",
    "How many objects are {colour}?",
    "Count the {colour} objects.",
)
_COLOUR_OF = ("What colour is the {shape}?", "Which colour does the {shape} have?")
_SHAPE_OF = ("What shape is the {colour} object?", "Which shape is {colour}?")
_EXISTS = ("Is there {colour} {shape}?", "Do you see {colour} {shape}?", "Does the image show {colour} {shape}?")
_SIDE_SHAPE = ("Which shape is {side}?", "What shape is the object {side}?")
_SIDE_COLOUR = ("What colour is the object {side}?", "Which colour has the object {side}?")


@dataclass(frozen=True)
class _Thing:
    shape: str
    colour: str
    row: int
    column: int
    size: int  # patches per side


def _outline(shape: str, x: float, y: float, radius: float, turn: float) -> list[tuple[float, float]]:
    """Corners of ``shape`` around (``x``, ``y``) in pixels; ``turn`` in radians leans it a little."""
    unit: list[tuple[float, float]]  # (radius share, angle), angle 0 at the top, clockwise
    if shape == "square":
        unit = [(1.2, math.pi / 4 + k * math.pi / 2) for k in range(4)]
    elif shape == "diamond":
        unit = [(1.1 if k % 2 == 0 else 0.75, k * math.pi / 2) for k in range(4)]
    elif shape == "triangle":
        unit = [(1.1, k * 2 * math.pi / 3) for k in range(3)]
    elif shape == "star":
        unit = [(1.15 if k % 2 == 0 else 0.5, k * math.pi / 5) for k in range(10)]
    else:  # cross: an upright plus sign
        narrow = 0.34
        corner = (math.hypot(1, narrow), math.atan2(narrow, 1))
        inner = math.hypot(narrow, narrow)
        unit = []
        for k in range(4):
            base = k * math.pi / 2
            unit += [(corner[0], base - corner[1]), (corner[0], base + corner[1]), (inner, base + math.pi / 4)]
    return [(x + radius * r * math.sin(a + turn), y - radius * r * math.cos(a + turn)) for r, a in unit]


def _things(rng: random.Random, palette: list[str]) -> tuple[_Thing, ...]:
    # Few shapes and colours per image: that makes repeats to count, and near misses for the yes/no questions.
    shapes = rng.sample(SHAPES, rng.randint(2, 4))
    colours = rng.sample(palette, rng.randint(2, 4))
    taken = np.zeros((GRID + 2, GRID + 2), dtype=bool)
    things: list[_Thing] = []
    for _ in range(rng.randint(2, 6)):
        size = 3 if rng.random() < 0.25 else 2
        for _ in range(20):  # on a crowded sheet the object is left out instead
            row, column = rng.randint(0, GRID - size), rng.randint(0, GRID - size)
            if not taken[row : row + size + 2, column : column + size + 2].any():
                taken[row + 1 : row + size + 1, column + 1 : column + size + 1] = True
                things.append(_Thing(rng.choice(shapes), rng.choice(colours), row, column, size))
                break
    return tuple(things)


def _paint(page: Page, thing: _Thing) -> None:
    rng = page.rng
    half = thing.size * PATCH / 2
    x = thing.column * PATCH + half + rng.randint(-2, 2)
    y = thing.row * PATCH + half + rng.randint(-2, 2)
    radius = half * rng.uniform(0.76, 0.9)
    scale = 4  # drawn larger and reduced, since Pillow does not smooth polygons
    mask = Image.new("L", (SIDE * scale, SIDE * scale), 0)
    pen = ImageDraw.Draw(mask)
    if thing.shape == "circle":
        pen.ellipse([scale * v for v in (x - radius, y - radius, x + radius, y + radius)], fill=255)
    else:
        corners = _outline(thing.shape, x, y, radius, rng.uniform(-0.12, 0.12))
        pen.polygon([(scale * a, scale * b) for a, b in corners], fill=255)
    mask = mask.reduce(scale)
    page.image.paste(page.ink(thing.colour), (0, 0), mask)
    cover = np.asarray(mask, dtype=np.float32).reshape(GRID, PATCH, GRID, PATCH).mean(axis=(1, 3)) / 255
    for row, column in np.argwhere(cover >= _COVERED):
        page.mark(int(row), int(column), thing.shape, thing.colour)


def _counts(rng: random.Random, things: tuple[_Thing, ...], palette: list[str]) -> list[Question]:
    """One count by shape and one by colour, each number that the image offers being equally likely."""
    found: list[Question] = []
    for kind, names, values in (
        ("count_shape", SHAPES, Counter(thing.shape for thing in things)),
        ("count_colour", palette, Counter(thing.colour for thing in things)),
    ):
        by_number: dict[int, list[str]] = {}
        for name in names:
            by_number.setdefault(values[name], []).append(name)
        numbers = sorted(by_number)
        # Every image has a name that does not occur: asked for as often as the others, 0 would be the best guess.
        weights = [0.4 if number == 0 else 0.55 if number == 1 else 1.0 for number in numbers]
        number = rng.choices(numbers, weights)[0]
        name = rng.choice(by_number[number])
        if kind == "count_shape":
            found.append(ask(rng, kind, _COUNT_SHAPE, str(number), shapes=_PLURALS[name]))
        else:
            found.append(ask(rng, kind, _COUNT_COLOUR, str(number), colour=name))
    return found


def _unique(rng: random.Random, things: tuple[_Thing, ...]) -> list[Question]:
    shapes = Counter(thing.shape for thing in things)
    colours = Counter(thing.colour for thing in things)
    found = [ask(rng, "colour_of", _COLOUR_OF, t.colour, shape=t.shape) for t in things if shapes[t.shape] == 1]
    return found + [ask(rng, "shape_of", _SHAPE_OF, t.shape, colour=t.colour) for t in things if colours[t.colour] == 1]


def _one(word: str) -> str:
    return f"an {word}" if word[0] in "aeiou" else f"a {word}"


def _exists(rng: random.Random, things: tuple[_Thing, ...], palette: list[str]) -> Question:
    present = sorted({(thing.colour, thing.shape) for thing in things})
    if rng.random() < 0.5:
        colour, shape = rng.choice(present)
        return ask(rng, "exists", _EXISTS, "yes", colour=_one(colour), shape=shape)
    colours, shapes = sorted({c for c, _ in present}), sorted({s for _, s in present})
    # Near misses first: both the colour and the shape are there, on different objects.
    near = [(c, s) for c in colours for s in shapes if (c, s) not in present]
    if not near or rng.random() < 0.2:
        near = [(c, s) for c in palette for s in SHAPES if (c, s) not in present and (c in colours or s in shapes)]
    colour, shape = rng.choice(near)
    return ask(rng, "exists", _EXISTS, "no", colour=_one(colour), shape=shape)


_SIDES: dict[str, Callable[[_Thing], int]] = {
    "furthest to the left": lambda t: t.column,
    "furthest to the right": lambda t: -(t.column + t.size),
    "at the very top": lambda t: t.row,
    "at the very bottom": lambda t: -(t.row + t.size),
}


def _leaders(things: tuple[_Thing, ...]) -> list[tuple[str, _Thing]]:
    """The object furthest to each side, where it leads by at least a patch."""
    found: list[tuple[str, _Thing]] = []
    for side, place in _SIDES.items():
        first, second = sorted(things, key=place)[:2]
        if place(second) - place(first) >= 1:
            found.append((side, first))
    return found


def _outermost(rng: random.Random, things: tuple[_Thing, ...]) -> list[Question]:
    found: list[Question] = []
    for side, thing in _leaders(things):
        found.append(ask(rng, "outermost_shape", _SIDE_SHAPE, thing.shape, side=side))
        found.append(ask(rng, "outermost_colour", _SIDE_COLOUR, thing.colour, side=side))
    return found


def _facts(things: tuple[_Thing, ...], key: str) -> tuple[str, ...]:
    """How many there are of each shape, colour and pair of both, and what is outermost.

    One shape that is not there counts 0.
    """
    shapes = Counter(thing.shape for thing in things)
    colours = Counter(thing.colour for thing in things)
    pairs = Counter((thing.colour, thing.shape) for thing in things)
    # Not from the page's generator: what is drawn after it must not depend on facts.
    absent = random.Random(key).choice([shape for shape in SHAPES if shape not in shapes])
    found = [f"{name} {number}" for counted in (shapes, colours) for name, number in counted.items()]
    found += [f"{colour} {shape} {pairs[colour, shape]}" for colour in colours for shape in shapes]
    outermost = [f"{side.split()[-1]} {thing.colour} {thing.shape}" for side, thing in _leaders(things)]
    return (*found, f"{absent} 0", *outermost)


def draw(rng: random.Random, split: str) -> Draft:
    """Draw one image of 2 to 6 objects that belongs to ``split``."""
    page = Page(rng, dark_share=0.2)
    palette = [*HUES, page.plain]
    while True:
        things = _things(rng, palette)
        key = "general|" + "|".join(sorted(f"{t.shape},{t.colour},{t.row},{t.column},{t.size}" for t in things))
        if len(things) >= 2 and split_of(key) == split:
            break
    for thing in things:
        _paint(page, thing)
        page.anchors[thing.row + 1, thing.column + thing.size - 2] = 1  # a patch that nearly every shape covers
    questions = [*_counts(rng, things, palette), *_unique(rng, things), _exists(rng, things, palette)]
    questions += _outermost(rng, things)
    labels = (page.glyphs, page.colours, page.anchors)
    return Draft(key, page.finish(), *labels, tuple(questions), _facts(things, key))
