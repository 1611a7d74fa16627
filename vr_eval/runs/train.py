"""`vr-eval train`: the checkpoints of a grid, by one process, by several that train together, or by many workers."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from functools import partial

from vr_eval.config.cell import Cell
from vr_eval.config.checkpoint_folders import find_checkpoint
from vr_eval.config.grid import Grid
from vr_eval.config.identity import checkpoint_id
from vr_eval.environment import new_run_id
from vr_eval.errors import InputError, Problem
from vr_eval.paths import home
from vr_eval.places import check_all, check_home, check_hub_cache
from vr_eval.processes import ALONE, Spread, processes
from vr_eval.records.folder import RunFolder
from vr_eval.runs.crew import Crew
from vr_eval.runs.execute import models_of
from vr_eval.runs.executors.options import ALONE as ONE_WORKER
from vr_eval.runs.executors.options import WorkerOptions
from vr_eval.runs.folder import write_grid
from vr_eval.runs.plan import check_training_data
from vr_eval.runs.progress import Progress
from vr_eval.runs.settings import Settings
from vr_eval.runs.training import train_missing
from vr_eval.tracking import NOT_TRACKED, Tracking


def train_grid(
    grid: Grid,
    device: str = "auto",
    spread: Spread = ALONE,
    track: Tracking = NOT_TRACKED,
    options: WorkerOptions = ONE_WORKER,
) -> int:
    """Train the checkpoints of `grid` that are missing; returns the exit code.

    Raises:
        InputError: there is no such device, nothing to train or to train on, no place to keep it, or the disk is full.
        Exception: whatever makes a cell fail that several processes train together; the others wait for this one.
    """
    options.check()
    if grid.random_weights:
        hint = "Leave random_weights out of the file to train what the backbone publishes."
        raise InputError(Problem("random weights are never trained", grid.source, key="random_weights", hint=hint))
    missing = list({checkpoint_id(cell): cell for cell in grid.cells if find_checkpoint(cell) is None}.values())
    if not missing:
        Progress.say(f"all checkpoints of {grid.name} are there already")
        return 0
    if any(cell.trained for cell in missing):
        check_training_data(grid)
    check_all(check_home, partial(check_hub_cache, models_of(missing)))
    from vr_eval.runs.device import pick_device

    pick_device(device)
    if processes() > 1:
        _train_together(missing, grid, device, spread, track)
        return 0
    settings = Settings.of(grid, new_run_id(), device, grid.batch_size, track, spread)
    run = RunFolder(home() / "trainings" / settings.run_id)  # for workers to find what they need
    try:
        write_grid(run.path, grid)
        failed = Crew(run, grid, settings, options).train(missing)
        for name, outcome in failed.items():
            if outcome.again:  # no error of ours, which says it all in its line
                Progress.say(run.cell(name).error.read_text(encoding="utf-8"))
    finally:
        shutil.rmtree(run.path, ignore_errors=True)
    return 1 if failed else 0


def _train_together(missing: Sequence[Cell], grid: Grid, device: str, spread: Spread, track: Tracking) -> None:
    """This process is one of several that torchrun started: all of them train the same cell at a time."""
    progress = Progress(len(missing))
    for cell in missing:
        path = train_missing(cell, progress.say, device, spread, track)
        progress.finished(f"{grid.name_of(cell)}: trained, {path}")
