"""`vr-eval run` and `vr-eval train`: every cell of a grid, one after the other, in one process.

A cell's folder is named by its content hash, so results are either what this grid asks for or not looked at. Nothing
heavy is imported unless a cell is left to do.
"""

from __future__ import annotations

import errno
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from vr_eval.catalog.task_content import Content, asked_again
from vr_eval.checksums import DamagedError
from vr_eval.config.cell import Cell
from vr_eval.config.checkpoint_folders import find_checkpoint
from vr_eval.config.grid import Grid
from vr_eval.config.identity import cell_id, checkpoint_id
from vr_eval.errors import InputError, Problem, VrEvalError, sanitize_terminal
from vr_eval.files import write_atomic
from vr_eval.places import check_all, check_data_cache, check_home, check_hub_cache, check_temporary
from vr_eval.processes import ALONE, Spread, processes
from vr_eval.records.cell import CellRecord, MetricsRecord
from vr_eval.records.columns import CellColumns
from vr_eval.records.folder import RUN_LEASE, CellFolder, RunFolder
from vr_eval.records.json_file import plain, write_json
from vr_eval.runs.content import changed_since, content_of, renew
from vr_eval.runs.folder import check_run_dir, write_grid
from vr_eval.runs.lease import check_free, leased
from vr_eval.runs.origins import several_commits
from vr_eval.runs.plan import check_training_data
from vr_eval.runs.progress import Progress
from vr_eval.runs.training import train_missing
from vr_eval.tracking import NOT_TRACKED, Tracking


def run_grid(
    grid: Grid,
    out: Path | None = None,
    device: str = "auto",
    batch_size: int | None = None,
    track: Tracking = NOT_TRACKED,
) -> int:
    """Train what is missing, evaluate every cell, write records and report; returns the exit code.

    A cell that fails does not stop the others: its traceback goes to its `error.txt`, and the exit code is 1, or 2
    where files of a checkpoint are damaged.

    Args:
        out: the run directory; default `runs/NAME`.
        device: `auto` takes a GPU if there is one.
        batch_size: questions answered at once; default the grid's.
        track: who draws the curves of what is trained.

    Raises:
        InputError: the run directory, a cache, the device or the tasks' data cannot be used (then nothing is created),
            or the disk is full (then what was computed is kept).
    """
    run_dir = out or grid.run_dir
    check_run_dir(run_dir, grid)
    check_free(RunFolder(run_dir).leases, RUN_LEASE)
    content = content_of(grid)
    changed = {cell: changed_since(_folder(run_dir, cell, grid), content) for cell in grid.cells}
    pending = [cell for cell in grid.cells if changed[cell] or not _folder(run_dir, cell, grid).complete]
    if any(find_checkpoint(cell) is None and cell.trained for cell in pending):
        check_training_data(grid)
    _check_places(pending)
    session = _session(grid, pending, device, batch_size or grid.batch_size) if pending else None
    with leased(RunFolder(run_dir).leases, RUN_LEASE, f"runs {grid.name}"):
        check_run_dir(run_dir, grid)  # another run may have begun here meanwhile
        write_grid(run_dir, grid)
        _forget(grid, run_dir, changed, content)
        failed: dict[str, _Failure] = {}
        if session is not None:
            write_json(session.environment, RunFolder(run_dir).environment)
            failed = _evaluate(session, pending, run_dir, content, track)
        else:
            Progress.say(f"all {len(grid.cells)} cells are evaluated already")
        _sort_out(run_dir, {cell_id(cell, grid) for cell in grid.cells})
        _report(run_dir, grid, session.tasks if session is not None else None)
    for warning in several_commits(run_dir, grid):
        Progress.say(warning)
    if failed:
        Progress.say(f"{len(failed)} of {len(grid.cells)} cells failed; the same command tries them again:")
        for label, failure in failed.items():
            Progress.say(f"  {label}: see {failure.file}")
    return max((failure.exit_code for failure in failed.values()), default=0)


