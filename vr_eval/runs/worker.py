"""A worker does tasks: one function for every executor and for `vr-eval cell`. It writes to its cells' folders only.

All it needs lies in the run directory: the grid and the settings that the driver left there. Heavy imports wait for the
first task; what the first one loads serves the later ones of the same process.
"""

from __future__ import annotations

import errno
import os
import traceback
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from vr_eval.checksums import DamagedError
from vr_eval.config.cell import Cell
from vr_eval.config.checkpoint_folders import find_checkpoint
from vr_eval.config.grid import Grid
from vr_eval.config.identity import cell_id
from vr_eval.config.vision_features import features_folder
from vr_eval.errors import InputError, Problem, VrEvalError, sanitize_terminal
from vr_eval.files import write_atomic
from vr_eval.records.cell import CellRecord, MetricsRecord
from vr_eval.records.columns import CellColumns
from vr_eval.records.folder import CellFolder, RunFolder
from vr_eval.records.json_file import plain
from vr_eval.runs.content import content_of, renew
from vr_eval.runs.lease import Lease, LeaseLostError, waited_for
from vr_eval.runs.settings import Settings
from vr_eval.runs.tasks import CellOutcome, Outcome, Task
from vr_eval.runs.training import train_missing

if TYPE_CHECKING:
    from vr_eval.runs.evaluate import Session

Bar: TypeAlias = Callable[[str, int], AbstractContextManager[Callable[[int], Any]]]
"""From what is done and its number of questions to what hears how many more are answered."""

_workers: dict[Path, tuple[Settings, Worker]] = {}


def work(folder: str, task: Task) -> Outcome:
    """Do `task` in the run directory `folder`; whatever goes wrong stands in what comes back."""
    run = RunFolder(Path(folder))
    try:
        settings = Settings.read(run)
        kept = _workers.get(run.path)
        if kept is None or kept[0] != settings:
            _workers.clear()  # before the next one: what the last one loaded takes memory
            kept = _workers[run.path] = settings, Worker.at(run, settings)
    except Exception as error:
        full = full_disk(error)
        failed = tuple(outcome_of_failure(cell, error) for cell in task.cells)
        return Outcome(failed, fatal=str(full) if full else "")
    return kept[1].do(task)


class Worker:
    """Does the tasks of one run, in this process.

    Attributes:
        session: What its cells share; loaded by the first task that evaluates.
    """

    def __init__(
        self,
        run: RunFolder,
        grid: Grid,
        settings: Settings,
        say: Callable[[str], None],
        bar: Bar = lambda what, questions: nullcontext(lambda answered: None),
    ) -> None:
        self.run, self.grid, self.settings = run, grid, settings
        self.session: Session | None = None
        self._say, self._bar = say, bar
        self._cells = {cell_id(cell, grid): cell for cell in grid.cells}
        self._content = content_of(grid)

    @classmethod
    def at(cls, run: RunFolder, settings: Settings, bar: Bar | None = None) -> Worker:
        """The one of a process of its own. Raises InputError where the run directory cannot be worked in."""
        from vr_eval.runs.progress import Progress

        os.chdir(settings.folder)
        made = cls(run, settings.grid(run), settings, Progress.say)
        if bar is not None:
            made._bar = bar
        return made

    def do(self, task: Task) -> Outcome:
        """What fails is in the outcome, and in the `error.txt` of its cell."""
        outcomes: list[CellOutcome] = []
        train = task.kind == "train"
        for name in task.cells:
            try:
                summary = self._train(task, name) if train else self._evaluate(task, name)
                outcomes.append(CellOutcome(name, summary))
            except LeaseLostError as error:  # nothing failed: whoever took over is at it
                outcomes.append(CellOutcome(name, "", first_line(error), 1, again=True))
            except Exception as error:  # one failing cell must not stop the others, whatever it is
                full = full_disk(error)
                if full is not None:
                    return Outcome((), fatal=str(full))
                names = task.cells if train else (name,)
                outcomes += [self._failed(task, one, error) for one in names]
            if train:  # one training serves all of its cells
                break
        return Outcome(tuple(outcomes))

    def _train(self, task: Task, name: str) -> str:
        cell = self._cells[name]
        spread = self.settings.spread_of(self.grid.recipe.batch(1), task.halved)
        return str(train_missing(cell, self._say, self.settings.device, spread, self.settings.tracking))

    def _evaluate(self, task: Task, name: str) -> str:
        cell, label = self._cells[name], self.grid.name_of(self._cells[name])
        folder = self.run.cell(name)
        part = f".{task.shard.file_name}" if task.shard else ""
        doing = f"{label}, {task.shard.text}" if task.shard else label

        def waiting(holder: Any) -> None:
            self._say(f"{doing}: process {holder.pid} on {holder.host} is at it; waiting for it")

        with waited_for(self.run.leases, f"{name}{part}", waiting, task=doing) as lease:
            renew(folder, self._content)
            if folder.complete:  # another worker was there
                return summary_of(MetricsRecord.read(folder.metrics))
            checkpoint = None
            if not cell.random_weights:
                checkpoint = find_checkpoint(cell) or train_missing(
                    cell, self._say, self.settings.device, track=self.settings.tracking
                )
            session = self._open()
            session.batch_size = max(1, self.settings.batch_size >> task.halved)
            questions = session.questions_of(task.shard) if task.shard else session.questions
            with self._bar(doing, questions) as answered:
                moved = _told(lease, answered, questions)
                if task.shard is not None:
                    session.answer(cell, checkpoint, folder, task.shard, moved, lease.check)
                    return ""
                return summary_of(session.run(cell, checkpoint, folder, moved, lease.check))

    def _open(self) -> Session:
        """Imports torch and lmms-eval: 10 s."""
        if self.session is None:
            from vr_eval.environment import describe
            from vr_eval.runs.evaluate import Session

            settings = self.settings
            described = describe(settings.run_id)
            cells = self.grid.cells
            self.session = Session(
                self.grid,
                cells,
                settings.device,
                settings.batch_size,
                described,
                shared=settings.shared,
                features=features_folder(settings.features),
                in_ranges=settings.in_ranges,
            )
        return self.session

    def _failed(self, task: Task, name: str, error: Exception) -> CellOutcome:
        traced = "".join(traceback.format_exception(error))
        write_failure(self.run.cell(name), self._cells[name], self.grid, first_line(error), traced)
        return outcome_of_failure(name, error, smaller=_can_be_halved(task, self))


