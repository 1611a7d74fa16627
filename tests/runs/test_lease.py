"""Leases: one holder at a time, freed by its end or its silence, and by nobody else."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from vr_eval.errors import InputError
from vr_eval.records.folder import RUN_LEASE, RunFolder
from vr_eval.runs import holder as holder_module
from vr_eval.runs import lease as lease_module
from vr_eval.runs.holder import as_bytes, new_holder
from vr_eval.runs.lease import (
    Holder,
    LeaseLostError,
    check_free,
    holder_of,
    holders,
    leased,
    waited_for,
)

HOLDER = """
import sys
from pathlib import Path
from vr_eval.runs.lease import leased
with leased(Path(sys.argv[1]), "run", "evaluates avg_pool 1/4"):
    print("held", flush=True)
    sys.stdin.read()
"""
CONTENDER = """
import os, random, sys, threading
from pathlib import Path
from vr_eval.runs import lease
lease.POLL = (0.001, 0.003)
folder, threads, rounds, deaths = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])
counter, inside = folder / "counter", folder / "inside"

def contend():
    for _ in range(rounds):
        with lease.waited_for(folder / "leases", "one", lambda holder: None):
            try:
                os.close(os.open(inside, os.O_CREAT | os.O_EXCL))
            except FileExistsError:
                (folder / "overlap").write_text("two held the lease at once")
                os._exit(3)
            count = int(counter.read_text())
            counter.write_text(str(count + 1))
            inside.unlink()
            if random.random() < deaths:
                os._exit(9)

for thread in [threading.Thread(target=contend) for _ in range(threads)]:
    thread.start()