def train_grid(grid: Grid, device: str = "auto", spread: Spread = ALONE, track: Tracking = NOT_TRACKED) -> int:
    """Train the checkpoints of `grid` that are missing; returns the exit code.

    Raises:
        InputError: there is no such device, nothing to train or to train on, no place to keep it, or the disk is full.
        Exception: whatever makes a cell fail that several processes train together; the others wait for this one.
    """
    if grid.random_weights:
        hint = "Leave random_weights out of the file to train what the backbone publishes."
        raise InputError(Problem("random weights are never trained", grid.source, key="random_weights", hint=hint))
    missing = list({checkpoint_id(cell): cell for cell in grid.cells if find_checkpoint(cell) is None}.values())
    if not missing:
        Progress.say(f"all checkpoints of {grid.name} are there already")
        return 0
    if any(cell.trained for cell in missing):
        check_training_data(grid)
    check_all(check_home, partial(check_hub_cache, _models(missing)))
    from vr_eval.runs.device import pick_device

    pick_device(device)
    progress = Progress(len(missing))
    failed = []
    for cell in missing:
        try:
            path = train_missing(cell, progress.say, device, spread, track)
            progress.finished(f"{_name(cell, grid)}: trained, {path}")
        except Exception as error:  # one failing cell must not stop the others
            if processes() > 1:
                raise
            _stop_if_full(error)
            failed.append(_name(cell, grid))
            progress.finished(f"{failed[-1]}: FAILED: {_first_line(error)}")
            if not isinstance(error, VrEvalError):
                progress.say(traceback.format_exc())
    return 1 if failed else 0


def _check_places(pending: Sequence[Cell]) -> None:
    """The folders that evaluating these cells writes to. Raises InputError with those that cannot be used."""
    if pending:
        trains = any(find_checkpoint(cell) is None and not cell.random_weights for cell in pending)
        home = (check_home,) if trains else ()
        check_all(check_temporary, check_data_cache, *home, partial(check_hub_cache, _models(pending)))


def _models(cells: Sequence[Cell]) -> list[str]:
    """What these cells load from the hub; folders and random weights need no cache."""
    names = (source.name for cell in cells if not cell.random_weights for source in cell.spec.sources)
    return [name for name in dict.fromkeys(names) if not Path(name).is_dir()]


def _session(grid: Grid, pending: Sequence[Cell], device: str, batch_size: int) -> Any:
    """Imports torch and lmms-eval: 10 s."""
    Progress.say(f"{len(pending)} of {len(grid.cells)} cells to do; loading torch and lmms-eval")
    from vr_eval.environment import describe, new_run_id
    from vr_eval.runs.evaluate import Session

    return Session(grid, pending, device, batch_size, describe(new_run_id()))


@dataclass(frozen=True)
class _Failure:
    """Where a cell's traceback is, and what the command ends with because of it."""

    file: Path
    exit_code: int


def _forget(
    grid: Grid, run_dir: Path, changed: Mapping[Cell, Mapping[str, str]], content: Mapping[str, Content]
) -> None:
    """Say which tasks have changed, and take away what was kept of them."""
    for task, (what, cells) in _by_task(changed).items():
        from vr_eval.reporting.images import forget_images

        before = f"{what} changed since {cells} of {len(grid.cells)} cells answered it"
        Progress.say(f"{task}: {before}; {asked_again(what)}")
        forget_images(run_dir, task)
    for cell in grid.cells:
        folder = _folder(run_dir, cell, grid)
        if folder.path.is_dir():
            renew(folder, content)


def _by_task(changed: Mapping[Cell, Mapping[str, str]]) -> dict[str, tuple[str, int]]:
    """What changed of each task, and how many cells answered it before."""
    found: dict[str, tuple[str, int]] = {}
    for of_cell in changed.values():
        for task, what in of_cell.items():
            found[task] = what, found.get(task, (what, 0))[1] + 1
    return found


