from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from vr_eval.errors import InputError
from vr_eval.runs.lock import check_free, locked, waited_for

HOLDER = """
import fcntl, os, sys
file = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
fcntl.flock(file, fcntl.LOCK_EX)
os.pwrite(file, f"{os.getpid()}\\n".encode(), 0)
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds `tmp_path/lock` until its stdin closes."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path / "lock")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_the_second_run_is_told_who_holds_the_directory(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    with pytest.raises(InputError, match=rf"another run \(process {holder.pid}\)"), locked(tmp_path / "lock"):
        pass
    with pytest.raises(InputError, match="choose another run directory"):
        check_free(tmp_path / "lock")


def test_a_killed_process_leaves_no_lock(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    holder.kill()
    holder.wait()
    with locked(tmp_path / "lock"):
        assert (tmp_path / "lock").read_text() == f"{os.getpid()}\n"


def test_the_lock_is_given_back_whatever_happens(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), locked(tmp_path / "lock"):
        raise KeyboardInterrupt
    check_free(tmp_path / "lock")
    with locked(tmp_path / "lock"):
        pass


def test_one_training_waits_for_another(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    said: list[str] = []

    def release(pid: str) -> None:
        said.append(pid)
        assert holder.stdin is not None
        holder.stdin.close()

    with waited_for(tmp_path / "lock", release):
        assert said == [str(holder.pid)]


def test_asking_makes_nothing(tmp_path: Path) -> None:
    check_free(tmp_path / "no" / "lock")
    assert list(tmp_path.iterdir()) == []
