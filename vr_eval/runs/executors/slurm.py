"""Tasks as jobs of a Slurm cluster, through submitit. Light: submitit comes with the executor, torch with the job.

A preempted job and one whose time is over go back to the queue by themselves (submitit asks Slurm for it), so that a
run goes on without its driver. The next driver of the run directory takes over the jobs that are still in the queue.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from vr_eval.errors import InputError, Problem
from vr_eval.runs.executors.base import Ended, Work
from vr_eval.runs.executors.slurm_options import SlurmOptions
from vr_eval.runs.executors.slurm_queue import COMMANDS, Queue
from vr_eval.runs.tasks import Outcome, Task

MOST_TIMEOUTS = 100
"""Times that a job may run out of time and go on; a task that needs more of them makes no headway."""

_LOST: Mapping[str, tuple[str, bool]] = {
    # sacct's states, and the two of submitit's processes: in words, and whether it was no fault of the task.
    "PREEMPTED": ("preempted", True),
    "NODE_FAIL": ("its node was lost", True),
    "BOOT_FAIL": ("its node did not start", True),
    "TIMEOUT": ("its time was over before it could save what it had", True),
    "OUT_OF_MEMORY": ("its job needed more main memory than it had; --slurm memory=GB gives it more", False),
    "CANCELLED": ("its job was cancelled", False),
    "INTERRUPTED": ("the process that watched over it was killed", True),
}
_ENDED_SOMEHOW = ("its job ended without a result", False)


@dataclass(frozen=True)
class Job:
    """What a job does. Everything that it finds lies in the run directory, and so does everything that it leaves.

    Attributes:
        folder: The run directory.
        task: What is done.
        work: Who does it; None for `vr_eval.runs.worker.work`.
    """

    folder: str
    task: Task
    work: Work | None = None

    def __call__(self) -> Outcome:
        """Do the task; submitit calls this on the node."""
        # Slurm's notice reaches all processes of a job. Forked ones (they load training data) would answer it as this
        # one does, all at once, and break its answer.
        os.register_at_fork(after_in_child=_deaf)
        if self.work is not None:
            return self.work(self.folder, self.task)
        from vr_eval.runs.worker import work

        return work(self.folder, self.task)

    def checkpoint(self) -> Any:
        """What the job does when it comes back after a preemption: the same, whose first part is in files by then."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def _deaf() -> None:
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)


@dataclass
class _Running:
    task: Task
    job: Any
    gone: int = 0
    """How often in a row it was not in the queue."""


