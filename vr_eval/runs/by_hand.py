"""`vr-eval cell RUN ID [--shard I/N]`: what a worker does, done by hand in this process."""

from __future__ import annotations

from pathlib import Path

from vr_eval.config.identity import cell_id
from vr_eval.errors import InputError, Problem, VrEvalError, nearest
from vr_eval.records.folder import RunFolder
from vr_eval.runs.progress import Progress
from vr_eval.runs.settings import Settings
from vr_eval.runs.tasks import Shard, Task
from vr_eval.runs.worker import Worker


def do_cell(run_dir: Path, name: str, shard: str | None = None) -> int:
    """Evaluate the cell `name` of a run directory, training its checkpoint if that is missing; returns the exit code.

    Nothing is written but the folder of the cell: `vr-eval run` makes records and report of it.

    Raises:
        InputError: there is no such cell, or no run that was begun.
        VrEvalError: nobody can go on (a full disk).
    """
    part = Shard.parse(shard) if shard is not None else None
    run = RunFolder(run_dir.absolute())
    settings = Settings.read(run)
    progress = Progress(1)
    worker = Worker.at(run, settings, progress.cell)
    names = {cell_id(cell, worker.grid): cell for cell in worker.grid.cells}
    if name not in names:
        listed = ", ".join(f"{one} ({worker.grid.name_of(cell)})" for one, cell in names.items())
        raise InputError(
            Problem("no such cell", str(run.grid), key="ID", given=name, allowed=listed, nearest=nearest(name, names))
        )
    outcome = worker.do(Task("evaluate", (name,), part))
    if outcome.fatal:
        raise VrEvalError(outcome.fatal)
    (ended,) = outcome.cells
    label = worker.grid.name_of(names[name]) + (f" ({part.text})" if part else "")
    if ended.error:
        progress.finished(f"{label}: FAILED: {ended.error}; see {run.cell(name).error}")
    else:
        progress.finished(f"{label}: {ended.summary or 'answered'}")
    return ended.exit_code
