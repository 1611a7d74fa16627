"""Tasks on a Ray cluster: each a task of Ray with the resources it needs. Ray places them, and retries nothing."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vr_eval.errors import InputError, Problem
from vr_eval.runs.executors.base import Ended, Work
from vr_eval.runs.executors.ray_cluster import join
from vr_eval.runs.tasks import Task

_READ_AGAIN_SECONDS = 5.0
_KILL_AFTER_SECONDS = 10.0
_PASSED = ("VR_EVAL_", "HF_", "TRANSFORMERS_", "TOKENIZERS_", "TORCH_", "WANDB_", "TRACKIO_", "XDG_CACHE_HOME")
"""How variables begin that workers are given; CUDA_VISIBLE_DEVICES is Ray's."""


class RayExecutor:
    """Does the tasks of a run on a Ray cluster.

    A worker without GPUs stays and does one task after the other, so that only its first one loads torch. One with GPUs
    is a new process for every task: Ray may give a task other GPUs than the one before, which a process that has begun
    to use some would not notice.

    A cluster without its head ends the driver after a minute, with an error of Ray's; the same command goes on later.

    Attributes:
        workers: How many tasks run at once, as the cluster is now, and at most as many as was asked for.
    """

    workers: int

    def __init__(
        self, folder: Path, *, address: str | None, cpus: float, gpus: float, workers: int | None, work: Work
    ) -> None:
        """Join a cluster or start Ray here.

        Args:
            folder: The run directory, which every node sees under this name.
            address: See `ray_cluster.join`.
            cpus: CPU cores that a task takes; whole ones are its number of threads.
            gpus: GPUs that a task takes; 0.5 puts two tasks on one.
            workers: How many tasks run at once at most; None for as many as the cluster has room for.
            work: Does a task, given the folder; it is sent along.

        Raises:
            InputError: the package ray is missing, the cluster cannot be joined, or no machine of it is large enough.
        """
        self._folder = str(folder.resolve())
        self._work = work
        self._needs = {"CPU": cpus, "GPU": gpus}
        self._limit = workers
        self._running: dict[Any, Task] = {}
        self._ray, self._joined = join(address)
        self._remote = _remote(self._ray, cpus, gpus)
        self._environment = _environment(cpus)
        self._paths = _paths()
        self._read_at = time.monotonic()
        self._slots = self._count_slots()
        if not self._slots:
            self.cancel()
            raise self._too_small()
        self.workers = self._slots if workers is None else min(workers, self._slots)

    def room(self) -> int:
        """How many more tasks it takes: a second one waits at Ray for each that runs, unless workers are limited."""
        if time.monotonic() - self._read_at > _READ_AGAIN_SECONDS:
            self._read_at = time.monotonic()
            self._slots = self._count_slots()
            self.workers = max(1, self._slots if self._limit is None else min(self._limit, self._slots))
        # A cluster that has lost all its machines gets one task, which waits for the next machine.
        most = max(1, 2 * self._slots)
        return max(0, (most if self._limit is None else min(most, self._limit)) - len(self._running))

    def submit(self, tasks: Sequence[Task]) -> None:
        """Hand tasks to Ray, in this order."""
        for task in tasks:
            packed = self._ray.cloudpickle.dumps((self._work, self._folder, task))
            # Not the task's own name: Ray keeps counters for every name that it has heard.
            named = self._remote.options(name=f"vr-eval {task.kind}")
            self._running[named.remote(self._environment, self._paths, packed)] = task

    def poll(self, seconds: float) -> list[Ended]:
        """Tasks that ended since, in the order in which they were submitted."""
        if not self._running:
            return []
        waiting = list(self._running)
        ready, _ = self._ray.wait(waiting, num_returns=1, timeout=seconds)
        if ready:
            ready, _ = self._ray.wait(waiting, num_returns=len(waiting), timeout=0)
        done = set(ready)
        return [self._ended(reference) for reference in waiting if reference in done]

    def cancel(self) -> None:
        """Interrupt what runs, kill what does not end within 10 s, leave the cluster or end what was started here."""
        if not self._ray.is_initialized():
            return
        left = list(self._running)
        for force in (False, True):
            for reference in reversed(left):  # those that wait first, or they would take the places that become free
                self._ray.cancel(reference, force=force)
            if left:
                _, left = self._ray.wait(left, num_returns=len(left), timeout=_KILL_AFTER_SECONDS)
        self._running.clear()
        if self._joined:
            self._ray.shutdown()

    def _ended(self, reference: Any) -> Ended:
        task = self._running.pop(reference)
        errors = self._ray.exceptions
        try:
            answer = self._ray.get(reference)
        except errors.OutOfMemoryError:
            return Ended(task, None, "out of memory: its node had none left, and Ray killed its process", memory=True)
        except errors.WorkerCrashedError:
            return Ended(task, None, "its process was killed or crashed")
        except errors.NodeDiedError:
            return Ended(task, None, "its node was lost", blameless=True)
        except errors.ObjectLostError:
            return Ended(task, None, "its outcome was lost with its node", blameless=True)
        except errors.RayError as error:
            return Ended(task, None, _first_line(error))
        return Ended(task, None, answer) if isinstance(answer, str) else Ended(task, answer)

    def _count_slots(self) -> int:
        """How many tasks the machines of the cluster have room for when nothing else runs there."""
        return sum(_fitting(node["Resources"], self._needs) for node in self._ray.nodes() if node["Alive"])

    def _too_small(self) -> InputError:
        what = "no machine of the Ray cluster has what one task needs"
        needs = ", ".join(f"{amount:g} {name}" for name, amount in self._needs.items() if amount)
        hint = "Ask for less with --cpus and --gpus, or let a larger machine join the cluster first."
        return InputError(Problem(what, "--executor ray", given=needs, hint=hint))


def _fitting(resources: Mapping[str, float], needs: Mapping[str, float]) -> int:
    """How many tasks fit on a machine."""
    return min((int(resources.get(name, 0) / amount + 1e-6) for name, amount in needs.items() if amount), default=1)


def _remote(ray: Any, cpus: float, gpus: float) -> Any:
    """What Ray calls on a worker.

    A function in a function, and packed arguments: Ray then sends it by value, and it can say where this package lies
    before anything of it is imported. The environment goes with it instead of in Ray's `runtime_env`, which Ray logs
    and shows: it may hold the token of a hub.
    """

    def run(environment: dict[str, str], paths: list[str], packed: bytes) -> Any:
        import os
        import pickle
        import sys

        os.environ.update(environment)
        sys.path[:] = [*paths, *(path for path in sys.path if path not in paths)]
        try:
            work, folder, task = pickle.loads(packed)
            return work(folder, task)
        except Exception as error:
            return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"

    return ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=0, retry_exceptions=False)(run)


def _environment(cpus: float) -> dict[str, str]:
    """The variables of this process that workers need as well."""
    passed = {name: value for name, value in os.environ.items() if name.startswith(_PASSED)}
    threads = {"OMP_NUM_THREADS": str(max(1, int(cpus)))}
    return passed | threads | {"PYTHONPATH": os.pathsep.join(_paths())}


def _paths() -> list[str]:
    """Where modules lie that are not installed: PYTHONPATH, a checkout. What is installed is each node's own."""
    installed = (Path(sys.prefix).resolve(), Path(sys.base_prefix).resolve())
    found = (Path(entry or ".").resolve() for entry in sys.path)
    return list(dict.fromkeys(str(path) for path in found if not any(path.is_relative_to(i) for i in installed)))


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"
