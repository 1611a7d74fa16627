"""Dataclass fields that describe themselves: checks, ``vr-eval plan --help`` and ``vr-eval list`` read one source."""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

from vr_eval.catalog.frozen import FrozenDict

MAX_WHOLE = 1_000_000
"""Largest whole number where a field states no other: of steps, questions, widths or layers nobody means more."""

MAX_TEXT = 4_096
"""Characters of a text; as long as the longest path."""

Source = Literal["paper", "official code", "ours"]
"""Where a value or a rule comes from: stated by the paper, read from the authors' code, or defined by this project."""


@dataclass(frozen=True)
class FieldInfo:
    """What a field of options, of the recipe or of the grid file says about itself.

    Attributes:
        help: What it does, with its unit.
        source: Where the default comes from.
        choices: Allowed words, for a text field.
        minimum: Smallest allowed number, for each entry of a list too.
        maximum: Largest allowed number, for each entry of a list too; ``MAX_WHOLE`` for whole numbers without one.
        above: Numbers must be greater than this.
        default_note: What ``None`` stands for.
        example: How it looks in YAML.
        later: A field that came after results without it: at its default, which computes what was computed before,
            it is no part of an identity.
    """

    help: str
    source: Source = "ours"
    choices: tuple[str, ...] = ()
    minimum: float | None = None
    maximum: float | None = None
    above: float | None = None
    default_note: str = ""
    example: str = ""
    later: bool = False


def described(default: Any, help: str, **info: Any) -> Any:
    """A dataclass field with a default and a ``FieldInfo`` made from the other arguments."""
    return dataclasses.field(default=default, metadata={"info": FieldInfo(help=help, **info)})


def info_of(field: dataclasses.Field[Any]) -> FieldInfo:
    """The ``FieldInfo`` of a field made by ``described``."""
    info = field.metadata["info"]
    assert isinstance(info, FieldInfo)
    return info


@cache
def _kinds(owner: type) -> dict[str, object]:
    return typing.get_type_hints(owner)


def allowed_of(owner: type, name: str) -> str:
    """In words: which values the field ``name`` of the dataclass ``owner`` takes."""
    field = {f.name: f for f in dataclasses.fields(owner)}[name]
    return _words(_kinds(owner)[name], info_of(field))


def checked(owner: type, name: str, value: object) -> object:
    """``value`` as the field ``name`` of the dataclass ``owner`` stores it (lists become tuples, mappings
    are frozen, int becomes float).

    Raises:
        ValueError: The value does not fit; the message says what would, in the words of ``allowed_of``.
    """
    info = info_of({f.name: f for f in dataclasses.fields(owner)}[name])
    kind = _kinds(owner)[name]
    try:
        return _checked(kind, info, value)
    except ValueError as error:
        raise ValueError(str(error) or _words(kind, info)) from None


def _checked(kind: object, info: FieldInfo, value: object) -> object:
    """The same for a type; raises a bare ``ValueError``, or one that says more than ``_words``."""
    if isinstance(kind, types.UnionType):
        if value is None and type(None) in kind.__args__:
            return None
        return _checked(kind.__args__[0], info, value)
    if typing.get_origin(kind) is tuple:
        item, *rest = typing.get_args(kind)
        if not isinstance(value, list | tuple) or not value:
            raise ValueError
        if rest != [Ellipsis] and len(value) != 1 + len(rest):
            raise ValueError
        return tuple(_checked(item, info, entry) for entry in value)
    if typing.get_origin(kind) is Mapping:
        if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
            raise ValueError
        return FrozenDict({key: _checked(typing.get_args(kind)[1], info, entry) for key, entry in value.items()})
    if kind is float and type(value) is int:
        try:
            value = float(value)
        except OverflowError:
            raise ValueError from None
    # `type(...) is` and not isinstance: True is an int to Python, and a typing mistake to us.
    if type(value) is not kind:
        raise ValueError
    if isinstance(value, int | float) and not isinstance(value, bool):
        fits = isinstance(value, int) or math.isfinite(value)
        fits &= info.minimum is None or value >= info.minimum
        maximum = _maximum(kind, info)
        fits &= maximum is None or value <= maximum
        fits &= info.above is None or value > info.above
        if not fits:
            raise ValueError
    if isinstance(value, str) and len(value) > MAX_TEXT:
        raise ValueError(f"text of at most {MAX_TEXT} characters")
    if info.choices and value not in info.choices:
        raise ValueError
    return value


def _maximum(kind: object, info: FieldInfo) -> float | None:
    return MAX_WHOLE if info.maximum is None and kind is int else info.maximum


def _words(kind: object, info: FieldInfo) -> str:
    if isinstance(kind, types.UnionType):
        return f"{_words(kind.__args__[0], info)}, or null"
    if typing.get_origin(kind) is tuple:
        item, *rest = typing.get_args(kind)
        count = "" if rest == [Ellipsis] else f" {1 + len(rest)}"
        return f"a list of{count}: {_words(item, info)}"
    if typing.get_origin(kind) is Mapping:
        return f"a mapping of names to: {_words(typing.get_args(kind)[1], info)}"
    if dataclasses.is_dataclass(kind):
        return "a mapping"
    if kind is bool:
        return "true or false"
    if kind is str:
        return ", ".join(info.choices) if info.choices else "text"
    words = "a whole number" if kind is int else "a number"
    if info.above is not None:
        words += f" above {info.above}"
    maximum = _maximum(kind, info)
    if info.minimum is not None and maximum is not None:
        words += f" from {info.minimum} to {maximum}"
    elif info.minimum is not None:
        words += f", at least {info.minimum}"
    elif maximum is not None:
        words += f", at most {maximum}"
    return words
