"""The journals of a cell, one for each shard and one for all that no shard answered: every answer is on disk before the
next batch begins, and is not asked for again."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Container, Iterable, Sequence
from pathlib import Path
from typing import Any

from vr_eval.adapters.questions import Answer, Question

_Key = tuple[str, int, str]


class Journal:
    """Answers in a file of JSON lines, one per question; an `AnswerLog`.

    A kill can tear the last line; lines that cannot be read are passed over. Of several lines on a question the last
    one counts, but a failure never against an answer.

    Data on this machine may become other data in the meantime, so the answers of `local` tasks know the content of
    their questions, and those of others are not used.
    """

    def __init__(
        self,
        path: Path,
        local: Container[str] = (),
        others: Iterable[Path] = (),
        check: Callable[[], None] = lambda: None,
    ) -> None:
        """`others` are read too, as they are now; `check` is called before something is written, and may raise."""
        self.path, self._local, self._check = path, local, check
        self._answers: dict[_Key, dict[str, Answer]] = {}
        for other in others:
            if other != path:
                self._read_file(other)
        self._torn = self._read_file(path)

    def get(self, question: Question) -> Answer | None:
        """The answer of an earlier run; None if there is none, it was of another content, or it failed."""
        answer = self._kept(question)
        return None if answer is None or answer.failure else answer

    def failed(self, question: Question) -> bool:
        """Whether it was asked before, with this content, and failed."""
        answer = self._kept(question)
        return answer is not None and bool(answer.failure)

    def add(self, questions: Sequence[Question], answers: Sequence[Answer]) -> None:
        """Append the answers of a batch and sync them, in one step for all. Raises OSError where the disk is full."""
        self._check()
        lines, added = [], []
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
            content = self._content(question)
            entry |= {"shared": True} if answer.shared else {}
            lines.append(json.dumps({**entry, **({"content": content} if content else {})}))
            added.append((question.key, content, answer))
        self._append("".join(f"{line}\n" for line in lines).encode())
        for key, content, answer in added:
            self._keep(key, content, answer)

    def _kept(self, question: Question) -> Answer | None:
        kept = self._answers.get(question.key)
        # What does not know its content is of a task whose data is not on this machine, or of an older version.
        return kept.get(self._content(question), kept.get("")) if kept else None

    def _keep(self, key: _Key, content: str, answer: Answer) -> None:
        kept = self._answers.setdefault(key, {})
        if content in kept and answer.failure and not kept[content].failure:
            return
        if content:
            kept.pop("", None)
        kept[content] = answer

    def _content(self, question: Question) -> str:
        return question.content() if question.task in self._local else ""

    def _append(self, content: bytes) -> None:
        new = not self.path.exists()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("ab", buffering=0) as file:
            rest = memoryview(b"\n" + content if self._torn else content)
            self._torn = False
            while rest:
                rest = rest[file.write(rest) :]
            os.fsync(file.fileno())
        if new:
            folder = os.open(self.path.parent, os.O_RDONLY)
            os.fsync(folder)
            os.close(folder)

    def _read_file(self, path: Path) -> bool:
        """Whether its last line is torn."""
        content = path.read_bytes() if path.exists() else b"\n"
        for line in content.split(b"\n"):
            self._read(line)
        return not content.endswith(b"\n")

    def _read(self, line: bytes) -> None:
        try:
            entry: dict[str, Any] = json.loads(line)
            latency_ms = math.nan if entry["latency_ms"] is None else float(entry["latency_ms"])
            answer = Answer(
                text=str(entry["answer"]),
                latency_ms=latency_ms,
                new_tokens=int(entry["new_tokens"]),
                failure=str(entry["failure"]),
                shared=entry.get("shared") is True,
            )
            key = str(entry["task"]), int(entry["doc_id"]), str(entry["prompt"])
        except (ValueError, TypeError, KeyError, IndexError):  # torn, or none of ours
            return
        self._keep(key, str(entry.get("content", "")), answer)
