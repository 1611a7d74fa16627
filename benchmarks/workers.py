"""What workers gain: a grid by one worker, by several, and by one call of lmms-eval's own command for each cell.

    python benchmarks/workers.py [--grid projectors] [--workers 2] [--calls 1] [--limit N]

Each run has an empty feature store and a run directory of its own; checkpoints must be there. Of lmms-eval's calls the
first `--calls` cells are timed, and the time for all cells is computed from their mean. Leave the machine alone
meanwhile. Prints seconds, ratios, and whether answers and scores are the same.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pandas as pd

from vr_eval.config.checkpoint_folders import find_checkpoint
from vr_eval.config.grid import Grid, load_grid
from vr_eval.paths import home, resource

TIMINGS = ["latency_ms", "shared", "run_id"]


def seconds(command: list[str], **environment: str) -> float:
    """Wall time of a command that must succeed."""
    started = time.perf_counter()
    done = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)}\n{done.stdout}{done.stderr}")
    return time.perf_counter() - started


def run(grid: str, workers: int, out: Path, limit: list[str]) -> float:
    """One run of the grid."""
    command = [sys.executable, "-m", "vr_eval", "run", grid, "--workers", str(workers), "--out", str(out), *limit]
    return seconds([*command, "--features", str(out.with_suffix(".features"))], VR_EVAL_HOME=str(home()))


def call(grid: Grid, place: int, out: Path, limit: list[str]) -> float:
    """One cell by lmms-eval's own command."""
    checkpoint = find_checkpoint(grid.cells[place])
    tasks = ",".join(task for _, task in grid.tasks)
    command = [sys.executable, "-m", "lmms_eval", "--model", "vr_eval", "--model_args", f"pretrained={checkpoint}"]
    command += ["--tasks", tasks, "--include_path", str(resource("tasks")), "--batch_size", str(grid.batch_size)]
    return seconds([*command, "--output_path", str(out), *limit])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--grid", default="projectors")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--calls", type=int, default=1)
    parser.add_argument("--limit", type=int)
    given = parser.parse_args()
    limit = ["--limit", str(given.limit)] if given.limit else []
    grid = load_grid(given.grid)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        calls = [call(grid, number, place / f"call{number}", limit) for number in range(given.calls)]
        each = sum(calls) / len(calls)
        print(
            f"lmms-eval, a call:     {each:7.1f} s, {each * len(grid.cells):7.1f} s for {len(grid.cells)} cells",
            flush=True,
        )
        times = {}
        for workers in (1, given.workers):
            times[workers] = run(given.grid, workers, place / f"run{workers}", limit)
            print(f"{workers} worker{'s' if workers > 1 else ' '}:             {times[workers]:7.1f} s", flush=True)
        found = [pd.read_parquet(place / f"run{workers}/records.parquet") for workers in times]
        same = found[0].drop(columns=TIMINGS).equals(found[1].drop(columns=TIMINGS))
    print(f"{given.workers} against 1:            {times[1] / times[given.workers]:7.2f}")
    print(f"{given.workers} against lmms-eval:    {each * len(grid.cells) / times[given.workers]:7.2f}")
    print(f"records the same, timings aside: {same}")


if __name__ == "__main__":
    main()
