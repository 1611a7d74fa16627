"""Tasks as jobs: submitit's own processes, and Slurm's commands as `fake_slurm` answers them."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cloudpickle
import pytest

from tests.runs import fake_slurm
from tests.runs import stub_work as stub_module
from tests.runs.stub_work import stub_work
from vr_eval.errors import InputError
from vr_eval.runs.executors import slurm
from vr_eval.runs.executors.base import Ended
from vr_eval.runs.executors.slurm import SlurmExecutor
from vr_eval.runs.executors.slurm_options import SlurmOptions
from vr_eval.runs.executors.slurm_queue import Queue
from vr_eval.runs.tasks import Shard, Task

ROOT = Path(__file__).resolve().parents[2]
LOCAL = SlurmOptions(cluster="local", gpus=0, array=4)
CLUSTER = SlurmOptions(partition="gpu", array=4, setup=("export OF_THE_SETUP=1",))


@pytest.fixture(autouse=True, scope="module")
def sent_along() -> Iterator[None]:
    """Jobs import no tests (other packages install a `tests` too): the work of these travels with the job."""
    cloudpickle.register_pickle_by_value(stub_module)
    yield
    cloudpickle.unregister_pickle_by_value(stub_module)


@pytest.fixture(autouse=True)
def this_code(monkeypatch: pytest.MonkeyPatch) -> None:
    """Jobs import the package that is tested."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[[SlurmOptions], SlurmExecutor]]:
    """Executors of one run directory, which leave no process behind."""
    made = []

    def started(options: SlurmOptions) -> SlurmExecutor:
        made.append(SlurmExecutor(tmp_path / "my run", options, work=stub_work, asks_every=0.2))
        return made[-1]

    yield started
    for executor in made:
        executor.cancel()


def task(name: str, kind: Any = "evaluate") -> Task:
    return Task(kind, (name,))


def until(condition: Callable[[], object], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.05)


def ends(executor: SlurmExecutor, count: int, seconds: float = 60) -> dict[str, Ended]:
    """The next `count` ends by the first cell; every task ends once."""
    found: dict[str, Ended] = {}
    last = time.monotonic() + seconds
    while len(found) < count and time.monotonic() < last:
        for ended in executor.poll(1):
            assert ended.task.cells[0] not in found
            found[ended.task.cells[0]] = ended
    assert len(found) == count
    return found


def pids(run: Path, name: str) -> list[int]:
    file = run / name / "pids"
    return [int(pid) for pid in file.read_text().split()] if file.exists() else []


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return tmp_path / "my run"


# Both kinds of jobs


@pytest.mark.parametrize("options", [LOCAL, CLUSTER], ids=["local", "slurm"])
def test_each_task_ends_once_with_what_its_worker_said(
    options: SlurmOptions, start: Any, run: Path, cluster: Path
) -> None:
    executor = start(options)
    assert executor.workers == executor.room() == 4
    executor.submit([task("a"), Task("train", ("b", "c")), Task("evaluate", ("d",), Shard(1, 3), halved=1)])
    assert executor.room() == 1
    executor.submit([task("e")])
    assert executor.room() == 0
    found = ends(executor, 4)
    assert executor.room() == 4
    assert executor.poll(0) == []
    assert found["b"].outcome.cells[0].summary == "train done"  # type: ignore[union-attr]
    assert found["d"].task == Task("evaluate", ("d",), Shard(1, 3), halved=1)
    assert all(end.outcome is not None and not end.lost for end in found.values())
    environment = (run / "a" / "environment").read_text()
    assert environment == ("1" if options is CLUSTER else "")  # lines of the setup are for nodes
    assert not list((run / ".work" / "slurm").glob("*.pkl"))


@pytest.mark.parametrize("options", [LOCAL, CLUSTER], ids=["local", "slurm"])
def test_a_worker_with_a_bug_is_lost_by_its_own_fault(options: SlurmOptions, start: Any, cluster: Path) -> None:
    executor = start(options)
    executor.submit([task("raises"), task("odd")])
    found = ends(executor, 2)
    assert found["odd"].outcome is None
    end = found["raises"]
    assert end.outcome is None
    assert not end.blameless
    words, _, log = end.lost.partition("; see ")
    assert words == "its worker broke off: and says so"
    assert "raises speaks" in Path(log).read_text()


@pytest.mark.parametrize("options", [LOCAL, CLUSTER], ids=["local", "slurm"])
def test_a_killed_worker_is_lost_and_the_others_go_on(
    options: SlurmOptions, start: Any, run: Path, cluster: Path
) -> None:
    executor = start(options)
    executor.submit([task("slow"), task("slow too")])
    until(lambda: pids(run, "slow"))
    os.kill(pids(run, "slow")[0], signal.SIGKILL)
    found = ends(executor, 2)
    assert found["slow"].outcome is None
    assert found["slow"].lost.startswith("its job ended without a result; see ")
    assert not found["slow"].blameless
    assert found["slow too"].outcome is not None


