"""Whether a grid may write to a run directory, and the grid that is written there."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

import yaml

from vr_eval.config.grid import Grid
from vr_eval.errors import InputError, Problem
from vr_eval.files import write_atomic
from vr_eval.methods.spec import MethodFile
from vr_eval.records.folder import RunFolder

ANOTHER = "Choose another run directory with --out DIR."


def check_run_dir(run_dir: Path, grid: Grid) -> None:
    """Whether `grid` can be run in `run_dir`; makes nothing.

    Raises:
        InputError: it is a file, cannot be written, is in use for something else, or holds the run of another grid or
            one with weights of the other kind.
    """
    if not check_place(run_dir):
        return
    content = _content(RunFolder(run_dir).grid)
    other = str(content["name"]) if "name" in content else None
    if other is None and not is_empty(run_dir):
        raise InputError(Problem("this folder is not empty and holds no run", file=str(run_dir), hint=ANOTHER))
    if other is not None and other != grid.name:
        message = f"this folder holds the run of another grid, {other!r}, not of {grid.name!r}"
        raise InputError(Problem(message, file=str(run_dir), hint=ANOTHER))
    if other is not None and bool(content.get("random_weights")) != grid.random_weights:
        mine, theirs = ("random", "real") if grid.random_weights else ("real", "random")
        message = f"this folder holds a run on {theirs} weights, which never meet {mine} ones"
        raise InputError(Problem(message, file=str(run_dir), hint=ANOTHER))


def check_place(run_dir: Path) -> bool:
    """Whether there is a folder `run_dir` already; makes nothing.

    Raises:
        InputError: it is a file, or cannot be written.
    """
    hint = ANOTHER
    if "\0" in str(run_dir):
        raise InputError(Problem("this cannot be a run directory: a NUL in its name", str(run_dir), hint=hint))
    try:
        existing = next(path for path in (run_dir, *run_dir.absolute().parents) if path.exists())
    except OSError as error:  # a name that is too long, a folder that may not be entered
        raise InputError(
            Problem(f"this cannot be a run directory: {error.strerror}", str(run_dir), hint=hint)
        ) from error
    if not existing.is_dir():
        message = (
            "this is a file, not a run directory" if existing == run_dir else f"{existing} is a file, not a folder"
        )
        raise InputError(Problem(message, file=str(run_dir), hint=hint))
    if not os.access(existing, os.W_OK | os.X_OK):
        raise InputError(Problem(f"no permission to write to {existing}", file=str(run_dir), hint=hint))
    return existing == run_dir


def is_empty(run_dir: Path) -> bool:
    """Whether a folder holds nothing but hidden files and the lock of an older version."""
    return all(entry.name == "lock" or entry.name.startswith(".") for entry in run_dir.iterdir())


def grid_text(grid: Grid) -> str:
    """The resolved grid as it stands in a run directory, under the comment at the top of its file: the question."""
    try:
        lines = Path(grid.source).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError):
        lines = []
    comment = []
    for line in lines:
        if not line.startswith("#"):
            break
        comment.append(line)
    kept = tuple(dataclasses.replace(file, path=copy) for file, copy in _copies(grid).items())
    return "\n".join([*comment, dataclasses.replace(grid, method_files=kept).to_yaml()])


def write_grid(run_dir: Path, grid: Grid) -> None:
    """Keep the resolved grid, and beside it the method files as they were executed, so that the folder can move on."""
    write_atomic(RunFolder(run_dir).grid, grid_text(grid))
    for file, copy in _copies(grid).items():
        write_atomic(run_dir / copy, file.content)


def _copies(grid: Grid) -> dict[MethodFile, str]:
    """Where each method file is kept in a run directory: by its name and its hash."""
    named = {file: f"-{file.hash[:8]}" for file in grid.method_files}
    return {file: f"methods/{Path(file.path).stem.removesuffix(end)}{end}.py" for file, end in named.items()}


def _content(path: Path) -> dict[str, Any]:
    """The keys of the grid that ran here; none where there is no readable one."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return {}
    return content if isinstance(content, dict) else {}
