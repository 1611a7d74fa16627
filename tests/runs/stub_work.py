"""Work of jobs without a model, for the tests of executors: the first cell's id says what happens."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

from vr_eval.runs.tasks import CellOutcome, Outcome, Task


def stub_work(folder: str, task: Task) -> Outcome:
    """``slow`` takes eight steps of 0.15 s, kept in a file, and goes on where it was; ``raises`` raises.

    ``.. with a child`` has forked a process by then.
    """
    name = task.cells[0]
    mine = Path(folder) / name
    mine.mkdir(parents=True, exist_ok=True)
    (mine / "pids").open("a").write(f"{os.getpid()}\n")
    print(f"{name} speaks", file=sys.stderr)
    if name.startswith("raises"):
        raise ValueError("the worker has a bug\nand says so")
    if name.startswith("odd"):
        return "no outcome"  # type: ignore[return-value]
    child = os.fork() if name.endswith("with a child") else None
    if child == 0:
        time.sleep(60)
        os._exit(0)
    steps = mine / "steps"
    for _ in range(len(steps.read_text()) if steps.exists() else 0, 8 if name.startswith("slow") else 1):
        time.sleep(0.15)
        steps.open("a").write("x")
    if child is not None:
        os.kill(child, signal.SIGKILL)
    (mine / "environment").write_text(os.environ.get("OF_THE_SETUP", ""))
    return Outcome((CellOutcome(name, summary=f"{task.kind} done"),))
