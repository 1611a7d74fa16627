"""Through lmms-eval itself: in this process, and as its own command."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from transformers import LlavaProcessor

from tests.adapters.world import QUESTIONS, SCORING, TASKS, model, write_checkpoint, write_tasks
from vr_eval import paths
from vr_eval.adapters import lmms
from vr_eval.adapters.answering import Answerer, CellError
from vr_eval.adapters.lmms_tasks import load_tasks
from vr_eval.adapters.manifest import manifests
from vr_eval.adapters.results import TaskResult
from vr_eval.catalog import tasks as task_index
from vr_eval.catalog.backbones import MICRO
from vr_eval.errors import InputError
from vr_eval.models.lvlm import LVLM

REAL_TASKS = [task for tasks in MICRO.suites.values() for task in tasks]


def run(lvlm: LVLM, reader: LlavaProcessor, task: str, batch_size: int = 5, limit: int | None = None) -> TaskResult:
    lm = lmms.VrEval.around(Answerer(lvlm, reader, batch_size=batch_size))
    return lmms.evaluate(lm, load_tasks([task])[task], limit, "cell=x")


def test_the_mean_of_the_questions_is_lmms_evals_own_score(root: Path, lvlm: LVLM, reader: LlavaProcessor) -> None:
    result = run(lvlm, reader, TASKS[0])
    scores = [question.score for question in result.questions]
    assert [question.doc_id for question in result.questions] == list(range(QUESTIONS))
    assert len(set(scores)) > 1
    assert result.metric == "toy_match"
    assert result.aggregate == pytest.approx(sum(scores) / QUESTIONS)
    assert json.dumps(result.output, default=str)
    assert "samples" not in result.output


def test_a_limit_asks_the_first_questions(root: Path, lvlm: LVLM, reader: LlavaProcessor) -> None:
    assert len(run(lvlm, reader, TASKS[0], limit=5).questions) == 5


def test_one_task_and_one_model_serve_many_evaluations(root: Path, lvlm: LVLM, reader: LlavaProcessor) -> None:
    task = load_tasks([TASKS[1]])[TASKS[1]]
    lm = lmms.VrEval.around(Answerer(lvlm, reader, batch_size=4))
    first, second = (lmms.evaluate(lm, task, None, "") for _ in range(2))
    assert [q.answer.text for q in first.questions] == [q.answer.text for q in second.questions]
    assert first.aggregate == second.aggregate
    assert lm.answerer.encoder.store.encoded == QUESTIONS // 2


def test_nothing_is_said_on_stdout_or_stderr(
    root: Path, lvlm: LVLM, reader: LlavaProcessor, capfd: pytest.CaptureFixture[str]
) -> None:
    run(lvlm, reader, TASKS[0])
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("corrupt", [(0,), (0, 7, 11)])
def test_a_corrupt_image_is_one_failed_question(
    root: Path, lvlm: LVLM, reader: LlavaProcessor, corrupt: tuple[int, ...]
) -> None:
    whole = run(lvlm, reader, TASKS[1])
    write_tasks(root, corrupt=corrupt)
    result = run(lvlm, reader, TASKS[1])
    assert [question.doc_id for question in result.questions if question.answer.failure] == list(corrupt)
    for question, before in zip(result.questions, whole.questions, strict=True):
        if question.doc_id in corrupt:
            assert math.isnan(question.score)
            assert "image file is truncated" in question.answer.failure
        else:
            assert (question.answer.text, question.score) == (before.answer.text, before.score)


@pytest.mark.parametrize("task", REAL_TASKS)
def test_answers_on_the_suites_do_not_depend_on_the_batch(task: str, reader: LlavaProcessor, lvlm: LVLM) -> None:
    alone = run(lvlm, reader, task, batch_size=1, limit=24)
    batched = run(lvlm, reader, task, batch_size=7, limit=24)
    assert [q.answer.text for q in batched.questions] == [q.answer.text for q in alone.questions]
    assert [q.score for q in batched.questions] == [q.score for q in alone.questions]
    assert batched.aggregate == pytest.approx(sum(q.score for q in batched.questions) / 24)


def test_data_that_is_not_there_is_said_of_all_tasks_at_once(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # read from the environment at import only
    folder = root / "tasks" / "toy"
    (folder / "data" / f"{TASKS[0]}.parquet").unlink()
    hub = folder / f"{TASKS[1]}.yaml"
    text = hub.read_text().replace("dataset_path: parquet", "dataset_path: nobody/nothing")
    hub.write_text(text.replace("dataset_kwargs:\n  data_files:\n    test: data/vr_toy_doc.parquet\n", ""))
    started = time.monotonic()
    with pytest.raises(InputError) as caught:
        load_tasks([*TASKS, "vr_toy_dok"])
    message = str(caught.value)
    assert f"the data of the task {TASKS[0]} cannot be loaded" in message
    assert str(folder / "data" / f"{TASKS[0]}.parquet") in message
    assert f"the data of the task {TASKS[1]} cannot be loaded: Couldn't reach 'nobody/nothing' on the Hub" in message
    assert "did you mean 'vr_toy_doc'?" in message
    assert "vr-eval fetch" in message
    assert time.monotonic() - started < 5


def test_data_that_is_no_parquet_is_said(root: Path) -> None:
    (root / "tasks" / "toy" / "data" / f"{TASKS[0]}.parquet").write_bytes(b"PAR1 no such thing")
    with pytest.raises(InputError, match=f"the data of the task {TASKS[0]} cannot be loaded"):
        load_tasks([TASKS[0]])


def test_a_scorer_that_fails_is_not_tried_again_and_again(root: Path, lvlm: LVLM, reader: LlavaProcessor) -> None:
    (root / "tasks" / "toy" / "scoring.py").write_text(SCORING.replace("len(results[0])", "len(results) + None"))
    started = time.monotonic()
    with pytest.raises(TypeError, match="unsupported operand"):
        run(lvlm, reader, TASKS[0], limit=2)
    assert time.monotonic() - started < 2


def test_a_task_without_a_number_per_question_is_an_error(root: Path, lvlm: LVLM, reader: LlavaProcessor) -> None:
    (root / "tasks" / "toy" / "scoring.py").write_text(SCORING.replace("(len(results[0]) % 4) / 3", '"good"'))
    lmms_task = load_tasks([TASKS[0]])[TASKS[0]]
    lmms_task._aggregation_list["toy_match"] = len
    lm = lmms.VrEval.around(Answerer(lvlm, reader))
    with pytest.raises(CellError, match="no number per question under its metric 'toy_match'"):
        lmms.evaluate(lm, lmms_task, 2, "")


def test_the_model_lasts_and_is_found_by_its_entry_point(lvlm: LVLM, reader: LlavaProcessor) -> None:
    from lmms_eval.models import get_model

    lm = lmms.VrEval.around(Answerer(lvlm, reader))
    lm.clean()
    assert lm.answerer.model is lvlm
    assert get_model("vr_eval") is lmms.VrEval
    assert [manifest.model_id for manifest in manifests()] == ["vr_eval"]


def test_arguments_of_the_command_line_reach_the_model(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, "a" * 16, "avg_pool", 9, "none")
    text = f"pretrained={tmp_path},cell=0123456789abcdef,dtype=float32"
    lm = lmms.VrEval.create_from_arg_string(text, {"batch_size": "auto", "max_batch_size": 6, "device": "cpu"})
    assert lm.answerer.batch_size == 6
    assert lm.device == torch.device("cpu")
    with pytest.raises(InputError, match="there is no such folder"):
        lmms.VrEval(str(tmp_path / "nowhere"))


def test_plain_lmms_eval_runs_our_model(root: Path, lvlm: LVLM, reader: LlavaProcessor) -> None:
    write_checkpoint(root / "model", "a" * 16, "tokenpacker", 4, "vision_remember")
    made = subprocess.run(
        [
            *(sys.executable, "-m", "lmms_eval", "--model", "vr_eval", "--model_args", f"pretrained={root / 'model'}"),
            *("--tasks", TASKS[0], "--include_path", str(root / "tasks"), "--batch_size", "4", "--device", "cpu"),
            *("--output_path", str(root / "out"), "--log_samples"),
        ],
        capture_output=True,
        text=True,
        timeout=300,
    )
    found = list((root / "out").rglob("*_results.json"))
    assert found, made.stdout + made.stderr
    score = json.loads(found[0].read_text())["results"][TASKS[0]]["toy_match,none"]
    loaded = model("tokenpacker", 4, "vision_remember", len(reader.tokenizer), reader.image_token_id)
    loaded.load_state_dict({name: value.half().float() for name, value in loaded.state_dict().items()})
    assert score == pytest.approx(run(loaded.to_inference(), reader, TASKS[0]).aggregate)


def test_our_tasks_are_those_of_the_backbone() -> None:
    assert set(REAL_TASKS) <= set(task_index.task_files())
    assert paths.resource("tasks").is_dir()
