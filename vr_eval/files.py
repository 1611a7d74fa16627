"""Text that is read whatever mark it begins with, and writes that survive a kill at any moment.

A file that is written is either the old one or the new one, never half of it.
"""

from __future__ import annotations

import codecs
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vr_eval.errors import InputError, Problem
from vr_eval.places import not_writable


def read_text(path: Path, source: str, limit: int = -1) -> str:
    """The UTF-8 text of the file `path`, with or without a byte order mark; `source` is how messages call it.

    Args:
        path: The file.
        source: Its name as the user gave it.
        limit: Bytes after which reading ends.

    Raises:
        InputError: It cannot be read, or is no UTF-8 text.
    """
    try:
        with path.open("rb") as file:
            content = file.read(limit)
    except OSError as error:
        raise InputError(Problem(f"cannot be read: {error.strerror}", file=source)) from error
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise InputError(Problem("this is UTF-16 or UTF-32 text", file=source, line=1, allowed="UTF-8"))
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise InputError(Problem("this is not UTF-8 text", file=source, line=line)) from error


def write_atomic(path: str | Path, data: bytes | str) -> None:
    """Replace the file ``path`` by ``data`` (text as UTF-8) in one step, making its folder if necessary.

    Raises:
        InputError: The disk is full, or the place cannot be written; ``path`` is then what it was before.
    """
    payload = data.encode("utf-8") if isinstance(data, str) else data
    with atomic_target(path) as temporary:
        temporary.write_bytes(payload)


@contextmanager
def atomic_target(path: str | Path) -> Iterator[Path]:
    """A temporary path in the folder of ``path`` for writers that want a file name (parquet, safetensors).

    When the block ends well, the temporary file is synced and renamed to ``path``; when it raises, it is removed.

    Raises:
        InputError: The disk is full, or the place cannot be written; ``path`` is then what it was before.
    """
    target = Path(path)
    temporary = target.parent / f".{target.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp"
    with _writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
    try:
        # An OSError of the block is taken for one of writing: the block has no other business.
        with _writing(target):
            yield temporary
            _sync(temporary)
            temporary.replace(target)
            _sync(target.parent)
    finally:
        temporary.unlink(missing_ok=True)


def append_line(path: str | Path, line: str) -> None:
    """Append ``line`` and a newline to a journal and sync it, making the file and its folder if necessary.

    After a kill the last line may be torn. The next append ends it first, so that at most that line is lost.

    Raises:
        InputError: The disk is full, or the place cannot be written.
        ValueError: ``line`` holds a line break.
    """
    if "\n" in line or "\r" in line:
        raise ValueError("a journal line must not hold a line break")
    target = Path(path)
    with _writing(target):
        new = not target.exists()
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("a+b", buffering=0) as file:
            size = file.seek(0, os.SEEK_END)
            torn = size > 0 and os.pread(file.fileno(), 1, size - 1) != b"\n"
            rest = memoryview(f"{'' if not torn else chr(10)}{line}\n".encode())
            while rest:
                rest = rest[file.write(rest) :]
            os.fsync(file.fileno())
        if new:
            _sync(target.parent)


@contextmanager
def _writing(target: Path) -> Iterator[None]:
    """Turn an ``OSError`` into a message that says what to do."""
    try:
        yield
    except OSError as error:
        raise InputError(not_writable(error, target)) from error


def _sync(path: Path) -> None:
    """Flush a file, or a folder's entries after a rename, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
