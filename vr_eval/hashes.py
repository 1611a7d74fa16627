"""Hashes of files, computed once while size and time of a file stay the same: a plan asks for each cell. Light."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO


def sha256(path: Path) -> str:
    """SHA-256 of all bytes of a file. Raises OSError."""
    status = path.stat()
    return _sha256(path, status.st_size, status.st_mtime_ns)


def spread(file: BinaryIO, places: int, block: int) -> Iterator[bytes]:
    """So many blocks of an open file, evenly spread from its first byte to its last: a change of a large file shows."""
    size = os.fstat(file.fileno()).st_size
    for place in range(places):
        file.seek((size - block) * place // (places - 1))
        yield file.read(block)


@lru_cache(maxsize=4096)
def _sha256(path: Path, size: int, changed: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
