"""Errors meant for the user: what is wrong, where, and what to do about it.

Anything a user can cause (a bad grid file, a full disk, a broken checkpoint) is raised as a ``VrEvalError`` and printed
by the command line without a traceback. A traceback therefore always means a bug in this project.
"""

from __future__ import annotations

import difflib
import enum
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal


class _Missing(enum.Enum):
    """``None`` is a value that a user can give (YAML ``null``), so "nothing given" needs its own mark."""

    MISSING = "missing"


MISSING: Final[Literal[_Missing.MISSING]] = _Missing.MISSING

_SHOWN_CHARACTERS = 120


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong, with as much of its place and its remedy as is known.

    Attributes:
        message: What is wrong, without the place and without a full stop.
        file: File (or option of the command line) that holds the problem.
        line: 1-based line in ``file``.
        key: Dotted key, e.g. ``grid.ratio``.
        given: The offending value; ``MISSING`` if there is none to show.
        allowed: What would be right, in words.
        nearest: The valid name closest to a misspelt one.
        hint: A sentence on what to do; printed on a line of its own.
    """

    message: str
    file: str | None = None
    line: int | None = None
    key: str | None = None
    given: object = MISSING
    allowed: str | None = None
    nearest: str | None = None
    hint: str | None = None

    def render(self) -> str:
        """One line ``file:line: key: message (given: ...; allowed: ...; ...)``, plus a line for the hint."""
        place = self.file or ""
        if self.line is not None:
            place += f":{self.line}"
        head = ": ".join(part for part in (place, self.key, self.message) if part)
        details = []
        if self.given is not MISSING:
            details.append(f"given: {_shown(self.given)}")
        if self.allowed is not None:
            details.append(f"allowed: {self.allowed}")
        if self.nearest is not None:
            details.append(f"did you mean {self.nearest!r}?")
        text = f"{head} ({'; '.join(details)})" if details else head
        if self.hint is not None:
            text += f"\n    {self.hint}"
        return sanitize_terminal(text)


class VrEvalError(Exception):
    """A failure that is reported to the user as a message; ``exit_code`` is what the command ends with."""

    exit_code: int = 1


class InputError(VrEvalError):
    """What the user gave cannot be used; holds every problem that was found, not only the first."""

    exit_code: int = 2

    def __init__(self, problems: Problem | Sequence[Problem]) -> None:
        self.problems: tuple[Problem, ...] = (problems,) if isinstance(problems, Problem) else tuple(problems)
        if not self.problems:
            raise ValueError("an InputError needs at least one problem")
        # args must be what __init__ takes, or the error cannot be pickled on its way out of a worker process.
        super().__init__(self.problems)

    def __str__(self) -> str:
        return "\n".join(problem.render() for problem in self.problems)


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """An exception, what it was raised from or during, and so on, each once."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def nearest(name: object, names: Iterable[str]) -> str | None:
    """The entry of ``names`` that ``name`` was probably meant to be, or ``None`` if none is close; case is ignored."""
    by_folded = {candidate.casefold(): candidate for candidate in names}
    # Long input is no misspelt name, and difflib takes quadratic time.
    folded = str(name).casefold()[:_SHOWN_CHARACTERS]
    close = difflib.get_close_matches(folded, by_folded, n=1, cutoff=0.6)
    return by_folded[close[0]] if close else None


# Escape sequences as a whole first (OSC/DCS strings with their terminator, CSI, two-byte ones), so that no visible
# rest like "[31m" stays; then every other control character, and the marks that reorder text from right to left.
_ESCAPES = re.compile(
    r"(?:\x1b[\]PX^_]|[\x9d\x90\x98\x9e\x9f])[^\x07\x1b\x9c]*(?:\x07|\x1b\\|\x9c|$)"
    r"|(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]"
    r"|\x1b[ -/]*[0-~]?"
)
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def sanitize_terminal(text: str) -> str:
    """``text`` without escape sequences and control characters (newline and tab stay), safe to print to a terminal."""
    return _CONTROLS.sub("", _ESCAPES.sub("", text))


def _shown(value: object) -> str:
    try:
        text = repr(value)
    except ValueError:  # Python writes no number of thousands of digits
        return "a number of thousands of digits"
    return text if len(text) <= _SHOWN_CHARACTERS else text[: _SHOWN_CHARACTERS - 3] + "..."
