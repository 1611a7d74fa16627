"""Keys of files as text for a terminal: what each means, what it takes, and its default."""

from __future__ import annotations

import dataclasses
import textwrap
from collections.abc import Iterator
from typing import Any

from vr_eval.catalog.fields import FieldInfo, allowed_of, info_of

REQUIRED = "must be given"
"""The note of a key without a default."""
_NAME = 17  # characters; a longer name moves its own line alone


def fields_text(owner: type, width: int, inherited: type | None = None) -> Iterator[str]:
    """The fields of a described dataclass, without those `inherited` from another, in lines of `width` at most."""
    known = {field.name for field in dataclasses.fields(inherited)} if inherited else set()
    for field in dataclasses.fields(owner):
        if field.name not in known:
            yield from key_text(field.name, info_of(field), default_of(field), allowed_of(owner, field.name), width)


def key_text(name: str, info: FieldInfo, default: str, allowed: str, width: int) -> Iterator[str]:
    """One key; its example, if it has one, on a line of its own."""
    text = info.help
    if allowed:
        text += f": {allowed}"
    text += f" ({REQUIRED})" if default == REQUIRED else f" (default: {default})"
    indent = " " * (_NAME + 3)
    yield from textwrap.wrap(text, width, initial_indent=f"  {name:<{_NAME}} ", subsequent_indent=indent)
    if info.example:
        yield f"{indent}{info.example}"


def default_of(field: dataclasses.Field[Any]) -> str:
    """What stands for a key that is not given."""
    note = info_of(field).default_note
    if note:
        return note
    value = field.default
    return str(list(value)) if isinstance(value, tuple) else str(value)
