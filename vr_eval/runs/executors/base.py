"""What an executor is: it starts tasks and says how they ended. Order and retries are the driver's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from vr_eval.runs.tasks import Outcome, Task

Work: TypeAlias = Callable[[str, Task], Outcome]
"""Does a task, given the run directory; it is sent to workers."""


@dataclass(frozen=True)
class Ended:
    """A task that does not run any more.

    Attributes:
        task: As it was submitted.
        outcome: What its worker said; None where the worker was lost before it said anything.
        lost: Why it was lost, in words: "killed by signal 9", "its node was lost", "preempted".
        blameless: It was lost by no fault of the task (a node, a preemption), so that it is tried as often as needed.
        memory: It was lost because main memory ran out.
    """

    task: Task
    outcome: Outcome | None
    lost: str = ""
    blameless: bool = False
    memory: bool = False


class Executor(Protocol):
    """Starts tasks. Every task that was submitted comes out of `poll` once, unless it is cancelled.

    Attributes:
        workers: How many tasks run at once, at most, as far as is known.
    """

    workers: int

    def room(self) -> int:
        """How many more tasks it takes now."""

    def submit(self, tasks: Sequence[Task]) -> None:
        """Start tasks, at most as many as there is room for, in this order.

        Raises:
            InputError: it cannot start any.
        """

    def poll(self, seconds: float) -> list[Ended]:
        """Tasks that ended since; waits for the first one, but no longer than `seconds`."""

    def cancel(self) -> None:
        """End what runs, keeping what is answered, and the workers; returns when they are gone."""
