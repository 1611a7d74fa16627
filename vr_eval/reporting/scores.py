"""From records to scores per configuration, question and seed, and the estimates that the tables show.

All estimates are in points (0 to 100). Cluster labels are never shared between tasks here: tasks count as independent.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TypeAlias

import numpy as np
import pandas as pd

from vr_eval.catalog.official_tasks import OFFICIAL
from vr_eval.methods.registry import NONE
from vr_eval.records.columns import (
    CELL_ID,
    CLUSTER,
    DOC_ID,
    FAILURE,
    KIND,
    LATENCY_MS,
    METRIC,
    SCORE,
    SHARED,
    SUITE,
    TASK,
)
from vr_eval.reporting.configurations import Configuration, read_configurations
from vr_eval.reporting.source import Source
from vr_eval.stats import (
    Estimate,
    FloatArray,
    clustered_mean,
    combine,
    over_seeds,
    paired_difference,
    seed_spread,
    stratified_mean,
)

Pair: TypeAlias = tuple[Configuration, Configuration]


@dataclass(frozen=True)
class Task:
    """A task's questions. ``clusters`` and ``kinds`` are (q,); ``scores`` maps a cell id to (q,), else NaN."""

    suite: str
    name: str
    metric: str
    doc_ids: np.ndarray
    clusters: np.ndarray
    kinds: np.ndarray
    scores: Mapping[str, FloatArray]
    answered: Mapping[str, int]

    @property
    def strata(self) -> np.ndarray | None:
        """The kinds (q,), where the task's score is the mean over its kinds; None where it is over its questions."""
        official = OFFICIAL.get(self.name)
        return self.kinds if official is not None and official.by_kind else None

    def mean(self, values: FloatArray) -> Estimate:
        """The task's score from its questions' ``values`` (q,)."""
        if self.strata is None:
            return clustered_mean(values, self.clusters)
        return stratified_mean(values, self.clusters, self.strata)