def write_failure(folder: CellFolder, cell: Cell, grid: Grid, error: str, details: str) -> None:
    """Keep why a cell failed, in one line and with all that is known, in its folder."""
    write_atomic(folder.error, details)
    if not folder.evaluated:  # results of an earlier run, of which some questions were tried again, stay
        CellRecord(**plain(CellColumns.of(cell, grid)), status="failed", failure=error).write(folder.about)


def _can_be_halved(task: Task, worker: Worker) -> bool:
    size = worker.grid.recipe.batch(1) if task.kind == "train" else worker.settings.batch_size
    return size >> task.halved > 1


def _told(lease: Lease, answered: Callable[[int], Any], questions: int) -> Callable[[int], None]:
    done = 0

    def moved(more: int) -> None:
        nonlocal done
        done += more
        lease.progress(done, questions, "questions")
        answered(more)

    return moved


def outcome_of_failure(cell: str, error: Exception, *, smaller: bool = False) -> CellOutcome:
    """What the driver hears of an exception; `smaller`: less memory could still be used."""
    code = error.exit_code if isinstance(error, DamagedError) else 1
    memory = smaller and is_out_of_memory(error)
    return CellOutcome(cell, "", first_line(error), code, again=not isinstance(error, VrEvalError), memory=memory)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, on a GPU or for the whole process."""
    return isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"


def full_disk(error: BaseException) -> InputError | None:
    """What is said where the disk is full, which is no matter of one cell; None for another error."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT):
            if isinstance(error, InputError):
                return error
            hint = "Free some space and run the same command again: what is finished is kept."
            return InputError(Problem(f"the disk is full: {cause}", hint=hint))
        cause = cause.__cause__ or cause.__context__
    return None


def first_line(error: Exception) -> str:
    """The first line of an exception, for a terminal."""
    line = (str(error).strip().splitlines() or [""])[0]
    return sanitize_terminal(line if isinstance(error, VrEvalError) else f"{type(error).__name__}: {line}")


def summary_of(metrics: MetricsRecord) -> str:
    """The scores of a cell in one line."""
    scores = [f"{name} {_shown(task.score)}" for name, task in metrics.tasks.items()]
    failures = metrics.failures
    return ", ".join(scores) + (f"; {failures} questions failed, the same command asks them again" if failures else "")


def _shown(score: float | None) -> str:
    return "-" if score is None else f"{score:.1f}"
