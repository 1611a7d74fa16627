"""What the driver costs when a grid is large: its own loop, Ray's scheduler, and cells that only sleep.

    python benchmarks/ray_simulation.py [--cells 10000] [--nodes 25] [--slots 8] [--seconds 1]

`--nodes` times `--slots` is the number of logical GPUs. Every node is a Ray node of its own (a raylet) on this machine
and every running task a process: memory and the start of processes limit the simulation. A slot stands for a GPU
but is declared as a CPU: Ray starts a new process for every task that holds a GPU, which is more than one machine can
simulate, and the same to the driver.

Two cores take many minutes to start 200 processes; `--nodes 4 --slots 5` is what they bear beside other work.

Prints, for every tenth of the cells: seconds since the start, tasks a second, how many ran at once, the driver's memory
and its own processor time per task.
"""

from __future__ import annotations

import argparse
import os
import resource
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from vr_eval.runs.drive import Drive
from vr_eval.runs.executors.ray import RayExecutor
from vr_eval.runs.tasks import CellOutcome, Outcome, Task

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
STORE = 78 * 1024**2
"""Bytes; Ray takes no less."""


def memory() -> float:
    """What this process holds, in MiB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1024**2


class Told:
    """Prints how the run goes."""

    def __init__(self, cells: int) -> None:
        self.step = max(1, cells // 10)
        self.done = self.failed = 0
        self.begun = self.last = time.perf_counter()
        self.spent = time.process_time()
        self.spans: list[tuple[float, float]] = []

    def ended(self, task: Task, outcomes: Sequence[CellOutcome]) -> None:
        self.done += 1
        self.failed += any(outcome.error for outcome in outcomes)
        begin, end = (float(text) for text in outcomes[0].summary.split()) if outcomes[0].summary else (0.0, 0.0)
        self.spans.append((begin, end))
        if self.done % self.step == 0:
            now, spent = time.perf_counter(), time.process_time()
            rate, own = self.step / (now - self.last), (spent - self.spent) / self.step
            ran = f"{now - self.begun:7.1f} s  {rate:6.1f} tasks/s  {at_once(self.spans):4d} at once"
            print(f"{self.done:6d} cells  {ran}  driver {memory():6.1f} MiB  {1000 * own:5.2f} ms/task", flush=True)
            self.last, self.spent, self.spans = now, spent, []


def at_once(spans: Sequence[tuple[float, float]]) -> int:
    """How many of these intervals hold one moment, at most."""
    running = most = 0
    for _, change in sorted([(begin, 1) for begin, _ in spans] + [(end, -1) for _, end in spans]):
        running += change
        most = max(most, running)
    return most


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--cells", type=int, default=10_000)
    parser.add_argument("--nodes", type=int, default=25)
    parser.add_argument("--slots", type=int, default=8, help="logical GPUs of a node")
    parser.add_argument("--seconds", type=float, default=1.0, help="what a cell takes")
    options = parser.parse_args()
    seconds = options.seconds

    def cell(folder: str, task: Task) -> Outcome:
        begin = time.time()
        time.sleep(seconds)
        return Outcome((CellOutcome(task.cells[0], f"{begin} {time.time()}"),))

    from ray.cluster_utils import Cluster

    begin = time.perf_counter()
    head = {"num_cpus": 0, "object_store_memory": STORE, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        for _ in range(options.nodes):
            cluster.add_node(wait=False, num_cpus=options.slots, object_store_memory=STORE)
        cluster.wait_for_nodes(timeout=600)
        print(f"{options.nodes} nodes of {options.slots} slots after {time.perf_counter() - begin:.0f} s")
        with tempfile.TemporaryDirectory() as folder:
            executor = RayExecutor(Path(folder), address=cluster.address, cpus=1, gpus=0, workers=None, work=cell)
            try:
                print(f"{executor.workers} tasks run at once, {executor.room()} are at Ray; driver {memory():.1f} MiB")
                told = Told(options.cells)
                Drive(executor, told.ended, print).run([Task("evaluate", (f"{n:012x}",)) for n in range(options.cells)])
                print(f"{told.done} cells, {told.failed} failed")
            finally:
                executor.cancel()
    finally:
        cluster.shutdown()


if __name__ == "__main__":
    main()
