"""Which questions are asked together: a pure function of questions and batch size, whatever is answered already.

Questions come in *blocks*, `BLOCK` batches of consecutive ones; inside a block they are sorted by length and cut into
batches. Shards are made of whole blocks, so that a question is in the same batch however many shards there are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import count, groupby

from vr_eval.adapters.questions import Question

BLOCK = 16
"""Batches in a block: enough for questions of about the same length to meet, which keeps padding low, and few enough
that a thousand questions can still be divided."""


def in_batches(questions: Sequence[Question], batch_size: int) -> list[list[Question]]:
    """Batches of at most `batch_size` questions of one decoding, the longest prompts of a block first."""
    size = BLOCK * batch_size
    blocks = [questions[start : start + size] for start in range(0, len(questions), size)]
    return [batch for block in blocks for batch in _sorted_batches(block, batch_size)]


def blocks_of(sizes: Sequence[int], batch_size: int) -> int:
    """How many blocks tasks of these sizes have in all."""
    return sum(math.ceil(questions / (BLOCK * batch_size)) for questions in sizes)


def part_of(sizes: Sequence[int], batch_size: int, index: int, shards: int) -> list[list[int]]:
    """Of every task, the places of the questions that shard `index` (from 0) of `shards` asks.

    Blocks are numbered through all tasks and dealt out in turn: shards differ by at most one block, in all and of every
    task, also where tasks are short. `in_batches` makes of these questions the batches that it makes of all.

    Args:
        sizes: Questions of every task.
    """
    numbers = count()
    size = BLOCK * batch_size
    parts = []
    for questions in sizes:
        starts = [start for start in range(0, questions, size) if next(numbers) % shards == index]
        parts.append([place for start in starts for place in range(start, min(start + size, questions))])
    return parts


def still_to_ask(
    batch: list[Question], answered: Callable[[Question], bool], failed: Callable[[Question], bool]
) -> list[list[Question]]:
    """What is asked of a batch of which some questions may be `answered`.

    - Nothing, where all are.
    - Where those that are not have `failed` before, each of them alone, as it was when it failed: a corrupt image does
      not cost a whole batch in every later run.
    - Otherwise the whole batch, as its answers were lost or never came: a question is then answered in the company that
      it would have had without a kill. Answers that are there already stay as they are.
    """
    missing = [question for question in batch if not answered(question)]
    if all(failed(question) for question in missing):
        return [[question] for question in missing]
    return [batch]


def _sorted_batches(block: Sequence[Question], batch_size: int) -> list[list[Question]]:
    ordered = sorted(block, key=lambda q: (q.settings, -len(q.prompt), q.prompt, q.key))
    batches = []
    for _, group in groupby(ordered, key=lambda q: q.settings):
        same = list(group)
        batches += [same[start : start + batch_size] for start in range(0, len(same), batch_size)]
    return batches