@dataclass(frozen=True)
class Scores:
    """Everything a report computes with; build it with ``read_scores``.

    ``shared``: the cells of which an answer was measured while other workers may have been at work on the machine.
    """

    configurations: tuple[Configuration, ...]
    tasks: tuple[Task, ...]
    latency_ms: Mapping[str, float] = field(default_factory=dict)
    shared: frozenset[str] = frozenset()

    @cached_property
    def suites(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(task.suite for task in self.tasks))

    @property
    def asked(self) -> int:
        """Questions that a cell is asked: all that any cell of the run was asked."""
        return sum(task.doc_ids.size for task in self.tasks)

    def baseline(self, row: Configuration) -> Configuration | None:
        """The baseline of ``row``'s backbone; the first one if the grid's description fits several."""
        return next((c for c in self.configurations if c.is_baseline and c.backbone == row.backbone), None)

    def partner(self, row: Configuration) -> Configuration | None:
        """The same projector, ratio, training-free methods and options without the refusion of ``row``."""
        if row.refusion == NONE:
            return None
        return next((c for c in self.configurations if c.refusion == NONE and c.alone() == row.alone()), None)

    @cached_property
    def pairs(self) -> tuple[Pair, ...]:
        """(with refusion, without) for every row that has a partner."""
        found = ((row, self.partner(row)) for row in self.configurations)
        return tuple((row, other) for row, other in found if other is not None)

    def answered(self, row: Configuration) -> int:
        """Answers over all tasks and seeds."""
        return sum(task.answered.get(cell, 0) for task in self.tasks for cell in row.cells.values())

    def questions(self, row: Configuration) -> int:
        """Questions that at least one seed answered."""
        return sum(int((~np.isnan(self._mean(row, task))).sum()) for task in self.tasks)

    def suite(self, row: Configuration, suite: str) -> Estimate:
        """Mean over the suite's tasks."""
        return combine([task.mean(self._mean(row, task)) for task in self._of(suite)]).scaled(100)

    def average(self, row: Configuration) -> Estimate:
        """Mean over suites; unknown if a suite is."""
        return combine([self.suite(row, suite) for suite in self.suites])

    def kind(self, row: Configuration, task: Task, kind: str) -> Estimate:
        chosen = task.kinds == kind
        return clustered_mean(self._mean(row, task)[chosen], task.clusters[chosen]).scaled(100)

    def difference(self, row: Configuration, other: Configuration, suite: str | None = None) -> Estimate:
        """``row`` minus ``other`` on the questions both answered; over suites if ``suite`` is None."""
        return self.mean_difference([(row, other)], suite)

    def mean_difference(self, pairs: Sequence[Pair], suite: str | None = None) -> Estimate:
        """Mean difference over several pairs, on the questions that all of them answered.

        The pairs answer the same questions, so their differences are averaged per question before the interval is made.
        """
        if suite is None:
            return combine([self.mean_difference(pairs, suite) for suite in self.suites])
        parts = []
        for task in self._of(suite):
            sides = np.mean([self._matched(row, other, task) for row, other in pairs], axis=0)
            parts.append(paired_difference(sides[0], sides[1], task.clusters, task.strata))
        return combine(parts).scaled(100)

    def spread(self, row: Configuration) -> float:
        """Standard deviation of the average over seeds."""
        return seed_spread([self.average(_only(row, seed)).value for seed in row.cells])

    def latency(self, row: Configuration) -> float:
        """Mean wall time per answered question, milliseconds."""
        times = [self.latency_ms[cell] for cell in row.cells.values() if cell in self.latency_ms]
        return float(np.mean(times)) if times else math.nan

    def is_shared(self, row: Configuration) -> bool:
        """Whether any part of its ``latency`` is throughput: other workers may have been at work on the machine."""
        return any(cell in self.shared for cell in row.cells.values())

    def _of(self, suite: str) -> list[Task]:
        return [task for task in self.tasks if task.suite == suite]

    def _mean(self, row: Configuration, task: Task) -> FloatArray:
        return over_seeds([_scores(task, cell) for cell in row.cells.values()])

    def _matched(self, row: Configuration, other: Configuration, task: Task) -> FloatArray:
        """Scores of both (2, q) on what both answered: seed by seed where they share seeds, else their means."""
        seeds = [seed for seed in row.cells if seed in other.cells]
        if not seeds:
            return np.stack([self._mean(row, task), self._mean(other, task)])
        ours = np.stack([_scores(task, row.cells[seed]) for seed in seeds])
        theirs = np.stack([_scores(task, other.cells[seed]) for seed in seeds])
        both = ~np.isnan(ours + theirs)
        return np.stack([over_seeds(np.where(both, side, np.nan)) for side in (ours, theirs)])


def read_scores(source: Source) -> Scores:
    """Scores of all cells of a run, those without a single record included."""
    records = source.records
    tasks = tuple(_task(frame) for _, frame in records.groupby(TASK, sort=False))
    answered = records[records[FAILURE] == ""]
    latency = answered.groupby(CELL_ID)[LATENCY_MS].mean()
    return Scores(
        configurations=read_configurations(source),
        tasks=tasks,
        latency_ms={str(cell): float(value) for cell, value in latency.items() if not math.isnan(value)},
        shared=frozenset(map(str, answered.loc[answered[SHARED], CELL_ID])),
    )


def _task(frame: pd.DataFrame) -> Task:
    first = frame.drop_duplicates(DOC_ID).sort_values(DOC_ID)
    doc_ids = first[DOC_ID].to_numpy()
    scores, answered = {}, {}
    for cell, rows in frame.groupby(CELL_ID, sort=False):
        values = np.full(doc_ids.size, np.nan)
        values[np.searchsorted(doc_ids, rows[DOC_ID].to_numpy())] = rows[SCORE].to_numpy(dtype=float)
        scores[str(cell)] = values
        answered[str(cell)] = int((~np.isnan(values)).sum())
    return Task(
        suite=str(first[SUITE].iloc[0]),
        name=str(first[TASK].iloc[0]),
        metric=str(first[METRIC].iloc[0]),
        doc_ids=doc_ids,
        clusters=first[CLUSTER].to_numpy(dtype=object).astype(str),
        kinds=first[KIND].to_numpy(dtype=object).astype(str),
        scores=scores,
        answered=answered,
    )


def _scores(task: Task, cell: str) -> FloatArray:
    return task.scores.get(cell, np.full(task.doc_ids.size, np.nan))


def _only(row: Configuration, seed: int) -> Configuration:
    return replace(row, cells={seed: row.cells[seed]})
