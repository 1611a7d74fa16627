"""One task after the other in this process: `--workers 1`."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from vr_eval.runs.executors.base import Ended
from vr_eval.runs.tasks import Outcome, Task


class InlineExecutor:
    """Does a task when it is polled for; what interrupts it interrupts the command."""

    workers = 1

    def __init__(self, do: Callable[[Task], Outcome]) -> None:
        self._do = do
        self._next: Task | None = None

    def room(self) -> int:
        return 0 if self._next else 1

    def submit(self, tasks: Sequence[Task]) -> None:
        (self._next,) = tasks

    def poll(self, seconds: float) -> list[Ended]:
        task, self._next = self._next, None
        return [Ended(task, self._do(task))] if task else []

    def cancel(self) -> None:
        self._next = None
