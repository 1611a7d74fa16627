"""One cell from checkpoint to results. Heavy: brings torch and lmms-eval, and is imported only when there is work."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from vr_eval.adapters.answering import Answerer, CellError
from vr_eval.adapters.batches import blocks_of, part_of
from vr_eval.adapters.data import commit_of
from vr_eval.adapters.kept_messages import KeptMessages
from vr_eval.adapters.lmms import VrEval, answer_part, evaluate
from vr_eval.adapters.lmms_tasks import load_tasks
from vr_eval.adapters.results import Scored, TaskResult
from vr_eval.cache_folder import CacheFolder
from vr_eval.catalog.official_tasks import OFFICIAL
from vr_eval.checksums import read_manifest
from vr_eval.config.cell import Cell
from vr_eval.config.checkpoint_folders import origin_of
from vr_eval.config.grid import Grid
from vr_eval.config.identity import cell_id, cell_identity, checkpoint_id
from vr_eval.config.vision_features import LIMIT_BYTES
from vr_eval.environment import Environment
from vr_eval.files import write_atomic
from vr_eval.models.feature_store import FeatureStore
from vr_eval.models.features import levels_of
from vr_eval.models.hub import check_loading, quiet_loading
from vr_eval.paths import PACKAGE
from vr_eval.records.cell import CellRecord, MetricsRecord, Origin, TaskMetrics
from vr_eval.records.columns import CellColumns, SampleColumns
from vr_eval.records.folder import CellFolder
from vr_eval.records.frame import sample_frame, write_frame
from vr_eval.records.json_file import plain
from vr_eval.runs.cell_model import CellModel, Models, Numbers, features_with_shards, numbers_of_shards
from vr_eval.runs.content import content_of
from vr_eval.runs.device import pick_device
from vr_eval.runs.journal import Journal
from vr_eval.runs.tasks import Shard
from vr_eval.stats import stratified_mean

GOLDEN = (5**0.5 - 1) / 2
Progress = Callable[[int], None]
Check = Callable[[], None]


class Session:
    """What all cells of a grid share: tasks with their data, the store of vision features, a device.

    Attributes:
        environment: Goes into every cell's `cell.json`, since later runs may continue elsewhere.
        questions: Questions of one cell.
        local: Tasks with data on this machine.
        commits: Of tasks with data of the hub, the commit that was asked.
    """

    def __init__(
        self,
        grid: Grid,
        cells: Sequence[Cell],
        device: str,
        batch_size: int,
        environment: Environment,
        *,
        shared: bool = False,
        dealt_by: int | None = None,
        features: Path | None = None,
        in_ranges: bool = False,
    ) -> None:
        """`cells`: those to be evaluated.

        Args:
            shared: other workers may be at work on this machine.
            dealt_by: the batch size that shards are made by; default `batch_size`. One that was halved, as memory ran
                out, must not change which questions a shard has.
            features: where vision features are kept; None for nowhere.
            in_ranges: all cells are asked a range of questions before any is asked the next, and the features of a
                range fit (`ranges_that_fit`).

        Raises:
            InputError: there is no such device or way of loading weights, or a task's data cannot be loaded.
        """
        check_loading(grid.loading)  # before anything is trained
        quiet_loading()
        self.grid, self.batch_size, self.environment = grid, batch_size, environment
        self.shared = shared
        self._dealt_by = dealt_by or batch_size
        self.device = pick_device(device)
        self.messages = KeptMessages()
        self.models = Models(grid.loading, self.device)
        self.tasks = load_tasks([task for _, task in grid.tasks], grid.tasks_path)
        self.local = {task for task, content in content_of(grid).items() if "data" in content}
        commits = {name: commit_of(task.dataset[task.config.test_split]) for name, task in self.tasks.items()}
        self.commits = {name: commit for name, commit in commits.items() if commit is not None}
        kept = None if features is None else CacheFolder(features, LIMIT_BYTES, rolling=in_ranges)
        self.store = FeatureStore((level for cell in cells for level in levels_of(cell)), folder=kept)
        sizes = [len(task.eval_docs) for task in self.tasks.values()]
        self._sizes = [min(size, grid.limit or size) for size in sizes]
        self.questions = sum(self._sizes)

    @property
    def blocks(self) -> int:
        """Into how many shards the questions of one cell can be cut, at most."""
        return max(1, blocks_of(self._sizes, self._dealt_by))

    def questions_of(self, shard: Shard) -> int:
        """Questions of one cell that are this shard's."""
        return sum(map(len, self._parts(shard)))

    def run(
        self,
        cell: Cell,
        checkpoint: Path | None,
        folder: CellFolder,
        progress: Progress,
        check: Check = lambda: None,
    ) -> MetricsRecord:
        """Evaluate `cell` from its checkpoint (None: on random weights) and write its folder; returns its metrics.

        What shards have answered is not asked again. Where that is everything, no model is loaded.

        Args:
            check: called before an answer is written, and may raise.

        Raises:
            VrEvalError: it cannot be loaded or evaluated.
        """
        started, before = time.monotonic(), (self.store.encoded, self.store.found)
        model = CellModel(self.models, cell, checkpoint)
        numbers = numbers_of_shards(folder) or model.loaded.numbers
        lm = self._asked(model, Journal(folder.journal, self.local, folder.journals(), check), progress)
        name = cell_id(cell, self.grid)
        arguments = f"pretrained={checkpoint},cell={name}"
        try:
            results = [evaluate(lm, task, self.grid.limit, arguments) for task in self.tasks.values()]
        finally:
            lm.release()
            self.store.flush()
        seconds = round(time.monotonic() - started, 1)
        about = self._about(cell, checkpoint, numbers, status="done", evaluate_seconds=seconds)
        about = dataclasses.replace(about, features=features_with_shards(folder, self._looked_up(before)))
        metrics = self._metrics(name, results)
        self._write(folder, about, metrics, results)
        return metrics

    def answer(
        self,
        cell: Cell,
        checkpoint: Path | None,
        folder: CellFolder,
        shard: Shard,
        progress: Progress,
        check: Check = lambda: None,
    ) -> None:
        """Answer what nobody has answered of a shard of `cell`, into the shard's own folder; `run` scores it.

        Raises:
            VrEvalError: it cannot be loaded.
        """
        mine = folder.shard(shard.file_name)

        def write_down(numbers: Numbers) -> None:
            self._about(cell, checkpoint, numbers).write(mine.about)

        before = self.store.encoded, self.store.found
        model = CellModel(self.models, cell, checkpoint, write_down)
        lm = self._asked(model, Journal(mine.journal, self.local, folder.journals(), check), progress)
        try:
            for task, part in zip(self.tasks.values(), self._parts(shard), strict=True):
                if part:
                    answer_part(lm, task, self.grid.limit, part)
        except CellError:
            pass  # only `run`, which knows all answers, can tell whether nothing but failures comes back
        finally:
            lm.release()
            self.store.flush()
        looked_up = self._looked_up(before)
        if any(looked_up.values()):
            self._about(cell, checkpoint, model.loaded.numbers, features=looked_up).write(mine.about)

    def _looked_up(self, before: tuple[int, int]) -> dict[str, int]:
        """Images encoded and found since then."""
        return {"encoded": self.store.encoded - before[0], "found": self.store.found - before[1]}

    def _parts(self, shard: Shard) -> list[list[int]]:
        return part_of(self._sizes, self._dealt_by, shard.index, shard.count)

    def _asked(self, model: CellModel, journal: Journal, progress: Progress) -> VrEval:
        """What lmms-eval asks: it answers from the journal, and where that has no answer by the model."""
        # Cells next to each other are evaluated at once, and their places are far apart by this.
        begin = self.grid.cells.index(model.cell) * GOLDEN % 1 if self.shared else 0.0

        def answerer() -> Answerer:
            loaded = model.loaded
            return Answerer(
                loaded.model,
                loaded.processor,
                batch_size=self.batch_size,
                store=self.store,
                log=journal,
                decoding=self.grid.decoding,
                seed=model.cell.seed,
                shared=self.shared,
                begin=begin,
                messages=self.messages,
            )

        lm = VrEval.late(answerer, journal, self.batch_size, self.device)
        lm.progress = progress
        return lm

    def _about(self, cell: Cell, checkpoint: Path | None, numbers: Numbers, **ended: Any) -> CellRecord:
        return CellRecord(
            **plain(CellColumns.of(cell, self.grid)),
            identity=cell_identity(cell, self.grid),
            recipe=dataclasses.asdict(cell.recipe),
            checkpoint=_origin(checkpoint_id(cell), checkpoint),
            data_commits=self.commits,
            parameters=numbers.parameters,
            prefill=numbers.prefill,
            batch_size=self.batch_size,
            device=str(self.device),
            decoding=self.grid.decoding.stated,
            loading=dataclasses.asdict(self.grid.loading),
            environment=self.environment,
            **ended,
        )

    def _write(
        self, folder: CellFolder, about: CellRecord, metrics: MetricsRecord, results: Sequence[TaskResult]
    ) -> None:
        suites = {task: suite for suite, task in self.grid.tasks}
        for result in results:
            write_atomic(folder.output(result.task), json.dumps(result.output, indent=1, default=str) + "\n")
        samples = [
            _sample(suites[result.task], result, scored, self.environment.run_id)
            for result in results
            for scored in result.questions
        ]
        write_frame(sample_frame(samples), folder.samples)
        about.write(folder.about)
        metrics.write(folder.metrics)
        folder.error.unlink(missing_ok=True)

    def _metrics(self, name: str, results: Sequence[TaskResult]) -> MetricsRecord:
        tasks = {result.task: task_metrics(result) for result in results}
        failures = sum(task.failures for task in tasks.values())
        return MetricsRecord(name, self.environment.run_id, failures, tasks)


