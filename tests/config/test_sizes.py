"""Sizes of the official tasks: known or said to be unknown, never guessed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.config.folders import finished_cell
from vr_eval import paths
from vr_eval.catalog.backbones import BACKBONES, MICRO
from vr_eval.catalog.official_tasks import OFFICIAL, packaged_files
from vr_eval.catalog.sizes import PUBLISHED, published, questions_of
from vr_eval.config.grid import Grid, load_grid
from vr_eval.config.identity import cell_id
from vr_eval.runs.plan import plan_grid

PRESET = "llava_1_5_7b"


def official(tmp_path: Path, tasks: str, extra: str = "") -> Grid:
    file = tmp_path / "real.yaml"
    file.write_text(f"name: real\nbackbone: {PRESET}\ntasks: [{tasks}]\ncells:\n  - {{projector: mlp}}\n{extra}")
    return load_grid(file)


def test_every_official_task_has_a_size_with_its_source_or_is_listed_as_unknown() -> None:
    assert OFFICIAL.keys() - PUBLISHED.keys() == {"seedbench"}
    assert PUBLISHED.keys() < OFFICIAL.keys()
    assert all(size.questions > 0 and size.source for size in PUBLISHED.values())


def test_a_plan_counts_with_published_sizes_and_says_so(tmp_path: Path) -> None:
    plan = plan_grid(official(tmp_path, "ocrbench, mme"))
    assert [cell.questions for cell in plan.cells] == [1000 + 2374]
    assert "3,374 questions a cell: an estimate from published sizes" in plan.to_text()
    assert plan_grid(official(tmp_path, "vstar_bench, mme", "limit: 500\n")).cells[0].questions == 191 + 500


def test_a_size_that_nobody_states_is_no_number(tmp_path: Path) -> None:
    grid = official(tmp_path, "seedbench, mme")
    run = tmp_path / "run"
    plan = plan_grid(grid, run)
    assert plan.cells[0].questions is None
    assert plan.evaluate_seconds is None
    text = plan.to_text()
    assert " 0/? " in text
    assert "questions of seedbench: unknown before its data is opened" in text
    assert "at least 2,374 questions a cell" in text
    assert json.loads(plan.to_json())["cells"][0]["questions"] is None
    finished_cell(run / "cells" / cell_id(grid.cells[0], grid))
    done = plan_grid(grid, run)
    assert done.cells[0].complete
    assert (done.cells[0].evaluate_seconds, "1 cells: 1 answered" in done.to_text()) == (0, True)


def test_a_file_of_ones_own_may_hold_any_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert published("mme") == PUBLISHED["mme"]
    own = tmp_path / "mme.yaml"
    own.write_text(f"include: {packaged_files()['mme']}\ntask: mme\ndataset_path: parquet\nmetadata: {{version: 7}}\n")
    monkeypatch.setattr(paths, "resource", lambda name: tmp_path)
    assert published("mme") is None
    assert questions_of("mme", BACKBONES[PRESET], 5) is None


def test_the_embedded_suites_are_of_the_projects_own_size() -> None:
    assert questions_of("vr_micro_ocr", MICRO, None) == 512
    assert questions_of("vr_micro_ocr", MICRO, 5) == 5
