"""Many workers on this machine give what one gives: with shards, kills, Ctrl-C, and beside another driver."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tests.runs.many import done, facts, processes_of, started, toy_world
from vr_eval.config.identity import cell_id
from vr_eval.records.folder import RunFolder
from vr_eval.runs.holder import STALE
from vr_eval.runs.lease import Lease, LeaseLostError, holders, leased
from vr_eval.runs.settings import Settings
from vr_eval.runs.status import status_of
from vr_eval.runs.tasks import Task
from vr_eval.runs.worker import Worker


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A grid of two cells with 150 questions a task, and its run by one worker."""
    root = tmp_path_factory.mktemp("many")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VR_EVAL_HOME", str(root / "home"))
        toy_world(root, 150)
    done(root, "run", "toys.yaml", "--workers", "1", "--out", "one")
    return root


def until(true: Callable[[], Any], seconds: float = 120) -> Any:
    """What `true` gives once that is something."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = true()
        if found:
            return found
        time.sleep(0.05)
    raise AssertionError("it never was")


def at_work(run_dir: Path) -> dict[str, int]:
    """Lease to process of the workers that have answered something."""
    found = holders(RunFolder(run_dir).leases)
    return {name: holder.pid for name, holder in found.items() if name != "run" and holder.done}


def test_two_workers_and_shards_give_what_one_gives(world: Path) -> None:
    said = done(world, "run", "toys.yaml", "--workers", "2", "--shards", "3", "--out", "two")
    assert "2 workers on this machine" in said
    assert facts(world / "two") == facts(world / "one")
    records = pd.read_parquet(world / "two/records.parquet")
    assert records["shared"].all()
    assert not pd.read_parquet(world / "one/records.parquet")["shared"].any()
    table = (world / "two/table.md").read_text()
    assert "†" in table
    assert "†" not in (world / "one/table.md").read_text()
    assert not list((world / "two").glob("**/*.tmp"))
    assert not holders(RunFolder(world / "two").leases)


@pytest.mark.slow
def test_the_same_command_with_other_workers_asks_nothing_again(world: Path) -> None:
    done(world, "run", "toys.yaml", "--workers", "2", "--out", "again")
    before = facts(world / "again")
    assert "evaluated already" in done(world, "run", "toys.yaml", "--workers", "1", "--out", "again")
    assert facts(world / "again") == before == facts(world / "one")


@pytest.mark.slow
def test_ctrl_c_ends_every_worker_and_one_worker_does_the_rest(world: Path) -> None:
    driver = started(world, "run", "toys.yaml", "--workers", "2", "--out", "interrupted")
    until(lambda: at_work(world / "interrupted"))
    os.killpg(driver.pid, signal.SIGINT)  # as a terminal sends it: to all of them
    _, err = driver.communicate(timeout=60)
    assert driver.returncode == 130
    assert "the same command continues" in err
    assert "Traceback" not in err
    until(lambda: not processes_of(driver.pid), 20)
    assert not holders(RunFolder(world / "interrupted").leases)
    kept = sum(path.read_bytes().count(b"\n") for path in (world / "interrupted").glob("cells/*/answers.jsonl"))
    assert kept > 0
    done(world, "run", "toys.yaml", "--workers", "1", "--out", "interrupted")
    assert facts(world / "interrupted") == facts(world / "one")


@pytest.mark.slow
def test_a_driver_that_is_killed_leaves_no_workers_behind(world: Path) -> None:
    driver = started(world, "run", "toys.yaml", "--workers", "2", "--out", "orphaned")
    until(lambda: at_work(world / "orphaned"))
    driver.kill()
    driver.communicate(timeout=60)
    until(lambda: not processes_of(driver.pid), 30)
    done(world, "run", "toys.yaml", "--workers", "2", "--out", "orphaned")
    assert facts(world / "orphaned") == facts(world / "one")


@pytest.mark.slow
def test_a_second_driver_is_told_who_works_there(world: Path) -> None:
    run = RunFolder(world / "twice")
    driver = started(world, "run", "toys.yaml", "--workers", "2", "--out", "twice")
    until(lambda: "run" in holders(run.leases))
    said = done(world, "run", "toys.yaml", "--workers", "2", "--out", "twice", code=2)
    assert f"process {driver.pid} on {os.uname().nodename}" in said
    assert "since" in said
    assert "Traceback" not in said
    driver.communicate(timeout=300)
    assert facts(world / "twice") == facts(world / "one")


def test_a_cell_by_hand_is_used_by_the_run(world: Path) -> None:
    done(world, "run", "toys.yaml", "--workers", "1", "--out", "hand", "--limit", "2")
    for path in (world / "hand").glob("cells/*"):
        name = path.name
    grid = json.loads((world / "hand/.work/settings.json").read_text())
    assert grid["batch_size"] == 4
    (world / "hand/cells" / name / "metrics.json").unlink()
    said = done(world, "cell", "hand", name)
    assert "[1/1]" in said
    assert (world / "hand/cells" / name / "metrics.json").is_file()
    assert "no such cell" in done(world, "cell", "hand", "0" * 16, code=2)
    assert "this is no shard" in done(world, "cell", "hand", name, "--shard", "3/2", code=2)
    assert "no run directory" in done(world, "cell", "tasks", name, code=2)


@pytest.mark.slow
def test_workers_that_are_killed_at_twenty_random_moments_change_nothing(world: Path) -> None:
    drawn = random.Random(0)
    driver = started(world, "run", "toys.yaml", "--workers", "2", "--shards", "2", "--retries", "20", "--out", "killed")
    killed = 0
    while driver.poll() is None:
        time.sleep(drawn.uniform(0.1, 2.0))
        found = holders(RunFolder(world / "killed").leases)
        workers = [holder.pid for name, holder in found.items() if name != "run"]
        if workers and killed < 20:
            os.kill(drawn.choice(workers), signal.SIGKILL)
            killed += 1
    out, err = driver.communicate()
    assert driver.returncode == 0, out + err
    assert killed >= 5, "the run was over before anything was killed"
    assert facts(world / "killed") == facts(world / "one")


@pytest.mark.slow
def test_a_cell_that_another_worker_has_is_waited_for_and_not_done_twice(world: Path) -> None:
    done(world, "run", "toys.yaml", "--workers", "1", "--out", "waited", "--limit", "2")
    run = RunFolder(world / "waited")
    worker = Worker.at(run, Settings.read(run))
    name = cell_id(worker.grid.cells[0], worker.grid)
    said: list[str] = []
    worker._say = said.append
    with leased(run.leases, name, "by hand"):
        pass
    outcome = worker.do(Task("evaluate", (name,)))
    assert not outcome.cells[0].error
    assert worker.session is None, "the cell was complete: nothing is loaded"


NO_SPACE = """
import errno, os
from vr_eval.runs import journal
from vr_eval.runs.worker import work

