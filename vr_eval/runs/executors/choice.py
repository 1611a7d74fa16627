"""The executor that the options of a command ask for."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from vr_eval.records.folder import RunFolder
from vr_eval.runs.executors.base import Executor, Work
from vr_eval.runs.executors.local import PRELOADED, LocalExecutor, Share
from vr_eval.runs.executors.options import WorkerOptions
from vr_eval.runs.executors.shares import has_gpu


def executor_for(
    options: WorkerOptions,
    shares: Sequence[Share],
    run: RunFolder,
    work: Work,
    say: Callable[[str], None],
    device: str,
    preload: Sequence[str] = PRELOADED,
) -> Executor:
    """Processes on this machine, if that is divided into `shares`; otherwise the workers of Ray or Slurm.

    Args:
        device: As ``--device`` takes it: whether a task of Ray takes a GPU where the options do not say.
        preload: Modules that processes on this machine share.

    Raises:
        InputError: there is no such cluster, its package is missing, or an option does not fit.
    """
    if shares:
        say(f"{len(shares)} workers on this machine; what they print goes to {run.logs}")
        return LocalExecutor(run.path, shares, run.logs, work, preload)
    folder = run.path.absolute()
    if options.executor == "ray":
        from vr_eval.runs.executors.ray import RayExecutor

        gpus = float(has_gpu(device)) if options.gpus is None else options.gpus
        return RayExecutor(
            folder, address=options.address, cpus=options.cpus, gpus=gpus, workers=options.workers, work=work
        )
    from vr_eval.runs.executors.slurm import SlurmExecutor
    from vr_eval.runs.executors.slurm_options import parse_slurm

    return SlurmExecutor(folder, parse_slurm(options.slurm), workers=options.workers, work=work)
