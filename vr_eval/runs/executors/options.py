"""Who works on a run, and how it is divided: the options that `run`, `train` and `probe` share. Light."""

from __future__ import annotations

from dataclasses import dataclass

from vr_eval.errors import InputError, Problem
from vr_eval.runs.drive import RETRIES

EXECUTORS = ("local", "ray", "slurm")


@dataclass(frozen=True)
class WorkerOptions:
    """What the command line says about workers.

    Attributes:
        executor: One of ``EXECUTORS``.
        workers: How many tasks run at once; None for as many as there are GPUs or cores, or as the cluster gives.
        shards: Into how many parts the questions of a cell are cut; None for as many as keep all workers busy.
        retries: How often a task that fails by itself is tried again.
        address: Of the Ray cluster, as ``ray.init`` takes it; None for one of its own on this machine.
        cpus: CPU cores that a task takes of a Ray cluster.
        gpus: GPUs that a task takes of it, 0.5 for two tasks on one; None for one, where this machine has one too.
        slurm: ``KEY=VALUE`` and files, as ``--slurm`` takes them.
    """

    executor: str = "local"
    workers: int | None = 1
    shards: int | None = None
    retries: int = RETRIES
    address: str | None = None
    cpus: float = 1.0
    gpus: float | None = None
    slurm: tuple[str, ...] = ()

    def check(self) -> None:
        """Raises InputError where options do not go together, or what they need is not there."""
        if self.executor not in EXECUTORS:
            raise InputError(
                Problem("unknown executor", "--executor", given=self.executor, allowed=", ".join(EXECUTORS))
            )
        ray = {"--address": self.address, "--cpus": None if self.cpus == 1.0 else self.cpus, "--gpus": self.gpus}
        for option, given in ray.items():
            if given is not None and self.executor != "ray":
                raise InputError(Problem("this is an option of Ray", option, given=given, hint="Add --executor ray."))
        if self.slurm and self.executor != "slurm":
            raise InputError(Problem("these are options of Slurm", "--slurm", hint="Add --executor slurm."))

    @property
    def alone(self) -> bool:
        """Whether one process does everything, one task after the other."""
        return self.executor == "local" and self.workers == 1


ALONE = WorkerOptions()
