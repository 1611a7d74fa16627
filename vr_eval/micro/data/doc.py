"""Suite doc: key-value forms, tables and receipts with values that cannot be guessed."""

from __future__ import annotations

import random
from dataclasses import dataclass

from vr_eval.micro.data.page import Page
from vr_eval.micro.data.scene import Draft, Question, ask, split_of
from vr_eval.micro.data.vocabulary import GRID, PATCH, SIDE

_FIELDS = ("NAME", "CITY", "TEAM", "ROAD", "FIRM", "ID", "CODE", "ROOM", "DATE", "FAX", "AGE", "UNIT")
_HEADERS = ("QTY", "SUM", "MIN", "MAX", "TAX", "FEE", "AVG", "PTS", "NET", "KM")
_FRESH = ("MILK", "BREAD", "EGGS", "CAKE", "FISH", "HAM", "CORN", "PLUM", "JAM", "BEER")
_DRY = ("TEA", "RICE", "SALT", "SOAP", "PEN", "NUTS", "OIL", "PASTA", "SUGAR", "WINE")
_ITEMS = (*_FRESH, *_DRY)

_FIELD = ("What is the {name}?", "Which {name} is given?", "What does the form say for {name}?")
_CELL = ("What is the {name} of {row}?", "Which {name} does {row} have?", "What is the value of {name} in row {row}?")
_PRICE = ("What is the price of {name}?", "How much is the {name}?", "What does the {name} cost?")
_TOTAL = ("What is the total?", "How much is the total?", "What is the sum to pay?")
_SHOP = ("What is the name of the shop?", "Which shop is this receipt from?")


@dataclass(frozen=True)
class _Form:
    fields: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class _Table:
    headers: tuple[str, ...]
    rows: tuple[tuple[str, tuple[str, ...]], ...]


@dataclass(frozen=True)
class _Receipt:
    shop: str
    items: tuple[tuple[str, int], ...]  # prices in cents

    @property
    def total(self) -> int:
        return sum(price for _, price in self.items)


_Document = _Form | _Table | _Receipt


def _word(rng: random.Random, length: int) -> str:
    """A pronounceable word that means nothing."""
    kinds = ("BDFGKLMNPRSTVZ", "AEIOU")
    start = rng.randrange(2)
    return "".join(rng.choice(kinds[(start + k) % 2]) for k in range(length))


def _number(rng: random.Random, digits: int) -> str:
    return str(rng.randrange(10 ** (digits - 1), 10**digits))


def _value(rng: random.Random, name: str) -> str:
    if name in ("ID", "FAX"):
        return _number(rng, 4)
    if name in ("AGE", "UNIT"):
        return _number(rng, 2)
    if name == "CODE":
        return rng.choice("ABCDEFGHJKLMNPRSTUVWXYZ") + _number(rng, 3)
    if name == "ROOM":
        return _number(rng, 2) + rng.choice("ABCDEFGH")
    if name == "DATE":
        return f"{rng.randint(1, 28):02d}.{rng.randint(1, 12):02d}"
    return _word(rng, rng.randint(4, 6))


def _distinct_words(rng: random.Random, count: int, length: int) -> list[str]:
    words: list[str] = []
    while len(words) < count:
        word = _word(rng, length)
        if word not in words:
            words.append(word)
    return words


def _draw_document(rng: random.Random) -> _Document:
    match rng.randrange(3):
        case 0:
            names = rng.sample(_FIELDS, rng.randint(4, 5))
            return _Form(tuple((name, _value(rng, name)) for name in names))
        case 1:
            headers = tuple(rng.sample(_HEADERS, rng.randint(1, 2)))
            words = _distinct_words(rng, rng.randint(5 - len(headers), 5), 4)
            return _Table(headers, tuple((w, tuple(_number(rng, rng.randint(2, 3)) for _ in headers)) for w in words))
        case _:
            names = rng.sample(_ITEMS, rng.randint(3, 5))
            return _Receipt(_word(rng, rng.randint(4, 6)), tuple((name, rng.randint(101, 1299)) for name in names))


def _money(cents: int) -> str:
    return f"{cents // 100}.{cents % 100:02d}"


def _print(page: Page, row: int, ink: str, *parts: tuple[int, str, str]) -> None:
    """Print one line of (column, text, colour or "" for ``ink``); all of it moves together, as printers do."""
    move = page.nudge(1)
    for column, text, colour in parts:
        page.text(row, column, text, colour or ink, move=move)


