"""Every official task on data of its columns, through its own YAML file and scoring, offline."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tests.adapters.official_data import CASES, Case, write_official
from tests.adapters.world import use
from vr_eval.adapters import lmms
from vr_eval.adapters.lmms_tasks import load_tasks
from vr_eval.adapters.questions import Answer, Decoding, Question
from vr_eval.adapters.results import TaskResult
from vr_eval.config.official import OFFICIAL, SUITES
from vr_eval.runs.evaluate import task_metrics

BY_NAME = {case.task: case for case in CASES}
ENVIRONMENT = ("OPENAI_API_KEY", "OPENAI_BASE_URL", "MODEL_VERSION")


class Parrot:
    """Stands in for a model: says what it is told to, and looks at every question as a model would."""

    def __init__(self, answers: Sequence[str | Answer]) -> None:
        self.answers, self.batch_size, self.log = answers, 4, None
        self.model = SimpleNamespace(device=torch.device("cpu"))
        self.questions: list[Question] = []
        self.images = 0

    def answer(self, questions: Sequence[Question], progress: Callable[[int], None]) -> list[Answer]:
        self.questions = list(questions)
        for question in questions:
            parts = [part for message in question.load() for part in message["content"]]
            assert "".join(part["text"] for part in parts if part["type"] == "text")
            self.images += sum(part["type"] == "image" for part in parts)
        said = [self.answers[question.doc_id] for question in questions]
        return [answer if isinstance(answer, Answer) else Answer(answer, 1.0, 2) for answer in said]


def say(case: Case, limit: int | None = None) -> tuple[TaskResult, Parrot]:
    parrot = Parrot(case.answers)
    lm = lmms.VrEval.around(parrot)  # type: ignore[arg-type]
    return lmms.evaluate(lm, load_tasks([case.task])[case.task], limit, "cell=x"), parrot


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    use(tmp_path, monkeypatch)
    for variable in ENVIRONMENT:
        monkeypatch.delenv(variable, raising=False)
    return tmp_path


def test_every_task_of_the_suites_has_a_case() -> None:
    assert set(BY_NAME) == set(OFFICIAL)
    assert [*SUITES] == ["ocr", "chart", "doc", "general"]


@pytest.mark.parametrize("case", [case for case in CASES if not OFFICIAL[case.task].judge], ids=lambda case: case.task)
def test_the_points_are_those_of_the_official_scoring(place: Path, case: Case, capfd: Any) -> None:
    write_official(place, case)
    capfd.readouterr()
    result, parrot = say(case)
    assert [question.score for question in result.questions] == pytest.approx(case.scores)
    metrics = task_metrics(result)
    assert metrics["score"] == pytest.approx(case.points, abs=1e-3)
    expected = case.official or {result.metric: case.points}
    assert metrics["official"] == pytest.approx(expected, abs=1e-3)
    assert parrot.images >= len(parrot.questions)
    for question in parrot.questions:
        decoding = Decoding.of(question.gen_kwargs)
        assert "max_new_tokens" in question.gen_kwargs
        assert decoding.until
    assert capfd.readouterr() == ("", "")
    assert sorted(path.name for path in place.iterdir()) == ["cache", "data", "tasks"]
