"""The workers of one command: from cells to tasks and an executor, and what is said of how they ended."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

from vr_eval.config.cell import Cell
from vr_eval.config.grid import Grid
from vr_eval.config.identity import cell_id
from vr_eval.config.vision_features import expected, ranges_that_fit
from vr_eval.records.folder import RunFolder
from vr_eval.runs.drive import Drive
from vr_eval.runs.executors.base import Executor
from vr_eval.runs.executors.choice import executor_for
from vr_eval.runs.executors.inline import InlineExecutor
from vr_eval.runs.executors.local import Share
from vr_eval.runs.executors.options import WorkerOptions
from vr_eval.runs.executors.shares import shares_for
from vr_eval.runs.graph import tasks_of, trainings
from vr_eval.runs.progress import Progress
from vr_eval.runs.settings import Settings
from vr_eval.runs.tasks import CellOutcome, Task
from vr_eval.runs.watch import watching
from vr_eval.runs.worker import Worker, work, write_failure

if TYPE_CHECKING:
    from vr_eval.runs.evaluate import Session


@dataclass(frozen=True)
class Crew:
    """Whoever does the tasks of a run directory."""

    run: RunFolder
    grid: Grid
    settings: Settings
    options: WorkerOptions

    def evaluate(self, cells: Sequence[Cell], session: Session) -> dict[str, CellOutcome]:
        """Evaluate `cells`, training what they lack; by id how those failed that did.

        Raises:
            InputError: nobody can go on.
        """
        blocks = session.blocks
        shares = self._workers(len(cells) * blocks)
        workers = len(shares) or self.options.workers or 1
        ranges = self._ranges(cells, session)
        shards = [ranges] * len(cells) if ranges > 1 else self._shards(len(cells), workers, blocks)
        tasks = tasks_of(cells, self.grid, shards, across=ranges > 1)
        progress, failed = Progress(len(cells)), dict[str, CellOutcome]()
        for cell in cells:  # why it failed before is not why it will fail now
            self.run.cell(cell_id(cell, self.grid)).error.unlink(missing_ok=True)

        def ended(task: Task, outcomes: Sequence[CellOutcome]) -> None:
            for outcome in outcomes:
                name = self._label(outcome.cell)
                if outcome.error and outcome.cell not in failed:
                    failed[outcome.cell] = outcome
                    self._note(outcome)
                    progress.finished(f"{name}: FAILED: {outcome.error}")
                elif not outcome.error and task.kind == "evaluate" and task.shard is None:
                    progress.finished(f"{name}: {outcome.summary}")

        crew = self if ranges == 1 else replace(self, settings=replace(self.settings, in_ranges=True))
        self._drive(tasks, crew._executor(shares, progress, session), ended, progress)
        return failed

    def train(self, cells: Sequence[Cell]) -> dict[str, CellOutcome]:
        """Train the checkpoints that `cells` lack; by a cell's id how those failed that did.

        Raises:
            InputError: nobody can go on.
        """
        tasks = list(trainings(cells, self.grid).values())
        progress, failed = Progress(len(tasks)), dict[str, CellOutcome]()

        def ended(task: Task, outcomes: Sequence[CellOutcome]) -> None:
            name, outcome = self._label(task.cells[0]), outcomes[0]
            if outcome.error:
                failed[outcome.cell] = outcome
                progress.finished(f"{name}: FAILED: {outcome.error}")
            else:
                progress.finished(f"{name}: trained, {outcome.summary}")

        self._drive(tasks, self._executor(self._workers(len(tasks)), progress), ended, progress)
        return failed

    def _note(self, outcome: CellOutcome) -> None:
        """Of a worker that was lost for good, the driver writes down what the worker could not."""
        folder = self.run.cell(outcome.cell)
        if not folder.error.is_file():
            hint = f"{outcome.error}\nWhat workers on this machine print: {self.run.logs}\n"
            write_failure(folder, self._cells[outcome.cell], self.grid, outcome.error, hint)

    def _drive(
        self,
        tasks: Sequence[Task],
        executor: Executor,
        ended: Callable[[Task, Sequence[CellOutcome]], None],
        progress: Progress,
    ) -> None:
        here = isinstance(executor, InlineExecutor)  # whose tasks show how far they are themselves
        with nullcontext(lambda: None) if here else watching(self.run, progress) as look:
            drive = Drive(executor, ended, progress.say, self._words, self._standing, look, self.options.retries)
            drive.run(tasks)

    def _workers(self, most: int) -> list[Share]:
        embedded = not self.grid.spec.sources
        return shares_for(self.options, self.settings.device, most, embedded=embedded)

    def _executor(self, shares: Sequence[Share], progress: Progress, session: Session | None = None) -> Executor:
        if len(shares) == 1:
            self.settings.write(self.run)
            worker = Worker(self.run, self.grid, self.settings, progress.say, progress.cell)
            worker.session = session
            return InlineExecutor(worker.do)
        self.settings.sharing().write(self.run)
        return executor_for(self.options, shares, self.run, work, progress.say, self.settings.device)

    def _shards(self, cells: int, workers: int, blocks: int) -> list[int]:
        """Into how many parts each cell's questions are cut; by default only those of cells that leave workers idle."""
        if self.options.shards is not None:
            return [min(self.options.shards, blocks)] * cells
        last = cells % workers
        parts = min(workers // last, blocks) if last else 1
        return [1] * (cells - last) + [parts] * last

    def _ranges(self, cells: Sequence[Cell], session: Session) -> int:
        """Into how many ranges questions are cut that all cells answer one after the other, as the vision features of
        all images would not fit; 1 for none."""
        folder = session.store.folder
        if folder is None or self.options.shards is not None or len(cells) == 1:
            return 1
        needed = expected(self.grid, cells, session.questions)
        ranges = ranges_that_fit(needed.total_bytes, folder.limit(), session.blocks)
        if ranges > 1:
            folder.rolling = True
            Progress.say(f"that does not fit: all cells answer a range of questions before the next, {ranges} in all")
        return ranges

    def _standing(self, task: Task) -> object:
        """How far a task has got: answers that are kept, and files of a training."""
        from vr_eval.config.checkpoint_folders import trained_checkpoint

        if task.kind == "train":
            cell = self._cells[task.cells[0]]
            folder = trained_checkpoint(cell)
            return sorted(str(path) for path in folder.with_name(f"{folder.name}.training").glob("*/*"))
        kept = (path for name in task.cells for path in self.run.cell(name).journals())
        return [(path, path.stat().st_size) for path in kept]

    @cached_property
    def _cells(self) -> dict[str, Cell]:
        return {cell_id(cell, self.grid): cell for cell in self.grid.cells}

    def _label(self, name: str) -> str:
        return self.grid.name_of(self._cells[name])

    def _words(self, task: Task) -> str:
        part = f" ({task.shard.text})" if task.shard else ""
        return f"{self._label(task.cells[0])}{part}" + (", training" if task.kind == "train" else "")
