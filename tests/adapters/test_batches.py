"""Batches are a pure function of questions and batch size, and shards are whole blocks of them."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from vr_eval.adapters.batches import BLOCK, in_batches, part_of, still_to_ask
from vr_eval.adapters.questions import Question

Key = tuple[str, int, str]
LENGTHS = st.lists(st.integers(1, 40), max_size=200)


def questions(lengths: Sequence[int]) -> list[Question]:
    """One per length; every third is decoded otherwise."""
    return [
        Question("vr_toy", number, "x" * length, {"max_new_tokens": 5 + (number % 3 == 0)}, list)
        for number, length in enumerate(lengths)
    ]


def keys(batches: Sequence[Sequence[Question]]) -> list[list[Key]]:
    return [[question.key for question in batch] for batch in batches]


@given(LENGTHS, st.integers(1, 4))
def test_every_question_is_in_one_batch_of_its_block(lengths: list[int], size: int) -> None:
    asked = questions(lengths)
    batches = in_batches(asked, size)
    assert sorted(key for batch in keys(batches) for key in batch) == sorted(q.key for q in asked)
    for batch in batches:
        assert len(batch) <= size
        assert len({q.settings for q in batch}) == 1
        assert len({q.doc_id // (BLOCK * size) for q in batch}) == 1
        assert [len(q.prompt) for q in batch] == sorted((len(q.prompt) for q in batch), reverse=True)


def test_a_block_is_sorted_by_length_and_the_next_one_begins_anew() -> None:
    lengths = [*range(1, 2 * BLOCK + 1)] * 2
    asked = [Question("vr_toy", n, "x" * length, {}, list) for n, length in enumerate(lengths)]
    found = [[len(q.prompt) for q in batch] for batch in in_batches(asked, 2)]
    block = [[longest, longest - 1] for longest in range(2 * BLOCK, 0, -2)]
    assert found == block * 2


@given(st.lists(st.integers(0, 300), max_size=5), st.integers(1, 5), st.integers(1, 40))
def test_shards_divide_the_questions_evenly(sizes: list[int], batch_size: int, shards: int) -> None:
    parts = [part_of(sizes, batch_size, index, shards) for index in range(shards)]
    for task, size in enumerate(sizes):
        places = [place for part in parts for place in part[task]]
        assert sorted(places) == [*range(size)]
        assert all(part[task] == sorted(part[task]) for part in parts)
    blocks = [sum(-(-len(places) // (BLOCK * batch_size)) for places in part) for part in parts]
    assert max(blocks) - min(blocks) <= 1


@given(LENGTHS, st.integers(1, 3), st.integers(1, 8))
def test_a_question_has_the_same_company_in_every_shard(lengths: list[int], size: int, shards: int) -> None:
    asked = questions(lengths)
    found = []
    for index in range(shards):
        (places,) = part_of([len(asked)], size, index, shards)
        found += keys(in_batches([asked[place] for place in places], size))
    assert sorted(found) == sorted(keys(in_batches(asked, size)))


def test_short_tasks_do_not_all_go_to_one_shard() -> None:
    assert [part_of([3, 3, 3], 4, index, 3) for index in range(3)] == [
        [[0, 1, 2], [], []],
        [[], [0, 1, 2], []],
        [[], [], [0, 1, 2]],
    ]


def test_a_batch_is_asked_as_a_whole_unless_all_that_it_lacks_failed_before() -> None:
    batch = questions([1, 1, 1, 1])

    def asked(answered: str, failed: str = "") -> list[list[int]]:
        parts = still_to_ask(batch, lambda q: str(q.doc_id) in answered, lambda q: str(q.doc_id) in failed)
        return [[question.doc_id for question in part] for part in parts]

    assert asked("0123") == []
    assert asked("") == [[0, 1, 2, 3]]
    assert asked("012") == [[0, 1, 2, 3]]
    assert asked("02", failed="13") == [[1], [3]]
    assert asked("02", failed="1") == [[0, 1, 2, 3]]