def _origin(name: str, checkpoint: Path | None) -> Origin:
    """Of the checkpoint `name` in its folder; None: random weights."""
    came = origin_of(checkpoint)
    if checkpoint is None:
        return Origin(name, came, None, {})
    # The place of a shipped one is the same in every checkout and every wheel.
    path = checkpoint.relative_to(PACKAGE.parent) if came == "shipped" else checkpoint
    # By model of the hub the commit that its weights, or those that it was trained from, are of.
    sources = read_manifest(checkpoint).get("sources", {})
    return Origin(name, came, str(path), sources)


def task_metrics(result: TaskResult) -> TaskMetrics:
    """Score, counts and coverage of one task."""
    scores = [scored.score for scored in result.questions if not scored.answer.failure]
    asked = len(result.questions)
    return TaskMetrics(
        metric=result.metric,
        score=_task_score(result, scores) if scores else None,
        n=len(scores),
        asked=asked,
        coverage=len(scores) / asked,
        failures=asked - len(scores),
        lmms_eval=result.aggregate,
        official=dict(result.official) or None,
    )


def _task_score(result: TaskResult, answered: Sequence[float]) -> float | None:
    """The score of a task (0 to 100) as the report computes it; None where a category of it has no answer."""
    official = OFFICIAL.get(result.task)
    if official is None or not official.by_kind:
        return 100 * sum(answered) / len(answered)
    kinds = [str(scored.doc[official.kind]) for scored in result.questions]
    scores = [scored.score for scored in result.questions]
    estimate = stratified_mean(scores, range(len(scores)), kinds).scaled(100)
    return estimate.value if estimate.known else None


def _sample(suite: str, result: TaskResult, scored: Scored, run_id: str) -> SampleColumns:
    doc, answer, official = scored.doc, scored.answer, OFFICIAL.get(result.task)
    kind, cluster = (official.kind, official.cluster) if official is not None else ("kind", "")
    return SampleColumns(
        suite=suite,
        task=result.task,
        metric=result.metric,
        doc_id=scored.doc_id,
        cluster=str(doc.get(cluster or "image_id", scored.doc_id)),
        kind=str(doc.get(kind, "")),
        question=str(doc.get("question", scored.prompt)),
        answer=answer.text,
        target=scored.target,
        score=scored.score,
        failure=answer.failure,
        latency_ms=answer.latency_ms,
        shared=answer.shared,
        new_tokens=answer.new_tokens,
        run_id=run_id,
    )
