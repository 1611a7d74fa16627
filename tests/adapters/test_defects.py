"""lmms-eval's defects: each is shown as it is there, and to be put right here. A release without it fails the test."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
from lmms_eval import evaluator
from lmms_eval.api.task import ConfigurableTask
from lmms_eval.tasks import TaskManager
from lmms_eval.utils import load_yaml_config
from tenacity import RetryError
from transformers import LlavaProcessor

from tests.adapters.official_data import Case, mmmu, write_official
from tests.adapters.test_official import BY_NAME, say
from tests.adapters.world import TASKS, use, write_tasks
from vr_eval.adapters import defects, lmms
from vr_eval.adapters.answering import Answerer
from vr_eval.adapters.lmms_tasks import load_tasks, quiet
from vr_eval.catalog.official_tasks import packaged_files
from vr_eval.models.lvlm import LVLM


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    use(tmp_path, monkeypatch)
    return tmp_path


def together(lm: lmms.VrEval, tasks: list[Any], limit: float | None = None) -> Any:
    """Several tasks in one call of lmms-eval, as its command line does it."""
    given = Namespace(process_with_media=False, output_path=None, reasoning_tags=None)
    manager = TaskManager(include_path=None, include_defaults=False)
    with quiet():
        return evaluator.simple_evaluate(
            model=lm, tasks=tasks, limit=limit, bootstrap_iters=0, task_manager=manager, cli_args=given
        )


def packaged(task: str) -> dict[str, Any]:
    config: dict[str, Any] = load_yaml_config(str(packaged_files()[task]), mode="full")
    return config


def test_ocrbench_counts_from_zero_every_time(place: Path) -> None:
    write_official(place, BY_NAME["ocrbench"])
    first, second = say(BY_NAME["ocrbench"])[0], say(BY_NAME["ocrbench"])[0]
    assert first.official == second.official == {"ocrbench_accuracy": pytest.approx(0.2)}
    aggregation = packaged("ocrbench")["metric_list"][0]["aggregation"]
    given, entry = Namespace(output_path=str(place)), {"question_type": "Digit String Recognition", "score": 1}
    assert [aggregation([entry], given) for _ in range(2)] == [0.001, 0.002]
    assert [defects.fresh(aggregation)([entry], given) for _ in range(2)] == [0.001, 0.001]


def test_what_fails_is_tried_once_and_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    class Failing:
        OUTPUT_TYPE = "generate_until"

        @property
        def config(self) -> Any:
            calls.append(1)
            raise OSError("no space left on device")

    with pytest.raises(OSError, match="no space left"):
        defects.once(ConfigurableTask.process_results)(Failing(), {}, [""])
    assert len(calls) == 1
    monkeypatch.setattr(ConfigurableTask.process_results.retry, "sleep", lambda seconds: None)
    with pytest.raises(RetryError):
        ConfigurableTask.process_results(Failing(), {}, [""])
    assert len(calls) == 1 + 5


def test_a_limit_below_one_is_a_share_of_each_task(place: Path, lvlm: LVLM, reader: LlavaProcessor) -> None:
    write_tasks(place, questions=8)
    (place / "tasks" / "toy" / "data" / "vr_toy_doc.parquet").unlink()
    first = load_tasks([TASKS[0]])[TASKS[0]]
    write_tasks(place, questions=4)
    second = load_tasks([TASKS[1]])[TASKS[1]]
    lm = lmms.VrEval.around(Answerer(lvlm, reader, batch_size=4))
    wrong = together(lm, [first, second], 0.5)["samples"]
    assert [len(wrong[task]) for task in TASKS] == [4, 4]
    ours = [lmms.evaluate(lm, task, 0.5, "") for task in (first, second)]  # type: ignore[arg-type]
    assert [len(result.questions) for result in ours] == [4, 2]


def test_a_batch_of_several_tasks_asks_each_its_own_questions(place: Path, lvlm: LVLM, reader: LlavaProcessor) -> None:
    write_tasks(place)
    for file in (place / "tasks" / "toy").glob("*.yaml"):  # one decoding, so that a batch can hold both
        file.write_text(file.read_text().replace("max_new_tokens: 9", "max_new_tokens: 6"))
    tasks = load_tasks(list(TASKS))
    lm = lmms.VrEval.around(Answerer(lvlm, reader, batch_size=16))
    alone = {name: lmms.evaluate(lm, task, None, "").questions for name, task in tasks.items()}
    mixed = together(lm, list(tasks.values()))["samples"]
    for name, questions in alone.items():
        logged = defects.in_order(mixed[name])
        assert [logged[q.doc_id]["filtered_resps"][0] for q in questions] == [q.answer.text for q in questions]
    assert [q.answer.text for q in alone[TASKS[0]]] != [q.answer.text for q in alone[TASKS[1]]]


def test_samples_of_several_processes_are_put_in_order() -> None:
    logged = [{"doc_id": doc, "resp": text} for doc, text in ((0, "a"), (2, "c"), (1, "b"), (3, "d"), (1, "clone"))]
    assert [(doc, sample["resp"]) for doc, sample in defects.in_order(logged).items()] == [*enumerate("abcd")]


def test_public_data_needs_no_login(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(defects, "get_token", lambda: None)
    assert packaged("mme")["dataset_kwargs"] == {"token": True}
    assert defects.login_optional({"token": True, "cache_dir": "x"}) == {"cache_dir": "x"}
    assert defects.login_optional(None) == {}
    monkeypatch.setattr(defects, "get_token", lambda: "hf_secret")
    assert defects.login_optional({"token": True}) == {"token": True}


def test_a_drawn_answer_depends_on_its_question_alone(place: Path) -> None:
    rows = [mmmu(f"validation_Art_{n}", f"Which is <image 1>, {n}?", ["w", "x", "y", "z"], "A") for n in range(16)]
    scores = []
    for order in (rows, rows[::-1]):
        write_official(place, BY_NAME["mmmu_val"], order)
        case = Case("mmmu_val", order, ["no idea"] * len(rows), [], 0)
        scores.append({q.doc["id"]: q.score for q in say(case)[0].questions})
    assert scores[0] == scores[1]
    assert set(scores[0].values()) == {0.0, 1.0}


def test_an_odd_limit_leaves_out_the_question_that_it_cuts(place: Path) -> None:
    write_official(place, BY_NAME["mme"])
    result, _ = say(BY_NAME["mme"], limit=3)
    assert [(q.doc["question_id"], q.score) for q in result.questions] == [("a.jpg", 1)]
    assert result.official["mme_perception_score"] is None
    aggregation = packaged("mme")["metric_list"][0]["aggregation"]
    with pytest.raises(AssertionError):
        aggregation([{"question_id": "a", "category": "existence", "score": 1}])


def test_images_that_are_apart_are_looked_up_when_asked(place: Path) -> None:
    case = BY_NAME["gqa"]
    write_official(place, case)
    task = load_tasks(["gqa"])["gqa"]
    assert "image" not in task.eval_docs.column_names
    shown = [task.doc_to_messages(doc)[0]["content"][0]["url"] for doc in task.eval_docs]
    named = {row["id"]: row["image"] for row in case.images}
    assert [list(image.getdata()) for image in shown] == [list(named[row["imageId"]].getdata()) for row in case.rows]
