"""What a run of a grid would do: its cells, what is there already, what it would train and how long that takes.

Creates nothing and imports nothing heavy.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, TypeAlias, TypeVar

from vr_eval.catalog.official_tasks import OFFICIAL
from vr_eval.catalog.recipe import DATA
from vr_eval.catalog.sizes import questions_of
from vr_eval.catalog.task_content import Content, asked_again
from vr_eval.config.cell import Cell
from vr_eval.config.grid import Grid
from vr_eval.config.identity import cell_id, checkpoint_id
from vr_eval.config.vision_features import Expected, expected
from vr_eval.errors import InputError, Problem

MEASURED_ON = "2 CPU cores"

T = TypeVar("T", int, float)
State: TypeAlias = Literal["shipped", "trained", "pretrained", "random", "to train"]


@dataclass(frozen=True)
class PlannedCell:
    """One cell of a plan.

    Attributes:
        label: The configuration.
        baseline: Whether differences are taken to it.
        seed: Its seed.
        tokens: Vision tokens per image.
        checkpoint_id: Names its checkpoint.
        cell_id: Names its results.
        checkpoint: Travels with the project, was trained on this machine, is the backbone's own, has to be trained, or
            is none, as its weights are random.
        checkpoint_path: Folder of the checkpoint, if it is there.
        cached: Questions that the run directory has answers to.
        questions: Questions of all its tasks (an estimate: tasks are not opened); ``None`` if one's size is unknown.
        complete: Whether every question has an answer.
        changed: Tasks that changed since the cell answered them, with what of them: they are asked again.
        train_seconds: Estimated; 0 if the checkpoint is there, or an earlier cell of the plan trains it. ``None`` for a
            backbone whose speed was not measured.
        evaluate_seconds: Estimated, for the questions that are not cached; ``None`` likewise.
    """

    label: str
    baseline: bool
    seed: int
    tokens: int
    checkpoint_id: str
    cell_id: str
    checkpoint: State
    checkpoint_path: str | None
    cached: int
    questions: int | None
    complete: bool
    changed: Mapping[str, str]
    train_seconds: float | None
    evaluate_seconds: float | None

    @property
    def seconds(self) -> float | None:
        """Estimated time of both."""
        return _total((self.train_seconds, self.evaluate_seconds))


@dataclass(frozen=True)
class Plan:
    """What a run would do. Estimates come from figures measured on ``MEASURED_ON``."""

    grid: Grid
    run_dir: Path
    cells: tuple[PlannedCell, ...]

    @property
    def train_seconds(self) -> float | None:
        """Estimated time of all training; ``None`` if the speed was not measured."""
        return _total(cell.train_seconds for cell in self.cells)

    @property
    def evaluate_seconds(self) -> float | None:
        """Estimated time of all evaluation; ``None`` if the speed was not measured."""
        return _total(cell.evaluate_seconds for cell in self.cells)

    @property
    def features(self) -> Expected:
        """What its cells keep of every image, whatever is answered or kept already."""
        return expected(self.grid, self.grid.cells, self.cells[0].questions if self.cells else None)

    def to_json(self) -> str:
        """The plan for programs."""
        content = {
            "name": self.grid.name,
            "source": self.grid.source,
            "method_files": [{"path": file.path, "sha256": file.hash} for file in self.grid.method_files],
            "backbone": self.grid.backbone,
            "random_weights": self.grid.random_weights,
            "run_dir": str(self.run_dir),
            "seeds": list(self.grid.seeds),
            "tasks": [{"suite": suite, "task": task} for suite, task in self.grid.tasks],
            "limit": self.grid.limit,
            "decoding": self.grid.decoding.stated,
            "recipe": asdict(self.grid.recipe),
            "cells": [asdict(cell) for cell in self.cells],
            "train_seconds": self.train_seconds,
            "evaluate_seconds": self.evaluate_seconds,
            "feature_bytes_per_image": self.features.image_bytes,
            "feature_bytes": self.features.total_bytes,
            "measured_on": MEASURED_ON,
        }
        return json.dumps(content, indent=2)

    def to_text(self) -> str:
        """The plan for people: an aligned table and totals."""
        grid = self.grid
        tasks = ", ".join(task for _, task in grid.tasks)
        rows = [("cell", "seed", "tokens", "checkpoint id", "checkpoint", "answered", "time")]
        for cell in self.cells:
            label = f"{cell.label} (baseline)" if cell.baseline else cell.label
            answered = "all" if cell.complete and cell.questions is None else f"{cell.cached}/{cell.questions or '?'}"
            time = "-" if cell.seconds is None else duration(cell.seconds)
            rows.append((label, str(cell.seed), str(cell.tokens), cell.checkpoint_id, cell.checkpoint, answered, time))
        to_train = len({cell.checkpoint_id for cell in self.cells if cell.checkpoint == "to train"})
        done = sum(cell.complete for cell in self.cells)
        return "\n".join(
            [
                f"{grid.name} ({grid.source})",
                f"  backbone {grid.backbone}{self._described()}, run directory {self.run_dir}",
                *(["  random weights: nothing is fetched or trained, and scores mean nothing"] * grid.random_weights),
                f"  tasks {tasks}" + (f", first {grid.limit} questions of each" if grid.limit else ""),
                "",
                *aligned(rows, right=("seed", "tokens", "answered", "time")),
                "",
                f"{len(self.cells)} cells: {done} answered, {to_train} checkpoints to train "
                f"({grid.recipe.steps} steps each)",
                *self._changed(),
                *self._questions(),
                f"decoding: {grid.decoding}",
                str(self.features),
                *(self._training_data() if to_train else ()),
                self._estimate(),
            ]
        )

    def _described(self) -> str:
        """What stands behind a name that only this grid knows."""
        spec = self.grid.spec
        return f" ({', '.join(map(str, spec.sources))}; the rest as {spec.preset})" if spec.preset else ""

    def _training_data(self) -> Iterator[str]:
        """What the stages train on, where it is not the embedded suites."""
        named = {stage: self.grid.recipe.data(stage) for stage in (1, 2)}
        if any(named.values()):
            own = [f"stage {stage} {'the embedded suites' if data is None else data}" for stage, data in named.items()]
            yield f"training data: {', '.join(own)}"
            own = [f"stage {stage} {data.template or 'as the model is asked'}" for stage, data in named.items() if data]
            first = "; a question's only image goes to its front" if self.grid.recipe.image_first else ""
            yield f"written as: {', '.join(own)}{first}"

    def _changed(self) -> Iterator[str]:
        """Tasks whose answers are not used any more."""
        for task, what in {task: what for cell in self.cells for task, what in cell.changed.items()}.items():
            yield f"{task}: {what} changed since it was answered; {asked_again(what)}"

    def _questions(self) -> Iterator[str]:
        """Where the number of questions comes from, if it is not the project's own."""
        grid, backbone = self.grid, self.grid.spec
        sizes = {task: questions_of(task, backbone, grid.limit, grid.tasks_path) for _, task in grid.tasks}
        unknown = [task for task, size in sizes.items() if size is None]
        if unknown:
            yield f"questions of {', '.join(unknown)}: unknown before its data is opened"
        if any(task in OFFICIAL for task in sizes):
            known = sum(size or 0 for size in sizes.values())
            least = "at least " if unknown else ""
            yield f"{least}{known:,} questions a cell: an estimate from published sizes (`vr-eval list tasks`)"

    def _estimate(self) -> str:
        train, evaluate = self.train_seconds, self.evaluate_seconds
        if train is None or evaluate is None:
            missing = f"the speed of {self.grid.backbone} was not measured"
            if self.grid.spec.eval_ms_per_question is not None and train is not None:
                missing = "the number of questions is not known"
            return f"no estimate of the time: {missing}"
        return (
            f"about {duration(train + evaluate)}: {duration(train)} to train, {duration(evaluate)} to evaluate "
            f"(by speeds measured on {MEASURED_ON})"
        )


