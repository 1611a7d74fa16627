"""Workers on this machine: processes that take one task after the other.

They are forked by a server process (multiprocessing's forkserver) that has imported torch and lmms-eval once, so that a
worker, and the next one where one was killed, is there at once. Threads are divided among them; of GPUs, each has one.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import forkserver
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import FrameType
from typing import Any

from vr_eval.runs.executors.base import Ended, Work
from vr_eval.runs.tasks import Task

PATIENCE = 10.0
"""Seconds in which a worker that is told to end puts away what it has."""
PRELOADED = ("vr_eval.runs.evaluate", "vr_eval.training.cell")


@dataclass(frozen=True)
class Share:
    """What one worker gets of the machine.

    Attributes:
        number: Of the worker, from 1.
        threads: Of torch and its like; None leaves them as they are.
        environment: Variables that are set for it: which GPU it sees.
    """

    number: int
    threads: int | None
    environment: Mapping[str, str]


@dataclass
class _Slot:
    """A worker's place: its process while there is one, and the task that it does."""

    share: Share
    process: BaseProcess | None = None
    pipe: Connection | None = None
    task: Task | None = None


def warm_up(preload: Sequence[str] = PRELOADED) -> None:
    """Let the server of processes begin with its imports, while the driver has other things to do."""
    multiprocessing.get_context("forkserver").set_forkserver_preload(list(preload))
    forkserver.ensure_running()


class LocalExecutor:
    """As many processes as `shares`; each is started with its first task, and again where it died."""

    def __init__(
        self,
        folder: Path,
        shares: Sequence[Share],
        logs: Path,
        do: Work,
        preload: Sequence[str] = PRELOADED,
    ) -> None:
        warm_up(preload)
        self.workers = len(shares)
        self._folder, self._logs, self._do = folder.absolute(), logs.absolute(), do
        self._slots = [_Slot(share) for share in shares]
        self._context = multiprocessing.get_context("forkserver")

    def room(self) -> int:
        return sum(slot.task is None for slot in self._slots)

    def submit(self, tasks: Sequence[Task]) -> None:
        free = (slot for slot in self._slots if slot.task is None)
        for task, slot in zip(tasks, free, strict=False):
            self._give(slot, task)

    def poll(self, seconds: float) -> list[Ended]:
        busy = [slot for slot in self._slots if slot.task is not None]
        waited: list[Any] = [slot.pipe for slot in busy] + [slot.process.sentinel for slot in busy if slot.process]
        wait(waited, timeout=seconds)
        ended = (self._ended(slot) for slot in busy)
        return [end for end in ended if end is not None]

    def cancel(self) -> None:
        running = [slot for slot in self._slots if slot.process is not None]
        for slot in running:
            assert slot.process is not None
            slot.process.terminate()
        for slot in running:
            assert slot.process is not None
            slot.process.join(PATIENCE)
            if slot.process.exitcode is None:
                slot.process.kill()
            self._bury(slot)

    def _give(self, slot: _Slot, task: Task) -> None:
        for _ in range(2):  # a worker that died while it had nothing to do is noticed here
            if slot.process is None:
                self._start(slot)
            assert slot.pipe is not None
            try:
                slot.pipe.send(task)
                slot.task = task
                return
            except OSError:
                self._bury(slot)
        raise AssertionError("a worker that was just started takes no task")

    def _start(self, slot: _Slot) -> None:
        here, there = self._context.Pipe()
        arguments = (there, str(self._folder), slot.share, str(self._logs), self._do)
        process = self._context.Process(target=_serve, args=arguments, name=f"vr-eval worker {slot.share.number}")
        process.start()
        there.close()
        slot.process, slot.pipe = process, here

    def _ended(self, slot: _Slot) -> Ended | None:
        assert slot.process is not None
        assert slot.pipe is not None
        assert slot.task is not None
        task = slot.task
        try:
            if slot.pipe.poll():
                outcome = slot.pipe.recv()
                slot.task = None
                return Ended(task, outcome)
        except (EOFError, OSError):  # it died, perhaps in the middle of its answer
            pass
        else:
            if slot.process.is_alive():
                return None
        slot.process.join(PATIENCE)
        code = slot.process.exitcode
        self._bury(slot)
        return Ended(task, None, lost=f"killed by signal {-code}" if code and code < 0 else f"it ended with {code}")

    def _bury(self, slot: _Slot) -> None:
        if slot.pipe is not None:
            slot.pipe.close()
        slot.process = slot.pipe = slot.task = None


def _serve(pipe: Connection, folder: str, share: Share, logs: str, do: Work) -> None:
    """What a worker's process does until its driver is gone."""
    # Ctrl-C in a terminal reaches every process of the command; whether workers end is the driver's to say.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _end)
    threading.Thread(target=_outlive_nobody, daemon=True).start()
    _speak_to(Path(logs) / f"worker-{share.number}.log")
    os.environ.update(share.environment)
    if share.threads is not None:
        import torch

        torch.set_num_threads(share.threads)
    with suppress(EOFError, KeyboardInterrupt):
        while True:
            pipe.send(do(folder, pipe.recv()))


def _end(number: int, frame: FrameType | None) -> None:
    """Leases and journals are put away as after Ctrl-C."""
    raise KeyboardInterrupt


def _outlive_nobody() -> None:
    """End with the driver, however that ended."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os.kill(os.getpid(), signal.SIGTERM)


def _speak_to(log: Path) -> None:
    """What is printed here, by libraries too, goes to a file: the terminal is the driver's."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1, closefd=False) for number in (1, 2))
