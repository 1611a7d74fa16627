"""Slurm's queue by its own commands: which jobs of a run are there, and ending them. Light."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass

COMMANDS = ("sbatch", "srun", "squeue", "sacct", "scancel", "scontrol")
"""What this needs; submitit uses some of them."""
_PATIENCE = 60  # seconds that a command of a busy cluster may take


@dataclass(frozen=True)
class Queue:
    """The jobs of one name; that of a run holds its run directory.

    Attributes:
        name: Of the jobs.
        to_save: Seconds that jobs have to end by themselves when they are cancelled.
        to_end: Seconds after which nobody waits for those that do not; Slurm itself kills them after 30.
    """

    name: str
    to_save: float = 15.0
    to_end: float = 60.0

    def ids(self) -> set[str] | None:
        """Ids of the jobs that wait, run or end, as ``12_3`` in an array; None where Slurm does not answer."""
        done = _run("squeue", "--noheader", "--array", "--name", self.name, "--format", "%i")
        return set(done.split()) if done is not None else None

    def cancel(self, ids: Sequence[str]) -> None:
        """End these jobs: what waits at once, what runs as by Ctrl-C; returns when they are gone."""
        _run("scancel", "--state=PENDING", *ids)
        _run("scancel", "--signal=INT", *ids)
        self._wait(ids, self.to_save)
        _run("scancel", *ids)
        self._wait(ids, self.to_end)

    def _wait(self, ids: Sequence[str], seconds: float) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            there = self.ids()
            if there is not None and not there & set(ids):
                return
            time.sleep(1)


def _run(*command: str) -> str | None:
    """What a command prints; None where it failed."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_PATIENCE, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None
