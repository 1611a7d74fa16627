"""Suite chart: what a bar, line or pie chart shows, and the questions on it. ``plot`` draws it."""

from __future__ import annotations

import random
from dataclasses import dataclass
from itertools import combinations, pairwise

from vr_eval.micro.data import plot
from vr_eval.micro.data.page import Page
from vr_eval.micro.data.scene import Draft, Question, ask, split_of
from vr_eval.micro.data.vocabulary import HUES, LETTERS

_CATEGORIES = "".join(letter for letter in LETTERS if letter not in "OIQ")
_SMALLEST_SHARE = 11  # per cent; a thinner slice has no room for its number
_GAP = 2  # per cent between the two extremes and their neighbours

_BAR_LETTER = ("What is the value of {letter}?", "How high is bar {letter}?", "What value does {letter} have?")
_BAR_COLOUR = ("What is the value of the {colour} bar?", "How high is the {colour} bar?")
_EXTREME = {
    "bar_tallest": ("Which bar is the tallest?", "Which category has the highest value?"),
    "bar_shortest": ("Which bar is the shortest?", "Which category has the lowest value?"),
    "line_highest": ("At which letter is the line highest?", "Where does the line reach its highest value?"),
    "line_lowest": ("At which letter is the line lowest?", "Where does the line have its lowest value?"),
}
_ABOVE = ("How many bars are above {level}?", "How many bars are higher than {level}?")
_COMPARE = ("Is {first} taller than {second}?", "Is bar {first} higher than bar {second}?")
_LINE = (
    "What is the value at {letter}?",
    "How high is the line at {letter}?",
    "What value does the line have at {letter}?",
)
_LINE_COLOUR = ("What is the value of the {colour} line at {letter}?", "How high is the {colour} line at {letter}?")
_SHARE = ("What percent is {colour}?", "How large is the {colour} slice?", "What is the share of {colour}?")
_SLICE = {
    "pie_largest": ("Which colour is the largest slice?", "What colour has the largest share?"),
    "pie_smallest": ("Which colour is the smallest slice?", "What colour has the smallest share?"),
}


@dataclass(frozen=True)
class _Chart:
    """``series`` holds one row of values per colour; bars have one series and one colour per bar or for all."""

    form: str
    letters: tuple[str, ...]
    colours: tuple[str, ...]
    series: tuple[tuple[int, ...], ...]


def _draw_chart(rng: random.Random, palette: list[str]) -> _Chart:
    match rng.randrange(3):
        case 0:
            count = rng.randint(3, 5)
            letters = tuple(sorted(rng.sample(_CATEGORIES, count)))
            colours = rng.sample(palette, count) if rng.random() < 0.6 else [rng.choice(palette)]
            return _Chart("bar", letters, tuple(colours), (tuple(rng.randint(1, 9) for _ in letters),))
        case 1:
            letters = tuple(sorted(rng.sample(_CATEGORIES, rng.randint(4, 5))))
            first = tuple(rng.randint(1, 9) for _ in letters)
            if rng.random() < 0.5:
                return _Chart("line", letters, (rng.choice(palette),), (first,))
            # Never two markers in one place.
            second = tuple(rng.choice([v for v in range(1, 10) if v != taken]) for taken in first)
            return _Chart("line", letters, tuple(rng.sample(palette, 2)), (first, second))
        case _:
            count = rng.randint(3, 5)
            return _Chart("pie", (), tuple(rng.sample(HUES, count)), (_shares(rng, count),))


def _shares(rng: random.Random, count: int) -> tuple[int, ...]:
    """Whole per cents that add up to 100, with one clearly largest and one clearly smallest."""
    while True:
        spare = 100 - _SMALLEST_SHARE * count
        cuts = [0, *sorted(rng.randint(0, spare) for _ in range(count - 1)), spare]
        shares = [_SMALLEST_SHARE + high - low for low, high in pairwise(cuts)]
        order = sorted(shares)
        if order[1] - order[0] >= _GAP and order[-1] - order[-2] >= _GAP and order[-1] <= 65:
            return tuple(shares)


def _extreme(rng: random.Random, chart: _Chart, kinds: tuple[str, str]) -> list[Question]:
    values = chart.series[0]
    found: list[Question] = []
    for kind, best in zip(kinds, (max(values), min(values)), strict=True):
        if values.count(best) == 1:
            found.append(ask(rng, kind, _EXTREME[kind], chart.letters[values.index(best)]))
    return found


