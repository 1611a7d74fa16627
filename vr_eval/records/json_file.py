"""Frozen dataclasses as JSON files, and back: what a damaged file lacks or adds is one error that names every key."""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from vr_eval.errors import MISSING, InputError, Problem, nearest
from vr_eval.files import write_atomic

T = TypeVar("T")

RUN_AGAIN = "`vr-eval run` with the same grid writes it again from what the cells have stored."


def older() -> Any:
    """A field that files of older versions do not have: None then, and not written while it is None."""
    return dataclasses.field(default=None, metadata={"older": True})


def plain(record: object) -> Any:
    """A record as JSON holds it: keys in the order of its fields."""
    if dataclasses.is_dataclass(record):
        values = {field: getattr(record, field.name) for field in dataclasses.fields(record)}
        return {f.name: plain(value) for f, value in values.items() if value is not None or "older" not in f.metadata}
    if isinstance(record, Mapping):
        return {key: plain(value) for key, value in record.items()}
    return [plain(value) for value in record] if isinstance(record, list | tuple) else record


def write_json(record: object, path: Path) -> None:
    """Write a record in one step. Raises InputError where it cannot be written."""
    write_atomic(path, json.dumps(plain(record), indent=1) + "\n")


def read_json(kind: type[T], path: Path, hint: str = RUN_AGAIN) -> T:
    """The record of the dataclass `kind` that `write_json` wrote to `path`.

    A field with a default may be missing. Lists become tuples; a mapping of `Any` is taken as it is.

    Raises:
        InputError: It cannot be read; or every key that is missing, unknown or of another type, with `hint`.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise _broken(error, str(path), hint) from error
    return parse_json(kind, text, str(path), hint)


def parse_json(kind: type[T], text: str, file: str, hint: str = RUN_AGAIN) -> T:
    """Like `read_json`, of the text that was read from `file`."""
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _broken(error, file, hint) from error
    reader = _Reader(file, hint)
    record = reader.value(kind, content, None)
    if reader.problems:
        raise InputError(reader.problems)
    return typing.cast(T, record)


def _broken(error: Exception, file: str, hint: str) -> InputError:
    return InputError(Problem(f"the file is broken ({type(error).__name__})", file=file, hint=hint))


class _Reader:
    """Collects what does not fit."""

    def __init__(self, file: str, hint: str) -> None:
        self.file, self.hint = file, hint
        self.problems: list[Problem] = []

    def add(
        self,
        key: str | None,
        message: str,
        given: object = MISSING,
        allowed: str | None = None,
        near: str | None = None,
    ) -> None:
        self.problems.append(Problem(message, self.file, None, key, given, allowed, near, self.hint))

    def value(self, kind: Any, given: object, key: str | None) -> Any:
        """`given` as a value of the type `kind`; anything where it does not fit."""
        origin, arguments = typing.get_origin(kind), typing.get_args(kind)
        if kind is Any:
            return given
        if origin in (types.UnionType, typing.Union):  # X | None
            return None if given is None else self.value(arguments[0], given, key)
        if origin is typing.Literal and given in arguments:
            return given
        if origin is tuple and isinstance(given, list):
            return tuple(self.value(arguments[0], one, f"{key}[{place}]") for place, one in enumerate(given))
        if origin is Mapping and isinstance(given, dict):
            return {name: self.value(arguments[1], one, _below(key, name)) for name, one in given.items()}
        if dataclasses.is_dataclass(kind) and isinstance(given, dict):
            return self.record(kind, given, key)
        # `type(...) is` and not isinstance: True is an int to Python.
        if type(given) is kind or (kind is float and type(given) is int):
            return given
        self.add(key, "this value does not fit", given, _words(kind))
        return None

    def record(self, kind: Any, given: Mapping[str, object], key: str | None) -> Any:
        fields = {field.name: field for field in dataclasses.fields(kind)}
        before = len(self.problems)
        for name in given:
            if name not in fields:
                self.add(_below(key, name), "unknown key", near=nearest(name, fields))
        for name, field in fields.items():
            if name not in given and field.default is dataclasses.MISSING:
                self.add(_below(key, name), "this key is missing")
        types_ = typing.get_type_hints(kind)
        values = {n: self.value(types_[n], given[n], _below(key, n)) for n in fields if n in given}
        if len(self.problems) > before:
            return None
        try:
            return kind(**values)
        except ValueError as error:  # of the record's own check: `KEY: what is wrong`
            name, _, message = str(error).partition(": ")
            self.add(_below(key, name), message, given[name])
            return None


def _below(key: str | None, name: str) -> str:
    return f"{key}.{name}" if key else name


def _words(kind: Any) -> str:
    """What a type takes, for people."""
    if typing.get_origin(kind) is typing.Literal:
        return ", ".join(map(str, typing.get_args(kind)))
    if typing.get_origin(kind) is tuple:
        return "a list"
    plain_words = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}
    return plain_words.get(kind, "an object of keys")
