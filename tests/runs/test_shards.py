"""However a cell's questions are divided, and whatever is killed: the results are those of one worker."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tests.adapters.world import QUESTIONS, TASKS, write_tasks
from tests.runs.test_changed_tasks import change_data, forget
from vr_eval.adapters import batches
from vr_eval.adapters.answering import Answerer, CellError, Prepared
from vr_eval.adapters.questions import Question
from vr_eval.config.checkpoint_folders import find_checkpoint
from vr_eval.config.grid import Grid
from vr_eval.config.identity import cell_id
from vr_eval.environment import describe
from vr_eval.records.cell import CellRecord
from vr_eval.records.folder import CellFolder, RunFolder
from vr_eval.runs import cell_model
from vr_eval.runs.content import answers_left, content_of, renew
from vr_eval.runs.evaluate import Session
from vr_eval.runs.journal import Journal
from vr_eval.runs.plan import plan_grid
from vr_eval.runs.tasks import Shard

RUN = describe("a run")
OUT = Path("runs/toys")
Company = Counter[tuple[int, ...]]
"""The batches that were answered, each by the seeds of its questions, which name them."""


@pytest.fixture(autouse=True)
def short_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of one batch, so that 12 questions are three of them."""
    monkeypatch.setattr(batches, "BLOCK", 1)


@pytest.fixture
def company(monkeypatch: pytest.MonkeyPatch) -> Company:
    """Of the batches that the model answers."""
    seen: Company = Counter()
    generate = Answerer._generate_at_once

    def told(self: Answerer, prepared: Sequence[Prepared], rules: Any) -> Any:
        answers = generate(self, prepared, rules)
        seen[tuple(entry.seed for entry in prepared)] += 1
        return answers

    monkeypatch.setattr(Answerer, "_generate_at_once", told)
    return seen


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """One entry for every model that is loaded."""
    found: list[object] = []
    load = cell_model.cell_model
    monkeypatch.setattr(cell_model, "cell_model", lambda *given: (found.append(given), load(*given))[1])
    return found


class Work:
    """A worker on the second cell of a grid in a run directory; every call is a session of its own."""

    def __init__(self, grid: Grid, out: Path = OUT) -> None:
        self.grid, self.cell = grid, grid.cells[1]
        self.folder: CellFolder = RunFolder(out).cell(cell_id(self.cell, grid))
        self.heard = 0

    def shard(self, text: str, **given: Any) -> None:
        self._session().answer(
            self.cell, find_checkpoint(self.cell), self.folder, Shard.parse(text), self.hear, **given
        )

    def whole(self) -> None:
        self._session().run(self.cell, find_checkpoint(self.cell), self.folder, self.hear)

    def hear(self, answered: int) -> None:
        self.heard += answered

    def _session(self) -> Session:
        content = content_of(self.grid)
        self.folder.path.mkdir(parents=True, exist_ok=True)
        renew(self.folder, content)
        return Session(self.grid, [self.cell], "cpu", self.grid.batch_size, RUN)

    def results(self) -> dict[str, Any]:
        """What must not depend on who answered; a time and how often an image was looked at do."""
        samples = pd.read_parquet(self.folder.samples).drop(columns="latency_ms")
        about = json.loads(self.folder.about.read_text())
        del about["evaluate_seconds"], about["features"]
        return {"metrics": self.folder.metrics.read_text(), "samples": samples.to_json(), "about": about}

    def journal(self, shard: str = "") -> list[dict[str, Any]]:
        folder = self.folder.shard(shard) if shard else self.folder
        return [json.loads(line) for line in folder.journal.read_text().splitlines()]


@pytest.fixture
def alone(grid: Grid, company: Company) -> tuple[dict[str, Any], Company]:
    """The results of one worker that does everything, and its batches."""
    work = Work(grid, Path("runs/alone"))
    work.whole()
    seen = company.copy()
    company.clear()
    assert len(seen) == 6
    return work.results(), seen


