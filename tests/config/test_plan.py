from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.config.folders import finished_cell
from tests.config.grid_texts import MINIMAL, PRODUCT
from vr_eval import paths
from vr_eval.catalog.backbones import BACKBONES, MICRO
from vr_eval.catalog.fields import info_of
from vr_eval.config import checkpoint_folders as store
from vr_eval.config.checkpoint_folders import find_checkpoint, trained_checkpoint
from vr_eval.config.grid import Grid
from vr_eval.config.identity import cell_id, checkpoint_id
from vr_eval.config.schema import ROW_KEYS, GridFile, document_keys, grid_keys
from vr_eval.errors import InputError
from vr_eval.listing import list_ablations, list_backbones, list_methods
from vr_eval.methods.registry import METHODS
from vr_eval.runs.plan import duration, plan_grid

Load = Callable[..., Grid]


@pytest.fixture(autouse=True)
def speeds(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Estimates that do not change with what was measured last, and a project that ships no checkpoint."""
    spec = dataclasses.replace(MICRO, train_seconds_per_step=0.5, eval_ms_per_question=10.0, test_questions=100)
    monkeypatch.setitem(BACKBONES, "micro", spec)
    monkeypatch.setattr(store, "PACKAGE", tmp_path / "package")


def complete(folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "checkpoint.json").write_text("{}")


def test_a_fresh_plan_trains_and_evaluates_everything_and_creates_nothing(load: Load, tmp_path: Path) -> None:
    grid = load(PRODUCT, "recipe.stage1.steps=10", "recipe.stage2.steps=90")
    before = set(tmp_path.rglob("*"))
    plan = plan_grid(grid)
    assert set(tmp_path.rglob("*")) == before
    assert [cell.checkpoint for cell in plan.cells] == ["to train"] * 5
    assert {(cell.cached, cell.questions) for cell in plan.cells} == {(0, 400)}
    assert plan.train_seconds == 5 * 100 * 0.5
    assert plan.evaluate_seconds == 5 * 400 * 0.01
    assert plan.run_dir == Path("runs/product")


def test_checkpoints_are_found_only_when_they_are_complete(load: Load, tmp_path: Path) -> None:
    grid = load(PRODUCT)
    shipped, trained, unfinished = grid.cells[:3]
    complete(tmp_path / "package" / "micro" / "checkpoints" / checkpoint_id(shipped))
    complete(trained_checkpoint(trained))
    trained_checkpoint(unfinished).mkdir(parents=True)
    plan = plan_grid(grid)
    assert [cell.checkpoint for cell in plan.cells] == ["shipped", "trained", "to train", "to train", "to train"]
    assert [cell.train_seconds for cell in plan.cells][:3] == [0, 0, grid.recipe.steps * 0.5]
    assert find_checkpoint(trained) == paths.home() / "checkpoints" / checkpoint_id(trained)
    assert find_checkpoint(unfinished) is None


def test_answers_in_the_run_directory_are_counted(load: Load, tmp_path: Path) -> None:
    grid = load(PRODUCT, limit=50)
    done, begun, failed = (tmp_path / "elsewhere" / "cells" / cell_id(cell, grid) for cell in grid.cells[:3])
    for folder in (done, failed):
        finished_cell(folder)
    metrics = json.loads((failed / "metrics.json").read_text())
    (failed / "metrics.json").write_text(json.dumps({**metrics, "failures": 1}))
    lines = [
        json.dumps({"task": "vr_micro_ocr", "doc_id": number, "prompt": "p", "answer": "a", "failure": failure})
        for number, failure in [(0, ""), (1, ""), (2, "out of memory"), (2, ""), (3, "out of memory")]
    ]
    for folder, torn in ((begun, '{"task": "vr_micro_ocr", "doc'), (failed, "")):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "answers.jsonl").write_text("\n".join([*lines, torn]))
    plan = plan_grid(grid, tmp_path / "elsewhere")
    assert [(cell.cached, cell.questions) for cell in plan.cells][:4] == [(200, 200), (3, 200), (3, 200), (0, 200)]
    assert [cell.complete for cell in plan.cells][:4] == [True, False, False, False]
    assert plan.cells[0].evaluate_seconds == 0
    assert plan.cells[1].evaluate_seconds == plan.cells[2].evaluate_seconds == pytest.approx(1.97)


def test_a_checkpoint_that_two_cells_share_is_trained_once(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(METHODS, "vision_remember", dataclasses.replace(METHODS["vision_remember"], trainable=False))
    plan = plan_grid(load(PRODUCT))
    assert plan.cells[0].checkpoint_id == plan.cells[1].checkpoint_id
    assert plan.cells[0].cell_id != plan.cells[1].cell_id
    assert [cell.train_seconds > 0 for cell in plan.cells[:2]] == [True, False]


def test_the_table_is_aligned_and_names_the_baseline(load: Load) -> None:
    grid = load(PRODUCT, limit=5)
    lines = plan_grid(grid).to_text().splitlines()
    table = lines[4:11]
    ends = {len(line) for line in table}
    assert len(ends) == 1
    assert table[0].split() == ["cell", "seed", "tokens", "checkpoint", "id", "checkpoint", "answered", "time"]
    assert table[-1].startswith("mlp (baseline) ")
    assert "first 5 questions of each" in lines[2]
    assert f"5 cells: 0 answered, 5 checkpoints to train ({grid.recipe.steps} steps each)" in lines
    assert "measured on 2 CPU cores" in lines[-1]


def test_the_json_holds_what_the_table_shows(load: Load) -> None:
    plan = plan_grid(load(PRODUCT, limit=5))
    content = json.loads(plan.to_json())
    assert [cell["label"] for cell in content["cells"]] == [cell.label for cell in plan.cells]
    assert [cell["baseline"] for cell in content["cells"]] == [False] * 4 + [True]
    assert content["tasks"][0] == {"suite": "ocr", "task": "vr_micro_ocr"}
    assert content["recipe"]["stage2"]["steps"] == plan.grid.recipe.stage2.steps
    assert content["train_seconds"] == plan.train_seconds


def test_a_file_cannot_be_a_run_directory(load: Load, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("")
    with pytest.raises(InputError, match=r"out: this is a file, not a run directory\n.*--out DIR"):
        plan_grid(load(MINIMAL), tmp_path / "out")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (0.4, "0 s"), (89, "89 s"), (600, "10 min"), (5399, "1 h 30 min"), (11100, "3 h 05 min")],
)
def test_durations_are_written_for_people(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_every_key_of_a_grid_file_is_documented() -> None:
    text = document_keys()
    for key in (*grid_keys(), *ROW_KEYS, "steps", "lr_decoder"):
        assert f"\n  {key}" in text
    assert max(map(len, text.splitlines())) <= 100


def test_every_example_of_the_documentation_is_valid(tmp_path: Path, load: Load) -> None:
    shutil.copy(Path(__file__).parents[1] / "outside" / "vr_outside.py", tmp_path / "my_method.py")
    examples = {field.name: info_of(field).example for field in dataclasses.fields(GridFile)}
    assert all(example.startswith(f"{key}: ") for key, example in examples.items())
    together = set(examples) - {"tasks", "grid", "exclude", "options"}
    load("\n".join(examples[key] for key in together))
    load("\n".join([examples["name"], examples["backbone"], examples["grid"], examples["tasks"]]))
    grid = "grid: {projector: avg_pool, ratio: [4, 9], refusion: [none, vision_remember]}"
    load("\n".join([examples["name"], examples["backbone"], grid, examples["exclude"], examples["options"]]))


def test_the_list_of_methods_shows_seam_defaults_tokens_and_sources() -> None:
    text = list_methods("micro")
    assert "mlp  (projector, trained, version 1)" in text
    assert "1/1: 144, 1/4: 36, 1/9: 16, 1/16: 9" in text
    assert "here [2, 3, 4]" in " ".join(text.split())


def test_methods_of_an_unknown_backbone_are_refused() -> None:
    with pytest.raises(InputError, match=r"--backbone: unknown backbone .*did you mean 'micro'"):
        list_methods("mikro")


def test_backbones_and_ablations_are_listed(resources: Path) -> None:
    assert "12x12 patches" in list_backbones()
    (resources / "ablations" / "other.yaml").write_text("# Is it so?\n" + MINIMAL)
    assert "other            Is it so?" in list_ablations()
