"""Tasks of the user's own, from any folder that a grid or the command line names."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.config.grid_texts import MINIMAL
from vr_eval.catalog.official_tasks import definition_version, packaged_files
from vr_eval.catalog.tasks import task_data, task_files, task_version
from vr_eval.cli import main
from vr_eval.config.grid import Grid, load_grid
from vr_eval.config.identity import cell_identity
from vr_eval.runs.plan import plan_grid

Load = Callable[..., Grid]
Refused = Callable[..., str]
OWN = f"{MINIMAL}tasks: [my_words]\n"


def write(folder: Path, name: str, **fields: object) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.yaml"
    lines = {"task": name, "metadata": "{version: 3}", "dataset_path": "json", **fields}
    path.write_text("".join(f"{key}: {value}\n" for key, value in lines.items() if value is not None))
    return path


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    folder = tmp_path / "mine"
    write(folder / "words", "my_words")
    return folder


def test_a_grid_names_folders_relative_to_its_file(tmp_path: Path, mine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "grid.yaml").write_text(f"{OWN}tasks_path: mine\n")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    grid = load_grid("../grid.yaml")
    assert grid.tasks_path == (str(mine),)
    assert grid.tasks == (("my_words", "my_words"),)
    assert cell_identity(grid.cells[0], grid)["tasks"] == [["my_words", "3"]]
    assert plan_grid(grid).to_json()


def test_the_command_line_adds_folders_of_the_working_directory(tmp_path: Path, mine: Path, load: Load) -> None:
    write(tmp_path / "more", "my_numbers")
    text = f"{MINIMAL}tasks: [my_words, my_numbers]\ntasks_path: [mine]\n"
    grid = load(text, tasks_path=["more", "./more", "mine"])
    assert grid.tasks_path == (str(mine), str(tmp_path / "more"))
    assert load(grid.to_yaml()) == grid
    (tmp_path / "grid.yaml").write_text(f"{MINIMAL}tasks: [my_words, my_numbers]\n")
    assert main(["plan", "grid.yaml", "--tasks-path", "mine", "--tasks-path", "more"]) == 0
    assert main(["plan", "grid.yaml", "--tasks-path", "mine"]) == 2


def test_other_grids_do_not_see_them(mine: Path, load: Load, refused: Refused) -> None:
    load(OWN, tasks_path=["mine"])
    assert "unknown task (given: 'my_words'" in refused(OWN)
    assert "my_words" not in task_files()


def test_a_misspelt_task_is_told_what_is_near(mine: Path, refused: Refused) -> None:
    assert "did you mean 'my_words'?" in refused(OWN.replace("my_words", "my_wrods"), tasks_path=["mine"])


def test_names_that_are_taken_are_one_error(tmp_path: Path, mine: Path, refused: Refused) -> None:
    twice, ours = write(mine / "again", "my_words"), write(tmp_path / "more", "vr_micro_ocr")
    message = refused(OWN, tasks_path=["mine", "more"])
    second = mine / "words" / "my_words.yaml"
    assert f"{second}: task: the task my_words is defined twice" in message
    assert f"The other one is in {twice}" in message
    assert f"{ours}: task: the task vr_micro_ocr is defined twice" in message
    assert len([line for line in message.splitlines() if not line.startswith(" ")]) == 2


def test_the_same_folder_under_two_names_defines_nothing_twice(tmp_path: Path, mine: Path, load: Load) -> None:
    (tmp_path / "link").symlink_to(mine)
    assert load(OWN, tasks_path=["mine", "link"]).tasks_path == (str(mine),)


def test_an_official_task_may_be_redefined_there_too(tmp_path: Path, load: Load) -> None:
    data = tmp_path / "mine" / "pope.parquet"
    packaged = packaged_files()["pope"]
    file = write(tmp_path / "mine", "pope", include=packaged, dataset_path="parquet", metadata="{version: local}")
    grid = load(MINIMAL.replace("micro", "micro") + "tasks: [pope]\n", tasks_path=["mine"])
    assert task_files(grid.tasks_path)["pope"] == file
    assert task_version("pope", grid.tasks_path) == f"local ({definition_version()})"
    assert [source.path for source in task_data("pope", grid.tasks_path)] == ["parquet"]
    assert task_version("pope") == definition_version()
    assert not data.exists()


@pytest.mark.parametrize("name", ["../../escape", "a/b", ".hidden", "'a b'", "x" * 200])
def test_a_name_that_is_no_file_name_is_refused(mine: Path, refused: Refused, name: str) -> None:
    write(mine, "odd", task=name)
    assert f"{mine / 'odd.yaml'}: task: this cannot name a task" in refused(OWN, tasks_path=["mine"])


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        ("[absent]", "grid.yaml:6: tasks_path: there is no such folder (given: 'absent')"),
        ("[grid.yaml]", "grid.yaml:6: tasks_path: there is no such folder (given: 'grid.yaml')"),
        ("[3]", "grid.yaml:6: tasks_path: must be folders (given: 3)"),
        ("[~nobody-of-this-name/x]", "grid.yaml:6: tasks_path: this cannot be a path"),
        (f"[{'a' * 3000}]", "grid.yaml:6: tasks_path: this cannot be a path"),
        ("{a: b}", "grid.yaml:6: tasks_path: must be folders"),
    ],
)
def test_what_is_no_folder_is_refused_with_its_line(refused: Refused, folders: str, message: str) -> None:
    assert message in refused(f"{MINIMAL}tasks: [vr_micro_ocr]\ntasks_path: {folders}\n")


def test_a_file_that_is_no_yaml_is_named(mine: Path, refused: Refused) -> None:
    (mine / "torn.yaml").write_text("task: [")
    assert f"{mine / 'torn.yaml'}: the task file cannot be read" in refused(OWN, tasks_path=["mine"])


def test_hidden_folders_and_parts_define_nothing(mine: Path, load: Load) -> None:
    write(mine / ".git", "my_words")
    write(mine, "_part", task=None)
    write(mine, "by_parts", include="[_part.yaml]", metadata=None, dataset_path=None)
    grid = load(OWN, tasks_path=["mine"])
    assert task_version("by_parts", grid.tasks_path) == "3"


def test_a_folder_with_too_much_in_it_is_refused(mine: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vr_eval.catalog.tasks._MOST_ENTRIES", 10)
    for number in range(12):
        (mine / f"image{number}.png").write_bytes(b"")
    message = refused(OWN, tasks_path=["mine"])
    assert f"{mine}: a folder of tasks with more than 10 files in it" in message


def test_a_plan_executes_nothing_of_it(tmp_path: Path, mine: Path, load: Load) -> None:
    (mine / "words" / "scoring.py").write_text("raise SystemExit('executed')")
    write(mine / "words", "my_words", doc_to_text="!function scoring.text")
    assert plan_grid(load(OWN, tasks_path=["mine"])).to_text()