class SlurmExecutor:
    """One job per task; those that are submitted together are one job array.

    Whether jobs are still there is one call of ``squeue`` for all, every `asks_every` seconds; results are files,
    looked at every second. A job that left the queue twice in a row without a result is lost, and ``sacct`` says why.

    Args:
        folder: the run directory, on a disk that nodes and this machine share.
        options: what jobs ask for.
        workers: jobs that run at once, in place of the options' ``array``.
        work: does a task; default `vr_eval.runs.worker.work`.
        asks_every: seconds.

    Raises:
        InputError: submitit is not installed, or there is no Slurm on this machine.
    """

    def __init__(
        self,
        folder: Path,
        options: SlurmOptions,
        workers: int | None = None,
        work: Work | None = None,
        asks_every: float = 30.0,
    ) -> None:
        self.local = options.cluster == "local"
        _check(self.local)
        from submitit import AutoExecutor

        self.workers = workers or options.array
        self._folder = folder.absolute()
        self._work = work
        self._jobs = self._folder / ".work" / "slurm"
        name = _job_name(self._folder)
        self._queue = Queue(name)
        self._submitit = AutoExecutor(
            self._jobs,
            cluster=options.cluster,
            slurm_max_num_timeout=MOST_TIMEOUTS,
            local_max_num_timeout=MOST_TIMEOUTS,
        )
        self._submitit.update_parameters(**_parameters(options, name, self.workers))
        self._asks_every = asks_every
        self._next_ask = 0.0
        self._running: list[_Running] = []
        self._former: dict[Task, Any] | None = None

    def room(self) -> int:
        """How many more jobs may be in the queue."""
        return max(0, self.workers - len(self._running))

    def submit(self, tasks: Sequence[Task]) -> None:
        """Put the tasks in the queue, but for those whose jobs an earlier driver left there.

        Raises:
            InputError: Slurm takes no such job; its words are in the message.
        """
        former = self._of_former_driver()
        new = [task for task in tasks if task not in former]
        jobs = dict(zip(new, self._submitted(new), strict=True)) if new else {}
        for task in tasks:
            self._running.append(_Running(task, jobs[task] if task in jobs else former.pop(task)))
        self._next_ask = time.monotonic() + self._asks_every

    def poll(self, seconds: float) -> list[Ended]:
        """Tasks that ended since; waits for the first one, but no longer than `seconds`."""
        until = time.monotonic() + seconds
        while not (ended := self._ended()) and (left := until - time.monotonic()) > 0:
            time.sleep(min(left, 0.2 if self.local else 1.0, self._asks_every))
        return ended

    def cancel(self) -> None:
        """End all jobs of the run, those of earlier drivers too: politely first, and returns when they are gone."""
        jobs = [*(running.job for running in self._running), *self._of_former_driver().values()]
        self._running.clear()
        self._of_former_driver().clear()
        if not jobs:
            return
        if not self.local:
            self._queue.cancel([job.job_id for job in jobs])
            return
        # Ctrl-C in a terminal reached them too, and a second one would disturb their end.
        _wait(jobs, 1.5)
        for job in jobs:
            if not job.done():
                job.cancel()
        _wait(jobs, 20)

    def _submitted(self, tasks: Sequence[Task]) -> list[Any]:
        from submitit.core.utils import FailedSubmissionError, UncompletedJobError
        from submitit.helpers import clean_env

        # A driver that is a job itself has variables that would be taken for wishes of the new jobs.
        inside = clean_env() if "SLURM_JOB_ID" in os.environ else nullcontext()
        try:
            with inside:
                return list(self._submitit.submit_array([Job(str(self._folder), task, self._work) for task in tasks]))
        except (UncompletedJobError, FailedSubmissionError) as error:
            words = " ".join(str(error).split()) or "it gives no reason"
            hint = "The keys of --slurm say what jobs ask for; `sinfo` lists partitions."
            raise InputError(Problem(f"Slurm does not take the job: {words}", "--slurm", hint=hint)) from error

    def _of_former_driver(self) -> dict[Task, Any]:
        """Jobs of this run that were in the queue before this executor's first one."""
        if self._former is None:
            self._former = {}
            for job_id in [] if self.local else self._queue.ids() or ():
                from submitit import SlurmJob

                job: Any = SlurmJob(self._jobs, job_id)
                with suppress(Exception):  # a file of another version, or none: then the job is not known
                    self._former[job.submission().function.task] = job
        return self._former

    def _ended(self) -> list[Ended]:
        if not self._running:
            return []
        with suppress(OSError):
            self._jobs.chmod(self._jobs.stat().st_mode)  # makes NFS look at the folder anew
        files = {path.name for path in self._jobs.iterdir()}
        if not self.local and time.monotonic() >= self._next_ask:
            self._look_for_gone()
            self._next_ask = time.monotonic() + self._asks_every
        ends = [(running, self._end_of(running, files)) for running in self._running]
        self._running = [running for running, end in ends if end is None]
        return [end for _, end in ends if end is not None]

    def _look_for_gone(self) -> None:
        there = self._queue.ids()
        if there is None:
            return
        for running in self._running:
            running.gone = 0 if running.job.job_id in there else running.gone + 1

    def _end_of(self, running: _Running, files: set[str]) -> Ended | None:
        job = running.job
        over = job.done() if self.local else running.gone > 1
        if (self.local and over and job.paths.result_pickle.exists()) or (
            not self.local and job.paths.result_pickle.name in files
        ):
            end = _result(running.task, job)
        elif over:
            state = _state(job, self.local)
            words, blameless = _LOST.get(state, _ENDED_SOMEHOW)
            memory = state == "OUT_OF_MEMORY"
            end = Ended(running.task, None, f"{words}; see {job.paths.stderr}", blameless, memory)
        else:
            return None
        for path in (job.paths.submitted_pickle, job.paths.result_pickle):
            path.unlink(missing_ok=True)
        return end


