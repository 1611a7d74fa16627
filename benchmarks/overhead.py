"""What an executor costs per task, warm: from handing over a task that does nothing to hearing of its end.

    python benchmarks/overhead.py --executor ray|local [--tasks 300] [--address HOST:PORT]

The first tasks start processes and are not counted.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

from vr_eval.runs.executors.base import Executor
from vr_eval.runs.tasks import CellOutcome, Outcome, Task

WARM_UP = 20


def nothing(folder: str, task: Task) -> Outcome:
    """A task's work."""
    return Outcome(tuple(CellOutcome(cell) for cell in task.cells))


def made(name: str, folder: Path, address: str | None) -> Executor:
    """An executor with one worker."""
    if name == "ray":
        from vr_eval.runs.executors.ray import RayExecutor

        return RayExecutor(folder, address=address, cpus=1, gpus=0, workers=1, work=nothing)
    from vr_eval.runs.executors.local import LocalExecutor, Share

    return LocalExecutor(folder, [Share(1, None, {})], folder / "logs", nothing)


def seconds_of_one(executor: Executor, number: int) -> float:
    begin = time.perf_counter()
    executor.submit([Task("evaluate", (f"{number:012x}",))])
    ended = executor.poll(60)
    while not ended:
        ended = executor.poll(60)
    assert ended[0].outcome is not None, ended[0].lost
    return time.perf_counter() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--executor", choices=("local", "ray"), required=True)
    parser.add_argument("--tasks", type=int, default=300)
    parser.add_argument("--address")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        begin = time.perf_counter()
        executor = made(options.executor, Path(folder), options.address)
        try:
            first = seconds_of_one(executor, 0) + time.perf_counter() - begin
            for number in range(WARM_UP):
                seconds_of_one(executor, number)
            times = sorted(seconds_of_one(executor, number) for number in range(options.tasks))
        finally:
            executor.cancel()
    most = times[int(0.99 * (len(times) - 1))]
    print(
        f"{options.executor}: {1000 * statistics.median(times):.1f} ms per task (median of {len(times)}; "
        f"99 % within {1000 * most:.1f} ms); the first after {first:.1f} s"
    )


if __name__ == "__main__":
    main()