def _evaluate(
    session: Any, pending: Sequence[Cell], run_dir: Path, content: Mapping[str, Content], track: Tracking
) -> dict[str, _Failure]:
    """Evaluate the cells; those that failed by label."""
    grid, progress = session.grid, Progress(len(pending))
    failed = {}
    for cell in pending:
        folder, name = _folder(run_dir, cell, grid), _name(cell, grid)
        try:
            checkpoint = None
            if not cell.random_weights:
                found = find_checkpoint(cell)
                checkpoint = found or train_missing(cell, progress.say, session.device.type, track=track)
            renew(folder, content)
            with progress.cell(name, session.questions) as answered:
                metrics = session.run(cell, checkpoint, folder, answered)
            progress.finished(f"{name}: {_summary(metrics)}")
        except Exception as error:  # one failing cell must not stop the others, whatever it is
            _stop_if_full(error)
            _write_failure(folder, cell, grid, error)
            failed[name] = _Failure(folder.error, error.exit_code if isinstance(error, DamagedError) else 1)
            progress.finished(f"{name}: FAILED: {_first_line(error)}")
    return failed


def _write_failure(folder: CellFolder, cell: Cell, grid: Grid, error: Exception) -> None:
    write_atomic(folder.error, "".join(traceback.format_exception(error)))
    if not folder.evaluated:  # results of an earlier run, of which some questions were tried again, stay
        columns = plain(CellColumns.of(cell, grid))
        CellRecord(**columns, status="failed", failure=_first_line(error)).write(folder.about)


def _sort_out(run_dir: Path, current: set[str]) -> None:
    """Put the `cell.json` of cells that the grid no longer has aside, so that its report leaves them out."""
    for folder in RunFolder(run_dir).cells():
        if folder.path.name in current and folder.aside.exists() and not folder.about.exists():
            folder.aside.replace(folder.about)
        elif folder.path.name not in current and folder.about.exists():
            folder.about.replace(folder.aside)


def _report(run_dir: Path, grid: Grid, tasks: Any) -> None:
    """Records, images and report of what is evaluated so far; the table goes to stdout."""
    from vr_eval.reporting import build, render_terminal, run_table
    from vr_eval.runs.images import keep_images
    from vr_eval.runs.records import write_records

    records = write_records(run_dir, grid)
    if records.empty:
        return
    keep_images(run_dir, records, tasks, grid.tasks_path)
    path = build(run_dir)
    print(render_terminal(run_table(run_dir)))
    print(path)


def _folder(run_dir: Path, cell: Cell, grid: Grid) -> CellFolder:
    return RunFolder(run_dir).cell(cell_id(cell, grid))


def _name(cell: Cell, grid: Grid) -> str:
    return cell.label if len(grid.seeds) == 1 else f"{cell.label} (seed {cell.seed})"


def _summary(metrics: MetricsRecord) -> str:
    scores = [f"{name} {_shown(task.score)}" for name, task in metrics.tasks.items()]
    failures = metrics.failures
    return ", ".join(scores) + (f"; {failures} questions failed, the same command asks them again" if failures else "")


def _shown(score: float | None) -> str:
    return "-" if score is None else f"{score:.1f}"


def _first_line(error: Exception) -> str:
    line = (str(error).strip().splitlines() or [""])[0]
    return sanitize_terminal(line if isinstance(error, VrEvalError) else f"{type(error).__name__}: {line}")


def _stop_if_full(error: BaseException) -> None:
    """A full disk is no matter of one cell. Raises InputError."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT):
            if isinstance(error, InputError):
                raise error
            hint = "Free some space and run the same command again: what is finished is kept."
            raise InputError(Problem(f"the disk is full: {cause}", hint=hint)) from error
        cause = cause.__cause__ or cause.__context__
