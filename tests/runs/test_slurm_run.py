"""A grid whose cells are Slurm jobs, one of them preempted in the middle of a cell: the same as by one process."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tests.adapters.world import GRID, toy_grid, write_tasks
from vr_eval.config.grid import Grid
from vr_eval.records.folder import RunFolder
from vr_eval.runs.execute import run_grid
from vr_eval.runs.executors.options import WorkerOptions
from vr_eval.runs.lease import holders

ROOT = Path(__file__).resolve().parents[2]
QUESTIONS = 120
LOCAL = ("cluster=local", "gpus=0", "array=2")
PARTITION = ("partition=gpu", "gpus=0", "array=2")


@pytest.fixture
def long_grid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Grid:
    """Two cells of many questions; jobs find its tasks, and the checkpoints that travel with the project."""
    write_tasks(tmp_path, questions=QUESTIONS)
    monkeypatch.setenv("VR_EVAL_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.chdir(tmp_path)
    return toy_grid(tmp_path, f"{GRID}tasks_path: [tasks/toy]\n")


class Preemption(threading.Thread):
    """Sends the notice that Slurm sends, to a worker in the middle of a cell."""

    def __init__(self, run: RunFolder) -> None:
        super().__init__(daemon=True)
        self.folder, self.answered = run, 0

    def run(self) -> None:
        until = time.monotonic() + 300
        while time.monotonic() < until:
            for name, holder in holders(self.folder.leases).items():
                journal = self.folder.cell(name).journal
                answered = journal.read_bytes().count(b"\n") if journal.is_file() else 0
                if answered > 8:
                    os.kill(holder.pid, signal.SIGUSR2)
                    self.answered = answered
                    return
            time.sleep(0.01)


def metrics(run: Path) -> dict[str, Any]:
    found = {path.parent.name: json.loads(path.read_text()) for path in run.glob("cells/*/metrics.json")}
    for content in found.values():
        content.pop("run_id")
    return found


def records(run: Path) -> pd.DataFrame:
    return pd.read_parquet(run / "records.parquet").drop(columns=["latency_ms", "run_id", "shared"])


@pytest.mark.slow
@pytest.mark.parametrize("given", [LOCAL, PARTITION], ids=["local", "slurm"])
def test_a_preempted_run_ends_in_what_one_process_finds(given: tuple[str, ...], long_grid: Grid, cluster: Path) -> None:
    preemption = Preemption(RunFolder(Path("runs/jobs")))
    preemption.start()
    assert run_grid(long_grid, Path("runs/jobs"), "cpu", options=WorkerOptions("slurm", workers=None, slurm=given)) == 0
    assert 8 < preemption.answered < 2 * QUESTIONS
    logs = [log.read_text() for log in Path("runs/jobs/.work/slurm").glob("*.err")]
    assert sum("this job is preempted" in log for log in logs) == 1
    assert run_grid(long_grid, Path("runs/alone"), "cpu") == 0
    pd.testing.assert_frame_equal(records(Path("runs/jobs")), records(Path("runs/alone")))
    assert len(metrics(Path("runs/jobs"))) == 2
    assert metrics(Path("runs/jobs")) == metrics(Path("runs/alone"))
