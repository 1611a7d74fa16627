"""The vr_micro tasks as lmms-eval sees them: found by folder, loaded offline from anywhere, scored by its metrics."""

from __future__ import annotations

import shutil
from collections import defaultdict
from typing import Any

import pytest

from vr_eval import paths
from vr_eval.micro.data import SUITES

NAMES = [f"vr_micro_{suite}" for suite in SUITES]
METRICS = {"ocr": "exact_match", "chart": "relaxed_accuracy", "doc": "anls", "general": "exact_match"}


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """All four tasks, loaded from a copy of the folder (as in an installed wheel) and from a foreign working folder."""
    from lmms_eval.tasks import TaskManager, get_task_dict

    installed = tmp_path_factory.mktemp("installed") / "tasks"
    shutil.copytree(paths.resource("tasks"), installed)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("elsewhere"))
        patch.setenv("HF_HUB_OFFLINE", "1")
        manager = TaskManager(include_path=[str(installed)], include_defaults=False)
        assert {"vr_micro", *NAMES, *(f"vr_{suite}" for suite in SUITES)} <= set(manager.all_tasks)
        return dict(get_task_dict(NAMES, manager, "chat"))


@pytest.mark.parametrize("suite", SUITES)
def test_a_question_becomes_one_user_turn_with_its_image(tasks: dict[str, Any], suite: str) -> None:
    from lmms_eval.protocol import ChatMessages

    task = tasks[f"vr_micro_{suite}"]
    document = task.test_docs()[0]
    messages = ChatMessages(messages=task.doc_to_messages(document))
    (turn,) = messages.to_hf_messages()
    assert [part["type"] for part in turn["content"]] == ["image", "text"]
    assert turn["content"][1]["text"] == document["question"]
    images, videos, audios = messages.extract_media()
    assert [(image.mode, image.size) for image in images] == [("RGB", (192, 192))]
    assert not videos
    assert not audios
    assert task.doc_to_target(document) == document["answer"]


@pytest.mark.parametrize("suite", SUITES)
def test_every_task_states_how_to_generate_and_what_it_measures(tasks: dict[str, Any], suite: str) -> None:
    config = tasks[f"vr_micro_{suite}"].config
    assert config.generation_kwargs == {"until": ["\n"], "max_new_tokens": 16, "temperature": 0.0, "do_sample": False}
    assert [metric["metric"] for metric in config.metric_list] == [METRICS[suite]] == [config.score_key]
    assert config.cluster_key == "image_id"
    assert config.metadata["version"]


@pytest.mark.parametrize(
    ("suite", "answer", "given", "score"),
    [
        ("ocr", "7K2A", "7k2a", 1.0),
        ("ocr", "7K2A", "7K2B", 0.0),
        ("ocr", "7K2A", "", 0.0),
        ("general", "yes", "Yes.", 1.0),
        ("general", "2", "12", 0.0),
        ("chart", "40", "42", 1.0),
        ("chart", "40", "43", 0.0),
        ("chart", "29", "29%", 1.0),
        ("chart", "29", "29.0", 1.0),
        ("chart", "0", "0", 1.0),
        ("chart", "0", "1", 0.0),
        ("chart", "blue", "Blue", 1.0),
        ("chart", "5", "", 0.0),
        ("chart", "5", "nan", 0.0),
        ("doc", "OSLO", "oslo", 1.0),
        ("doc", "OSLO", "OSLA", 0.75),
        ("doc", "OSLO", "OS", 0.5),
        ("doc", "OSLO", "O", 0.0),
        ("doc", "OSLO", "", 0.0),
    ],
)
def test_answers_are_scored_by_the_rules_of_the_field(
    tasks: dict[str, Any], suite: str, answer: str, given: str, score: float
) -> None:
    result = tasks[f"vr_micro_{suite}"].process_results({"answer": answer}, [[given]])
    assert result == {METRICS[suite]: pytest.approx(score)}
    assert type(result[METRICS[suite]]) is float


@pytest.mark.parametrize("suite", SUITES)
def test_the_best_guess_without_the_image_scores_low(tasks: dict[str, Any], suite: str) -> None:
    task = tasks[f"vr_micro_{suite}"]
    answers: dict[str, list[str]] = defaultdict(list)
    documents = task.test_docs()
    for kind, answer in zip(documents["kind"], documents["answer"], strict=True):
        answers[kind].append(answer)
    score = task.config.process_results
    best = 0.0
    for targets in answers.values():
        # Even a guesser that knows the test set's own answers, by kind; a sample of guesses keeps ANLS affordable.
        guesses = sorted(set(targets), key=targets.count, reverse=True)[:40]
        best += max(sum(score({"answer": t}, [guess])[METRICS[suite]] for t in targets) for guess in guesses)
    assert best / len(documents) < 0.35