def plan_grid(grid: Grid, out: Path | None = None) -> Plan:
    """Plan a run of ``grid`` in the run directory ``out`` (default: ``grid.run_dir``).

    Raises:
        InputError: ``out`` is a file, a task of the grid has no definition, or there is nothing to train a cell on.
    """
    run_dir = out or grid.run_dir
    if run_dir.exists() and not run_dir.is_dir():
        hint = "Choose another run directory with --out DIR."
        raise InputError(Problem("this is a file, not a run directory", file=str(run_dir), hint=hint))
    # What runs keep builds on this package, so it cannot be imported at its top.
    from vr_eval.runs.content import content_of

    content = content_of(grid)
    planned: list[PlannedCell] = []
    training: set[str] = set()
    for cell in grid.cells:
        one = _plan_cell(cell, grid, run_dir, training, content)
        if one.checkpoint == "to train":
            training.add(one.checkpoint_id)
        planned.append(one)
    if training:
        check_training_data(grid)
    return Plan(grid, run_dir, tuple(planned))


def check_training_data(grid: Grid) -> None:
    """Whether cells of ``grid`` can be trained: only the embedded backbone has suites of its own to train on.

    Raises:
        InputError: its recipe names no data for a stage.
    """
    recipe = grid.recipe
    if not grid.spec.sources:
        return
    missing = [
        Problem(
            f"no data to train {grid.backbone} on in stage {stage}",
            file=grid.source,
            line=grid.recipe_line,
            key=f"recipe.stage{stage}.data",
            allowed=DATA,
            hint="`recipe: {from: llava_next, stage1: {data: FILE, image_folder: DIR}}` is LLaVA-NeXT's recipe.",
        )
        for stage in (1, 2)
        if recipe.stage(stage).steps and recipe.data(stage) is None
    ]
    if missing:
        raise InputError(missing)


