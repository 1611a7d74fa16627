from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from vr_eval import paths
from vr_eval.errors import InputError
from vr_eval.files import append_line, atomic_target, write_atomic


def fail(code: int) -> object:
    def raising(*args: object, **kwargs: object) -> None:
        raise OSError(code, os.strerror(code))

    return raising


def test_a_write_makes_its_folder_and_leaves_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "a" / "b" / "file.txt"
    write_atomic(target, "Größe\n")
    assert target.read_bytes() == "Größe\n".encode()
    write_atomic(target, b"\x00\xff")
    assert target.read_bytes() == b"\x00\xff"
    assert [path.name for path in target.parent.iterdir()] == ["file.txt"]


def test_a_failed_write_keeps_the_old_file_and_leaves_no_temporary_one(tmp_path: Path) -> None:
    target = tmp_path / "file.txt"
    write_atomic(target, "old")
    with pytest.raises(ZeroDivisionError), atomic_target(target) as temporary:
        temporary.write_text(f"half of the ne{1 // 0}")
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_full_disk_is_an_error_that_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "file.txt"
    write_atomic(target, "old")
    monkeypatch.setattr(Path, "write_bytes", fail(errno.ENOSPC))
    with pytest.raises(InputError, match=r"disk is full.*\n.*Free some space"):
        write_atomic(target, "new")
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_disk_that_fills_up_at_the_sync_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", fail(errno.ENOSPC))
    with pytest.raises(InputError, match="disk is full"):
        write_atomic(tmp_path / "file.txt", "new")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_without_write_permission_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "mkdir", fail(errno.EACCES))
    with pytest.raises(InputError, match=r"no permission.*\n.*--out DIR"):
        write_atomic(tmp_path / "run" / "file.txt", "new")


@pytest.mark.parametrize("inside", ["file.txt", "deeper/file.txt"])
@pytest.mark.parametrize("write", [write_atomic, append_line])
def test_a_file_where_a_folder_should_be_is_an_error(tmp_path: Path, inside: str, write: object) -> None:
    (tmp_path / "run").write_text("a file")
    with pytest.raises(InputError, match="is a file, not a folder"):
        write(tmp_path / "run" / inside, "new")  # type: ignore[operator]


def test_a_folder_where_the_file_should_be_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="a folder is in the way"):
        write_atomic(tmp_path, "new")
    with pytest.raises(InputError, match="a folder is in the way"):
        append_line(tmp_path, "new")


def test_lines_are_appended_in_order(tmp_path: Path) -> None:
    journal = tmp_path / "cells" / "answers.jsonl"
    append_line(journal, '{"a": 1}')
    append_line(journal, '{"b": "ü"}')
    assert journal.read_text("utf-8") == '{"a": 1}\n{"b": "ü"}\n'


def test_a_torn_last_line_does_not_swallow_the_next(tmp_path: Path) -> None:
    journal = tmp_path / "answers.jsonl"
    journal.write_text('{"a": 1}\n{"b": ')
    append_line(journal, '{"c": 3}')
    assert journal.read_text() == '{"a": 1}\n{"b": \n{"c": 3}\n'


@pytest.mark.parametrize("line", ["two\nlines", "carriage\rreturn"])
def test_a_journal_line_holds_no_line_break(tmp_path: Path, line: str) -> None:
    with pytest.raises(ValueError, match="line break"):
        append_line(tmp_path / "answers.jsonl", line)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_appending_on_a_full_disk_is_an_error() -> None:
    with pytest.raises(InputError, match="disk is full"):
        append_line("/dev/full", "line")


def test_home_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("VR_EVAL_HOME", str(tmp_path / "here"))
    assert paths.home() == tmp_path / "here"
    monkeypatch.setenv("VR_EVAL_HOME", "")
    assert paths.home() == Path.home() / ".cache" / "vr-eval"


def test_resources_are_those_of_the_checkout_or_of_the_wheel(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    package = tmp_path / "site-packages" / "vr_eval"
    monkeypatch.setattr(paths, "PACKAGE", package)
    assert paths.resource("tasks") == tmp_path / "site-packages" / "tasks"
    (package / "resources" / "tasks").mkdir(parents=True)
    assert paths.resource("tasks") == package / "resources" / "tasks"
