from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from vr_eval.adapters.questions import Answer, Question
from vr_eval.runs.journal import Journal


def question(doc_id: int, prompt: str = "which?", **kwargs: object) -> Question:
    return Question("vr_toy_ocr", doc_id, prompt, kwargs, list)


GOOD = Answer('tea\n"two"\ud800\u2028', 1.25, 3)
FAILED = Answer("", math.nan, 0, "OSError: broken")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "cells" / "x" / "answers.jsonl"


def test_what_was_answered_is_known_again_and_what_failed_is_not(path: Path) -> None:
    Journal(path).add([question(0), question(1)], [GOOD, FAILED])
    again = Journal(path)
    assert again.get(question(0)) == GOOD
    assert again.get(question(1)) is None
    assert path.read_bytes().count(b"\n") == 2


def test_an_answer_measured_beside_other_workers_says_so_and_others_keep_their_lines(path: Path) -> None:
    Journal(path).add([question(0), question(1)], [GOOD, replace(GOOD, shared=True)])
    again = Journal(path)
    assert again.get(question(0)) == GOOD
    assert again.get(question(1)) == replace(GOOD, shared=True)
    alone, beside = map(json.loads, path.read_bytes().splitlines())
    keys = ["task", "doc_id", "prompt", "answer", "latency_ms", "new_tokens", "failure"]
    assert list(alone) == keys
    assert list(beside) == [*keys, "shared"]
    path.write_text(path.read_text().replace('"shared": true', '"shared": "<b>"'))
    assert Journal(path).get(question(1)) == GOOD


def test_another_prompt_or_decoding_is_another_question(path: Path) -> None:
    Journal(path).add([question(0)], [GOOD])
    again = Journal(path)
    assert again.get(question(0, "what?")) is None
    assert again.get(question(0, max_new_tokens=3)) is None
    assert again.get(question(2)) is None


@pytest.mark.parametrize("torn", [1, 10, 60])
def test_a_torn_last_line_costs_that_line_only(path: Path, torn: int) -> None:
    Journal(path).add([question(n) for n in range(3)], [GOOD] * 3)
    content = path.read_bytes()
    path.write_bytes(content[:-torn] if torn > 1 else content[:-2])
    journal = Journal(path)
    assert [journal.get(question(n)) is not None for n in range(3)] == [True, True, False]
    journal.add([question(2)], [GOOD])
    assert all(Journal(path).get(question(n)) for n in range(3))


def test_the_last_answer_counts(path: Path) -> None:
    journal = Journal(path)
    journal.add([question(0)], [FAILED])
    journal.add([question(0)], [GOOD])
    assert Journal(path).get(question(0)) == GOOD


def test_lines_that_are_none_of_ours_are_passed_over(path: Path) -> None:
    Journal(path).add([question(0)], [GOOD])
    with path.open("ab") as file:
        file.write(b'[]\n{"task": 1}\n\xff\xfe\nnull\n')
    assert Journal(path).get(question(0)) == GOOD


def test_other_journals_are_read_and_not_written(path: Path) -> None:
    other = path.parent / "other.jsonl"
    Journal(other).add([question(0)], [GOOD])
    content = other.read_bytes()
    journal = Journal(path, others=[other, path, path.parent / "nowhere.jsonl"])
    assert journal.get(question(0)) == GOOD
    journal.add([question(1)], [GOOD])
    assert other.read_bytes() == content
    assert Journal(path).get(question(0)) is None


def test_a_failure_never_counts_against_an_answer_of_another_journal(path: Path) -> None:
    other = path.parent / "other.jsonl"
    Journal(other).add([question(0)], [GOOD])
    Journal(path).add([question(0), question(1)], [FAILED, FAILED])
    for journal in (Journal(path, others=[other]), Journal(other, others=[path])):
        assert journal.get(question(0)) == GOOD
        assert [journal.failed(question(number)) for number in range(3)] == [False, True, False]


def test_answers_to_other_content_stand_side_by_side(path: Path) -> None:
    def about(content: str) -> Question:
        return Question("vr_toy_ocr", 0, "which?", {}, list, lambda: content)

    local = {"vr_toy_ocr"}
    other = path.parent / "other.jsonl"
    later = Answer("tea", 1.0, 2)
    Journal(other, local).add([about("new")], [later])
    Journal(path, local).add([about("old")], [GOOD])
    for journal in (Journal(path, local, [other]), Journal(other, local, [path])):
        assert (journal.get(about("new")), journal.get(about("old"))) == (later, GOOD)
        assert journal.get(about("newest")) is None
        assert not journal.failed(about("newest"))


def test_the_check_comes_before_anything_is_written(path: Path) -> None:
    def lost() -> None:
        raise RuntimeError("another worker has it")

    journal = Journal(path, check=lost)
    with pytest.raises(RuntimeError):
        journal.add([question(0)], [GOOD])
    assert not path.exists()
    assert journal.get(question(0)) is None
