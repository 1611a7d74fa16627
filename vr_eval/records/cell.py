"""`cell.json`: what a cell is, and what it was evaluated with. `metrics.json`: what came out, task by task."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from vr_eval.config.checkpoint_folders import Came
from vr_eval.environment import Environment
from vr_eval.records.columns import CellColumns
from vr_eval.records.costs import Parameters, PrefillFlops
from vr_eval.records.json_file import older, read_json, write_json


@dataclass(frozen=True)
class Origin:
    """Where the weights of a cell came from.

    Attributes:
        id: The checkpoint's.
        origin: Which way they came.
        path: Folder of the checkpoint; None for random weights.
        sources: Model of the hub to the commit that the weights, or those that they were trained from, are of; None
            in older files, which do not say.
    """

    id: str
    origin: Came
    path: str | None
    sources: Mapping[str, str] | None = older()


@dataclass(frozen=True, kw_only=True)
class CellRecord(CellColumns):
    """`cell.json`. What is None was not recorded: the cell failed, or an older version evaluated it.

    Attributes:
        status: Whether it gave answers; None of a shard, and of a cell of which only its records are left.
        failure: Why it gave none.
        identity: What its result depends on, as `config.identity` put it then.
        recipe: How it was trained, by the keys of a recipe then.
        data_commits: Of tasks with data of the hub, the commit that was asked.
        evaluate_seconds: Wall time of the evaluation, answers of earlier runs and of shards not counted.
        batch_size: Questions answered at once.
        device: As torch calls it.
        decoding: What the grid stated about how answers are generated.
        loading: How weights were loaded.
        features: Images whose vision features were "encoded" for it and "found" in the store; the sum counts an image
            once for every question about it.
        environment: The machine.
    """

    status: Literal["done", "failed"] | None = older()
    failure: str | None = older()
    identity: Mapping[str, Any] | None = older()
    recipe: Mapping[str, Any] | None = older()
    checkpoint: Origin | None = older()  # noqa: RUF009 - a field, like all the others
    data_commits: Mapping[str, str] | None = older()
    parameters: Parameters | None = older()  # noqa: RUF009 - a field, like all the others
    prefill: PrefillFlops | None = older()  # noqa: RUF009 - a field, like all the others
    evaluate_seconds: float | None = older()
    batch_size: int | None = older()
    device: str | None = older()
    decoding: Mapping[str, Any] | None = older()
    loading: Mapping[str, Any] | None = older()
    features: Mapping[str, int] | None = older()
    environment: Environment | None = older()  # noqa: RUF009 - a field, like all the others

    @classmethod
    def read(cls, path: Path) -> CellRecord:
        """Raises InputError where the file cannot be read or does not fit, with every key."""
        return read_json(cls, path)

    def write(self, path: Path) -> None:
        """In one step. Raises InputError where it cannot be written."""
        write_json(self, path)


@dataclass(frozen=True)
class TaskMetrics:
    """One task of one cell.

    Attributes:
        metric: Its name.
        score: 0 to 100, over the answered questions; None where there is none.
        n: Answered questions.
        asked: All of them.
        coverage: Their ratio.
        failures: Their difference.
        lmms_eval: The aggregate that lmms-eval computed itself, where a failed question is a wrong one.
        official: Of an official task, that and its other metrics in points; None of other tasks.
    """

    metric: str
    score: float | None
    n: int
    asked: int
    coverage: float
    failures: int
    lmms_eval: float | None
    official: Mapping[str, float | None] | None = older()


@dataclass(frozen=True)
class MetricsRecord:
    """`metrics.json`: task to its metrics, and how many questions failed in all."""

    cell_id: str
    run_id: str
    failures: int
    tasks: Mapping[str, TaskMetrics]

    @classmethod
    def read(cls, path: Path) -> MetricsRecord:
        """Raises InputError where the file cannot be read or does not fit, with every key."""
        return read_json(cls, path)

    def write(self, path: Path) -> None:
        """In one step. Raises InputError where it cannot be written."""
        write_json(self, path)
