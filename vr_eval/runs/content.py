"""Answers are of the tasks as they were: what is kept of a task that has changed since is not used. Light: no torch."""

from __future__ import annotations

import json
from collections.abc import Container, Mapping
from typing import Any

from vr_eval.catalog.task_content import WORDS, Content, changed, task_content
from vr_eval.config.grid import Grid
from vr_eval.files import write_atomic
from vr_eval.records.folder import CellFolder


def content_of(grid: Grid) -> dict[str, Content]:
    """What the tasks of `grid` hold now. Raises InputError where the file of one cannot be read."""
    return {task: task_content(task, grid.tasks_path) for _, task in grid.tasks}


def changed_since(folder: CellFolder, now: Mapping[str, Content]) -> dict[str, str]:
    """The tasks of a cell that have changed since it was asked, with what of them, in words."""
    return changed(_kept(folder), now)


def renew(folder: CellFolder, now: Mapping[str, Content]) -> None:
    """Forget what is kept of tasks that have changed, and keep what they hold now.

    Where only data changed, answers that know the content of their question stay: they are compared with it.
    The scores go before anything says that the tasks are known, so that a kill in between leaves nothing stale. What
    was answered by versions that kept nothing here counts as of today. Nobody else may be answering this cell.

    Raises:
        InputError: the disk is full, or the folder cannot be written.
    """
    stale = changed_since(folder, now)
    if stale:
        folder.metrics.unlink(missing_ok=True)
        for journal in folder.journals():
            lines = journal.read_bytes().splitlines(keepends=True)
            write_atomic(journal, b"".join(line for line in lines if _may_stay(line, stale)))
    kept = _kept(folder)
    if {**kept, **now} != kept:
        write_atomic(folder.tasks, json.dumps({**kept, **now}, indent=1, sort_keys=True) + "\n")


def answers_left(folder: CellFolder, stale: Container[str]) -> int:
    """Questions of tasks not `stale` that have an answer in a cell's journals; one that failed is asked again."""
    answered: dict[tuple[object, ...], tuple[object, bool]] = {}
    for line in (line for journal in folder.journals() for line in journal.read_bytes().splitlines()):
        entry = _read(line)
        key, content, good = _key(entry), entry.get("content"), entry.get("failure") == ""
        # The last line on a question counts, but a failure never against an answer, which may be of another journal.
        answered[key] = content, good or answered.get(key) == (content, True)
    return sum(good for (task, *_), (_, good) in answered.items() if task not in stale)


def _key(entry: Mapping[str, Any]) -> tuple[object, ...]:
    return entry.get("task"), entry.get("doc_id"), entry.get("prompt")


def _may_stay(line: bytes, stale: Mapping[str, str]) -> bool:
    entry = _read(line)
    return entry.get("task") not in stale or (stale[entry["task"]] == WORDS["data"] and "content" in entry)


def _read(line: bytes) -> dict[str, Any]:
    """An answer; empty for a torn one."""
    try:
        entry = json.loads(line)
    except ValueError:
        return {}
    return entry if isinstance(entry, dict) and isinstance(entry.get("task"), str) else {}


def _kept(folder: CellFolder) -> dict[str, Content]:
    try:
        content = json.loads(folder.tasks.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return {task: kept for task, kept in content.items() if isinstance(kept, dict)} if isinstance(content, dict) else {}
