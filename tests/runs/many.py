"""Runs by the command in a process of its own, as workers need it, and what two runs must have in common."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from tests.adapters.world import GRID, write_checkpoints, write_tasks
from vr_eval.config.grid import Grid, load_grid

TIMINGS = ["latency_ms", "shared", "run_id"]


def toy_world(root: Path, questions: int, text: str = GRID) -> Grid:
    """Tasks, a grid that names their folder, and checkpoints for its cells under `root`; see `started` for its home."""
    write_tasks(root, questions=questions)
    path = root / "toys.yaml"
    path.write_text(text.replace("tasks: [", "tasks_path: [tasks/toy]\ntasks: ["))
    grid = load_grid(path)
    write_checkpoints(grid.cells)
    return grid


def started(root: Path, *arguments: str) -> subprocess.Popen[str]:
    """The command in `root`; it and its workers are a process group of their own."""
    return subprocess.Popen(
        [sys.executable, "-m", "vr_eval", *arguments],
        cwd=root,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "VR_EVAL_HOME": str(root / "home"), "OMP_NUM_THREADS": "1"},
        start_new_session=True,
    )


def done(root: Path, *arguments: str, code: int = 0) -> str:
    """What the command said on stderr, after it ended with `code`."""
    process = started(root, *arguments)
    out, err = process.communicate(timeout=600)
    assert process.returncode == code, out + err
    return err


def facts(run_dir: Path) -> dict[str, Any]:
    """All that must not depend on who did a run: answers, scores, records in their order, table, images."""
    records = pd.read_parquet(run_dir / "records.parquet").drop(columns=TIMINGS)
    found: dict[str, Any] = {"records": records.to_csv(), "grid": (run_dir / "grid.yaml").read_text()}
    for path in sorted(run_dir.glob("cells/*/metrics.json")):
        metrics = json.loads(path.read_text())
        del metrics["run_id"]
        found[f"metrics of {path.parent.name}"] = metrics
    for path in sorted(run_dir.glob("cells/*/samples.parquet")):
        found[f"samples of {path.parent.name}"] = pd.read_parquet(path).drop(columns=TIMINGS).to_csv()
    table = pd.read_csv(run_dir / "table.csv")
    found["table"] = table[[name for name in table if not name.startswith("latency")]].to_csv()
    found["images"] = {str(path.relative_to(run_dir)): path.read_bytes() for path in run_dir.glob("images/*/*")}
    return found


def processes_of(group: int) -> Sequence[int]:
    """Processes of a group that still live."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text(errors="replace").rpartition(")")[2].split()
        except OSError:  # it has just ended
            continue
        if int(fields[2]) == group and fields[0] not in "ZX":
            found.append(int(path.parent.name))
    return found
