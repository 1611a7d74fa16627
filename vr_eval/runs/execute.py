"""`vr-eval run`: every cell of a grid, by one process or by many workers.

This is the driver, which alone writes the grid, the records and the report.

A cell's folder is named by its content hash, so results are either what this grid asks for or not looked at. Nothing
heavy is imported unless a cell is left to do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from vr_eval.catalog.task_content import Content, asked_again
from vr_eval.config.cell import Cell
from vr_eval.config.checkpoint_folders import find_checkpoint
from vr_eval.config.grid import Grid
from vr_eval.config.identity import cell_id
from vr_eval.config.vision_features import expected, features_folder
from vr_eval.places import check_all, check_data_cache, check_home, check_hub_cache, check_temporary
from vr_eval.records.folder import RUN_LEASE, CellFolder, RunFolder
from vr_eval.records.json_file import write_json
from vr_eval.runs.content import changed_since, content_of, renew
from vr_eval.runs.executors.local import warm_up
from vr_eval.runs.executors.options import ALONE, WorkerOptions
from vr_eval.runs.executors.shares import several
from vr_eval.runs.folder import check_run_dir, write_grid
from vr_eval.runs.lease import check_free, leased
from vr_eval.runs.origins import several_commits
from vr_eval.runs.plan import check_training_data
from vr_eval.runs.progress import Progress
from vr_eval.runs.settings import Settings
from vr_eval.runs.tasks import CellOutcome
from vr_eval.tracking import NOT_TRACKED, Tracking


def run_grid(
    grid: Grid,
    out: Path | None = None,
    device: str = "auto",
    batch_size: int | None = None,
    track: Tracking = NOT_TRACKED,
    options: WorkerOptions = ALONE,
    features: str | Path | None = None,
) -> int:
    """Train what is missing, evaluate every cell, write records and report; returns the exit code.

    A cell that fails does not stop the others: its traceback goes to its `error.txt`, and the exit code is 1, or 2
    where files of a checkpoint are damaged.

    Args:
        out: the run directory; default `runs/NAME`.
        device: `auto` takes a GPU if there is one.
        batch_size: questions answered at once; default the grid's.
        track: who draws the curves of what is trained.
        options: who does it; default this process.
        features: the folder that keeps vision features, "off" for none; default `features_folder`'s.

    Raises:
        InputError: the run directory, a cache, the device, the workers or the tasks' data cannot be used (then nothing
            is created), or the disk is full (then what was computed is kept).
    """
    options.check()
    run_dir = out or grid.run_dir
    run = RunFolder(run_dir)
    check_run_dir(run_dir, grid)
    check_free(run.leases, RUN_LEASE)
    content = content_of(grid)
    changed = {cell: changed_since(_folder(run_dir, cell, grid), content) for cell in grid.cells}
    pending = [cell for cell in grid.cells if changed[cell] or not _folder(run_dir, cell, grid).complete]
    if any(find_checkpoint(cell) is None and cell.trained for cell in pending):
        check_training_data(grid)
    _check_places(pending)
    kept = features_folder(features)
    if pending and several(options, device, embedded=not grid.spec.sources):
        warm_up()
    session = _session(grid, pending, device, batch_size or grid.batch_size, kept) if pending else None
    with leased(run.leases, RUN_LEASE, f"drives {grid.name}"):
        check_run_dir(run_dir, grid)  # another run may have begun here meanwhile
        write_grid(run_dir, grid)
        _forget(grid, run_dir, changed, content)
        failed: Mapping[str, CellOutcome] = {}
        if session is not None:
            write_json(session.environment, run.environment)
            settings = Settings.of(grid, session.environment.run_id, device, batch_size or grid.batch_size, track)
            settings = settings.keeping(features)
            from vr_eval.runs.crew import Crew

            failed = Crew(run, grid, settings, options).evaluate(pending, session)
        else:
            Progress.say(f"all {len(grid.cells)} cells are evaluated already")
        _sort_out(run_dir, {cell_id(cell, grid) for cell in grid.cells})
        _report(run_dir, grid, session.tasks if session is not None else None)
    for warning in several_commits(run_dir, grid):
        Progress.say(warning)
    if failed:
        Progress.say(f"{len(failed)} of {len(grid.cells)} cells failed; the same command tries them again:")
        for cell in grid.cells:
            if cell_id(cell, grid) in failed:
                Progress.say(f"  {grid.name_of(cell)}: see {_folder(run_dir, cell, grid).error}")
    return max((outcome.exit_code for outcome in failed.values()), default=0)


def _check_places(pending: Sequence[Cell]) -> None:
    """The folders that evaluating these cells writes to. Raises InputError with those that cannot be used."""
    if pending:
        trains = any(find_checkpoint(cell) is None and not cell.random_weights for cell in pending)
        home = (check_home,) if trains else ()
        check_all(check_temporary, check_data_cache, *home, partial(check_hub_cache, models_of(pending)))


def models_of(cells: Sequence[Cell]) -> list[str]:
    """What these cells load from the hub; folders and random weights need no cache."""
    names = (source.name for cell in cells if not cell.random_weights for source in cell.spec.sources)
    return [name for name in dict.fromkeys(names) if not Path(name).is_dir()]


def _session(grid: Grid, pending: Sequence[Cell], device: str, batch_size: int, features: Path | None) -> Any:
    """Imports torch and lmms-eval: 10 s."""
    Progress.say(f"{len(pending)} of {len(grid.cells)} cells to do; loading torch and lmms-eval")
    from vr_eval.environment import describe, new_run_id
    from vr_eval.runs.evaluate import Session

    session = Session(grid, pending, device, batch_size, describe(new_run_id()), features=features)
    kept = session.store.folder
    Progress.say(expected(grid, pending, session.questions).kept_in(features, kept.limit() if kept else 0))
    return session


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