@pytest.mark.parametrize("order", ["1/1", "2/2 1/2", "3/3 1/3 2/3", "1/5 4/5 3/5 5/5 2/5", "8/8 6/8 1/8 2/8"])
def test_shards_in_any_order_give_the_results_of_one_worker(
    grid: Grid, alone: tuple[dict[str, Any], Company], company: Company, loads: list[object], order: str
) -> None:
    work = Work(grid)
    asked = 0
    for text in order.split():
        work.heard = 0
        work.shard(text)
        part = work._session().questions_of(Shard.parse(text))
        assert work.heard == part
        asked += part
        if part:
            assert len(work.journal(Shard.parse(text).file_name)) == part
    assert asked == (24 if order[0] != "8" else 12)
    assert not work.folder.metrics.exists()
    assert answers_left(work.folder, ()) == asked
    loaded = len(loads)
    assert loaded == len(order.split()) - order.count("8/8")  # a shard without a question needs no model
    work.heard = 0
    work.whole()
    assert work.heard == 24
    assert (work.results(), company) == alone
    assert len(loads) - loaded == (asked < 24)  # nor does whoever only counts
    assert work.folder.complete


def test_a_shard_says_what_it_was_answered_with(grid: Grid) -> None:
    work = Work(grid)
    work.shard("1/2")
    about = CellRecord.read(work.folder.shard("1-of-2").about)
    assert (about.status, about.cell_id, about.environment) == (None, work.folder.path.name, RUN)
    work.shard("2/2")
    work.folder.shard("1-of-2").about.write_text("{}")
    work.folder.shard("2-of-2").about.unlink()
    work.whole()  # the numbers of the model are found without them
    whole = CellRecord.read(work.folder.about)
    assert (whole.parameters, whole.prefill, whole.status) == (about.parameters, about.prefill, "done")


def test_what_shards_looked_up_is_counted_once_for_the_cell(grid: Grid) -> None:
    work = Work(grid)
    work.shard("2/2")
    part = CellRecord.read(work.folder.shard("2-of-2").about).features
    assert part is not None
    assert sum(part.values()) == work._session().questions_of(Shard.parse("2/2"))
    work.whole()
    whole = CellRecord.read(work.folder.about).features
    assert whole is not None
    assert sum(whole.values()) == 24
    assert whole["encoded"] >= part["encoded"] > 0


@pytest.mark.parametrize(
    ("torn", "kept", "then"),
    [(0, 8, ["1/2"]), (1, 8, ["2/3", "1/2"]), (150, 7, ["3/3", "1/3"]), (400, 6, ["1/2", "2/2"]), (400, 6, [])],
)
def test_after_a_kill_any_number_of_shards_goes_on(
    grid: Grid,
    alone: tuple[dict[str, Any], Company],
    company: Company,
    monkeypatch: pytest.MonkeyPatch,
    torn: int,
    kept: int,
    then: list[str],
) -> None:
    work = Work(grid)
    generate, calls = Answerer._generate_at_once, []

    def killed(self: Answerer, *given: Any) -> Any:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return generate(self, *given)

    with monkeypatch.context() as patched:
        patched.setattr(Answerer, "_generate_at_once", killed)
        with pytest.raises(KeyboardInterrupt):
            work.shard("1/2")
    journal = work.folder.shard("1-of-2").journal
    content = journal.read_bytes()
    journal.write_bytes(content[: len(content) - torn])
    assert answers_left(work.folder, ()) == kept
    for text in then:
        work.shard(text)
    work.whole()
    assert work.results() == alone[0]
    assert set(company) == set(alone[1])
    assert sum(company.values()) == 6 + (kept < 8)  # the torn batch was asked again, with its own questions
    texts = Counter((entry["task"], entry["doc_id"]) for path in work.folder.journals() for entry in entries(path))
    assert set(texts.values()) == {1}  # what was kept was not answered twice


def entries(path: Path) -> list[dict[str, Any]]:
    """What can be read of a journal."""
    found = []
    for line in path.read_bytes().splitlines():
        try:
            found.append(json.loads(line))
        except ValueError:
            continue
    return found


