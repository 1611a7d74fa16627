"""Tasks, the units of work of a run: to train a checkpoint, to evaluate cells, to answer a part of a cell's questions.

Light. A task says what is done by the ids of cells, so that it can be sent anywhere; the rest is in the run directory.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from vr_eval.errors import InputError, Problem

Kind: TypeAlias = Literal["train", "evaluate", "probe"]


@dataclass(frozen=True)
class Shard:
    """One of `count` parts of a cell's questions; `index` counts from 0."""

    index: int
    count: int

    @property
    def text(self) -> str:
        """For people, counted from 1: ``2/4``."""
        return f"{self.index + 1}/{self.count}"

    @property
    def file_name(self) -> str:
        """For folders: ``2-of-4``."""
        return f"{self.index + 1}-of-{self.count}"

    @classmethod
    def parse(cls, text: str) -> Shard:
        """From ``2/4``. Raises InputError for anything else."""
        found = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text, re.ASCII)
        number, count = (int(part) for part in found.groups()) if found else (0, 0)
        if not 1 <= number <= count:
            raise InputError(Problem("this is no shard", "--shard", given=text, allowed="I/N, from 1/N to N/N"))
        return cls(number - 1, count)


@dataclass(frozen=True)
class Task:
    """Something that one worker does.

    Attributes:
        kind: Train the checkpoint that the cells share, evaluate them, or read their features for probes.
        cells: Ids of cells, in the order in which they are evaluated.
        shard: Only these questions are answered, and nothing is scored; None for all questions.
        needs: Names of the tasks that come first.
        halved: How often its batch was halved, as memory ran out.
    """

    kind: Kind
    cells: tuple[str, ...]
    shard: Shard | None = None
    needs: tuple[str, ...] = ()
    halved: int = 0

    @property
    def name(self) -> str:
        """Names it in the graph of a run: the same whatever came before, and however often it is tried."""
        part = f" {self.shard.text}" if self.shard else ""
        return f"{self.kind} {'+'.join(self.cells)}{part}"

    def with_half_the_batch(self) -> Task:
        """The same with less memory."""
        return replace(self, halved=self.halved + 1)


@dataclass(frozen=True)
class CellOutcome:
    """How a task ended for one of its cells.

    Attributes:
        cell: Its id.
        summary: Scores in words, where it has any.
        error: The first line of what went wrong; empty where nothing did.
        exit_code: What the command ends with because of it.
        again: Whether it may work when it is tried again: not where what it was given is wrong.
        memory: Whether memory ran out.
    """

    cell: str
    summary: str = ""
    error: str = ""
    exit_code: int = 0
    again: bool = False
    memory: bool = False


@dataclass(frozen=True)
class Outcome:
    """How a task ended; `fatal`: nobody can go on (a full disk), in words."""

    cells: tuple[CellOutcome, ...]
    fatal: str = ""
