"""Leases: which worker has a run, a cell or a checkpoint, on one machine or on many that share a folder.

    FOLDER/NAME/TOKEN    JSON, the holder of NAME; it is free where no such file is there

Only what NFS keeps too is relied on. To claim is to rename a folder that holds the file already: of any number of
workers one succeeds. To free is to remove the file, whose name no other lease ever has: a worker that is late (frozen,
cut off) can neither remove nor bring back another's. Of a dead worker on another host only the missing heartbeat tells.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import os
import random
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from vr_eval.errors import InputError, Problem, VrEvalError
from vr_eval.places import not_writable
from vr_eval.records.folder import RUN_LEASE
from vr_eval.runs.holder import (
    GONE,
    STALE,
    UNKNOWN,
    Found,
    Holder,
    as_bytes,
    found_in,
    free,
    holder_of,
    holders,
    new_holder,
    now_there,
    utc,
)

__all__ = [
    "Holder",
    "Lease",
    "LeaseLostError",
    "check_free",
    "holder_of",
    "holders",
    "leased",
    "waited_for",
]

HEARTBEAT = 5.0
"""Seconds between two signs of life; `STALE` is how long they may be missing."""
TICK = 1.0
"""Seconds after which progress is written, if there is any."""
POLL = (0.5, 2.0)
"""Seconds between two looks at a lease that is waited for: at first, and at most."""
ATTEMPTS = 10
_TAKEN = frozenset({errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT, errno.ESTALE})


class LeaseLostError(VrEvalError):
    """Another worker has taken over what this one was doing."""


class Lease:
    """A lease that this process holds; `leased` and `waited_for` make it."""

    def __init__(self, folder: Path, name: str, task: str) -> None:
        self.folder, self.name = folder, name
        self._holder = new_holder(task)
        self._file = folder / name / self._holder.token
        self._lost = self._changed = False
        self._ended = threading.Event()
        self._heart = threading.Thread(target=self._live, name=f"lease {name}", daemon=True)

    def progress(self, done: int, total: int, unit: str) -> None:
        """Let others see how far this is, in `unit` ("questions", "steps")."""
        self._holder = dataclasses.replace(self._holder, done=done, total=total, unit=unit)
        self._changed = True

    def check(self) -> None:
        """For a worker that is about to write. Raises LeaseLostError if another has taken over."""
        try:  # opened, as an NFS client may answer from memory to everything less
            os.close(os.open(self._file, os.O_RDONLY))
        except OSError as error:
            self._lost = self._lost or error.errno in GONE
        if self._lost:
            holder = holder_of(self.folder, self.name)
            by = "it was freed meanwhile" if holder is None else holder.who
            raise LeaseLostError(f"another worker ({by}) has taken over {self.name}; this one stops")

    def claim(self) -> Holder | None:
        """Try to get it; who has it, if somebody has.

        Raises:
            InputError: The folder cannot be written.
        """
        for attempt in range(ATTEMPTS):
            found = found_in(self.folder, self.name)
            if found is not None and found.live(self.folder):
                return found.holder
            try:
                if self._taken(found):
                    self._heart.start()
                    return None
            except OSError as error:
                raise InputError(not_writable(error, self.folder)) from error
            time.sleep(0.01 * attempt * random.random())
        return UNKNOWN  # there is one, says the server, but this client does not see it yet

    def release(self) -> None:
        """Give it back; in a process that was forked from the holder, nothing."""
        if os.getpid() != self._holder.pid:
            return
        self._ended.set()
        if self._heart.is_alive():
            self._heart.join()  # NFS would keep a file that is open
        with contextlib.suppress(OSError):  # the end of this process frees it too
            free(self._file)

    def _taken(self, stale: Found | None) -> bool:
        self.folder.mkdir(parents=True, exist_ok=True)
        made = self.folder / f".{self.name}.{self._holder.token}"
        try:
            made.mkdir()
            self._holder = dataclasses.replace(self._holder, since=utc())
            (made / self._file.name).write_bytes(as_bytes(self._holder))
            free(stale.file if stale is not None else self._file)
            made.rename(self._file.parent)
        except OSError as error:
            # An answer that was lost on the network makes NFS ask twice, and the second time it fails.
            if self._file.exists():
                return True
            if error.errno not in _TAKEN:
                raise
            return False
        finally:
            shutil.rmtree(made, ignore_errors=True)
        self._tidy()
        return True

    def _tidy(self) -> None:
        """Remove what was left by claims that were killed half-way."""
        now = now_there(self.folder)
        with contextlib.suppress(OSError):
            for path in self.folder.iterdir():
                if path.name.startswith(f".{self.name}.") and now - path.stat().st_mtime > STALE:
                    shutil.rmtree(path, ignore_errors=True)

    def _live(self) -> None:
        due = time.monotonic() + HEARTBEAT
        while not self._lost and not self._ended.wait(TICK):
            if self._changed or time.monotonic() >= due:
                due = time.monotonic() + HEARTBEAT
                self._beat()

    def _beat(self) -> None:
        self._changed = False
        try:
            file = os.open(self._file, os.O_RDWR)  # written in place: a rename could bring back what is lost
            try:
                with contextlib.suppress(OSError):  # a full disk is no reason to look dead
                    os.pwrite(file, as_bytes(self._holder), 0)
                os.utime(file)
            finally:
                os.close(file)
        except OSError as error:  # of the network, say: the next one may succeed
            self._lost = error.errno in GONE


@contextmanager
def leased(folder: Path, name: str, task: str = "") -> Iterator[Lease]:
    """Hold the lease `name`, making `folder` if necessary; it is given back whatever happens.

    Args:
        folder: Of the leases.
        name: What is leased.
        task: What is being done, for others to read.

    Raises:
        InputError: Another process holds it, or it cannot be written.
    """
    lease = Lease(folder, name, task)
    try:
        holder = lease.claim()
        if holder is not None:
            raise _busy(folder, name, holder)
        yield lease
    finally:
        lease.release()


@contextmanager
def waited_for(folder: Path, name: str, waiting: Callable[[Holder], None], task: str = "") -> Iterator[Lease]:
    """Like `leased`, but wait for whoever holds it, and tell `waiting` who that is, each once."""
    lease = Lease(folder, name, task)
    told, pause = "", POLL[0]
    try:
        while (holder := lease.claim()) is not None:
            if holder.token != told:
                waiting(holder)
                told = holder.token
            time.sleep(pause)
            pause = min(1.5 * pause, POLL[1])
        yield lease
    finally:
        lease.release()


def check_free(folder: Path, name: str) -> None:
    """Raises InputError if a process holds the lease `name`; makes nothing."""
    holder = holder_of(folder, name)
    if holder is not None:
        raise _busy(folder, name, holder)


def _busy(folder: Path, name: str, holder: Holder) -> InputError:
    if name == RUN_LEASE:
        place, message = folder.parent.parent, "another run writes to this run directory"
        hint = f"Wait for it, end it ({holder.who}), or choose another run directory with --out DIR."
    else:
        place, message, hint = folder / name, "another worker does this", f"Wait for it, or end it ({holder.who})."
    return InputError(Problem(f"{message}: {holder}", str(place), hint=hint))