"""
Process = subprocess.Popen[str]


def begun(code: str, *arguments: object) -> Process:
    words = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


@pytest.fixture
def other(tmp_path: Path) -> Iterator[Process]:
    """Another process that holds the lease `run` in `tmp_path` until its stdin closes."""
    with begun(HOLDER, tmp_path) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def there(folder: Path, name: str = "run", **changed: Any) -> Path:
    """The file of a lease as a process of another host left it; returns it."""
    fields: dict[str, Any] = {"host": "node-7", "pid": 4711} | changed
    holder = dataclasses.replace(new_holder("trains"), **fields)
    (folder / name).mkdir(parents=True)
    (folder / name / holder.token).write_bytes(as_bytes(holder))
    return folder / name / holder.token


def silent(file: Path, seconds: float) -> None:
    """Let the last heartbeat be that long ago."""
    then = file.stat().st_mtime - seconds
    os.utime(file, (then, then))


def until(what: Callable[[], object]) -> None:
    for _ in range(500):
        if what():
            return
        time.sleep(0.02)
    raise AssertionError("it did not happen within 10 s")


def test_the_second_run_is_told_who_works_there_where_and_since_when(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "toys")
    with begun(HOLDER, folder.leases) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        with pytest.raises(InputError) as refused, leased(folder.leases, RUN_LEASE):
            pass
        with pytest.raises(InputError) as asked:
            check_free(folder.leases, RUN_LEASE)
        process.kill()
    who = f"process {process.pid} on {new_holder('').host}"
    assert str(refused.value) == str(asked.value)
    assert str(refused.value).startswith(f"{folder.path}: another run writes to this run directory: {who}, since 20")
    assert " UTC, evaluates avg_pool 1/4\n" in str(refused.value)
    assert f"Wait for it, end it ({who}), or choose another run directory with --out DIR." in str(refused.value)


def test_what_is_no_run_is_not_called_one(tmp_path: Path) -> None:
    there(tmp_path, "0123abcd")
    with pytest.raises(InputError, match=r"0123abcd: another worker does this: process 4711 on node-7") as refused:
        check_free(tmp_path, "0123abcd")
    assert "--out" not in str(refused.value)


def test_a_killed_process_of_this_machine_is_taken_over_at_once(tmp_path: Path, other: Process) -> None:
    other.kill()
    # It is a zombie until it is waited for, and a driver may be late.
    until(lambda: Path(f"/proc/{other.pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z")
    assert holder_of(tmp_path, "run") is None
    with leased(tmp_path, "run"):
        assert [path.parent.name for path in tmp_path.rglob("*") if path.is_file()] == ["run"]


def test_a_process_that_is_suspended_keeps_its_lease_on_this_machine(tmp_path: Path, other: Process) -> None:
    (file,) = (tmp_path / "run").iterdir()
    silent(file, 3600)
    with pytest.raises(InputError, match=f"process {other.pid} on"):
        check_free(tmp_path, "run")


def test_a_process_id_that_was_given_again_is_not_the_holder(tmp_path: Path) -> None:
    mine = new_holder("")
    file = there(tmp_path, host=mine.host, pid=os.getpid())
    assert holder_of(tmp_path, "run") is not None
    assert mine.start is not None
    file.write_bytes(as_bytes(dataclasses.replace(mine, start=mine.start - 1)))
    assert holder_of(tmp_path, "run") is None


def test_a_container_of_the_same_host_name_is_another_machine(tmp_path: Path) -> None:
    """Its process ids mean nothing here: only its silence tells."""
    file = there(tmp_path, host=new_holder("").host, pid=2**22 + 1, boot="another")
    assert holder_of(tmp_path, "run") is not None
    silent(file, 61)
    assert holder_of(tmp_path, "run") is None


def test_a_holder_of_another_host_is_taken_over_after_its_silence(tmp_path: Path) -> None:
    file = there(tmp_path)
    silent(file, 50)
    with pytest.raises(InputError, match="process 4711 on node-7"), leased(tmp_path, "run"):
        pass
    silent(file, 11)
    with leased(tmp_path, "run") as lease:
        lease.check()
        assert not file.exists()


@pytest.mark.parametrize("ahead", [-86400, 86400])
def test_the_clock_of_this_machine_is_not_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ahead: float) -> None:
    """A file server a day ahead or behind, whose clock dates every file."""
    utime = os.utime

    def at_server(path: Any, times: Any = None) -> None:
        now = time.time() + ahead
        utime(path, times or (now, now))

    monkeypatch.setattr(os, "utime", at_server)
    file = there(tmp_path)
    os.utime(file)
    silent(file, 50)
    assert holder_of(tmp_path, "run") is not None
    silent(file, 11)
    assert holder_of(tmp_path, "run") is None


def test_who_may_only_read_sees_the_holder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there(tmp_path)

    def refuse(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "utime", refuse)
    assert list(holders(tmp_path)) == ["run"]


@pytest.mark.parametrize(
    "content",
    [b"", b"\0" * 2048, b'{"host": "no', b"\xff", b"[]", b'{"host": 1}', b"[" * 100_000, b'{"pid": 1e400}'],
    ids=["empty", "zeros", "torn", "bytes", "list", "types", "deep", "infinite"],
)
def test_what_cannot_be_read_is_held_until_it_is_old(tmp_path: Path, content: bytes) -> None:
    file = there(tmp_path)
    file.write_bytes(content)
    assert holders(tmp_path)["run"].who == "process unknown on an unknown host"
    with pytest.raises(InputError, match="unknown"), leased(tmp_path, "run"):
        pass
    silent(file, 61)
    with leased(tmp_path, "run"):
        assert holders(tmp_path)["run"].pid == os.getpid()


@pytest.mark.parametrize("pid", [0, -1, 2**70])
def test_a_process_id_that_cannot_be_is_nobody(tmp_path: Path, pid: int) -> None:
    there(tmp_path, host=new_holder("").host, pid=pid)
    assert holder_of(tmp_path, "run") is None


def test_a_torn_read_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = there(tmp_path)
    whole = file.read_bytes()
    file.write_bytes(whole[:100])
    monkeypatch.setattr(time, "sleep", lambda _: file.write_bytes(whole))
    assert holders(tmp_path)["run"].pid == 4711


def test_the_lease_is_given_back_whatever_happens(tmp_path: Path) -> None:
    for end in (KeyboardInterrupt, SystemExit, OSError):
        with pytest.raises(end), leased(tmp_path / "leases", "run"):
            raise end
        assert list((tmp_path / "leases").iterdir()) == []
    with leased(tmp_path / "leases", "run"), leased(tmp_path / "leases", "another"):
        assert list(holders(tmp_path / "leases")) == ["another", "run"]
    assert holders(tmp_path / "leases") == {}


def test_an_interrupt_in_the_middle_of_a_claim_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rename = Path.rename

    def interrupted(self: Path, target: Path) -> None:
        rename(self, target)
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt), leased(tmp_path / "leases", "run"):
        pass
    assert list((tmp_path / "leases").iterdir()) == []


def test_what_a_killed_claim_left_is_removed_when_it_is_old(tmp_path: Path) -> None:
    for name in (".run.old", ".run.new", ".runs.old"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "token").touch()
    for name in (".run.old", ".runs.old"):
        silent(tmp_path / name, 61)
    (tmp_path / "run").mkdir()
    assert holders(tmp_path) == {}
    with leased(tmp_path, "run"):
        assert sorted(path.name for path in tmp_path.iterdir()) == [".run.new", ".runs.old", "run"]


def test_others_see_what_is_done(tmp_path: Path) -> None:
    with leased(tmp_path, "cell", "evaluates avg_pool 1/4 " + "\x00\n…" * 200) as lease:
        lease.progress(12, 60, "questions")
        until(lambda: holders(tmp_path)["cell"].done == 12)
        seen = holders(tmp_path)["cell"]
        lease.progress(9, 9, "steps")
        until(lambda: holders(tmp_path)["cell"].unit == "steps")
    assert (seen.total, seen.unit, seen.pid) == (60, "questions", os.getpid())
    assert str(dataclasses.replace(seen, task="evaluates")).endswith("UTC, evaluates, 12 of 60 questions")


def test_the_heartbeat_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease_module, "HEARTBEAT", 0.05)
    monkeypatch.setattr(lease_module, "TICK", 0.01)
    with leased(tmp_path, "run"):
        (file,) = (tmp_path / "run").iterdir()
        silent(file, 3600)
        until(lambda: time.time() - file.stat().st_mtime < 60)


def test_the_heart_stops_before_the_lease_is_given_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease_module, "TICK", 0.01)
    before, writes = threading.active_count(), threading.Event()
    pwrite = os.pwrite

    def slow(*arguments: Any) -> int:
        writes.set()
        time.sleep(0.3)
        return pwrite(*arguments)

    monkeypatch.setattr(os, "pwrite", slow)
    with leased(tmp_path, "run") as lease:
        lease.progress(1, 2, "steps")
        assert writes.wait(10)
    assert threading.active_count() == before


def test_a_full_disk_does_not_stop_the_heart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease_module, "HEARTBEAT", 0.05)
    monkeypatch.setattr(lease_module, "TICK", 0.01)

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with leased(tmp_path, "run") as lease:
        monkeypatch.setattr(os, "pwrite", full)
        (file,) = (tmp_path / "run").iterdir()
        silent(file, 3600)
        until(lambda: time.time() - file.stat().st_mtime < 60)
        lease.check()


def test_who_comes_back_late_stops_and_disturbs_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker of another host that was frozen for longer than `STALE`."""
    monkeypatch.setattr(lease_module, "TICK", 0.01)
    with contextlib.ExitStack() as late:
        monkeypatch.setattr(holder_module.socket, "gethostname", lambda: "node-7")
        lost = late.enter_context(leased(tmp_path, "cell"))
        monkeypatch.undo()
        (file,) = (tmp_path / "cell").iterdir()
        silent(file, 61)
        with leased(tmp_path, "cell"):
            (theirs,) = (tmp_path / "cell").iterdir()
            with pytest.raises(LeaseLostError, match=rf"\(process {os.getpid()} on {new_holder('').host}\) has taken"):
                lost.check()
            lost.progress(1, 2, "questions")
            late.close()
            assert list((tmp_path / "cell").iterdir()) == [theirs]
            assert holders(tmp_path)["cell"].token == theirs.name
    with pytest.raises(LeaseLostError, match="freed meanwhile"):
        lost.check()


