"""The columns of `records.parquet` and `samples.parquet`, each named once; `cell.json` begins with those of its cell.

A column is added here: a field, and in `CellColumns.of` where it comes from. With a default it may be missing from
older files, and the default says what they meant.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from vr_eval.config.cell import Cell, filled
from vr_eval.config.grid import Grid
from vr_eval.config.identity import cell_id, checkpoint_id
from vr_eval.methods.registry import NONE

RANDOM: Final = "random"
"""The `weights` of cells whose weights were drawn."""

CELL_ID: Final = "cell_id"
LABEL: Final = "label"
IS_BASELINE: Final = "is_baseline"
WEIGHTS: Final = "weights"
SEED: Final = "seed"
SUITE: Final = "suite"
TASK: Final = "task"
METRIC: Final = "metric"
DOC_ID: Final = "doc_id"
CLUSTER: Final = "cluster"
KIND: Final = "kind"
QUESTION: Final = "question"
ANSWER: Final = "answer"
TARGET: Final = "target"
SCORE: Final = "score"
FAILURE: Final = "failure"
LATENCY_MS: Final = "latency_ms"
SHARED: Final = "shared"
RUN_ID: Final = "run_id"


@dataclass(frozen=True, kw_only=True)
class CellColumns:
    """What every record of a cell, and its `cell.json`, says about it.

    Attributes:
        cell_id: Names its results.
        checkpoint_id: Names its checkpoint.
        label: The configuration for people, without the seed.
        image: The method in the image seam; older files do not say: none.
        options: JSON: method name to its options that differ from the default.
        tokens: Vision tokens per image.
        is_baseline: Whether it has the configuration that differences are taken to.
        weights: `real`, or `RANDOM`; older files do not say: real.

    Raises:
        ValueError: `options` are no JSON object of objects; the message begins with the key.
    """

    cell_id: str
    checkpoint_id: str
    label: str
    backbone: str
    projector: str
    ratio: int
    refusion: str
    pruning: str
    image: str = NONE
    options: str
    seed: int
    tokens: int
    is_baseline: bool
    weights: str = "real"

    def __post_init__(self) -> None:
        _ = self.method_options

    @classmethod
    def of(cls, cell: Cell, grid: Grid) -> CellColumns:
        """Those of a cell of `grid`."""
        return cls(
            cell_id=cell_id(cell, grid),
            checkpoint_id=checkpoint_id(cell),
            label=cell.label,
            backbone=cell.backbone,
            projector=cell.projector,
            ratio=cell.ratio,
            refusion=cell.refusion,
            pruning=cell.pruning,
            image=cell.image,
            options=json.dumps({method: dict(options) for method, options in cell.options.items()}),
            seed=cell.seed,
            tokens=cell.tokens,
            is_baseline=grid.is_baseline(cell),
            weights=RANDOM if cell.random_weights else "real",
        )

    @property
    def method_options(self) -> Mapping[str, Mapping[str, Any]]:
        """Method name to its options that differ from the default."""
        try:
            given = json.loads(self.options)
        except ValueError:
            given = None
        if not isinstance(given, dict) or not all(isinstance(values, dict) for values in given.values()):
            raise ValueError("options: this is no JSON object of objects")
        return given

    @property
    def methods(self) -> tuple[str, ...]:
        """Its projector and what was added to it."""
        return filled(self)


@dataclass(frozen=True, kw_only=True)
class SampleColumns:
    """One question of one cell.

    Attributes:
        suite: Of the task; the grid says it, so a cell's own `samples.parquet` does not have it.
        doc_id: Number of the question in its task.
        cluster: Names the image: questions on one image are no independent ones.
        kind: Kind of question; empty where the task has none.
        target: The right answer, or several beside each other.
        score: 0 to 1; NaN where it failed.
        failure: Why there is no answer; empty if there is one.
        latency_ms: Wall time, NaN where it failed.
        shared: Whether other workers may have been at work on the machine meanwhile: then `latency_ms` is throughput;
            older files do not say: no.
        new_tokens: Tokens of the answer.
        run_id: The command that asked it.
    """

    suite: str
    task: str
    metric: str
    doc_id: int
    cluster: str
    kind: str
    question: str
    answer: str
    target: str
    score: float
    failure: str
    latency_ms: float
    shared: bool = False
    new_tokens: int
    run_id: str


CELL_COLUMNS: Final = tuple(field.name for field in dataclasses.fields(CellColumns))
SAMPLE_COLUMNS: Final = tuple(field.name for field in dataclasses.fields(SampleColumns))
COLUMNS: Final = (*CELL_COLUMNS, *SAMPLE_COLUMNS)
"""Of `records.parquet`, in order."""
OLDER: Final[Mapping[str, Any]] = {
    field.name: field.default
    for field in (*dataclasses.fields(CellColumns), *dataclasses.fields(SampleColumns))
    if field.default is not dataclasses.MISSING
}
"""Columns that older files lack, with what they meant."""


def columns_of(kind: Literal["str", "int", "float", "bool"]) -> tuple[str, ...]:
    """The columns that hold text, whole numbers, numbers, or true and false."""
    fields = (*dataclasses.fields(CellColumns), *dataclasses.fields(SampleColumns))
    return tuple(field.name for field in fields if field.type == kind)  # annotations are text: `from __future__`