def _total(parts: Iterable[T | None]) -> T | None:
    """The sum; ``None`` if any part is unknown."""
    known = list(parts)
    return None if None in known else sum(part for part in known if part is not None)


def duration(seconds: float) -> str:
    """``seconds`` for people: ``0 s``, ``45 s``, ``12 min``, ``3 h 05 min``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"


def _plan_cell(
    cell: Cell, grid: Grid, run_dir: Path, training: set[str], content: Mapping[str, Content]
) -> PlannedCell:
    from vr_eval.config.checkpoint_folders import find_checkpoint, origin_of
    from vr_eval.records.folder import RunFolder
    from vr_eval.runs.content import answers_left, changed_since

    backbone = cell.spec
    name, result = checkpoint_id(cell), cell_id(cell, grid)
    checkpoint = find_checkpoint(cell)
    state: State = "random" if cell.random_weights else "pretrained" if cell.pretrained else "to train"
    if checkpoint is not None and state == "to train":
        state = origin_of(checkpoint)
    questions = _total(questions_of(task, backbone, grid.limit, grid.tasks_path) for _, task in grid.tasks)
    folder = RunFolder(run_dir).cell(result)
    stale = changed_since(folder, content)
    evaluated = folder.complete and not stale
    if evaluated and questions is not None:
        cached = questions  # without reading its journal, which may be long
    else:
        begun = answers_left(folder, stale)
        cached = begun if questions is None else min(begun, questions)
    to_train = state == "to train" and name not in training
    return PlannedCell(
        label=cell.label,
        baseline=grid.is_baseline(cell),
        seed=cell.seed,
        tokens=cell.tokens,
        checkpoint_id=name,
        cell_id=result,
        checkpoint=state,
        checkpoint_path=str(checkpoint) if checkpoint is not None else None,
        cached=cached,
        questions=questions,
        complete=evaluated or cached == questions,
        changed=stale,
        train_seconds=_time(cell.recipe.steps if to_train else 0, backbone.train_seconds_per_step),
        evaluate_seconds=_time(_left(questions, cached, evaluated), backbone.eval_ms_per_question, 1 / 1000),
    )


def _time(count: int | None, each: float | None, unit: float = 1.0) -> float | None:
    """Seconds of `count` steps or questions; nothing takes no time, whatever the speed."""
    if count == 0:
        return 0.0
    return None if count is None or each is None else count * each * unit


def _left(questions: int | None, cached: int, evaluated: bool) -> int | None:
    """Questions that are still to be asked; None if nobody knows."""
    if evaluated:
        return 0
    return None if questions is None else questions - cached


def aligned(rows: Sequence[tuple[str, ...]], right: tuple[str, ...]) -> list[str]:
    """`rows` as lines of equal columns, the first one underlined; the columns that `right` names to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = []
    for row in rows:
        fields = [
            text.rjust(width) if title in right else text.ljust(width)
            for text, width, title in zip(row, widths, rows[0], strict=True)
        ]
        lines.append("  ".join(fields).rstrip())
    lines.insert(1, "  ".join("-" * width for width in widths))
    return lines