@pytest.mark.parametrize("options", [LOCAL, CLUSTER], ids=["local", "slurm"])
def test_cancel_leaves_no_process(options: SlurmOptions, start: Any, run: Path, cluster: Path) -> None:
    executor = start(options)
    executor.submit([task("slow 1"), task("slow 2")])
    until(lambda: pids(run, "slow 1") and pids(run, "slow 2"))
    executor.cancel()
    assert not alive(pids(run, "slow 1")[0])
    assert not alive(pids(run, "slow 2")[0])
    assert not fake_slurm.running()
    assert executor.room() == 4
    assert executor.poll(0.5) == []


# submitit's processes


def test_a_local_job_that_is_preempted_goes_on_and_ends(start: Any, run: Path) -> None:
    """The signal goes to the worker, as Slurm sends it; submitit's own call would end the process beside it."""
    executor = start(LOCAL)
    executor.submit([task("slow")])
    until(lambda: (run / "slow" / "steps").exists())
    os.kill(pids(run, "slow")[0], signal.SIGUSR2)
    end = ends(executor, 1)["slow"]
    assert end.outcome is not None
    assert len(pids(run, "slow")) == 2
    assert (run / "slow" / "steps").read_text() == "x" * 8


def test_a_local_job_without_its_watching_process_is_lost_by_no_fault(start: Any, run: Path) -> None:
    executor = start(LOCAL)
    executor.submit([task("slow")])
    until(lambda: pids(run, "slow"))
    executor._running[0].job._interrupt()
    end = ends(executor, 1)["slow"]
    assert end.outcome is None
    assert end.blameless
    assert "watched over it" in end.lost
    until(lambda: not alive(pids(run, "slow")[0]))


# Slurm's queue


def test_a_job_is_asked_for_as_the_options_say(start: Any, cluster: Path) -> None:
    options = SlurmOptions(
        partition="gpu,long",
        account="mine",
        qos="high prio",
        array=2,
        minutes=90,
        gpus=2,
        gpu_type="a100",
        cpus=6,
        memory=48,
        constraint="ib&nvme",
        exclude="node[01-04]",
        setup=("module load cuda",),
        notice=300,
    )
    executor = start(options)
    executor.submit([task("a"), task("b")])
    lines = fake_slurm.read(cluster / "1_0", "script").splitlines()
    asked = [line.removeprefix("#SBATCH ") for line in lines if line.startswith("#SBATCH")]
    assert {
        "--partition=gpu,long",
        "--account=mine",
        "--qos='high prio'",
        "--array=0-1%2",
        "--time=90",
        "--nodes=1",
        "--ntasks-per-node=1",
        "--gpus-per-node=a100:2",
        "--cpus-per-task=6",
        "--mem=48GB",
        "--constraint='ib&nvme'",
        "--exclude='node[01-04]'",
        "--signal=USR2@300",
        "--requeue",
    } <= set(asked)
    (command,) = [line for line in lines if line.startswith("srun")]
    assert "--cpus-per-task 6" in command
    assert lines.index("module load cuda") < lines.index(command)


def test_what_is_not_given_is_not_asked_for(start: Any, cluster: Path) -> None:
    start(SlurmOptions(gpus=0)).submit([task("a")])
    script = fake_slurm.read(cluster / "1", "script")
    for option in ("--gpus", "--partition", "--account", "--qos", "--constraint", "--exclude", "--array", "None"):
        assert option not in script


def interrupt(timeout: bool) -> Callable[[SlurmExecutor, Path], None]:
    """submitit's own call: SIGTERM and then its signal, or the signal alone."""
    return lambda executor, _: executor._running[0].job._interrupt(timeout=timeout)


def taken_by_slurm(executor: SlurmExecutor, home: Path) -> None:
    """A node that is lost, or a preemption without notice, where the site puts the job in the queue again."""
    fake_slurm.end(home / "1_0", fake_slurm.REQUEUED)


@pytest.mark.parametrize(
    "happens",
    [interrupt(timeout=False), interrupt(timeout=True), taken_by_slurm],
    ids=["preempted", "timeout", "requeued"],
)
def test_a_job_that_is_put_back_in_the_queue_goes_on_and_ends(
    happens: Callable[[SlurmExecutor, Path], None], start: Any, run: Path, cluster: Path
) -> None:
    executor = start(CLUSTER)
    executor.submit([task("slow"), task("a")])
    until(lambda: (run / "slow" / "steps").exists())
    happens(executor, cluster)
    found = ends(executor, 2)
    assert found["slow"].outcome is not None
    assert fake_slurm.read(cluster / "1_0", "starts") == "xx"
    assert len(pids(run, "slow")) == 2
    assert (run / "slow" / "steps").read_text() == "x" * 8
    assert len(pids(run, "a")) == 1


def test_only_the_worker_itself_answers_the_notice(start: Any, run: Path, cluster: Path) -> None:
    """The processes that it forked get the signal too."""
    executor = start(CLUSTER)
    executor.submit([task("slow with a child")])
    until(lambda: (run / "slow with a child" / "steps").exists())
    executor._running[0].job._interrupt(timeout=True)
    assert ends(executor, 1)["slow with a child"].outcome is not None
    assert fake_slurm.read(cluster / "1", "requeues") == "x"


