"""A world with tasks, checkpoints and a folder of its own for every test."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.adapters.world import toy_grid, use, write_checkpoints, write_tasks
from vr_eval.adapters.answering import Answerer
from vr_eval.adapters.questions import Question
from vr_eval.config.grid import Grid


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
