"""The driver's loop against an executor that ends tasks as it is told."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

import pytest

from vr_eval.errors import InputError
from vr_eval.runs.drive import Drive
from vr_eval.runs.executors.base import Ended
from vr_eval.runs.tasks import CellOutcome, Outcome, Shard, Task

TRAIN = Task("train", ("a", "b"))
A = Task("evaluate", ("a",), needs=(TRAIN.name,))
B = Task("evaluate", ("b",), needs=(TRAIN.name,))
C = Task("evaluate", ("c",))


def good(task: Task) -> Outcome:
    return Outcome(tuple(CellOutcome(cell, "fine") for cell in task.cells))


def bad(again: bool = True, memory: bool = False) -> Callable[[Task], Outcome]:
    return lambda task: Outcome(tuple(CellOutcome(c, "", "broken", 1, again, memory) for c in task.cells))


class Scripted:
    """Ends the oldest task first, each time by the next entry of its script; by `good` where that is used up.

    An entry is a function of the task, or the text of a loss, whether it is blameless, and whether memory ran out.
    """

    def __init__(self, workers: int, **script: list[object]) -> None:
        self.workers, self.script = workers, script
        self.running: list[Task] = []
        self.submitted: list[Task] = []
        self.most = 0
        self.cancelled = False

    def room(self) -> int:
        return self.workers - len(self.running)

    def submit(self, tasks: Sequence[Task]) -> None:
        assert len(tasks) <= self.room()
        self.submitted += tasks
        self.running += tasks
        self.most = max(self.most, len(self.running))

    def poll(self, seconds: float) -> list[Ended]:
        task = self.running.pop(0)
        script = self.script.get(f"{task.kind}_{task.cells[0]}", [])
        entry = script.pop(0) if script else good
        if callable(entry):
            return [Ended(task, entry(task))]
        return [Ended(task, None, *entry)]  # type: ignore[misc]

    def cancel(self) -> None:
        self.cancelled = True


def driven(
    executor: Scripted, tasks: Sequence[Task], retries: int = 1, standing: Callable[[Task], object] = lambda task: 0
) -> dict[str, list[str]]:
    """How each task ended: the errors of its cells, each in the order of its end."""
    ends: dict[str, list[str]] = {}

    def ended(task: Task, outcomes: Sequence[CellOutcome]) -> None:
        assert task.name not in ends, "a task ends for good only once"
        ends[task.name] = [outcome.error for outcome in outcomes]

    Drive(executor, ended, lambda text: None, standing=standing, retries=retries).run(tasks)
    return ends


def test_a_task_starts_when_what_it_needs_is_done_and_earlier_ones_first() -> None:
    executor = Scripted(1)
    ends = driven(executor, [TRAIN, A, C, B])
    assert [task.name for task in executor.submitted] == [TRAIN.name, A.name, C.name, B.name]
    assert list(ends) == [TRAIN.name, A.name, C.name, B.name]
    wide = Scripted(3)
    driven(wide, [TRAIN, A, C, B])
    assert [task.name for task in wide.submitted][:2] == [TRAIN.name, C.name]
    assert wide.most == 3


def test_what_needs_a_task_that_failed_fails_with_its_error_and_nobody_else() -> None:
    executor = Scripted(2, train_a=[bad(again=False)])
    ends = driven(executor, [TRAIN, A, B, C])
    assert ends[A.name] == ends[B.name] == ["broken"]
    assert ends[C.name] == [""]
    assert [task.name for task in executor.submitted] == [TRAIN.name, C.name]


def test_a_failure_goes_down_a_chain_of_needs() -> None:
    shard = Task("evaluate", ("a",), Shard(0, 1), needs=(TRAIN.name,))
    scores = Task("evaluate", ("a",), needs=(TRAIN.name, shard.name))
    ends = driven(Scripted(2, train_a=[bad(again=False)]), [TRAIN, shard, scores])
    assert ends[scores.name] == ["broken"]


@pytest.mark.parametrize(("failures", "starts", "error"), [(1, 2, ""), (2, 3, ""), (3, 3, "broken")])
def test_a_failing_task_is_tried_again_a_stated_number_of_times(failures: int, starts: int, error: str) -> None:
    executor = Scripted(1, evaluate_c=[bad()] * failures)
    ends = driven(executor, [C], retries=2)
    assert (len(executor.submitted), ends[C.name]) == (starts, [error])


def test_what_was_given_wrongly_is_not_tried_again() -> None:
    executor = Scripted(1, evaluate_c=[bad(again=False)])
    assert driven(executor, [C], retries=5) == {C.name: ["broken"]}
    assert len(executor.submitted) == 1


def test_a_lost_node_is_no_failure_however_often() -> None:
    executor = Scripted(1, evaluate_c=[("its node was lost", True)] * 50)
    assert driven(executor, [C], retries=0) == {C.name: [""]}
    assert len(executor.submitted) == 51


def test_a_worker_that_always_dies_at_the_same_place_is_a_failure() -> None:
    executor = Scripted(1, evaluate_c=[("killed by signal 11", False)] * 50)
    (error,) = driven(executor, [C], retries=2)[C.name]
    assert error == "its worker was lost: killed by signal 11"
    assert len(executor.submitted) == 3


def test_a_worker_that_dies_after_it_got_on_is_none() -> None:
    answered = iter(range(1000))
    executor = Scripted(1, evaluate_c=[("killed by signal 9", False)] * 20)
    assert driven(executor, [C], retries=0, standing=lambda task: next(answered)) == {C.name: [""]}


def test_memory_that_runs_out_halves_the_batch_and_is_no_failure() -> None:
    executor = Scripted(1, evaluate_c=[bad(memory=True)] * 3)
    assert driven(executor, [C], retries=0) == {C.name: [""]}
    assert [task.halved for task in executor.submitted] == [0, 1, 2, 3]
    assert {task.name for task in executor.submitted} == {C.name}


def test_a_worker_that_was_lost_for_memory_goes_on_with_half_the_batch_some_times() -> None:
    answered = iter(range(1000))
    executor = Scripted(1, evaluate_c=[("out of memory", False, True)] * 50)
    (error,) = driven(executor, [C], retries=2, standing=lambda task: next(answered))[C.name]
    assert error == "its worker was lost: out of memory"
    assert [task.halved for task in executor.submitted] == [0, 1, 2]


def test_a_full_disk_ends_everything() -> None:
    executor = Scripted(2, evaluate_a=[lambda task: Outcome((), fatal="the disk is full")])
    with pytest.raises(InputError, match="the disk is full"):
        driven(executor, [Task("evaluate", ("a",)), C])
    assert executor.cancelled


def test_ctrl_c_cancels_what_runs() -> None:
    def interrupted(task: Task) -> Outcome:
        raise KeyboardInterrupt

    executor = Scripted(2, evaluate_c=[interrupted])
    with pytest.raises(KeyboardInterrupt):
        driven(executor, [C])
    assert executor.cancelled


def test_the_work_per_task_does_not_grow_with_their_number() -> None:
    """Counted in calls, which a busy machine does not change."""

    def calls(count: int) -> int:
        tasks = [Task("evaluate", (f"{number:016x}",)) for number in range(count)]
        made = 0

        def note(frame: object, event: str, argument: object) -> None:
            nonlocal made
            made += event in ("call", "c_call")

        sys.setprofile(note)
        try:
            ends = driven(Scripted(200), tasks)
        finally:
            sys.setprofile(None)
        assert len(ends) == count
        return made

    few, many = calls(1_000), calls(8_000)
    assert many < 1.1 * 8 * few
