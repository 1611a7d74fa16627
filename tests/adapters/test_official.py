"""Every official task on data of its columns, through its own YAML file and scoring, offline."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lmms_eval.utils import load_yaml_config

from tests.adapters.official_data import CASES, Case, write_official
from tests.adapters.world import use
from vr_eval.adapters import lmms, lmms_tasks
from vr_eval.adapters.answering import CellError
from vr_eval.adapters.lmms_tasks import load_tasks
from vr_eval.adapters.official import adapted
from vr_eval.adapters.questions import Answer, Question
from vr_eval.adapters.results import TaskResult
from vr_eval.catalog.official_tasks import OFFICIAL, SUITES, packaged_files
from vr_eval.config.decoding import Decoding
from vr_eval.errors import InputError
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
    assert metrics.score == pytest.approx(case.points, abs=1e-3)
    expected = case.official or {result.metric: case.points}
    assert metrics.official == pytest.approx(expected, abs=1e-3)
    assert parrot.images >= len(parrot.questions)
    for question in parrot.questions:
        decoding = Decoding().rules(question.task, question.gen_kwargs)
        assert "max_new_tokens" in question.gen_kwargs
        assert decoding.until
    assert capfd.readouterr() == ("", "")
    assert sorted(path.name for path in place.iterdir()) == ["cache", "data", "tasks"]


@pytest.mark.parametrize("name", ["charxiv_val_reasoning", "charxiv_val_descriptive"])
def test_a_judge_is_asked_once_per_question_and_only_where_it_can_be(
    place: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    case, asked = BY_NAME[name], []
    write_official(place, case)
    with pytest.raises(InputError, match="set OPENAI_API_KEY, OPENAI_BASE_URL, MODEL_VERSION"):
        load_tasks([name])
    for variable in ENVIRONMENT:
        monkeypatch.setenv(variable, "x")
    task = load_tasks([name])[name]

    verdicts = {"7": 1, "Loss": 1, "8": 0, "x": 0, "mute": -1}

    def reasoning(client: Any, query: str, model: str) -> tuple[str, int]:
        asked.append(query)
        return "", verdicts[query.rsplit("Response: ", 1)[1].strip()]

    def descriptive(client: Any, query: str, count: int, model: str) -> dict[str, Any]:
        asked.append(query)
        return {"extract_answer_T1": "", "score_T1": verdicts[query.rsplit("Response 1: ", 1)[1].split("\n")[0]]}

    aggregation = task.aggregations[task.metric].__globals__
    monkeypatch.setitem(aggregation, "_get_client", lambda: None)
    monkeypatch.setitem(aggregation, "get_reasoning_result_gpt", reasoning)
    monkeypatch.setitem(aggregation, "get_descriptive_result_gpt", descriptive)
    parrot = Parrot(case.answers)
    result = lmms.evaluate(lmms.VrEval.around(parrot), task, None, "")  # type: ignore[arg-type]
    assert len(asked) == len(case.answers)
    assert [question.score for question in result.questions] == case.scores
    assert task_metrics(result).score == case.points
    assert result.aggregate is None
    parrot.answers = ["mute"] * len(case.answers)
    with pytest.raises(CellError, match="gave no verdict on question 0; answers are kept"):
        lmms.evaluate(lmms.VrEval.around(parrot), task, None, "")  # type: ignore[arg-type]


@pytest.mark.parametrize("name", OFFICIAL)
def test_a_task_goes_by_the_name_that_its_suite_knows(name: str) -> None:
    """BLINK's packaged file is the one of its first part, under that part's name."""
    file = packaged_files()[name]
    changed, _ = adapted(load_yaml_config(str(file), mode="simple"), OFFICIAL[name], file)
    assert changed["task"] == name


def test_a_failed_question_is_no_wrong_answer(place: Path) -> None:
    case = BY_NAME["mmbench_en_dev_static"]
    write_official(place, case)
    failed = Answer("", math.nan, 0, "OSError: image file is truncated")
    answers: list[Any] = [*case.answers]
    answers[3] = failed  # the second rotation of question 1
    result, _ = say(replace(case, answers=answers))
    scores = [question.score for question in result.questions]
    assert [math.isnan(score) for score in scores] == [True, False, False]
    message = "1 of 2 questions that are scored together failed: OSError: image file is truncated"
    assert result.questions[0].answer.failure == message
    metrics = task_metrics(result)
    assert (metrics.score, metrics.coverage, metrics.failures) == (50, 2 / 3, 1)
    assert metrics.official == {"gpt_eval_score": pytest.approx(100 / 3)}  # there it is a wrong one


def test_a_question_scored_together_is_shown_whole(place: Path) -> None:
    write_official(place, BY_NAME["mme"])
    first = say(BY_NAME["mme"])[0].questions[0]
    assert first.answer.text == "yes / No."
    assert first.target == "Yes / No"
    assert first.answer.new_tokens == 4
    assert not first.answer.shared


def test_a_question_scored_together_was_measured_beside_others_if_a_part_was(place: Path) -> None:
    case = BY_NAME["mme"]
    write_official(place, case)
    answers: list[Any] = [*case.answers]
    answers[1] = Answer(case.answers[1], 1.0, 2, shared=True)
    assert [scored.answer.shared for scored in say(replace(case, answers=answers))[0].questions][:2] == [True, False]


MISSING = [
    *(("textvqa_val", "answers"), ("vqav2_val", "answers"), ("docvqa_val", "answers"), ("gqa", "answer")),
    *(("docvqa_val", "image"), ("gqa", "imageId"), ("mme", "question"), ("mmbench_en_dev_static", "hint")),
    *(("ocrbench", "question_type"), ("seedbench", "data_type")),
]


@pytest.mark.parametrize(("name", "column"), MISSING)
def test_a_column_that_is_not_there_is_said_before_anything_is_asked(place: Path, name: str, column: str) -> None:
    case = BY_NAME[name]
    write_official(place, case, [{key: row[key] for key in row if key != column} for row in case.rows])
    with pytest.raises(InputError) as caught:
        load_tasks([name])
    (problem,) = caught.value.problems
    assert f"the data of the task {name} cannot be loaded: its data has no column {column!r}" in problem.message
    assert problem.file == str(place / "tasks" / f"{name}.yaml")


def test_answers_that_are_kept_back_are_not_scored_as_wrong(place: Path) -> None:
    case = BY_NAME["mmvp"]
    write_official(place, case, [row | {"Correct Answer": ""} for row in case.rows])
    with pytest.raises(InputError, match="its first question comes without an answer"):
        load_tasks(["mmvp"])


def test_a_split_that_is_not_there_is_named(place: Path) -> None:
    write_official(place, BY_NAME["mme"])
    file = place / "tasks" / "mme.yaml"
    file.write_text(file.read_text() + "test_split: dev\n")
    with pytest.raises(InputError, match="it has no split 'dev', but 'test'"):
        load_tasks(["mme"])


@pytest.mark.parametrize("gone", ["metric", "filter", "score"])
def test_a_metric_that_changed_its_name_is_one_clear_error(
    place: Path, monkeypatch: pytest.MonkeyPatch, gone: str
) -> None:
    name = "ai2d" if gone == "filter" else "mme" if gone == "score" else "chartqa"
    write_official(place, BY_NAME[name])
    read = lmms_tasks.load_yaml_config

    def renamed(*args: Any, **kwargs: Any) -> Any:
        config = read(*args, **kwargs)
        if gone == "metric":
            config["metric_list"][0]["metric"] = "relaxed_overall_accuracy"
        elif gone == "filter":
            config["filter_list"][0]["name"] = "flexible"
        else:
            config["process_results"] = lambda doc, results: {"mme_perception": 1.0}
        return config

    monkeypatch.setattr(lmms_tasks, "load_yaml_config", renamed)
    with pytest.raises(InputError) as caught:
        load_tasks([name])
    message = str(caught.value)
    if gone == "score":
        assert "not by mme_perception_score or mme_cognition_score; did its metric become 'mme_perception'?" in message
    else:
        asked, near = ("relaxed_overall", "relaxed_overall_accuracy") if gone == "metric" else ("flexible-extract", "")
        assert f"the task {name} has no metric" in message
        assert asked in message
        assert near in message
        assert "install that, or correct vr_eval/catalog/official_tasks.py" in message


def test_official_groups_of_plain_lmms_eval_load_with_our_limits(place: Path) -> None:
    from lmms_eval.tasks import TaskManager

    for name in SUITES["ocr"]:
        write_official(place, BY_NAME[name])
    groups = Path(__file__).parents[2] / "tasks" / "official"
    manager = TaskManager(include_path=[str(place / "tasks"), str(groups)], include_defaults=False)
    (loaded,) = manager.load_task_or_group(["vr_official_ocr"], "chat").values()
    assert {*loaded} == {*SUITES["ocr"]}
    assert loaded["textvqa_val"].config.generation_kwargs == {"until": ["ASSISTANT:"], "max_new_tokens": 64}
