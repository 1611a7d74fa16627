"""What a harness asks and what a model answers, free of any harness.

A question carries its images as a function: they are decoded when its batch is prepared, and not at all for a question
that has an answer from an earlier run.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

Messages = list[dict[str, Any]]
"""Chat messages of Hugging Face's shape; images are `{"type": "image", "image": PIL.Image.Image}`."""


@dataclass(frozen=True)
class Question:
    """One question of a task.

    Attributes:
        task: Name of the task.
        doc_id: Number of the question in the task.
        prompt: The text that the task asks, before any chat template.
        gen_kwargs: The task's `generation_kwargs`; never changed.
        load: Gives the chat messages with their images; may raise anything.
        content: Gives a hash of the document that it is made from; "" where there is none to give.
    """

    task: str
    doc_id: int
    prompt: str
    gen_kwargs: Mapping[str, Any]
    load: Callable[[], Messages]
    content: Callable[[], str] = lambda: ""

    @cached_property
    def settings(self) -> str:
        """`gen_kwargs` as canonical text: questions of one batch share it."""
        return json.dumps(self.gen_kwargs, sort_keys=True, default=str)

    @cached_property
    def key(self) -> tuple[str, int, str]:
        """Names its answer in a journal: task, number, and a hash of the prompt and how it is decoded."""
        digest = hashlib.sha256(f"{self.settings}\0{self.prompt}".encode("utf-8", "surrogatepass")).hexdigest()
        return self.task, self.doc_id, digest[:16]


@dataclass(frozen=True)
class Answer:
    """What came back.

    Attributes:
        text: The answer; empty if it failed.
        latency_ms: Share of the batch's time in `generate`, without the tower, which cells share; NaN if it failed.
        new_tokens: Generated tokens, the end of the turn included.
        failure: `ExceptionName: message`, or empty.
        shared: Other workers may have been at work on the machine: `latency_ms` is throughput, no latency.
    """

    text: str
    latency_ms: float
    new_tokens: int
    failure: str = ""
    shared: bool = False


class AnswerLog(Protocol):
    """Where answers are kept while a cell is being evaluated."""

    def get(self, question: Question) -> Answer | None:
        """The answer of an earlier run, unless it failed."""

    def failed(self, question: Question) -> bool:
        """Whether it was asked before, alone, and failed."""

    def add(self, questions: Sequence[Question], answers: Sequence[Answer]) -> None:
        """Keep the answers of a batch for good before the next batch begins."""
