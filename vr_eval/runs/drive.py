"""The driver's loop: a task starts as soon as what it needs is done; one that was lost or failed goes again.

Light, and without files: which task needs which is all it knows.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from graphlib import TopologicalSorter

from vr_eval.errors import InputError, Problem
from vr_eval.runs.executors.base import Ended, Executor
from vr_eval.runs.tasks import CellOutcome, Task

RETRIES = 2
"""How often a task that fails by itself is tried again, by default."""


@dataclass
class Drive:
    """Runs the tasks of one command.

    Attributes:
        executor: Who does them.
        ended: Hears how a task ended for good: its cells' outcomes.
        say: Hears of retries.
        words: A task for people.
        standing: How far a task has got, as anything that can be compared: a worker that was killed after it got on is
            no failure of the task.
        watch: Called about every second.
        retries: How often a task that fails by itself is tried again; one that lost its node is as often as needed.
    """

    executor: Executor
    ended: Callable[[Task, Sequence[CellOutcome]], None]
    say: Callable[[str], None]
    words: Callable[[Task], str] = lambda task: task.name
    standing: Callable[[Task], object] = lambda task: None
    watch: Callable[[], None] = lambda: None
    retries: int = RETRIES
    _tries: Counter[str] = field(default_factory=Counter)
    _stood: dict[str, object] = field(default_factory=dict)  # of the tasks that were submitted and did not end
    _failed: dict[str, CellOutcome] = field(default_factory=dict)

    def run(self, tasks: Sequence[Task]) -> None:
        """Do all `tasks`, earlier ones first where there is a choice; then, or when it breaks off, end the executor.

        Raises:
            InputError: nobody can go on (a full disk), or the executor cannot start tasks.
        """
        by_name = {task.name: (place, task) for place, task in enumerate(tasks)}
        graph = TopologicalSorter({task.name: task.needs for task in tasks})
        graph.prepare()
        ready: list[tuple[int, Task]] = []
        try:
            while graph.is_active() or ready:
                for name in graph.get_ready():
                    heapq.heappush(ready, by_name[name])
                self._start(ready, graph)
                for end in self.executor.poll(1.0) if self._stood or ready else ():
                    again = self._next(end)
                    if again is None:
                        self._forget(end.task.name)
                        graph.done(end.task.name)
                    else:
                        heapq.heappush(ready, (by_name[end.task.name][0], again))
                self.watch()
        finally:
            self.executor.cancel()

    def _start(self, ready: list[tuple[int, Task]], graph: TopologicalSorter[str]) -> None:
        room = self.executor.room()
        start: list[Task] = []
        while ready and len(start) < room:
            task = heapq.heappop(ready)[1]
            broken = next((self._failed[need] for need in task.needs if need in self._failed), None)
            if broken is None:
                self._stood[task.name] = self.standing(task)
                start.append(task)
                continue
            outcomes = [replace(broken, cell=cell) for cell in task.cells]
            self._failed[task.name] = outcomes[0]
            self.ended(task, outcomes)
            graph.done(task.name)
        if start:
            self.executor.submit(start)

    def _next(self, end: Ended) -> Task | None:
        """The task to be done in place of one that ended; None where it ended for good."""
        task, outcome = end.task, end.outcome
        if outcome is None:
            return self._lost(end)
        if outcome.fatal:
            raise InputError(Problem(outcome.fatal))
        failures = [cell for cell in outcome.cells if cell.error]
        if any(cell.memory for cell in failures):
            self.say(f"{self.words(task)}: out of memory; again with half the batch")
            return task.with_half_the_batch()
        if any(cell.again for cell in failures) and self._may_try(task):
            self.say(f"{self.words(task)}: {failures[0].error}; again")
            return task
        if failures:
            self._failed[task.name] = failures[0]
        self.ended(task, outcome.cells)
        return None

    def _lost(self, end: Ended) -> Task | None:
        task = end.task
        # Where memory ran out, it would do so again and again, a little further each time.
        moved = not end.memory and self.standing(task) != self._stood.get(task.name)
        if end.blameless or moved or self._may_try(task):
            how = " with half the batch" if end.memory else ""
            self.say(f"{self.words(task)}: its worker was lost ({end.lost}); it goes on{how}")
            return task.with_half_the_batch() if end.memory else task
        outcomes = [CellOutcome(cell, error=f"its worker was lost: {end.lost}", exit_code=1) for cell in task.cells]
        self._failed[task.name] = outcomes[0]
        self.ended(task, outcomes)
        return None

    def _may_try(self, task: Task) -> bool:
        self._tries[task.name] += 1
        return self._tries[task.name] <= self.retries

    def _forget(self, name: str) -> None:
        """Memory stays flat however many tasks there are."""
        self._stood.pop(name, None)
        self._tries.pop(name, None)
