"""What an evaluation of one task comes to: every question with its answer and score."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from numbers import Real
from typing import Any

from vr_eval.adapters.answering import CellError
from vr_eval.adapters.questions import Answer


@dataclass(frozen=True)
class Scored:
    """One question with its answer and its score (0 to 1, NaN if it failed)."""

    doc_id: int
    doc: Mapping[str, Any]
    prompt: str
    target: str
    answer: Answer
    score: float


@dataclass(frozen=True)
class TaskResult:
    """One task of one cell: its questions in order, and lmms-eval's own results (without its log of samples).

    `official` holds lmms-eval's own results in points, by metric, for an official task.
    """

    task: str
    metric: str
    questions: tuple[Scored, ...]
    output: Mapping[str, Any]
    pipeline: str = "none"
    official: Mapping[str, float | None] = field(default_factory=dict)

    @property
    def aggregate(self) -> float | None:
        """lmms-eval's own score, in which failed questions count as wrong; None where it gives none."""
        value = self.output["results"][self.task].get(f"{self.metric},{self.pipeline}")
        return float(value) if isinstance(value, Real) and not math.isnan(value) else None


def scored(sample: Mapping[str, Any], metric: str, answer: Answer) -> Scored:
    """A question from lmms-eval's log of samples and our own answer. Raises CellError where `metric` is no number."""
    value = sample.get(metric)
    if isinstance(value, Mapping):  # some tasks log a dictionary around the number
        value = value.get("score")
    if not isinstance(value, Real):
        raise CellError(f"the task gives no number per question under its metric {metric!r}, but {value!r}")
    return Scored(
        doc_id=int(sample["doc_id"]),
        doc=sample["doc"],
        prompt=str(sample["arguments"][0]),
        target=target_text(sample["target"]),
        answer=answer,
        score=math.nan if answer.failure else float(value),
    )


def target_text(target: Any) -> str:
    """A task's target as one text; several right answers beside each other."""
    return " | ".join(map(str, target)) if isinstance(target, list) else str(target)