@pytest.mark.parametrize(
    ("state", "words", "blameless"),
    [
        ("NODE_FAIL", "its node was lost", True),
        ("PREEMPTED", "preempted", True),
        ("TIMEOUT", "its time was over", True),
        ("OUT_OF_MEMORY", "main memory", False),
        (f"CANCELLED by {os.getuid()}", "its job was cancelled", False),
    ],
)
def test_a_job_that_slurm_ended_is_lost(
    state: str, words: str, blameless: bool, start: Any, run: Path, cluster: Path
) -> None:
    executor = start(CLUSTER)
    executor.submit([task("slow"), task("a")])
    until(lambda: pids(run, "slow"))
    fake_slurm.end(cluster / "1_0", state)
    found = ends(executor, 2)
    end = found["slow"]
    assert end.outcome is None
    assert end.blameless == blameless
    assert words in end.lost
    assert "slow speaks" in Path(end.lost.partition("; see ")[2]).read_text()
    assert found["a"].outcome is not None


def test_no_job_is_lost_while_slurm_does_not_answer(start: Any, cluster: Path) -> None:
    executor = start(CLUSTER)
    executor.submit([task("slow")])
    until(lambda: fake_slurm.read(cluster / "1", "state") == "RUNNING")
    squeue = Path(shutil.which("squeue") or "")
    answer = squeue.read_text()
    squeue.write_text("#!/bin/sh\necho 'slurm_load_jobs error: Unable to contact slurm controller' >&2\nexit 1\n")
    assert executor.poll(1.2) == []
    squeue.write_text(answer)
    assert ends(executor, 1)["slow"].outcome is not None


def test_a_job_that_slurm_moves_about_is_not_lost(start: Any, cluster: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between two of its states a job may be in no answer once."""
    executor = start(CLUSTER)
    executor.submit([task("slow")])
    answers: list[set[str]] = [set(), {"1"}, set(), {"1"}, set()]
    real = executor._queue.ids
    monkeypatch.setattr(Queue, "ids", lambda self: answers.pop(0) if answers else real())
    assert ends(executor, 1)["slow"].outcome is not None
    assert not answers


def test_the_next_driver_takes_over_what_is_in_the_queue(start: Any, run: Path, cluster: Path) -> None:
    """A driver that was killed cancels nothing; a job of another run is none of ours."""
    other = SlurmExecutor(run.parent / "other", CLUSTER, work=stub_work, asks_every=0.2)
    other.submit([task("slow")])
    code = f"""
        import os, sys
        from pathlib import Path
        import cloudpickle, stub_work
        from vr_eval.runs.executors.slurm import SlurmExecutor
        from vr_eval.runs.executors.slurm_options import SlurmOptions
        from vr_eval.runs.tasks import Task
        cloudpickle.register_pickle_by_value(stub_work)
        tasks = [Task("evaluate", ("slow",)), Task("evaluate", ("slow too",))]
        SlurmExecutor(Path({str(run)!r}), SlurmOptions(), work=stub_work.stub_work).submit(tasks)
        os._exit(0)
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True, cwd=Path(__file__).parent)
    executor = start(CLUSTER)
    executor.submit([task("slow"), task("new")])
    assert sorted(job.name for job in cluster.glob("[0-9]*")) == ["1", "2_0", "2_1", "3"]
    found = ends(executor, 2)
    assert found["slow"].outcome is not None
    assert len(pids(run, "slow")) == 1
    assert ends(other, 1)["slow"].outcome is not None


def test_what_slurm_refuses_is_one_error(start: Any, cluster: Path) -> None:
    with pytest.raises(InputError) as caught:
        start(SlurmOptions(partition="nowhere")).submit([task("a"), task("b")])
    text = str(caught.value)
    assert text.startswith("--slurm: Slurm does not take the job: ")
    assert "Invalid partition name specified" in text


def test_a_driver_that_is_a_job_itself_hands_none_of_its_own_variables_on(
    start: Any, cluster: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "76")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "5")
    executor = start(CLUSTER)
    executor.submit([task("a")])
    assert ends(executor, 1)["a"].outcome is not None


# A machine without Slurm


def test_no_slurm_is_one_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError) as caught:
        SlurmExecutor(tmp_path, SlurmOptions())
    text = str(caught.value)
    assert text.startswith("--executor: there is no Slurm on this machine (no sbatch, no srun")
    assert "--slurm cluster=local" in text
    assert not list(tmp_path.iterdir())


def test_the_number_of_workers_stands_for_the_size_of_arrays(tmp_path: Path) -> None:
    assert SlurmExecutor(tmp_path, LOCAL, workers=2).room() == 2


def test_no_submitit_is_one_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slurm, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install 'vr-eval\[slurm\]'"):
        SlurmExecutor(tmp_path, LOCAL)


def test_an_executor_brings_no_torch_into_its_driver(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from vr_eval.runs.executors.slurm import SlurmExecutor;"
        "from vr_eval.runs.executors.slurm_options import parse_slurm; assert 'submitit' not in sys.modules;"
        "SlurmExecutor(Path(sys.argv[1]), parse_slurm(['cluster=local'])); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False"]
