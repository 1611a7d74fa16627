"""LLaVA's own form of training data: a list of objects with ``id``, ``image`` and ``conversations``.

It is one JSON array, or one object a line. The records are cut apart once and kept as Arrow, as they are written, so
that hundreds of thousands of them cost no memory and are shared by all processes.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pyarrow as pa
from datasets import Dataset

from vr_eval.errors import InputError, Problem
from vr_eval.files import atomic_target, read_text
from vr_eval.paths import home
from vr_eval.training.typed import BrokenSample, images_of, parsed

_FORM = pa.schema({"record": pa.binary(), "files": pa.list_(pa.string())})
_VERSION = 1
"""Raised by hand when something else is kept."""
_AT_ONCE = 1000  # records
_SPACE = re.compile(r"[ \t\n\r]*")
_MARK = re.compile(r'"(?:[^"\\]|\\.)*+"|[\[{]|[\]}]|,', re.DOTALL)
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)  # those of UTF-32 begin with one of them or with a zero
_TORN = (json.JSONDecodeError, UnicodeDecodeError)  # what a record that is cut off is read as


def llava_records(path: Path, content: str) -> Dataset:
    """The records of the file at `path`, kept by `content`, the hash of it: `record` as JSON, and the `files` it names.

    Raises:
        InputError: it is no list in JSON or JSONL, or what is kept cannot be written.
    """
    by_line = path.suffix in (".jsonl", ".ndjson")
    kept = home() / "training-data" / f"records-{_VERSION}-{'lines' if by_line else 'list'}-{content[:16]}.arrow"
    if not kept.is_file():
        _check_encoding(path)
        records = _lines(path) if by_line else _elements(read_text(path, str(path)), str(path))
        with atomic_target(kept) as partial, pa.ipc.new_stream(str(partial), _FORM) as stream:
            while some := list(islice(records, _AT_ONCE)):
                rows = [{"record": record, "files": _files(record)} for record in some]
                stream.write_batch(pa.RecordBatch.from_pylist(rows, schema=_FORM))
    return Dataset.from_file(str(kept))


def _files(record: bytes) -> list[str]:
    """The image files that a record names; none of a broken one."""
    try:
        found = parsed(record)
        return [image for image in images_of(found) if isinstance(image, str)] if isinstance(found, dict) else []
    except BrokenSample:
        return []


def _lines(path: Path) -> Iterator[bytes]:
    """The lines of a JSONL file that hold something. One that is no JSON is a broken sample, unless all are."""
    first, good = None, 0
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if number == 1:
                    line = line.removeprefix(codecs.BOM_UTF8)
                if not line.strip():
                    continue
                try:
                    parsed(line)
                    good += 1
                except BrokenSample as error:
                    first = first or (number, str(error))
                    if good and isinstance(error.__cause__, _TORN) and not line.endswith(b"\n"):
                        hint = "Perhaps it was not copied or downloaded to its end."
                        message = "the file ends within a record"
                        raise InputError(Problem(message, file=str(path), line=number, hint=hint)) from error
                yield line
    except OSError as error:
        raise _unreadable(path, error) from error
    if first is not None and not good:
        raise InputError(Problem(f"cannot be read: {first[1]}", file=str(path), line=first[0]))


def _check_encoding(path: Path) -> None:
    """Raises InputError: it is UTF-16 or UTF-32, in which alone a JSON text has a zero in its first bytes."""
    try:
        with path.open("rb") as file:
            start = file.read(4)
    except OSError as error:
        raise _unreadable(path, error) from error
    if start.startswith(_UTF16) or b"\0" in start:
        raise InputError(Problem("this is UTF-16 or UTF-32 text", file=str(path), line=1, allowed="UTF-8"))


def _elements(text: str, file: str) -> Iterator[bytes]:
    """The elements of a JSON array as they are written."""
    try:
        place = _after_space(text, 0)
        if text[place : place + 1] != "[":
            given = type(json.loads(text)).__name__
            raise InputError(Problem("must be a list of conversations", file=file, given=given))
        place = _after_space(text, place + 1)
        more = text[place : place + 1] != "]"
        while more:
            end = _end(text, place)
            yield text[place:end].encode("utf-8")
            place = _after_space(text, end)
            more = text[place : place + 1] == ","
            if more:
                place = _after_space(text, place + 1)
        if text[place : place + 1] != "]":
            raise json.JSONDecodeError("Expecting ',' delimiter", text, place)
        place = _after_space(text, place + 1)
        if place < len(text):
            raise json.JSONDecodeError("Extra data", text, place)
    except json.JSONDecodeError as error:
        raise InputError(Problem(f"cannot be read: {error}", file=file, line=error.lineno)) from error
    except (ValueError, RecursionError) as error:  # of a file that is no list
        raise InputError(Problem("must be a list of conversations", file=file)) from error


def _end(text: str, place: int) -> int:
    """Where the element ends that begins at `place`."""
    try:
        return json.JSONDecoder().raw_decode(text, place)[1]
    except json.JSONDecodeError:
        raise
    except (ValueError, RecursionError):  # a number of thousands of digits, or nested too deeply: a broken sample
        depth = 0
        for mark in _MARK.finditer(text, place):
            depth += {"[": 1, "{": 1, "]": -1, "}": -1}.get(mark.group(), 0)
            if depth < 0 or (depth == 0 and mark.group() == ","):
                return mark.start()
        raise json.JSONDecodeError("Expecting ',' delimiter", text, len(text)) from None


def _after_space(text: str, place: int) -> int:
    found = _SPACE.match(text, place)
    return found.end() if found else place


def _unreadable(path: Path, error: OSError) -> InputError:
    return InputError(Problem(f"cannot be read: {error.strerror or error}", file=str(path)))