def _paint_form(page: Page, form: _Form, ink: str) -> list[Question]:
    rng = page.rng
    step = 2  # every other row, with the field's line underneath
    top = rng.randint(0, GRID - step * len(form.fields))
    boxed = rng.random() < 0.4
    column = rng.choice((5, 6))
    tint = ink if rng.random() < 0.5 else rng.choice(("blue", "green", "purple", page.plain))
    questions: list[Question] = []
    for line, (name, value) in enumerate(form.fields):
        row = top + step * line
        left, low = column * PATCH - 4, (row + 1) * PATCH + 1
        if boxed:
            page.draw.rectangle((left, low - PATCH - 4, SIDE - 2, low + 2), outline=page.faint(0.5))
        else:
            page.draw.line((left, low, SIDE - 4, low), fill=page.faint(0.5))
        _print(page, row, ink, (0, name, tint), (column, value, ""))
        questions.append(ask(rng, "form_field", _FIELD, value, name=name.lower()))
    return questions


def _paint_table(page: Page, table: _Table, ink: str) -> list[Question]:
    rng = page.rng
    lines = len(table.rows) + 1
    step = 2 if lines < 6 and rng.random() < 0.7 else 1
    top = rng.randint(0, GRID - step * lines)
    starts = [5, 9] if len(table.headers) == 2 else [rng.choice((6, 7))]
    # The rules lie on patch borders, or in the middle of the blank row where every other row is blank.
    rules = [(top + step * line) * PATCH - (PATCH // 2 * (step - 1) if line else 0) for line in range(lines + 1)]
    rules[-1] = min(rules[-1], SIDE - 1)
    right = SIDE - 1
    framed = rng.random() < 0.6
    rule = page.faint(0.5)
    if rng.random() < 0.5:
        page.draw.rectangle((0, rules[0], right, rules[1]), fill=page.faint(0.88))
    for line, y in enumerate(rules):
        if framed or line in (1, lines):
            page.draw.line((0, y, right, y), fill=rule)
    if framed:
        for x in (0, *(start * PATCH - 6 for start in starts), right):
            page.draw.line((x, rules[0], x, rules[-1]), fill=rule)
    head = rng.choice((ink, "blue", "purple"))
    _print(page, top, head, *((start, header, "") for start, header in zip(starts, table.headers, strict=True)))
    questions: list[Question] = []
    for line, (word, cells) in enumerate(table.rows, start=1):
        entries = [(start, cell, "") for start, cell in zip(starts, cells, strict=True)]
        _print(page, top + line * step, ink, (0, word, ""), *entries)
        for header, cell in zip(table.headers, cells, strict=True):
            questions.append(ask(rng, "table_cell", _CELL, cell, name=header.lower(), row=word))
    return questions


def _paint_receipt(page: Page, receipt: _Receipt, ink: str) -> list[Question]:
    rng = page.rng
    count = len(receipt.items)
    step = 2 if count == 3 and rng.random() < 0.6 else 1
    row = rng.randint(0, GRID - (4 + count * step))
    title = rng.choice((ink, "red", "blue", "green"))
    dashes = (0, "-" * GRID, "")
    _print(page, row, title, ((GRID - len(receipt.shop)) // 2, receipt.shop, ""))
    _print(page, row + 1, ink, dashes)
    row += 2
    questions: list[Question] = [ask(rng, "receipt_shop", _SHOP, receipt.shop)]
    for name, price in receipt.items:
        amount = _money(price)
        _print(page, row, ink, (0, name, ""), (GRID - len(amount), amount, ""))
        questions.append(ask(rng, "receipt_price", _PRICE, amount, name=name.lower()))
        row += step
    amount = _money(receipt.total)
    _print(page, row, ink, dashes)
    _print(page, row + 1, ink, (0, "TOTAL", ""), (GRID - len(amount), amount, ""))
    questions.append(ask(rng, "receipt_total", _TOTAL, amount))
    return questions


def _facts(document: _Document) -> tuple[str, ...]:
    """Every value behind the field, the item, or the header and row that it is looked up by."""
    match document:
        case _Form(fields):
            return tuple(f"{name.lower()} {value}" for name, value in fields)
        case _Table(headers, rows):
            cells = ((head, word, cell) for word, values in rows for head, cell in zip(headers, values, strict=True))
            return tuple(f"{head.lower()} {word} {cell}" for head, word, cell in cells)
    prices = [f"{name.lower()} {_money(price)}" for name, price in document.items]
    return (*prices, f"total {_money(document.total)}", f"shop {document.shop}")


def draw(rng: random.Random, split: str) -> Draft:
    """Draw one form, table or receipt that belongs to ``split``."""
    page = Page(rng, dark_share=0.1)
    while True:
        document = _draw_document(rng)
        key = f"doc|{document!r}"
        if split_of(key) == split:
            break
    ink = page.plain if rng.random() < 0.7 else rng.choice(("blue", "purple", "green"))
    match document:
        case _Form():
            questions = _paint_form(page, document, ink)
        case _Table():
            questions = _paint_table(page, document, ink)
        case _Receipt():
            questions = _paint_receipt(page, document, ink)
    labels = (page.glyphs, page.colours, page.anchors)
    return Draft(key, page.finish(), *labels, tuple(questions), _facts(document))