append = journal.Journal._append

def refused(self, content):
    if self.path.is_file() and self.path.stat().st_size > 1000:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))
    append(self, content)

def no_space(folder, task):
    journal.Journal._append = refused
    return work(folder, task)
"""
ON_A_FULL_DISK = """
from pathlib import Path
from no_space import no_space
from vr_eval.config.grid import load_grid
from vr_eval.errors import InputError
from vr_eval.runs import crew
from vr_eval.runs.execute import run_grid
from vr_eval.runs.executors.options import WorkerOptions

if __name__ == "__main__":
    crew.work = no_space
    try:
        run_grid(load_grid("toys.yaml"), Path("full"), options=WorkerOptions(workers=2))
    except InputError as error:
        print(error)
"""


@pytest.mark.slow
def test_a_full_disk_at_one_worker_ends_the_command_and_loses_nothing(world: Path) -> None:
    (world / "no_space.py").write_text(NO_SPACE)
    (world / "on_a_full_disk.py").write_text(ON_A_FULL_DISK)
    environment = {**os.environ, "VR_EVAL_HOME": str(world / "home"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "on_a_full_disk.py"]
    said = subprocess.run(command, cwd=world, env=environment, capture_output=True, text=True, timeout=300)
    assert "the disk is full" in said.stdout, said.stderr
    kept = [path.read_text().count("\n") for path in (world / "full").glob("cells/*/answers.jsonl")]
    assert sum(kept) > 0
    assert not holders(RunFolder(world / "full").leases)
    done(world, "run", "toys.yaml", "--workers", "2", "--out", "full")
    assert facts(world / "full") == facts(world / "one")


@pytest.mark.slow
def test_leases_of_a_host_that_died_are_taken_over(world: Path) -> None:
    done(world, "run", "toys.yaml", "--workers", "1", "--out", "dead", "--limit", "1")
    run = RunFolder(world / "dead")
    for name in ("run", *(path.name for path in (world / "one/cells").iterdir())):
        lease = Lease(run.leases, name, "ran there")
        lease._holder = dataclasses.replace(lease._holder, host="another", boot=None)
        assert lease.claim() is None
        lease._ended.set()  # its host dies: no heartbeat any more
        lease._heart.join()
    assert "process" in done(world, "run", "toys.yaml", "--workers", "2", "--out", "dead", code=2)
    old = time.time() - 2 * STALE
    for file in run.leases.glob("*/*"):
        os.utime(file, (old, old))
    done(world, "run", "toys.yaml", "--workers", "2", "--out", "dead")
    assert facts(world / "dead")["records"] == facts(world / "one")["records"]


def test_a_cell_that_was_taken_over_has_not_failed(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = RunFolder(world / "one")
    worker = Worker.at(run, Settings.read(run))
    name = cell_id(worker.grid.cells[0], worker.grid)

    def taken_over(task: Task, cell: str) -> str:
        raise LeaseLostError("another worker has taken over")

    monkeypatch.setattr(worker, "_evaluate", taken_over)
    (outcome,) = worker.do(Task("evaluate", (name,))).cells
    assert outcome.again
    assert not run.cell(name).error.exists()


def test_status_says_what_is_done_and_what_failed_and_imports_nothing_heavy(world: Path) -> None:
    code = (
        "import sys; from vr_eval.cli import main; code = main(['status', 'one']);"
        "sys.exit(code or bool({'torch', 'pandas', 'lmms_eval', 'ray', 'submitit'} & set(sys.modules)))"
    )
    said = subprocess.run([sys.executable, "-c", code], cwd=world, capture_output=True, text=True, check=True).stdout
    assert "2 cells: 2 done" in said
    assert "no command drives it now" in said
    status = status_of(world / "one")
    assert {cell.state for cell in status.cells} == {"done"}
    assert json.loads(status.to_json())["counts"] == {"done": 2}


def test_status_shows_who_is_at_it_and_why_a_cell_failed(world: Path) -> None:
    shutil.copytree(world / "one", world / "shown")
    run = RunFolder(world / "shown")
    first, second = sorted(path.name for path in (world / "shown/cells").iterdir())
    for name in (first, second):
        (world / "shown/cells" / name / "metrics.json").unlink()
    about = json.loads((world / "shown/cells" / first / "cell.json").read_text())
    about |= {"status": "failed", "failure": "it \x1b[31mbroke"}
    (world / "shown/cells" / first / "cell.json").write_text(json.dumps(about))
    with leased(run.leases, f"{second}.1-of-2", "a half") as lease:
        lease.progress(7, 300, "questions")
        until(lambda: status_of(run.path).cells and "7 of 300 questions" in status_of(run.path).to_text())
        status = {cell.cell_id: cell for cell in status_of(run.path).cells}
    assert (status[first].state, status[second].state) == ("failed", "running")
    assert status[second].workers[0].pid == os.getpid()
    text = status_of(run.path).to_text()
    assert "broke" in text
    assert "\x1b" not in text
    assert status[first].answered == 300
