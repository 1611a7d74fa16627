"""Cells that come from several commits of one model are named, since their difference is not that of their methods."""

from __future__ import annotations

from pathlib import Path

from vr_eval.config.grid import Grid, load_grid
from vr_eval.config.identity import cell_id
from vr_eval.records.cell import CellRecord, Origin
from vr_eval.records.columns import CellColumns
from vr_eval.records.json_file import plain
from vr_eval.runs.origins import several_commits

OLD, NEW = "a" * 40, "b" * 40


def write(run_dir: Path, grid: Grid, *sources: dict[str, str]) -> None:
    for cell, found in zip(grid.cells, sources, strict=False):
        folder = run_dir / "cells" / cell_id(cell, grid)
        folder.mkdir(parents=True, exist_ok=True)
        columns = plain(CellColumns.of(cell, grid))
        record = CellRecord(**columns, checkpoint=Origin(columns["checkpoint_id"], "trained", "x", found))
        record.write(folder / "cell.json")


def test_a_branch_that_moved_between_two_cells_is_named_with_both(tmp_path: Path) -> None:
    grid = load_grid("projectors")
    write(tmp_path, grid, {"me/llava@main": OLD, "me/clip@main": OLD}, {"me/llava@main": NEW, "me/clip@main": OLD})
    (said,) = several_commits(tmp_path, grid)
    assert "several commits of me/llava@main" in said
    first, second = grid.cells[:2]
    assert f"{OLD[:12]} ({first.label}), {NEW[:12]} ({second.label})" in said


def test_cells_of_one_commit_of_before_and_of_no_model_are_no_matter(tmp_path: Path) -> None:
    grid = load_grid("projectors")
    write(tmp_path, grid, {"me/llava@main": OLD}, {"me/llava@main": OLD}, {})
    for number, checkpoint in ((3, Origin("x", "trained", "x")), (4, None)):
        older = CellRecord(**plain(CellColumns.of(grid.cells[number], grid)), checkpoint=checkpoint)
        older.write(tmp_path / "cells" / older.cell_id / "cell.json")
    assert list(several_commits(tmp_path, grid)) == []
