"""A world with tasks, checkpoints and a folder of its own for every test."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.adapters.world import toy_grid, use, write_checkpoints, write_tasks
from tests.runs import fake_slurm
from vr_eval.adapters.answering import Answerer
from vr_eval.adapters.questions import Question
from vr_eval.config.grid import Grid
from vr_eval.runs.executors import slurm
from vr_eval.runs.executors.slurm_queue import COMMANDS, Queue


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of tasks and of `VR_EVAL_HOME`; it is the working directory."""
    write_tasks(tmp_path)
    use(tmp_path, monkeypatch)
    return tmp_path


@pytest.fixture
def grid(root: Path) -> Grid:
    """Two cells on two tasks of 12 questions, with checkpoints."""
    made = toy_grid(root)
    write_checkpoints(made.cells)
    return made


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Question]:
    """The questions that models are asked, in order."""
    questions: list[Question] = []
    prepare = Answerer._prepare

    def counted(self: Answerer, question: Question) -> Any:
        questions.append(question)
        return prepare(self, question)

    monkeypatch.setattr(Answerer, "_prepare", counted)
    return questions


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of a fake Slurm whose commands are found first."""
    home, commands = tmp_path / "slurm", tmp_path / "bin"
    home.mkdir()
    commands.mkdir()
    for name in COMMANDS:
        command = commands / name
        command.write_text(f'#!/bin/sh\nexec {sys.executable} -S {fake_slurm.__file__} {name} "$@"\n')
        command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{commands}:{os.environ['PATH']}")
    monkeypatch.setenv("FAKE_SLURM", str(home))
    monkeypatch.setattr(fake_slurm, "HOME", home)
    monkeypatch.setattr(slurm, "Queue", partial(Queue, to_save=3, to_end=10))
    yield home
    for job in home.glob("[0-9]*"):
        fake_slurm.end(job, "CANCELLED by 0")
    until = time.monotonic() + 30
    while fake_slurm.running():
        assert time.monotonic() < until, "a job does not end"
        time.sleep(0.05)
