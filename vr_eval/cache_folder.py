"""A folder of files that may be lost at any time, shared by processes and later runs, up to a size. Light: no torch.

    FOLDER/GROUP/AB/NAME      GROUP: 16 hex digits; AB: the first two characters of the name

A file is written under another name and renamed, so that it is there as a whole or not at all. Nothing is synced to the
disk: whoever reads compares a checksum and can make the content again. Bytes are counted by looking, at the first write
and whenever an eighth of the room that was left may be used up, not at every write: each of more than eight writers can
go a little past the limit.
"""

from __future__ import annotations

import logging
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from vr_eval.places import nearest_existing

UNUSED_SECONDS = 3600
"""A group that nobody has used for so long makes room for new ones; so does a file that a kill left unfinished."""
_TOUCH_SECONDS = 300
_SHARE, _LEAST = 8, 64
"""What may be written before looking again: an eighth of the room, or all of it below a 64th of the limit."""
_GROUP = re.compile(r"[0-9a-f]{16}")
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Held:
    """What a folder holds of one group.

    Attributes:
        folder: Of the group.
        used: When it was used last, by the clock of the disk, seconds.
        files: Time of the last use and size of each, with its path.
    """

    folder: Path
    used: float
    files: list[tuple[float, int, Path]] = field(default_factory=list)

    @property
    def size(self) -> int:
        """Bytes."""
        return sum(size for _, size, _ in self.files)


class CacheFolder:
    """Files by group and name.

    Attributes:
        path: The folder; it may not exist yet.
        limit_bytes: The most that it holds; less where the disk has less: never more than what it leaves free.
        rolling: When it is full, files of this process's groups give way too, those that were used longest ago first:
            for work that goes through the names in parts, each of which fits (at most half of the limit). Otherwise
            what is there stays and new files are not kept: of a scan that does not fit, it would always be the next
            file that has just gone.
    """

    def __init__(self, path: Path, limit_bytes: int, *, rolling: bool = False) -> None:
        self.path, self.limit_bytes, self.rolling = path, limit_bytes, rolling
        self._left = 0
        self.stopped = False
        self._used: dict[str, float] = {}

    def file(self, group: str, name: str) -> Path:
        """Where a file is or would be."""
        return self.path / group / name[:2] / name

    def used(self, group: str, file: Path | None = None) -> None:
        """Say that a group, and a file of it, has been read."""
        now = time.monotonic()
        if now - self._used.get(group, -_TOUCH_SECONDS) >= _TOUCH_SECONDS:
            self._used[group] = now
            _touch(self.path / group)
        if file is not None and self.rolling:  # only then do single files go
            _touch(file)

    def write(self, group: str, name: str, content: bytes) -> bool:
        """Keep a file if there is room, in place of one that may be there; whether it was kept.

        What keeps it from being written is no error of the work: one warning says so, and nothing is kept any more.
        """
        if self.stopped:
            return False
        target = self.file(group, name)
        temporary = target.with_name(f".{os.getpid()}.{secrets.token_hex(4)}.tmp")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            self.used(group)
            if not self._has_room(len(content)):
                self._stop(f"{self.path} is full ({_gib(self.limit())})")
                return False
            try:
                temporary.write_bytes(content)
                temporary.replace(target)
            finally:
                temporary.unlink(missing_ok=True)
        except OSError as error:
            self._stop(f"{self.path} cannot be written ({error.strerror or error})")
            return False
        self._left -= len(content)
        return True

    def limit(self) -> int:
        """Bytes that it may hold now: `limit_bytes`, or half of what the disk would have free without it."""
        return self._limit(sum(group.size for group in self._look()))

    def _limit(self, held: int) -> int:
        # Of the sum, which writing to the folder does not change, so that the limit stays where it is.
        return min(self.limit_bytes, (held + shutil.disk_usage(nearest_existing(self.path)).free) // 2)

    def _has_room(self, size: int) -> bool:
        if size <= self._left:
            return True
        groups = list(self._look())
        room = self._count(groups)
        if size > room:
            wanted = max(size, self.limit_bytes // _SHARE) - room
            _remove(self._removable(groups), wanted)
            room = self._count(list(self._look()))
        return size <= room

    def _count(self, groups: list[Held]) -> int:
        """Room that is left; a share of it is this process's until it looks again."""
        held = sum(group.size for group in groups)
        limit = self._limit(held)
        room = limit - held
        self._left = room if room < limit // _LEAST else room // _SHARE
        return room

    def _removable(self, groups: list[Held]) -> Iterator[tuple[int, Path]]:
        """Files that may go, with their sizes, in the order in which they go."""
        groups.sort(key=lambda group: group.used)
        now = groups[-1].used if groups else 0.0  # the disk's clock: this process has just used a group
        for group in groups:
            if now - group.used > UNUSED_SECONDS:
                yield from ((size, path) for _, size, path in group.files)
        if self.rolling:
            own = [file for group in groups if group.folder.name in self._used for file in group.files]
            yield from ((size, path) for _, size, path in sorted(own))

    def _look(self) -> Iterator[Held]:
        """All groups; what kills left unfinished long ago is removed."""
        for group in _entries(self.path):
            if not _GROUP.fullmatch(group.name):
                continue
            try:
                held = Held(Path(group.path), group.stat().st_mtime)
            except OSError:
                continue
            for file in (file for part in _entries(group.path) for file in _entries(part.path)):
                try:
                    status = file.stat()
                except OSError:  # another process has removed it
                    continue
                held.files.append((status.st_mtime, status.st_size, Path(file.path)))
                if file.name.startswith(".") and held.used - status.st_mtime > UNUSED_SECONDS:
                    Path(file.path).unlink(missing_ok=True)
            yield held

    def _stop(self, why: str) -> None:
        self.stopped = True
        _log.warning("%s: nothing more is kept there, and the run goes on without", why)


def _remove(files: Iterator[tuple[int, Path]], wanted: int) -> None:
    """Remove files until so many bytes are free. Who reads one of them goes on: it is there until it is closed."""
    for size, path in files:
        if wanted <= 0:
            return
        path.unlink(missing_ok=True)  # another process may make room too
        wanted -= size


def _entries(folder: Path | str) -> Iterator[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            yield from entries
    except (FileNotFoundError, NotADirectoryError):
        return


def _touch(path: Path) -> None:
    with suppress(OSError):  # it is not there, or not ours: then it is taken for older than it is
        os.utime(path)


def _gib(count: int) -> str:
    return f"{count / 1024**3:.3g} GiB"
