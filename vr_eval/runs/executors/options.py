"""Who works on a run, and how it is divided: the options that `run`, `train` and `probe` share. Light."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from vr_eval.errors import InputError, Problem
from vr_eval.runs.drive import RETRIES

if TYPE_CHECKING:
    from vr_eval.runs.executors.base import Executor
    from vr_eval.runs.tasks import Outcome, Task

Work: TypeAlias = "Callable[[str, Task], Outcome]"

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


def cluster_executor(options: WorkerOptions, run_dir: Path, work: Work, *, gpu: bool) -> Executor:
    """The one of Ray or Slurm.

    Args:
        work: Does a task, given the run directory.
        gpu: Whether a task takes a GPU where the options do not say.

    Raises:
        InputError: there is none, its package is missing, or an option does not fit.
    """
    if options.executor == "ray":
        from vr_eval.runs.executors.ray import RayExecutor

        gpus = float(gpu) if options.gpus is None else options.gpus
        asked = {"cpus": options.cpus, "gpus": gpus, "workers": options.workers}
        return RayExecutor(run_dir, address=options.address, work=work, **asked)  # type: ignore[arg-type]
    from vr_eval.runs.executors.slurm import SlurmExecutor
    from vr_eval.runs.executors.slurm_options import parse_slurm

    return SlurmExecutor(run_dir, parse_slurm(options.slurm), workers=options.workers, work=work)
