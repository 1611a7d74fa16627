"""The checkpoints that travel with the project: all there, no others, small, and as good as the report says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from vr_eval.adapters.answering import Answerer
from vr_eval.adapters.lmms import VrEval, evaluate
from vr_eval.adapters.lmms_tasks import load_tasks
from vr_eval.adapters.results import TaskResult
from vr_eval.catalog.backbones import MICRO
from vr_eval.config.cell import Cell
from vr_eval.config.checkpoint_folders import shipped_checkpoint
from vr_eval.config.grid import Grid, load_grid
from vr_eval.config.identity import cell_id, checkpoint_id
from vr_eval.micro.build.weights import SHIPPED_GRIDS
from vr_eval.models.checkpoints import load_checkpoint

DEMO = Path(__file__).resolve().parents[1] / "reports" / "demo"
MEGABYTE = 1_000_000


@pytest.fixture(scope="module")
def grids() -> list[Grid]:
    return [load_grid(name) for name in SHIPPED_GRIDS]


def recorded(grid: Grid, cell: Cell) -> dict[str, Any]:
    path = DEMO / grid.name / "cells" / cell_id(cell, grid) / "metrics.json"
    metrics: dict[str, Any] = json.loads(path.read_text())
    return metrics["tasks"]


def run(cell: Cell, task: str, batch_size: int = 32, limit: int | None = None) -> TaskResult:
    model, processor = load_checkpoint(shipped_checkpoint(cell), expect=checkpoint_id(cell))
    lm = VrEval.around(Answerer(model.to_inference(), processor, batch_size=batch_size))
    return evaluate(lm, load_tasks([task])[task], limit, "")


def test_the_folder_holds_the_checkpoints_of_the_shipped_grids_and_nothing_else(grids: list[Grid]) -> None:
    wanted = {shipped_checkpoint(cell) for grid in grids for cell in grid.cells}
    assert set(next(iter(wanted)).parent.iterdir()) == wanted
    size = sum(file.stat().st_size for folder in wanted for file in folder.rglob("*") if file.is_file())
    assert size <= 60 * MEGABYTE


def test_the_committed_report_is_about_these_checkpoints(grids: list[Grid]) -> None:
    for grid in grids:
        for cell in grid.cells:
            scores = recorded(grid, cell)
            assert set(scores) == set(MICRO.tasks)
            assert all(task["coverage"] == 1 for task in scores.values())


@pytest.mark.parametrize("task", ["vr_micro_ocr"])
def test_a_checkpoint_scores_what_the_committed_report_says(grids: list[Grid], task: str) -> None:
    grid = grids[0]
    cell = next(cell for cell in grid.cells if cell.refusion == "vision_remember")
    result = run(cell, task)
    score = 100 * sum(question.score for question in result.questions) / len(result.questions)
    # Another CPU rounds otherwise, which may turn a near tie between two tokens: two questions of 512 at most.
    assert score == pytest.approx(recorded(grid, cell)[task]["score"], abs=0.4)


@pytest.mark.parametrize("task", MICRO.tasks)
def test_the_batch_size_changes_no_answer_of_a_trained_model(grids: list[Grid], task: str) -> None:
    cell = next(cell for cell in grids[0].cells if cell.refusion == "vision_remember")
    alone, batched = (run(cell, task, batch_size, limit=24) for batch_size in (1, 7))
    assert [q.answer.text for q in batched.questions] == [q.answer.text for q in alone.questions]
    assert len({q.answer.text for q in alone.questions}) > 3  # it answers, each question in its own way


def test_the_suites_tell_token_counts_apart(grids: list[Grid]) -> None:
    grid = next(grid for grid in grids if grid.name == "resolution")
    plain = [cell for cell in grid.cells if cell.refusion == "none"]
    scores = {cell.ratio: recorded(grid, cell) for cell in plain}
    for suite in ("ocr", "doc"):
        whole, ninth = (scores[ratio][f"vr_micro_{suite}"]["score"] for ratio in (1, 9))
        assert whole - ninth > 20
    for suite, least in {"ocr": 90, "doc": 80}.items():
        assert scores[1][f"vr_micro_{suite}"]["score"] >= least
