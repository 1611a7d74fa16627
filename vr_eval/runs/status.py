"""`vr-eval status RUN`: what is done, what runs where, what failed why; from files, from any shell or node. Light."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from vr_eval.config.cell import Cell
from vr_eval.config.checkpoint_folders import find_checkpoint, trained_checkpoint
from vr_eval.config.grid import Grid, load_grid
from vr_eval.config.identity import cell_id
from vr_eval.errors import InputError, Problem, sanitize_terminal
from vr_eval.paths import has_home, home
from vr_eval.records.cell import CellRecord, MetricsRecord
from vr_eval.records.folder import RUN_LEASE, CellFolder, RunFolder
from vr_eval.runs.content import answers_left
from vr_eval.runs.lease import Holder, holders
from vr_eval.runs.plan import aligned, duration
from vr_eval.runs.settings import Settings

State: TypeAlias = Literal["done", "running", "training", "failed", "waiting"]


@dataclass(frozen=True)
class CellStatus:
    """Where one cell stands.

    Attributes:
        cell_id: Names its results.
        label: The cell for people.
        state: `done`: every question was asked, though some may have failed; `waiting`: nobody is at it.
        answered: Questions that have an answer; None of a cell that is done.
        failed_questions: Of a cell that is done.
        workers: Who is at it.
        failure: Why it failed, in one line.
        seconds: Its evaluation took, if it is done.
    """

    cell_id: str
    label: str
    state: State
    answered: int | None
    failed_questions: int
    workers: tuple[Holder, ...]
    failure: str
    seconds: float | None


@dataclass(frozen=True)
class Status:
    """Where a run stands; `driver` is the command that is at work, if one is."""

    name: str
    run_dir: str
    driver: Holder | None
    cells: tuple[CellStatus, ...]
    images_encoded: int
    """By vision towers, for the cells that are done."""
    images_found: int
    """Images whose features those cells found in the store."""

    @property
    def seconds_left(self) -> float | None:
        """Estimated, from the cells that are done and the workers that are at it; None where that says nothing."""
        took = [cell.seconds for cell in self.cells if cell.seconds is not None]
        workers = sum(len(cell.workers) for cell in self.cells)
        left = sum(cell.state != "done" for cell in self.cells)
        return sum(took) / len(took) * left / workers if took and workers and left else None

    def to_json(self) -> str:
        """For programs."""
        counts = Counter(cell.state for cell in self.cells)
        return json.dumps({**asdict(self), "counts": counts, "seconds_left": self.seconds_left}, indent=2)

    def to_text(self) -> str:
        """For people."""
        rows = [("cell", "id", "state", "answered", "where and why"), *(_row(cell) for cell in self.cells)]
        counts = Counter(cell.state for cell in self.cells)
        total = ", ".join(f"{count} {state}" for state, count in counts.items())
        left = f"; about {duration(self.seconds_left)} left" if self.seconds_left else ""
        driver = f"driven by {self.driver}" if self.driver else "no command drives it now"
        found = self.images_encoded + self.images_found
        features = [f"vision features: {self.images_found:,} of {found:,} images found in the store"] if found else []
        lines = [f"{self.name} ({self.run_dir})", f"  {driver}", "", *aligned(rows, right=("answered",)), ""]
        return sanitize_terminal("\n".join([*lines, f"{len(self.cells)} cells: {total}{left}", *features]))


def status_of(run_dir: Path) -> Status:
    """Where the run in `run_dir` stands; makes nothing.

    Raises:
        InputError: There is no run, or a file of it is broken.
    """
    run = RunFolder(run_dir)
    if not run.grid.is_file():
        hint = "`vr-eval run FILE --out DIR` makes one."
        raise InputError(Problem("there is no run in this directory", file=str(run_dir), hint=hint))
    grid = Settings.read(run).grid(run) if run.settings.is_file() else load_grid(run.grid)
    evaluating, training = holders(run.leases), _trainings()
    abouts = {cell: _about(run.cell(cell_id(cell, grid))) for cell in grid.cells}
    cells = tuple(_status(cell, grid, run, about, evaluating, training) for cell, about in abouts.items())
    done = [about for about, cell in zip(abouts.values(), cells, strict=True) if cell.state == "done"]
    features = [about.features for about in done if about is not None and about.features is not None]
    encoded, found = (sum(one.get(key, 0) for one in features) for key in ("encoded", "found"))
    return Status(grid.name, str(run_dir), evaluating.get(RUN_LEASE), cells, encoded, found)


def _status(
    cell: Cell,
    grid: Grid,
    run: RunFolder,
    about: CellRecord | None,
    evaluating: Mapping[str, Holder],
    training: Mapping[str, Holder],
) -> CellStatus:
    name = cell_id(cell, grid)
    folder = run.cell(name)
    workers = tuple(holder for lease, holder in evaluating.items() if lease.partition(".")[0] == name)
    trainer = training.get(trained_checkpoint(cell).name) if has_home() and find_checkpoint(cell) is None else None
    failure = about.failure if about is not None and about.status == "failed" and about.failure else ""
    failed_questions = MetricsRecord.read(folder.metrics).failures if folder.evaluated else 0
    state: State
    if workers or trainer:
        state = "training" if trainer else "running"
    elif folder.evaluated:
        state = "done"
    else:
        state = "failed" if failure else "waiting"
    return CellStatus(
        cell_id=name,
        label=grid.name_of(cell),
        state=state,
        answered=None if state == "done" else answers_left(folder, ()),
        failed_questions=failed_questions,
        workers=(trainer,) if trainer else workers,
        failure=failure if state == "failed" else "",
        seconds=about.evaluate_seconds if about is not None and state == "done" else None,
    )


def _trainings() -> dict[str, Holder]:
    return holders(home() / "checkpoints" / ".leases") if has_home() else {}


def _about(folder: CellFolder) -> CellRecord | None:
    return CellRecord.read(folder.about) if folder.about.is_file() else None


def _row(cell: CellStatus) -> tuple[str, ...]:
    failed = f"{cell.failed_questions} questions failed" if cell.failed_questions else ""
    where = "; ".join(map(str, cell.workers)) or cell.failure or failed
    return cell.label, cell.cell_id, cell.state, "all" if cell.answered is None else str(cell.answered), where
