"""A task that changed under the same version is asked again, and only that."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, Features, Value
from datasets import Image as Datum

from tests.adapters.world import QUESTIONS, TASKS, png
from vr_eval.adapters.data import commit_of
from vr_eval.adapters.questions import Question
from vr_eval.catalog import tasks as task_index
from vr_eval.catalog.task_content import task_content
from vr_eval.config.checkpoint_folders import trained_checkpoint
from vr_eval.config.grid import Grid
from vr_eval.config.identity import cell_id
from vr_eval.runs.execute import run_grid
from vr_eval.runs.plan import plan_grid

OUT = Path("runs/toys")


@pytest.fixture
def done(grid: Grid, root: Path, asked: list[Question], capsys: pytest.CaptureFixture[str]) -> Grid:
    """A grid that was run as a whole."""
    assert run_grid(grid) == 0
    assert len(asked) == 4 * QUESTIONS
    asked.clear()
    capsys.readouterr()
    return grid


def forget() -> None:
    """What a new process would not remember."""
    task_index._scan.cache_clear()
    task_index.task_fields.cache_clear()


def change_data(root: Path, task: str) -> None:
    """Other pictures and words in as many bytes or not, under the same name."""
    path = root / "tasks" / "toy" / "data" / f"{task}.parquet"
    frame = pd.read_parquet(path)
    frame["question"] = frame["question"].str.upper()
    frame["image"] = [{"bytes": png(900 + row), "path": None} for row in range(len(frame))]
    features = Features({name: Datum() if name == "image" else Value("string") for name in frame.columns})
    Dataset.from_list(frame.to_dict("records"), features=features).to_parquet(path)


def test_changed_data_is_asked_again_and_the_run_says_so(
    done: Grid, root: Path, asked: list[Question], capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path.name: path.read_bytes() for path in (OUT / "images" / TASKS[0]).glob("*.*")}
    change_data(root, TASKS[0])
    plan = plan_grid(done)
    assert [(cell.cached, cell.complete) for cell in plan.cells] == [(QUESTIONS, False)] * 2
    assert (
        f"{TASKS[0]}: its data changed since it was answered; what is another question now is asked again"
        in plan.to_text()
    )
    assert json.loads(plan.to_json())["cells"][0]["changed"] == {TASKS[0]: "its data"}
    assert run_grid(done) == 0
    assert f"{TASKS[0]}: its data changed since 2 of 2 cells answered it; what is another" in capsys.readouterr().err
    assert [question.task for question in asked] == [TASKS[0]] * 2 * QUESTIONS
    records = pd.read_parquet(OUT / "records.parquet")
    assert records[records["task"] == TASKS[0]]["question"].str.isupper().all()
    assert not records[records["task"] == TASKS[1]]["question"].str.isupper().any()
    after = {path.name: path.read_bytes() for path in (OUT / "images" / TASKS[0]).glob("*.*")}
    assert before
    assert all(before.get(name) != content for name, content in after.items())
    asked.clear()
    assert run_grid(done) == 0
    assert asked == []
    assert all(cell.complete for cell in plan_grid(done).cells)


def test_of_changed_data_only_other_questions_get_another_answer(done: Grid, root: Path, asked: list[Question]) -> None:
    """They are asked in the batches that a run without a past would ask."""
    journals = {path: path.read_bytes() for path in OUT.glob("cells/*/answers.jsonl")}
    path = root / "tasks" / "toy" / "data" / f"{TASKS[0]}.parquet"
    table = pq.read_table(path)
    rows = table.to_pylist()
    rows[4]["image"] = {"bytes": png(77), "path": None}  # the same words about another picture
    rows[5]["answer"] = "zzzz"  # the same question, of which another answer is right
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), path)
    assert run_grid(done) == 0
    assert len(asked) == 2 * 2 * done.batch_size
    for path, before in journals.items():
        added = [json.loads(line) for line in path.read_bytes().removeprefix(before).splitlines()]
        assert sorted((entry["task"], entry["doc_id"]) for entry in added) == [(TASKS[0], 4), (TASKS[0], 5)]
    records = pd.read_parquet(OUT / "records.parquet").set_index(["task", "doc_id"]).loc[TASKS[0], 5]
    assert set(records["target"]) == {"zzzz"}


def test_answers_that_do_not_know_their_question_are_not_used(done: Grid, root: Path, asked: list[Question]) -> None:
    for path in OUT.glob("cells/*/answers.jsonl"):
        entries = [json.loads(line) for line in path.read_text().splitlines()]
        assert all(entry.pop("content") for entry in entries)
        path.write_text("".join(f"{json.dumps(entry)}\n" for entry in entries))
    change_data(root, TASKS[0])
    assert run_grid(done) == 0
    assert len(asked) == 2 * QUESTIONS


def test_a_definition_that_changed_is_asked_as_a_whole(done: Grid, root: Path, asked: list[Question]) -> None:
    path = root / "tasks" / "toy" / f"{TASKS[1]}.yaml"
    path.write_text(path.read_text().replace("do_sample: false", "do_sample: false, num_beams: 1"))
    forget()
    assert run_grid(done) == 0
    assert [question.task for question in asked] == [TASKS[1]] * 2 * QUESTIONS


@pytest.mark.parametrize(
    ("file", "old", "new", "again"),
    [
        ("scoring.py", 'doc["question"]', '"now: " + doc["question"]', True),
        ("scoring.py", "def text(doc):\n", "def text(doc):  # what is asked\n\n    # as it stands\n", False),
        (f"{TASKS[1]}.yaml", "do_sample: false", "do_sample: false, num_beams: 1", True),
        (f"{TASKS[1]}.yaml", "doc_to_target: answer", "doc_to_target: answer  # the code", False),
        (f"{TASKS[1]}.yaml", "doc_to_text: !function scoring.text", "doc_to_text: !function scoring.visual", True),
    ],
)
def test_so_is_another_definition_but_no_comment(
    done: Grid, root: Path, file: str, old: str, new: str, again: bool
) -> None:
    path = root / "tasks" / "toy" / file
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    forget()
    changed = plan_grid(done).cells[0].changed
    assert changed.get(TASKS[1]) == ("its definition" if again else None)


def test_an_unfinished_cell_does_not_go_on_with_stale_answers(done: Grid, root: Path, asked: list[Question]) -> None:
    folder = OUT / "cells" / cell_id(done.cells[0], done)
    lines = (folder / "answers.jsonl").read_text().splitlines()
    (folder / "metrics.json").unlink()
    (folder / "answers.jsonl").write_text("\n".join(lines[:-2]) + '\n{"task": "vr_t')
    change_data(root, TASKS[0])
    assert run_grid(done) == 0
    tasks = {task: [q for q in asked if q.task == task] for task in TASKS}
    assert {task: len(questions) for task, questions in tasks.items()} == {
        TASKS[0]: 2 * QUESTIONS,
        TASKS[1]: done.batch_size,  # of which two answers were lost
    }


def test_a_stale_score_is_gone_even_where_it_cannot_be_replaced(done: Grid, root: Path) -> None:
    change_data(root, TASKS[0])
    weights = trained_checkpoint(done.cells[0]) / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    assert run_grid(done) == 2
    assert set(pd.read_parquet(OUT / "records.parquet")["label"]) == {done.cells[1].label}


def test_results_from_before_this_was_kept_stay(done: Grid, root: Path, asked: list[Question]) -> None:
    for path in OUT.glob("cells/*/tasks.json"):
        path.unlink()
    assert run_grid(done) == 0
    assert asked == []
    assert len(list(OUT.glob("cells/*/tasks.json"))) == 2  # from now on it is noticed
    change_data(root, TASKS[1])
    assert run_grid(done) == 0
    assert len(asked) == 2 * QUESTIONS


@pytest.mark.parametrize("content", ["[]", "{", '{"vr_toy_ocr": 3}', ""])
def test_a_file_that_is_none_changes_nothing(done: Grid, asked: list[Question], content: str) -> None:
    for path in OUT.glob("cells/*/tasks.json"):
        path.write_text(content)
    assert run_grid(done) == 0
    assert asked == []


def test_where_the_data_is_does_not_matter(root: Path, tmp_path: Path) -> None:
    before = {task: task_content(task) for task in TASKS}
    (root / "tasks" / "toy").rename(root / "tasks" / "moved")
    forget()
    assert {task: task_content(task) for task in TASKS} == before
    assert all(set(content) == {"definition", "data"} for content in before.values())


def test_folders_and_patterns_of_data_are_looked_into(tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    (mine / "pictures" / "deep").mkdir(parents=True)
    write = (mine / "one.yaml").write_text
    for named in ("dataset_path: pictures", "dataset_kwargs: {data_files: {test: ['pictures/deep/*.png']}}"):
        write(f"task: my_one\nmetadata: {{version: 1}}\n{named}\n")
        forget()
        seen = []
        for content in (b"a", b"b", b"b", b"bb"):
            (mine / "pictures" / "deep" / "1.png").write_bytes(content)
            seen.append(task_content("my_one", [str(mine)])["data"])
        assert len(set(seen)) == 3
        assert seen[1] == seen[2]


def test_official_tasks_are_what_the_release_says() -> None:
    assert task_content("pope") == {}


def test_the_commit_of_data_of_the_hub_is_told_by_its_place_in_the_cache(tmp_path: Path) -> None:
    data = Dataset.from_dict({"a": [1]})
    for name, expected in (("c" * 40, "c" * 40), ("d" * 64, None), ("0.0.0", None)):
        place = tmp_path / "someone___data" / "default" / "0.0.0" / name
        data.save_to_disk(place)
        (arrow,) = place.glob("*.arrow")
        assert commit_of(Dataset.from_file(str(arrow))) == expected
    assert commit_of(data) is None


def test_a_run_on_data_of_this_machine_tells_no_commit(done: Grid) -> None:
    about = json.loads((OUT / "cells" / cell_id(done.cells[0], done) / "cell.json").read_text())
    assert about["data_commits"] == {}
