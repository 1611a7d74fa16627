"""Pieces of Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def table(head: Sequence[str], rows: Iterable[Sequence[str]], numbers: Sequence[int] = ()) -> str:
    """A table; `numbers` are the columns to align to the right."""
    rule = ["---:" if column in numbers else "---" for column in range(len(head))]
    lines = [head, rule, *([_cell(text) for text in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def code(text: str) -> str:
    """`text` as code within a line; nothing for an empty one."""
    return f"`{text}`" if text else ""


def block(text: str, language: str = "text") -> str:
    """`text` as a block of code."""
    return f"```{language}\n{text.strip(chr(10))}\n```"


def si(number: float) -> str:
    """A number with three digits and its thousands as a letter: 20979712 as 21.0 M."""
    for size, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= size:
            return f"{number / size:.3g} {letter}" if number / size < 99.95 else f"{number / size:.0f} {letter}"
    return f"{number:g}"
