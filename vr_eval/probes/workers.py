"""Workers of `vr-eval probe`: they read features of models into the store, each of some cells.

The command itself then finds them there and does the rest as it does alone, so that results do not depend on workers.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vr_eval.config.cell import Cell
from vr_eval.config.checkpoint_folders import find_checkpoint
from vr_eval.paths import home
from vr_eval.probes.file import ProbePlan, label_of, probe_id
from vr_eval.records.folder import RunFolder
from vr_eval.runs.drive import Drive
from vr_eval.runs.executors.choice import executor_for
from vr_eval.runs.executors.options import WorkerOptions
from vr_eval.runs.executors.shares import shares_for
from vr_eval.runs.lease import leased
from vr_eval.runs.progress import Progress
from vr_eval.runs.tasks import CellOutcome, Outcome, Task
from vr_eval.runs.watch import watching
from vr_eval.runs.worker import full_disk, outcome_of_failure

PRELOADED = ("vr_eval.probes.session",)


@dataclass(frozen=True)
class Reader:
    """What a worker does; it is sent to wherever that is.

    Attributes:
        plan: What is probed.
        device: As ``--device`` takes it.
        folder: Working directory of the driver, from which relative paths count.
    """

    plan: ProbePlan
    device: str
    folder: str

    def __call__(self, run_dir: str, task: Task) -> Outcome:
        """Read the features of the cells of `task`."""
        try:
            with leased(RunFolder(Path(run_dir)).leases, task.cells[0], f"features of {len(task.cells)} models"):
                failed = self._read(task)
        except Exception as error:  # whatever it is: the driver meets it again, and says it
            full = full_disk(error)
            outcomes = tuple(outcome_of_failure(cell, error) for cell in task.cells)
            return Outcome(outcomes, fatal=str(full) if full else "")
        return Outcome(tuple(failed.get(cell, CellOutcome(cell)) for cell in task.cells))

    def _read(self, task: Task) -> dict[str, CellOutcome]:
        from vr_eval.methods.method_file import load_methods
        from vr_eval.probes.data.load import load_data
        from vr_eval.probes.session import Session, groups
        from vr_eval.runs.device import pick_device

        os.chdir(self.folder)
        for file in self.plan.method_files:
            load_methods(file.path)
        failed: dict[str, CellOutcome] = {}

        def fail(cell: Cell, error: Exception) -> None:
            failed[probe_id(cell)] = outcome_of_failure(probe_id(cell), error)

        data = load_data(self.plan.file)
        session = Session(self.plan.file, data, home() / "features", pick_device(self.device), Progress.say)
        wanted = [cell for cell in self.plan.cells if probe_id(cell) in task.cells]
        for subjects in groups(session, [(cell, find_checkpoint(cell)) for cell in wanted], fail):
            session.extract(subjects)
        return failed


def read_ahead(plan: ProbePlan, cells: Sequence[Cell], run_dir: Path, device: str, options: WorkerOptions) -> None:
    """Let workers fill the store with the features of `cells`; nothing where there is one worker.

    What fails here is said when the command itself comes to it.

    Raises:
        InputError: there is no such executor, or the disk is full.
    """
    run, do = RunFolder(run_dir), Reader(plan, device, str(Path.cwd()))
    shares = shares_for(options, device, len(cells), embedded=not plan.cells[0].spec.sources)
    if len(shares) == 1:
        return
    progress = Progress(len(cells))
    executor = executor_for(options, shares, run, do, progress.say, device, PRELOADED)
    size = -(-len(cells) // (len(shares) or options.workers or executor.workers))
    names = [probe_id(cell) for cell in cells]
    tasks = [Task("probe", tuple(names[start : start + size])) for start in range(0, len(names), size)]
    labels = {probe_id(cell): label_of(cell, plan.cells) for cell in cells}

    def ended(task: Task, outcomes: Sequence[CellOutcome]) -> None:
        for outcome in outcomes:
            progress.finished(f"{labels[outcome.cell]}: {outcome.error or 'features read'}")

    with watching(run, progress) as look:
        Drive(
            executor,
            ended,
            progress.say,
            words=lambda task: labels[task.cells[0]],
            watch=look,
            retries=options.retries,
        ).run(tasks)
