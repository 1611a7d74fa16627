"""Scores by kind of question: one table per task whose questions are of several kinds."""

from __future__ import annotations

from vr_eval.reporting.columns import Column, Entry, row_name, score_entry
from vr_eval.reporting.definition import Definition
from vr_eval.reporting.notation import plural, visible
from vr_eval.reporting.scores import Scores, Task
from vr_eval.reporting.tables import Row, Table

SHOWN_KINDS = 24


def kind_tables(scores: Scores, definition: Definition) -> list[Table]:
    """A table for each task that names at least two kinds; rows in the order of the main table."""
    found = ((task, sorted(set(task.kinds.tolist()) - {""})) for task in scores.tasks)
    return [_kind_table(task, kinds[:SHOWN_KINDS], scores, definition) for task, kinds in found if len(kinds) > 1]


def _kind_table(task: Task, kinds: list[str], scores: Scores, definition: Definition) -> Table:
    columns = [Column("method", "Method", "", numeric=False)]
    for kind in kinds:
        asked = int((task.kinds == kind).sum())
        columns.append(Column(f"kind:{kind}", visible(kind.replace("_", " "), 40), plural(asked, "question")))
    rows = tuple(
        Row(
            index=row.index,
            label=visible(row.label, 200),
            entries=(
                Entry(row_name(row, definition), order=row.index),
                *(score_entry(scores.kind(row, task, kind)) for kind in kinds),
            ),
            is_baseline=row.is_baseline,
        )
        for row in scores.configurations
    )
    title = visible(f"{definition.suite(task.suite)}: {task.name}", 120)
    return Table(title, tuple(columns), rows, (visible(f"Metric: {task.metric}. In points, with 95 % intervals."),), ())
