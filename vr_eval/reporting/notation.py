"""How numbers and foreign text are written, the same in every format of the report."""

from __future__ import annotations

import math
import re
import unicodedata

from vr_eval.stats import Estimate

MINUS = "−"
NOTHING = "–"
SHOWN_CHARACTERS = 600


def points(value: float) -> str:
    """One decimal, a true minus sign, and never a negative zero."""
    if math.isnan(value):
        return NOTHING
    text = f"{value:.1f}"
    return "0.0" if text == "-0.0" else text.replace("-", MINUS)


def signed(value: float) -> str:
    """Like ``points``, with a plus sign for what is positive after rounding."""
    text = points(value)
    return text if text in (NOTHING, "0.0") or text.startswith(MINUS) else f"+{text}"


def margin(estimate: Estimate) -> str:
    """The 95 % interval of a score in points, as short as it can be: ``± 2.1``, or a bound if it has one side only."""
    if not estimate.bounded:
        return ""
    below, above = estimate.value - estimate.low, estimate.high - estimate.value
    if estimate.method != "rule of three" or abs(below - above) < 0.05:
        return f"± {points((below + above) / 2)}"
    if above < 0.05:
        return f"≥ {points(estimate.low)}"
    if below < 0.05:
        return f"≤ {points(estimate.high)}"
    return f"{points(estimate.low)} to {points(estimate.high)}"


def interval(estimate: Estimate) -> str:
    """The 95 % interval of a difference in points: ``+1.2 to +3.4``."""
    return f"{signed(estimate.low)} to {signed(estimate.high)}" if estimate.bounded else ""


def share(part: float, whole: float) -> str:
    """``part`` of ``whole`` in percent, rounded so that only all is 100 and only nothing is 0."""
    if whole <= 0:
        return NOTHING
    percent = 100 * part / whole
    if 0 < part < whole:
        percent = min(max(percent, 0.1), 99.9)
    return "100 %" if percent == 100 else f"{percent:.1f} %" if percent else "0 %"


def amount(count: float) -> str:
    """A number of parameters: ``1.31 M``."""
    for unit, size in (("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(count) >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count:.0f}"


def plural(count: int, noun: str) -> str:
    """``1 pair``, ``1,200 pairs``."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def listing(words: list[str], shown: int = 4) -> str:
    """``a, b and c``; beyond ``shown`` words the rest is counted."""
    if len(words) > shown:
        words = [*words[: shown - 1], f"{len(words) - shown + 1} more"]
    return " and ".join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else "".join(words)


_ESCAPE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]")


def visible(text: object, limit: int = SHOWN_CHARACTERS) -> str:
    """Foreign text with everything that is invisible or reorders its neighbours written out, at most ``limit`` long.

    A report about models must show what a model said, so nothing is dropped silently: ESC becomes ``⟨ESC⟩``, a
    right-to-left override ``⟨U+202E⟩``.
    """
    whole = str(text)
    cut = _ESCAPE.sub(lambda match: _name(match.group()), whole[:limit])
    cut = "".join(f"⟨U+{ord(c):04X}⟩" if unicodedata.category(c) == "Cs" else c for c in cut)
    return cut if len(whole) <= limit else f"{cut} … [cut: {len(whole):,} characters in all]"


def _name(character: str) -> str:
    names = {"\x00": "NUL", "\x1b": "ESC", "\x07": "BEL", "\x08": "BS", "\r": "CR", "\x7f": "DEL"}
    return f"⟨{names.get(character, f'U+{ord(character):04X}')}⟩"
