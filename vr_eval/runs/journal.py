"""The journal of a cell: every answer is on disk before the next batch begins, and is not asked for again."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vr_eval.adapters.questions import Answer, Question
from vr_eval.files import append_line

_Key = tuple[str, int, str]


class Journal:
    """Answers in a file of JSON lines, one per question; an `AnswerLog`.

    A kill can tear the last line; lines that cannot be read are passed over. The last line on a question counts.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._answers: dict[_Key, Answer] = {}
        if path.exists():
            with path.open(encoding="utf-8", errors="replace") as file:
                for line in file:
                    self._read(line)

    def get(self, question: Question) -> Answer | None:
        """The answer of an earlier run; None if there is none, or it failed and is to be asked again."""
        answer = self._answers.get(question.key)
        return answer if answer is not None and not answer.failure else None

    def add(self, questions: Sequence[Question], answers: Sequence[Answer]) -> None:
        """Append the answers of a batch, synced. Raises InputError where the disk is full."""
        for question, answer in zip(questions, answers, strict=True):
            task, doc_id, prompt = question.key
            entry = {
                "task": task,
                "doc_id": doc_id,
                "prompt": prompt,
                "answer": answer.text,
                "latency_ms": None if math.isnan(answer.latency_ms) else round(answer.latency_ms, 3),
                "new_tokens": answer.new_tokens,
                "failure": answer.failure,
            }
            append_line(self.path, json.dumps(entry))
            self._answers[question.key] = answer

    def _read(self, line: str) -> None:
        try:
            entry: dict[str, Any] = json.loads(line)
            latency_ms = math.nan if entry["latency_ms"] is None else float(entry["latency_ms"])
            answer = Answer(str(entry["answer"]), latency_ms, int(entry["new_tokens"]), str(entry["failure"]))
            key = str(entry["task"]), int(entry["doc_id"]), str(entry["prompt"])
        except (ValueError, TypeError, KeyError):  # torn
            return
        self._answers[key] = answer