def _ask_bars(rng: random.Random, chart: _Chart) -> list[Question]:
    values = chart.series[0]
    found = [ask(rng, "bar_value", _BAR_LETTER, str(v), letter=c) for c, v in zip(chart.letters, values, strict=True)]
    if len(chart.colours) > 1:
        found += [
            ask(rng, "bar_colour", _BAR_COLOUR, str(v), colour=c) for c, v in zip(chart.colours, values, strict=True)
        ]
    found += _extreme(rng, chart, ("bar_tallest", "bar_shortest"))
    # The answer is drawn first and a level that gives it second, so that no count is more likely than the others.
    levels: dict[int, list[int]] = {}
    for level in range(1, 9):
        levels.setdefault(sum(value > level for value in values), []).append(level)
    number = rng.choice(sorted(levels))
    found.append(ask(rng, "bar_above", _ABOVE, str(number), level=str(rng.choice(levels[number]))))
    first, second = rng.sample(range(len(values)), 2)
    if values[first] != values[second]:
        answer = "yes" if values[first] > values[second] else "no"
        names = {"first": chart.letters[first], "second": chart.letters[second]}
        found.append(ask(rng, "bar_compare", _COMPARE, answer, **names))
    return found


def _ask_lines(rng: random.Random, chart: _Chart) -> list[Question]:
    if len(chart.series) == 1:
        points = zip(chart.letters, chart.series[0], strict=True)
        found = [ask(rng, "line_value", _LINE, str(value), letter=letter) for letter, value in points]
        return found + _extreme(rng, chart, ("line_highest", "line_lowest"))
    return [
        ask(rng, "line_colour", _LINE_COLOUR, str(value), colour=colour, letter=letter)
        for colour, values in zip(chart.colours, chart.series, strict=True)
        for letter, value in zip(chart.letters, values, strict=True)
    ]


def _ask_pie(rng: random.Random, chart: _Chart) -> list[Question]:
    shares = chart.series[0]
    found = [ask(rng, "pie_share", _SHARE, str(v), colour=c) for c, v in zip(chart.colours, shares, strict=True)]
    for kind, best in (("pie_largest", max(shares)), ("pie_smallest", min(shares))):
        found.append(ask(rng, kind, _SLICE[kind], chart.colours[shares.index(best)]))
    return found


def _facts(chart: _Chart, key: str) -> tuple[str, ...]:
    """Every value behind the letter, the colour or both that it is looked up by, and what comparing them tells."""
    first = chart.series[0]
    by_letter = (
        [f"{letter} {value}" for letter, value in zip(chart.letters, first, strict=True)] if chart.letters else []
    )
    by_colour = [f"{colour} {value}" for colour, value in zip(chart.colours, first, strict=False)]
    match chart.form:
        case "bar":
            values = [*by_letter, *(by_colour if len(chart.colours) > 1 else ())]
            return (*values, *_extremes(("tallest", "shortest"), chart.letters, first), *_comparisons(chart, key))
        case "pie":
            return (*by_colour, *_extremes(("largest", "smallest"), chart.colours, first))
    if len(chart.series) == 1:
        return (*by_letter, *_extremes(("highest", "lowest"), chart.letters, first))
    return tuple(
        f"{colour} {letter} {value}"
        for colour, values in zip(chart.colours, chart.series, strict=True)
        for letter, value in zip(chart.letters, values, strict=True)
    )


def _extremes(words: tuple[str, str], names: tuple[str, ...], values: tuple[int, ...]) -> list[str]:
    """Which name has the largest and which the smallest value, where only one has it."""
    extremes = zip(words, (max(values), min(values)), strict=True)
    return [f"{word} {names[values.index(best)]}" for word, best in extremes if values.count(best) == 1]


def _comparisons(chart: _Chart, key: str) -> list[str]:
    """Two levels with the number of bars above them, and two pairs of bars with whether the first is the taller."""
    # Not from the page's generator: what is drawn after it must not depend on facts.
    rng, values = random.Random(key), chart.series[0]
    above = [f"above {level} {sum(value > level for value in values)}" for level in rng.sample(range(1, 9), 2)]
    pairs = rng.sample(list(combinations(range(len(values)), 2)), 2)
    over = []
    for pair in pairs:
        one, other = rng.sample(pair, 2)
        over.append(
            f"{chart.letters[one]} over {chart.letters[other]} {'yes' if values[one] > values[other] else 'no'}"
        )
    return above + over


def draw(rng: random.Random, split: str) -> Draft:
    """Draw one bar, line or pie chart that belongs to ``split``."""
    page = Page(rng, dark_share=0.12)
    palette = [*HUES, page.plain]
    while True:
        chart = _draw_chart(rng, palette)
        key = f"chart|{chart.form}|{','.join(chart.letters)}|{','.join(chart.colours)}|{chart.series}"
        if split_of(key) == split:
            break
    match chart.form:
        case "bar":
            plot.bars(page, chart.letters, chart.colours, chart.series[0])
            questions = _ask_bars(rng, chart)
        case "line":
            plot.lines(page, chart.letters, chart.colours, chart.series)
            questions = _ask_lines(rng, chart)
        case _:
            plot.pie(page, chart.colours, chart.series[0])
            questions = _ask_pie(rng, chart)
    labels = (page.glyphs, page.colours, page.anchors)
    return Draft(key, page.finish(), *labels, tuple(questions), _facts(chart, key))
