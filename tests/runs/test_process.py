"""Runs in processes of their own: one that is killed, and one that must import nothing heavy."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

from tests.adapters.world import QUESTIONS, TASKS
from vr_eval.adapters.answering import Answerer
from vr_eval.config.grid import Grid
from vr_eval.runs.execute import run_grid

START = """
import os, signal, sys
from pathlib import Path
from vr_eval import paths
from vr_eval.config import checkpoint_folders as store
resource = paths.resource
store.PACKAGE = Path("package").absolute()
paths.resource = lambda name: Path(name).absolute() if name == "tasks" else resource(name)
from vr_eval.config.grid import load_grid
from vr_eval.runs.execute import run_grid
"""
KILLED = """
from vr_eval.adapters.answering import Answerer
generate, calls = Answerer._generate_at_once, []
def killed(self, *arguments):
    calls.append(1)
    if len(calls) == 5:
        os.kill(os.getpid(), signal.SIGKILL)
    return generate(self, *arguments)
Answerer._generate_at_once = killed
run_grid(load_grid("toys.yaml"))
"""
AGAIN = """
code = run_grid(load_grid("toys.yaml"))
heavy = {"torch", "transformers", "datasets", "lmms_eval"} & set(sys.modules)
sys.exit(f"imported {heavy}" if heavy else code)
"""


def start(code: str, root: Path) -> subprocess.CompletedProcess[str]:
    """Run `code` in `root`, after making the tasks there its tasks; nothing travels with the project."""
    return subprocess.run(
        [sys.executable, "-c", START + code],
        cwd=root,
        capture_output=True,
        text=True,
        timeout=300,
        env=dict(os.environ),
    )


def test_a_killed_run_loses_the_batch_in_flight_and_no_more(
    grid: Grid, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = start(KILLED, root)
    assert done.returncode == -signal.SIGKILL, done.stderr
    (journal,) = root.glob("runs/toys/cells/*/answers.jsonl")
    assert journal.read_bytes().count(b"\n") == 4 * grid.batch_size
    with journal.open("ab") as file:  # as if the kill had come a moment later, in the middle of a write
        file.write(b'{"task": "vr_toy_doc", "doc_id": 1')
    asked = []
    prepare = Answerer._prepare
    monkeypatch.setattr(
        Answerer, "_prepare", lambda self, question: (asked.append(question), prepare(self, question))[1]
    )
    assert run_grid(grid) == 0
    assert len(asked) == 2 * len(TASKS) * QUESTIONS - 4 * grid.batch_size
    resumed = pd.read_parquet(root / "runs/toys/records.parquet")
    run_grid(grid, Path("runs/fresh"))
    fresh = pd.read_parquet(root / "runs/fresh/records.parquet")
    columns = ["cell_id", "task", "doc_id", "answer", "score"]
    pd.testing.assert_frame_equal(resumed[columns], fresh[columns])


def test_with_nothing_to_do_nothing_heavy_is_imported(grid: Grid, root: Path) -> None:
    run_grid(grid)
    started = time.monotonic()
    done = start(AGAIN, root)
    assert done.returncode == 0, done.stderr
    assert "all 2 cells are evaluated already" in done.stderr
    assert "runs/toys/report.html" in done.stdout
    assert time.monotonic() - started < 20