def test_a_task_that_changed_is_asked_again_in_shards_too(grid: Grid, root: Path, asked: list[Question]) -> None:
    work = Work(grid)
    for text in ("1/2", "2/2"):
        work.shard(text)
    asked.clear()
    change_data(root, TASKS[0])
    forget()
    assert plan_grid(grid).cells[1].cached == QUESTIONS
    for text in ("1/3", "3/3"):
        work.shard(text)
    work.whole()
    assert {question.task for question in asked} == {TASKS[0]}
    assert len(asked) == QUESTIONS
    fresh = Work(grid, Path("runs/fresh"))
    fresh.whole()
    assert work.results() == fresh.results()


def test_another_definition_takes_the_answers_of_all_journals(grid: Grid, root: Path, asked: list[Question]) -> None:
    work = Work(grid)
    work.shard("1/2")
    work.whole()
    asked.clear()
    path = root / "tasks" / "toy" / f"{TASKS[1]}.yaml"
    path.write_text(path.read_text().replace("do_sample: false", "do_sample: false, num_beams: 1"))
    forget()
    renew(work.folder, content_of(grid))
    assert answers_left(work.folder, ()) == QUESTIONS
    assert {entry["task"] for path in work.folder.journals() for entry in entries(path)} == {TASKS[0]}


def test_a_corrupt_image_fails_in_its_shard_and_is_asked_alone_after_it(
    grid: Grid, root: Path, asked: list[Question]
) -> None:
    write_tasks(root, corrupt=(3,))
    alone, work = Work(grid, Path("runs/alone")), Work(grid)
    alone.whole()
    for text in ("2/2", "1/2"):
        work.shard(text)
    asked.clear()
    work.whole()
    assert [(question.task, question.doc_id) for question in asked] == [(TASKS[1], 3)]
    assert work.results() == alone.results()


def test_a_shard_of_failures_is_no_error_before_the_cell_is_known_as_a_whole(
    grid: Grid, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corrupt = tuple(range(4))  # all that the shard has of the second task
    write_tasks(root, corrupt=corrupt)
    alone, work = Work(grid, Path("runs/alone")), Work(grid)
    alone.whole()
    work.shard("4/6")
    assert {entry["failure"][:5] for entry in work.journal("4-of-6")} == {"OSErr"}
    work.whole()
    assert work.results() == alone.results()

    def bug(self: Answerer, *given: Any) -> Any:
        raise IndexError("out of range")

    monkeypatch.setattr(Answerer, "_generate_at_once", bug)
    broken = Work(grid, Path("runs/broken"))
    broken.shard("1/2")
    with pytest.raises(CellError, match="all of the first 12 questions failed: IndexError: out of range"):
        broken.whole()


def test_whoever_lost_the_right_to_write_writes_nothing_more(grid: Grid) -> None:
    class Lost(Exception):
        pass

    calls = []

    def check() -> None:
        calls.append(1)
        if len(calls) == 3:
            raise Lost

    work = Work(grid)
    with pytest.raises(Lost):
        work.shard("1/1", check=check)
    assert len(work.journal("1-of-1")) == 2 * grid.batch_size


def test_a_batch_that_was_halved_leaves_shards_as_they_are(grid: Grid) -> None:
    work = Work(grid)
    session = Session(grid, [work.cell], "cpu", 2, RUN, dealt_by=4)
    assert [session._parts(Shard(index, 5)) for index in range(5)] == [
        work._session()._parts(Shard(index, 5)) for index in range(5)
    ]


def test_journals_are_read_together_and_written_apart(tmp_path: Path) -> None:
    folder = CellFolder(tmp_path)
    assert folder.journals() == []
    for name in ("2-of-4", "1-of-4"):
        Journal(folder.shard(name).journal)._append(b"{}\n")
    Journal(folder.journal)._append(b"{}\n")
    assert folder.journals() == [folder.shard("1-of-4").journal, folder.shard("2-of-4").journal, folder.journal]
