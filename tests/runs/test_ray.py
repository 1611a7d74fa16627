"""The executor ray on a real cluster of two nodes, with tasks that stand in for cells."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from vr_eval.errors import InputError
from vr_eval.runs.executors.base import Ended
from vr_eval.runs.executors.ray import RayExecutor
from vr_eval.runs.tasks import CellOutcome, Outcome, Task

pytest.importorskip("ray", reason="the extra ray is not installed")

NODE = {"num_cpus": 1, "object_store_memory": 80 * 1024**2}


def work(folder: str, task: Task) -> Outcome:
    """What the first cell's name says."""
    what, _, name = task.cells[0].partition(":")
    if what == "raise":
        raise ValueError("these are no scores\nand this is a second line")
    if what == "exit":
        os._exit(3)
    if what == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if what in ("wait", "hang"):
        Path(folder, f"{name}.pid").write_text(str(os.getpid()))
        try:
            while what == "hang" or not Path(folder, "go").exists():
                time.sleep(0.05)
        except KeyboardInterrupt:
            Path(folder, f"{name}.interrupted").touch()
            if what == "wait":
                raise
            time.sleep(600)
    threads = os.environ["OMP_NUM_THREADS"]
    return Outcome((CellOutcome(task.cells[0], f"{os.getpid()} {threads} {os.environ['VR_EVAL_HOME']}"),))


def task(name: str) -> Task:
    return Task("evaluate", (name,))


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Two nodes with one CPU each; the second may be lost and come back."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    import ray
    from ray.cluster_utils import Cluster

    # Workers cannot import this file: a package of someone else's is called tests as well.
    ray.cloudpickle.register_pickle_by_value(sys.modules[work.__module__])
    made = Cluster(initialize_head=True, head_node_args={**NODE, "include_dashboard": False})
    made.second = made.add_node(**NODE)
    yield made
    made.shutdown()


@pytest.fixture
def executor(cluster: Any, tmp_path: Path) -> Iterator[RayExecutor]:
    made = RayExecutor(tmp_path, address=cluster.address, cpus=1, gpus=0, workers=None, work=work)
    yield made
    made.cancel()


def all_ended(executor: RayExecutor, count: int, seconds: float = 120) -> list[Ended]:
    """The next tasks that end."""
    found: list[Ended] = []
    until = time.monotonic() + seconds
    while len(found) < count and time.monotonic() < until:
        found += executor.poll(1)
    assert len(found) == count
    return found


def until_there(*files: Path) -> None:
    until = time.monotonic() + 120
    while not all(file.exists() and file.read_bytes() for file in files):
        assert time.monotonic() < until, f"not all of {files} came to be"
        time.sleep(0.05)


def alive(pid: str) -> bool:
    """Whether a process runs; one that has ended and was not waited for does not."""
    try:
        return Path("/proc", pid, "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_tasks_end_once_with_what_their_worker_said_or_why_it_was_lost(executor: RayExecutor) -> None:
    assert executor.workers == 2
    assert executor.room() == 4
    names = ["fine", "raise", "exit", "kill"]
    executor.submit([task(name) for name in names])
    assert executor.room() == 0
    ended = {end.task.cells[0]: end for end in all_ended(executor, 4)}
    assert sorted(ended) == sorted(names)
    assert executor.room() == 4
    assert executor.poll(0) == []
    fine = ended["fine"]
    assert fine.task == task("fine")
    assert fine.outcome is not None
    assert fine.outcome.cells[0].summary.split()[1:] == ["1", os.environ["VR_EVAL_HOME"]]
    assert [fine.lost, fine.blameless] == ["", False]
    assert ended["raise"].lost == "ValueError: these are no scores"
    assert ended["exit"].lost == ended["kill"].lost == "its process was killed or crashed"
    assert not any(ended[name].blameless or ended[name].outcome for name in ("raise", "exit", "kill"))


def test_a_worker_stays_for_the_next_task(executor: RayExecutor) -> None:
    processes = set()
    for _ in range(6):
        executor.submit([task("fine")])
        outcome = all_ended(executor, 1)[0].outcome
        assert outcome is not None
        processes.add(outcome.cells[0].summary.split()[0])
    assert len(processes) <= 2


def test_no_more_run_than_were_asked_for(cluster: Any, tmp_path: Path) -> None:
    executor = RayExecutor(tmp_path, address=cluster.address, cpus=1, gpus=0, workers=1, work=work)
    try:
        assert [executor.workers, executor.room()] == [1, 1]
        executor.submit([task("wait:one")])
        assert executor.room() == 0
        (tmp_path / "go").touch()
        all_ended(executor, 1)
        assert executor.room() == 1
    finally:
        executor.cancel()


def test_a_lost_node_loses_its_task_alone_and_one_that_joins_takes_it(
    cluster: Any, executor: RayExecutor, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    executor.submit([task("wait:a"), task("wait:b")])
    until_there(tmp_path / "a.pid", tmp_path / "b.pid")
    cluster.remove_node(cluster.second, allow_graceful=False)
    lost = all_ended(executor, 1)[0]
    assert [lost.outcome, lost.lost, lost.blameless] == [None, "its node was lost", True]
    cluster.second = cluster.add_node(**NODE)
    executor.submit([lost.task])
    (tmp_path / "go").touch()
    again = all_ended(executor, 2)
    assert {end.task.name for end in again} == {task("wait:a").name, task("wait:b").name}
    assert all(end.outcome for end in again)
    said = capfd.readouterr()
    assert [said.out, said.err] == ["", ""]


def test_room_follows_the_machines_that_are_there(
    cluster: Any, executor: RayExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vr_eval.runs.executors.ray._READ_AGAIN_SECONDS", 0.0)

    def until_room(room: int) -> None:
        """Ray takes seconds to know that a node was lost."""
        until = time.monotonic() + 60
        while executor.room() != room:
            assert time.monotonic() < until
            time.sleep(0.2)
        assert executor.workers == room // 2

    until_room(4)
    third = cluster.add_node(**NODE)
    until_room(6)
    cluster.remove_node(third)
    until_room(4)


@pytest.mark.slow
def test_cancel_interrupts_what_runs_and_kills_what_stays(
    cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one that ends by itself has time to keep what it has; the other is killed; a third never starts."""
    monkeypatch.setattr("vr_eval.runs.executors.ray._KILL_AFTER_SECONDS", 3.0)
    executor = RayExecutor(tmp_path, address=cluster.address, cpus=1, gpus=0, workers=None, work=work)
    executor.submit([task("wait:willing"), task("hang:stubborn"), task("wait:third")])
    started = [tmp_path / "willing.pid", tmp_path / "stubborn.pid"]
    until_there(*started)
    begin = time.monotonic()
    executor.cancel()
    assert time.monotonic() - begin < 20
    assert (tmp_path / "willing.interrupted").exists()
    assert not (tmp_path / "third.pid").exists()
    until = time.monotonic() + 20
    while any(alive(file.read_text()) for file in started):
        assert time.monotonic() < until, "a worker is left"
        time.sleep(0.1)
    executor.cancel()


def test_a_task_that_no_machine_has_room_for_is_refused(cluster: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError) as error:
        RayExecutor(tmp_path, address=cluster.address, cpus=2, gpus=0.5, workers=None, work=work)
    assert "no machine of the Ray cluster has what one task needs (given: '2 CPU, 0.5 GPU')" in str(error.value)