def test_the_heart_of_a_lost_lease_stops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease_module, "HEARTBEAT", 0.02)
    monkeypatch.setattr(lease_module, "TICK", 0.01)
    before = threading.active_count()
    with leased(tmp_path, "cell"):
        holder_module.free(holder_module.found_in(tmp_path, "cell").file)
        until(lambda: threading.active_count() == before)
        assert list(tmp_path.iterdir()) == []


def test_who_was_late_to_see_a_dead_holder_does_not_free_the_next_one(tmp_path: Path) -> None:
    """Between a look at a dead holder and its removal, another has taken over, ended, and a third one has begun."""
    silent(there(tmp_path), 61)
    seen = holder_module.found_in(tmp_path, "run")
    with leased(tmp_path, "run"):
        pass
    with leased(tmp_path, "run") as third:
        late = lease_module.Lease(tmp_path, "run", "")
        assert not late._taken(seen)
        third.check()
        late.release()
        third.check()
        assert len(list(tmp_path.rglob("*"))) == 2


def test_a_rename_that_the_network_reports_as_failed_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rename = Path.rename

    def asked_twice(self: Path, target: Path) -> None:
        rename(self, target)
        raise FileNotFoundError(errno.ENOENT, "No such file or directory")

    monkeypatch.setattr(Path, "rename", asked_twice)
    with leased(tmp_path, "run") as lease:
        lease.check()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES, errno.EROFS])
