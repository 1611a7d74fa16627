"""Locks between processes: one run writes to a run directory, one training to a checkpoint.

The kernel holds the lock for the process, so a killed process leaves none behind; the file itself stays.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from vr_eval.errors import InputError, Problem
from vr_eval.places import hint_for


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock file `path`, making it and its folder if necessary.

    Raises:
        InputError: another process holds it, or it cannot be made.
    """
    with _opened(path) as file:
        if not _try(file):
            raise held(path, _pid(file))
        _sign(file)
        yield


@contextmanager
def waited_for(path: Path, waiting: Callable[[str], None]) -> Iterator[None]:
    """Hold the lock file `path`; where another process holds it, tell `waiting` its process id and wait."""
    with _opened(path) as file:
        if not _try(file):
            waiting(_pid(file))
            fcntl.flock(file, fcntl.LOCK_EX)
        _sign(file)
        yield


def check_free(path: Path) -> None:
    """Raises InputError if another process holds `path`; makes nothing."""
    try:
        file = os.open(path, os.O_RDONLY)
    except OSError:  # no such file: nobody can hold it
        return
    try:
        if not _try(file):
            raise held(path, _pid(file))
    finally:
        os.close(file)


def held(path: Path, pid: str) -> InputError:
    """The error of a run directory that is in use."""
    hint = f"Wait for it, end it (process {pid}), or choose another run directory with --out DIR."
    return InputError(Problem(f"another run (process {pid}) writes to this run directory", str(path.parent), hint=hint))


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        message = f"cannot be written: {error.strerror}"
        raise InputError(Problem(message, file=str(path.parent), hint=hint_for(path))) from error
    try:
        yield file
    finally:
        os.close(file)  # gives the lock back


def _try(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _sign(file: int) -> None:
    os.ftruncate(file, 0)
    os.pwrite(file, f"{os.getpid()}\n".encode(), 0)


def _pid(file: int) -> str:
    return os.pread(file, 20, 0).decode("ascii", "replace").strip() or "unknown"