def _check(local: bool) -> None:
    """Raises InputError where no job can be started."""
    if find_spec("submitit") is None:
        hint = "Install it: pip install 'vr-eval[slurm]'"
        raise InputError(Problem("this needs the package submitit", "--executor", given="slurm", hint=hint))
    missing = [] if local else [command for command in COMMANDS if shutil.which(command) is None]
    if missing:
        message = f"there is no Slurm on this machine (no {', no '.join(missing)})"
        hint = (
            "Start it on a login node or in a job of the cluster; `--slurm cluster=local` tries the same jobs as "
            "processes here."
        )
        raise InputError(Problem(message, "--executor", given="slurm", hint=hint))


def _job_name(folder: Path) -> str:
    """The run directory is part of it, so that the queue tells whose jobs are whose."""
    readable = re.sub(r"[^A-Za-z0-9._-]+", "-", folder.name)[:64]
    return f"vr-eval-{readable}-{sha256(str(folder).encode()).hexdigest()[:8]}"


def _parameters(options: SlurmOptions, name: str, at_once: int) -> dict[str, Any]:
    """The options as submitit calls them; it leaves out what is None."""
    gpus = options.gpus or None
    return {
        "name": name,
        "timeout_min": options.minutes,
        "nodes": 1,
        "tasks_per_node": 1,
        "cpus_per_task": options.cpus,
        "mem_gb": options.memory,
        "gpus_per_node": gpus,
        "slurm_gpus_per_node": f"{options.gpu_type}:{gpus}" if gpus and options.gpu_type else None,
        "slurm_partition": options.partition,
        "slurm_account": options.account,
        "slurm_qos": options.qos,
        "slurm_constraint": options.constraint,
        "slurm_exclude": options.exclude,
        "slurm_setup": list(options.setup) or None,
        "slurm_array_parallelism": at_once,
        "slurm_signal_delay_s": options.notice,
        # Without it a site may forbid that jobs go back to the queue.
        "slurm_additional_parameters": {"requeue": True},
        # From Slurm 22.05 on, srun does not take the number of cores over from sbatch.
        "slurm_srun_args": ["--cpus-per-task", str(options.cpus)],
    }


def _result(task: Task, job: Any) -> Ended:
    """The end of a job that left a result: an outcome, or the error that broke it off."""
    try:
        error = job.exception()
        outcome = job.result() if error is None else None
    except Exception as unreadable:  # a file that was cut off, or of another version: unpickling raises anything
        error, outcome = unreadable, None
    if isinstance(outcome, Outcome):
        return Ended(task, outcome)
    return Ended(task, None, f"its worker broke off: {_last_line(error)}; see {job.paths.stderr}")


def _last_line(error: Exception | None) -> str:
    """What an error says; of submitit's, the last line of the traceback that stands between two lines of dashes."""
    parts = str(error).split("-" * 22)
    lines = parts[1 if len(parts) > 2 else 0].strip().splitlines()
    return lines[-1] if lines else "no reason is given"


def _state(job: Any, local: bool) -> str:
    """``CANCELLED by 1000`` is CANCELLED; empty where nobody knows."""
    state = job.state if local else job.get_info(mode="force").get("State", "")
    return (state.split() or [""])[0]


def _wait(jobs: Sequence[Any], seconds: float) -> None:
    until = time.monotonic() + seconds
    while not all(job.done() for job in jobs) and time.monotonic() < until:
        time.sleep(0.1)