@pytest.mark.parametrize("step", ["mkdir", "write_bytes", "rename"])
def test_a_folder_that_cannot_be_written_is_one_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, number: int
) -> None:
    def refused(self: Path, *_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number), str(self))

    monkeypatch.setattr(Path, step, refused)
    with pytest.raises(InputError, match=r"full|read-only|no permission"), leased(tmp_path / "leases", "run"):
        pass
    monkeypatch.undo()
    assert list(tmp_path.rglob("*")) in ([], [tmp_path / "leases"])


@pytest.mark.parametrize("place", ["leases", "leases/run"])
def test_a_file_in_the_way_is_one_error(tmp_path: Path, place: str) -> None:
    (tmp_path / place).parent.mkdir(exist_ok=True)
    (tmp_path / place).touch()
    with pytest.raises(InputError, match="a file, not a folder"), leased(tmp_path / "leases", "run"):
        pass
    assert (tmp_path / place).is_file()


def test_one_training_waits_for_another_and_says_so_once(
    tmp_path: Path, other: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[int] = []

    def release(holder: Holder) -> None:
        said.append(holder.pid)
        assert other.stdin is not None
        monkeypatch.setattr(lease_module, "utc", lambda: "the moment after")
        other.stdin.close()

    with waited_for(tmp_path, "run", release, "trains"):
        assert holders(tmp_path)["run"].pid == os.getpid()
        assert holders(tmp_path)["run"].since == "the moment after"
    assert said == [other.pid]


def test_who_waits_for_a_process_that_is_killed_goes_on(tmp_path: Path, other: Process) -> None:
    with waited_for(tmp_path, "run", lambda _: other.kill()):
        pass
    assert list(tmp_path.iterdir()) == []


def test_asking_makes_nothing(tmp_path: Path) -> None:
    check_free(tmp_path / "no" / "leases", "run")
    assert holders(tmp_path / "no" / "leases") == {}
    assert list(tmp_path.iterdir()) == []
    there(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    assert list(holders(tmp_path)) == ["run"]
    assert sorted(tmp_path.rglob("*")) == before


def test_a_forked_process_gives_nothing_back(tmp_path: Path) -> None:
    code = """
import os, sys
from pathlib import Path
from vr_eval.runs.lease import leased
with leased(Path(sys.argv[1]), "run"):
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        print(len(list(Path(sys.argv[1]).rglob("*"))), flush=True)
"""
    with begun(code, tmp_path) as process:
        out, _ = process.communicate(timeout=60)
    assert out == "2\n"
    assert list(tmp_path.iterdir()) == []


def contended(folder: Path, threads: int, rounds: int, deaths: float, processes: int) -> list[Process]:
    return [begun(CONTENDER, folder, threads, rounds, deaths) for _ in range(processes)]


def test_of_thirty_that_want_one_lease_one_has_it(tmp_path: Path) -> None:
    (tmp_path / "counter").write_text("0")
    for process in contended(tmp_path, threads=6, rounds=4, deaths=0, processes=5):
        with process:
            assert process.wait(timeout=120) == 0
    assert (tmp_path / "counter").read_text() == "120"
    assert list((tmp_path / "leases").iterdir()) == []


def test_however_many_of_them_die_as_they_hold_it(tmp_path: Path) -> None:
    """Every third time the holder dies, so that all the others race to take over."""
    (tmp_path / "counter").write_text("0")
    running = contended(tmp_path, threads=3, rounds=1000, deaths=0.3, processes=5)
    deaths = 0
    try:
        while deaths < 12:
            time.sleep(0.02)
            for place, process in enumerate(running):
                if process.poll() is not None:
                    assert process.returncode == 9, (tmp_path / "overlap").exists()
                    process.communicate()
                    deaths += 1
                    (running[place],) = contended(tmp_path, 3, 1000, 0.3, 1)
    finally:
        for process in running:
            process.kill()
            process.communicate()
    assert not (tmp_path / "overlap").exists()
    assert int((tmp_path / "counter").read_text()) >= deaths


def test_a_lease_is_json_of_one_length(tmp_path: Path) -> None:
    with leased(tmp_path, "run", "evaluates"):
        (file,) = (tmp_path / "run").iterdir()
        assert json.loads(file.read_text())["task"] == "evaluates"
        assert file.stat().st_size == 2048
    worst = dataclasses.replace(new_holder("\x00" * 999), host="h" * 64, unit="\x00" * 99, done=10**9, total=10**9)
    assert len(as_bytes(worst)) == 2048
