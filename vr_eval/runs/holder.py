"""Who holds a lease, as its file says, and whether that process still lives. Light; what cannot be read is no error."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import os
import secrets
import socket
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from vr_eval.errors import InputError
from vr_eval.records.json_file import parse_json, plain

STALE = 60.0
"""Seconds without a heartbeat after which a worker of another host counts as dead."""
GONE = frozenset({errno.ENOENT, errno.ESTALE})
"""What a file that was removed answers, the second from another host."""
_BYTES = 2048
"""Of a lease's file, so that it is written in place: nothing of a longer text stays behind a shorter one."""
_SHOWN = 200


@dataclass(frozen=True)
class Holder:
    """The process that holds a lease.

    Attributes:
        host: Its machine.
        pid: Its id there.
        start: When it began, in ticks since that machine's start; None where the system does not say.
        boot: Which start of that machine, and which of its containers; None where the system does not say.
        since: When it got the lease: UTC, ISO 8601.
        task: What it does, in words.
        done: How many of `total` it has done; both 0 before it says so.
        total: How many there are.
        unit: Of what.
        token: Of this lease alone.
    """

    host: str
    pid: int
    start: int | None
    boot: str | None
    since: str
    task: str
    done: int
    total: int
    unit: str
    token: str

    @property
    def who(self) -> str:
        """The process in words."""
        return f"process {self.pid or 'unknown'} on {self.host}"

    def __str__(self) -> str:
        since = self.since[:16].replace("T", " ")
        parts = [self.who, since and f"since {since} UTC", self.task]
        if self.total:
            parts.append(f"{self.done} of {self.total} {self.unit}")
        return ", ".join(part for part in parts if part)


UNKNOWN = Holder("an unknown host", 0, None, None, "", "", 0, 0, "", "")
"""In place of a holder that cannot be read."""


@dataclass(frozen=True)
class Found:
    """A lease that is there: its file, what it says, and the file server's time of the last heartbeat."""

    file: Path
    holder: Holder
    beat: float

    def live(self, folder: Path) -> bool:
        """Whether its holder lives, as far as can be known; `folder` is that of the leases.

        On the same machine that is whether the process is there, however long it has been suspended or busy.
        """
        holder = self.holder
        if holder is not UNKNOWN and (holder.host, holder.boot) == (socket.gethostname(), _boot()):
            return _runs(holder.pid, holder.start)
        return now_there(folder) - self.beat <= STALE


def new_holder(task: str) -> Holder:
    """This process, about to claim a lease."""
    pid = os.getpid()
    process = _process(pid)
    start = None if process is None else process[1]
    return Holder(socket.gethostname(), pid, start, _boot(), utc(), task[:_SHOWN], 0, 0, "", secrets.token_hex(8))


def utc() -> str:
    """The time now, as leases say it."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def as_bytes(holder: Holder) -> bytes:
    """The content of a lease's file, always of one length."""
    short = dataclasses.replace(holder, unit=holder.unit[:20])
    return json.dumps(plain(short), ensure_ascii=False).encode("utf-8", "replace").ljust(_BYTES - 1) + b"\n"


def found_in(folder: Path, name: str) -> Found | None:
    """The lease `name`, whether its holder lives or not; None where there is none."""
    try:
        # Hidden: what NFS keeps of a file that was removed while it was open.
        files = [file for file in (folder / name).iterdir() if not file.name.startswith(".")]
    except OSError:
        return None
    for file in files:
        found = _read(file)
        if found is not None and found.holder is UNKNOWN:  # perhaps read while it was written
            time.sleep(0.01)
            found = _read(file)
        if found is not None:
            return found
    return None


def holder_of(folder: Path, name: str) -> Holder | None:
    """Who holds the lease `name`, if anybody does; makes nothing."""
    found = found_in(folder, name)
    return found.holder if found is not None and found.live(folder) else None


def holders(folder: Path) -> dict[str, Holder]:
    """Who holds the leases of a folder, by name; makes nothing."""
    try:
        names = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
    except OSError:
        return {}
    found = {name: holder_of(folder, name) for name in names}
    return {name: holder for name, holder in found.items() if holder is not None}


def free(file: Path) -> None:
    """Remove a lease, if it is there, and its folder, if no other lease is in it. Raises OSError."""
    try:
        file.unlink()
    except OSError as error:
        if error.errno not in GONE:
            raise
    with contextlib.suppress(OSError):
        file.parent.rmdir()


def now_there(folder: Path) -> float:
    """The time now by the clock that dates the files in `folder`, which may be another machine's."""
    try:
        os.utime(folder)  # without times: the file server takes its own
        return folder.stat().st_mtime
    except OSError:  # of someone who may only read, and so takes nothing over
        return time.time()


def _read(file: Path) -> Found | None:
    try:
        with file.open("rb") as opened:
            content, beat = opened.read(), os.fstat(opened.fileno()).st_mtime
    except OSError as error:
        if error.errno in GONE:
            return None
        try:
            return Found(file, UNKNOWN, file.stat().st_mtime)
        except OSError:
            return None
    try:
        return Found(file, parse_json(Holder, content.decode("utf-8"), str(file)), beat)
    except (InputError, ValueError):
        return Found(file, UNKNOWN, beat)


def _runs(pid: int, start: int | None) -> bool:
    """Whether the process that began at `start` is there on this machine; one that nobody has waited for is not."""
    if pid < 1:
        return False
    try:
        os.kill(pid, 0)
    except PermissionError:  # there, and another user's
        pass
    except (ProcessLookupError, OverflowError):
        return False
    process = _process(pid)
    if process is None:  # the system does not say, or hides the processes of others
        return True
    return process[0] not in ("Z", "X") and (start is None or process[1] == start)


def _process(pid: int) -> tuple[str, int] | None:
    """The state of a process and when it began; None where the system does not say."""
    try:
        # The name, in parentheses, may hold anything, so that the fields are counted behind it.
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
        return fields[0], int(fields[19])
    except (OSError, ValueError, IndexError):
        return None


def _boot() -> str | None:
    """This machine since it started, and the space of its process ids, of which containers have their own."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"  # noqa: PTH115  # no path: `pid:[4026531836]`
    except OSError:
        return None
