"""Which questions a report shows in full, and what it shows of them."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd

from vr_eval.records.columns import (
    ANSWER,
    CELL_ID,
    CLUSTER,
    DOC_ID,
    FAILURE,
    KIND,
    QUESTION,
    SCORE,
    SEED,
    SUITE,
    TARGET,
    TASK,
)
from vr_eval.records.frame import check_records
from vr_eval.reporting.notation import visible

PER_TASK = 48
SAMPLES = 480
"""So many images fit into a page's budget (`images.BUDGET_BYTES`) at the size at which text in them can be read."""
ANSWERS = 20_000
FAILED_SHARE = 1 / 8
OTHER_SHARE = 1 / 8
APART = 0.5


@dataclass(frozen=True)
class Answer:
    """What one cell answered; ``row`` is its row of the table, ``score`` None if it failed."""

    row: int
    seed: int
    text: str
    score: float | None
    failure: str


@dataclass(frozen=True)
class Sample:
    """One question with the answers of all cells; all texts are made visible and cut."""

    suite: str
    task: str
    doc_id: int
    cluster: str
    kind: str
    question: str
    target: str
    answers: tuple[Answer, ...]
    disagree: bool
    failed: bool


@dataclass(frozen=True)
class Choice:
    """How many of a task's questions are shown, out of how many, and of which sort."""

    task: str
    shown: int
    asked: int
    disagree: int
    failed: int


def samples_per_task(records: pd.DataFrame) -> int:
    """``PER_TASK``, or fewer for runs of so many cells and tasks that the page would hold over ``ANSWERS`` answers or
    ``SAMPLES`` samples."""
    cells, tasks = (max(records[name].nunique(), 1) for name in (CELL_ID, TASK))
    return max(1, min(PER_TASK, SAMPLES // tasks, ANSWERS // (cells * tasks)))


def choose_samples(records: pd.DataFrame, per_task: int | None = None) -> list[tuple[str, int]]:
    """The (task, doc_id) whose samples a report shows, so that the run can keep their images.

    Of each task ``per_task`` questions (by default ``samples_per_task``): three quarters where the cells disagree
    (scores at least 0.5 apart), an eighth with a failure, an eighth of the rest; what one sort lacks goes to the next.
    Within a sort the order is a hash of task and question, so it depends neither on the cells nor on the order of the
    records.

    Raises:
        InputError: ``records`` are not records (see ``check_records``).
    """
    records = check_records(records)
    limit = samples_per_task(records) if per_task is None else per_task
    chosen = []
    for task, frame in records.groupby(TASK, sort=False):
        disagree, failed, other = _sorts(str(task), frame)
        failed_first, other_first = failed[: int(limit * FAILED_SHARE)], other[: int(limit * OTHER_SHARE)]
        first = disagree[: limit - len(failed_first) - len(other_first)] + failed_first + other_first
        rest = [doc for doc in (*disagree, *failed, *other) if doc not in first]
        chosen += [(str(task), doc) for doc in (first + rest)[:limit]]
    return chosen


def describe_choice(records: pd.DataFrame, chosen: list[tuple[str, int]]) -> list[Choice]:
    """What ``chosen`` holds of each task."""
    described = []
    for task, frame in records.groupby(TASK, sort=False):
        docs = {doc for name, doc in chosen if name == task}
        disagree, _, _ = _sorts(str(task), frame)
        described.append(
            Choice(
                task=str(task),
                shown=len(docs),
                asked=int(frame[DOC_ID].nunique()),
                disagree=len(docs.intersection(disagree)),
                failed=len(docs & set(frame.loc[frame[FAILURE] != "", DOC_ID])),
            )
        )
    return described


def read_samples(records: pd.DataFrame, chosen: list[tuple[str, int]], rows: Mapping[str, int]) -> list[Sample]:
    """The chosen samples, in order; ``rows`` maps a cell id to the row of the table that the cell belongs to."""
    groups = dict(list(records.groupby([TASK, DOC_ID], sort=False)))
    return [_sample(groups[(task, doc)], rows) for task, doc in chosen]


def _sample(frame: pd.DataFrame, rows: Mapping[str, int]) -> Sample:
    first = frame.iloc[0]
    answers = tuple(
        Answer(
            row=rows[record[CELL_ID]],
            seed=int(record[SEED]),
            text=visible(record[ANSWER]),
            score=None if math.isnan(record[SCORE]) else round(float(record[SCORE]), 3),
            failure=visible(record[FAILURE], 300),
        )
        for record in frame.to_dict("records")
    )
    known = [answer.score for answer in answers if answer.score is not None]
    return Sample(
        suite=str(first[SUITE]),
        task=str(first[TASK]),
        doc_id=int(first[DOC_ID]),
        cluster=str(first[CLUSTER]),
        kind=visible(first[KIND], 60),
        question=visible(first[QUESTION]),
        target=visible(first[TARGET], 300),
        answers=tuple(sorted(answers, key=lambda answer: (answer.row, answer.seed))),
        disagree=bool(known) and max(known) - min(known) >= APART,
        failed=any(answer.failure for answer in answers),
    )


def _sorts(task: str, frame: pd.DataFrame) -> tuple[list[int], list[int], list[int]]:
    """Questions where cells disagree, others with a failure, and the rest, each in an order of its own."""
    scores = frame.groupby(DOC_ID)[SCORE]
    apart = scores.max() - scores.min() >= APART
    failures = frame[FAILURE].ne("").groupby(frame[DOC_ID]).any()
    order = sorted((int(doc) for doc in apart.index), key=lambda doc: hashlib.sha256(f"{task}/{doc}".encode()).digest())
    disagree = [doc for doc in order if apart[doc]]
    failed = [doc for doc in order if failures[doc] and not apart[doc]]
    return disagree, failed, [doc for doc in order if not apart[doc] and not failures[doc]]
