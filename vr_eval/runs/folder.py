"""The run directory: where things lie in it, and whether a grid may write to it."""

from __future__ import annotations

import dataclasses
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from vr_eval.config.grid import Grid
from vr_eval.errors import InputError, Problem
from vr_eval.files import write_atomic
from vr_eval.methods.spec import MethodFile

LOCK = "lock"
GRID = "grid.yaml"
ENVIRONMENT = "environment.json"
RECORDS = "records.parquet"


@dataclass(frozen=True)
class CellFolder:
    """The folder of one cell in a run directory."""

    path: Path

    @property
    def about(self) -> Path:
        """What the cell is, where its checkpoint came from and what it was evaluated with."""
        return self.path / "cell.json"

    @property
    def metrics(self) -> Path:
        """Scores per task; written last, so that a folder with it has samples too."""
        return self.path / "metrics.json"

    @property
    def samples(self) -> Path:
        """One row per question."""
        return self.path / "samples.parquet"

    @property
    def journal(self) -> Path:
        """Answers as they come in."""
        return self.path / "answers.jsonl"

    @property
    def tasks(self) -> Path:
        """What its tasks held when it was asked (`config.task_content`)."""
        return self.path / "tasks.json"

    @property
    def error(self) -> Path:
        """The traceback of a cell that failed."""
        return self.path / "error.txt"

    @property
    def evaluated(self) -> bool:
        """Whether there are scores, possibly with failed questions."""
        return self.metrics.is_file() and self.samples.is_file()

    @property
    def complete(self) -> bool:
        """Whether every question has an answer, so that nothing is left to do."""
        try:
            metrics: dict[str, Any] = json.loads(self.metrics.read_text(encoding="utf-8"))
            return self.evaluated and metrics["failures"] == 0
        except (OSError, ValueError, KeyError, TypeError):
            return False


def cell_folder(run_dir: Path, cell_id: str) -> CellFolder:
    """The folder of the cell `cell_id`."""
    return CellFolder(run_dir / "cells" / cell_id)


def check_run_dir(run_dir: Path, grid: Grid) -> None:
    """Whether `grid` can be run in `run_dir`; makes nothing.

    Raises:
        InputError: it is a file, cannot be written, is in use for something else, or holds the run of another grid or
            one with weights of the other kind.
    """
    hint = "Choose another run directory with --out DIR."
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
    if existing != run_dir:
        return
    content = _content(run_dir / GRID)
    other = str(content["name"]) if "name" in content else None
    if other is None and any(entry.name != LOCK and not entry.name.startswith(".") for entry in run_dir.iterdir()):
        raise InputError(Problem("this folder is not empty and holds no run", file=str(run_dir), hint=hint))
    if other is not None and other != grid.name:
        message = f"this folder holds the run of another grid, {other!r}, not of {grid.name!r}"
        raise InputError(Problem(message, file=str(run_dir), hint=hint))
    if other is not None and bool(content.get("random_weights")) != grid.random_weights:
        mine, theirs = ("random", "real") if grid.random_weights else ("real", "random")
        message = f"this folder holds a run on {theirs} weights, which never meet {mine} ones"
        raise InputError(Problem(message, file=str(run_dir), hint=hint))


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
    write_atomic(run_dir / GRID, grid_text(grid))
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
