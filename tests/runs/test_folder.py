from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.adapters.world import GRID, toy_grid
from vr_eval.config.grid import Grid, load_grid
from vr_eval.errors import InputError
from vr_eval.runs.execute import run_grid
from vr_eval.runs.folder import check_run_dir, grid_text


@pytest.fixture
def plain(root: Path) -> Grid:
    """The grid without checkpoints: nothing here gets as far as them."""
    return toy_grid(root)


def refused(grid: Grid, out: Path) -> str:
    """Why `out` is refused; nothing may appear for it."""
    before = sorted(out.parent.rglob("*")) if out.parent.exists() else None
    with pytest.raises(InputError) as caught:
        run_grid(grid, out)
    assert (sorted(out.parent.rglob("*")) if out.parent.exists() else None) == before
    return str(caught.value)


def test_a_file_is_no_run_directory(plain: Grid, root: Path) -> None:
    (root / "out").write_text("mine")
    assert "this is a file, not a run directory" in refused(plain, root / "out")
    assert "is a file, not a folder" in refused(plain, root / "out" / "deeper" / "run")
    assert (root / "out").read_text() == "mine"


def test_a_folder_that_cannot_be_written(plain: Grid, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (root / "closed").mkdir()
    access = os.access
    # Not by permissions alone: tests may run as root, who can write anywhere.
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path).name != "closed" and access(path, mode))
    assert "no permission to write to" in refused(plain, root / "closed" / "run")
    assert "--out DIR" in refused(plain, root / "closed" / "run")


@pytest.mark.parametrize("name", ["x" * 300, "nul\0"])
def test_a_name_that_no_folder_can_have(plain: Grid, root: Path, name: str) -> None:
    assert "this cannot be a run directory" in refused(plain, root / name)


def test_a_folder_with_something_else_in_it(plain: Grid, root: Path) -> None:
    (root / "thesis").mkdir()
    (root / "thesis" / "chapter.tex").write_text("mine")
    assert "not empty and holds no run" in refused(plain, root / "thesis")


def test_the_run_of_another_grid(plain: Grid, root: Path) -> None:
    (root / "other").mkdir()
    (root / "other" / "grid.yaml").write_text("name: others\n")
    assert "holds the run of another grid, 'others', not of 'toys'" in refused(plain, root / "other")


def test_an_older_version_of_the_same_grid_and_an_interrupted_run_are_welcome(plain: Grid, root: Path) -> None:
    for name, files in {
        "older": {"grid.yaml": "name: toys\nlimit: 3\n"},
        "killed": {"lock": "12\n"},
        "empty": {},
    }.items():
        (root / name).mkdir()
        for file, text in files.items():
            (root / name / file).write_text(text)
        check_run_dir(root / name, plain)
    check_run_dir(root / "new" / "er", plain)


def test_a_device_that_is_not_there_is_said_before_anything_is_made(plain: Grid, root: Path) -> None:
    with pytest.raises(InputError, match="this device cannot be used"):
        run_grid(plain, root / "out", device="gpu7")
    assert not (root / "out").exists()


def test_data_that_is_not_there_is_said_before_anything_is_made(plain: Grid, root: Path) -> None:
    (root / "tasks" / "toy" / "data" / "vr_toy_doc.parquet").unlink()
    with pytest.raises(InputError, match="the data of the task vr_toy_doc cannot be loaded"):
        run_grid(plain, root / "out")
    assert not (root / "out").exists()


def test_the_written_grid_asks_the_same_question_and_loads_to_the_same_grid(plain: Grid, root: Path) -> None:
    (root / "written.yaml").write_text(grid_text(plain))
    assert (root / "written.yaml").read_text().startswith(GRID[: GRID.index("name:")])
    assert load_grid(root / "written.yaml") == plain
