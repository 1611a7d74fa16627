"""Files of the hub's cache hold what the hub gave: the name of a blob there is the hash of its content."""

from __future__ import annotations

import hashlib
import re
from functools import lru_cache
from pathlib import Path

from huggingface_hub import try_to_load_from_cache

from vr_eval.catalog.backbone import Source
from vr_eval.checksums import DamagedError
from vr_eval.errors import Problem
from vr_eval.hashes import sha256

_SHA256, _GIT = re.compile(r"[0-9a-f]{64}"), re.compile(r"[0-9a-f]{40}")
_READ = (".safetensors", ".json", ".txt", ".model", ".jinja")
"""Files that models and processors are made from; weights in older formats only where there are no others."""
_OLD = ".bin"


def check_cached(source: Source) -> None:
    """Check what the cache holds of `source`; nothing is fetched, and what lies in no cache has no hash to check.

    Large files are named by their SHA-256 and small ones as git names them. One hash takes about a second for 1 to 2
    GB, as long as reading does, and each file is hashed once in a process.

    Raises:
        DamagedError: with every file that holds something else.
    """
    folder = _snapshot(source)
    files = [] if folder is None else [path for path in sorted(folder.iterdir()) if path.is_symlink()]
    suffixes = _READ if any(path.suffix == ".safetensors" for path in files) else (*_READ, _OLD)
    problems = []
    for path in files:
        blob = path.resolve()
        if path.suffix in suffixes and blob.is_file() and not _holds(blob):
            message = "this file is damaged: it does not hold what the hub says (its hash is the name of the blob)"
            hint = f"Delete {blob} and run the same command again with network: it is fetched again."
            problems.append(Problem(message, file=str(path), hint=hint))
    if problems:
        raise DamagedError(problems)


def _snapshot(source: Source) -> Path | None:
    """The folder of `source`, if it is here."""
    folder = Path(source.name)
    if folder.is_dir():
        return folder
    # Any part of a snapshot will do, and the library gives whole ones only.
    found = try_to_load_from_cache(source.name, "config.json", revision=source.revision)
    return Path(found).parent if isinstance(found, str) else None


def _holds(blob: Path) -> bool:
    """Whether a blob holds what its name says; true where the name says nothing."""
    if _SHA256.fullmatch(blob.name):
        return sha256(blob) == blob.name
    if _GIT.fullmatch(blob.name):
        status = blob.stat()
        return _git_name(blob, status.st_size, status.st_mtime_ns) == blob.name
    return True


@lru_cache(maxsize=256)
def _git_name(path: Path, size: int, changed: int) -> str:
    digest = hashlib.sha1(f"blob {size}\0".encode(), usedforsecurity=False)
    digest.update(path.read_bytes())
    return digest.hexdigest()
