"""A grid names Python files with methods: they are executed because they stand there, and identified by content."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import pickle
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest

from tests.config.grid_texts import MINIMAL
from vr_eval.cli import main
from vr_eval.config.grid import Grid, load_grid
from vr_eval.config.identity import cell_id, cell_identity, checkpoint_id, checkpoint_identity
from vr_eval.methods.registry import METHODS
from vr_eval.runs.folder import write_grid
from vr_eval.runs.plan import plan_grid

Load = Callable[..., Grid]
Refused = Callable[..., str]
ROOT = Path(__file__).resolve().parents[2]
CODE = (ROOT / "tests" / "outside" / "vr_outside.py").read_text(encoding="utf-8")
GRID = """\
name: mine
backbone: micro
methods: [./my_method.py]
cells: [{projector: max_pool, ratio: 4, max_pool.bias: false}, {projector: mlp}]
"""
PRUNING = """
from dataclasses import dataclass
from vr_eval.methods.reduction import Reduction
from vr_eval.methods.random.spec import SPEC as OTHERS
from vr_eval.methods.random.spec import RandomOptions
import dataclasses

class First(Reduction):
    pass

SPEC = dataclasses.replace(OTHERS, name="first", module=__name__, cls="First")
"""
IMAGE = """
from dataclasses import dataclass
from vr_eval.methods.base import ImageMethod
from vr_eval.methods.options import ImageOptions
from vr_eval.methods.spec import MethodSpec

@dataclass(frozen=True)
class SoftOptions(ImageOptions):
    def patches(self, grid):
        return grid

SPEC = MethodSpec(name="max_pool", options=SoftOptions, version=1, summary="", source="", module=__name__,
                  cls="ImageMethod", trainable=False)
"""


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    path = tmp_path / "my_method.py"
    path.write_text(CODE)
    return path


def test_a_grid_finds_it_beside_its_file(tmp_path: Path, mine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "grid.yaml").write_text(GRID)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "my_method.py").write_text("raise RuntimeError('not this one')")
    monkeypatch.chdir(tmp_path / "elsewhere")
    grid = load_grid("../grid.yaml")
    assert [file.path for file in grid.method_files] == [str(mine)]
    assert grid.cells[0].tokens == 36
    assert json.loads(plan_grid(grid).to_json())["method_files"][0]["path"] == str(mine)


def test_it_is_never_looked_for_in_the_working_directory(tmp_path: Path, mine: Path) -> None:
    (tmp_path / "grids").mkdir()
    (tmp_path / "grids" / "grid.yaml").write_text(GRID)
    assert main(["plan", "grids/grid.yaml"]) == 2


def test_its_content_is_part_of_the_identity_of_its_own_cells_alone(mine: Path, load: Load) -> None:
    plain = load(MINIMAL).cells[0]
    before, bare = load(GRID).cells
    assert checkpoint_id(bare) == checkpoint_id(plain)
    assert checkpoint_identity(before)["methods"]["projector"]["file"] == before.methods[0].file.hash
    first = checkpoint_id(before)
    mine.write_text(CODE + "# a change\n")
    after, bare = load(GRID).cells
    assert checkpoint_id(after) != first
    assert checkpoint_id(bare) == checkpoint_id(plain)
    mine.write_text(CODE)
    assert checkpoint_id(load(GRID).cells[0]) == first


def test_a_training_free_method_changes_results_and_no_checkpoint(mine: Path, load: Load) -> None:
    mine.write_text(PRUNING)
    grid = load(f"{MINIMAL}  - {{projector: mlp, pruning: first}}\nmethods: my_method.py\n")
    plain, pruned = grid.cells
    assert checkpoint_id(plain) == checkpoint_id(pruned)
    assert cell_identity(pruned, grid)["methods"]["pruning"]["file"] == grid.method_files[0].hash
    before = cell_id(pruned, grid)
    mine.write_text(PRUNING + "\n")
    grid = load(f"{MINIMAL}  - {{projector: mlp, pruning: first}}\nmethods: my_method.py\n")
    assert cell_id(grid.cells[1], grid) != before


def test_other_grids_do_not_see_it(mine: Path, load: Load, refused: Refused) -> None:
    load(GRID)
    message = refused(GRID.replace("methods: [./my_method.py]\n", ""))
    assert "max_pool stands in a file that this grid does not name" in message


def test_what_is_executed_is_said(mine: Path, load: Load, capsys: pytest.CaptureFixture[str]) -> None:
    load(GRID)
    capsys.readouterr()
    assert main(["plan", "grid.yaml", "--json"]) == 0
    said = capsys.readouterr()
    assert said.err.startswith(f"method file {mine} (sha256 ")
    assert said.err.rstrip().endswith("): max_pool")
    assert main(["plan", "grid.yaml", "--set", "methods=[my_method.py, ./my_method.py]"]) == 0
    assert capsys.readouterr().err.count("method file") == 1
    assert main(["list", "methods", "--grid", "grid.yaml"]) == 0
    assert "\nmax_pool  (projector" in capsys.readouterr().out


def test_a_run_directory_keeps_what_was_executed(tmp_path: Path, mine: Path, load: Load) -> None:
    grid = load(GRID)
    run_dir = tmp_path / "runs" / "mine"
    run_dir.mkdir(parents=True)
    mine.write_text("changed since")
    write_grid(run_dir, grid)
    moved = (tmp_path / "runs").rename(tmp_path / "moved") / "mine"
    again = load_grid(moved / "grid.yaml")
    assert [cell_id(cell, again) for cell in again.cells] == [cell_id(cell, grid) for cell in grid.cells]
    before = sorted(moved.rglob("*"))
    write_grid(moved, again)
    assert sorted(moved.rglob("*")) == before
    assert (moved / "methods").is_dir()


def test_a_spawned_process_knows_it(mine: Path, load: Load) -> None:
    cell = load(GRID).cells[0]
    assert pickle.loads(pickle.dumps(cell)) == cell
    mine.unlink()
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        assert pool.submit(checkpoint_id, cell).result(timeout=120) == checkpoint_id(cell)


def test_refusion_goes_with_no_other_image_whatever_grid_that_leaves(mine: Path, refused: Refused) -> None:
    mine.write_text(IMAGE.replace('"max_pool"', '"soft"'))
    cell = "{projector: avg_pool, ratio: 4, refusion: vision_remember, image: soft}"
    text = refused(f"name: mine\nbackbone: micro\nmethods: [./my_method.py]\ncells: [{cell}]\n")
    assert "vision_remember looks again at the one that there was" in text


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (None, "cannot be read: No such file or directory"),
        ("x = 1\ndef broken(:\n", "my_method.py:2: the method file cannot be loaded: SyntaxError"),
        ("\nimport nowhere_at_all\n", "my_method.py:2: the method file cannot be loaded: ModuleNotFoundError"),
        ("raise RuntimeError('boom')", "my_method.py:1: the method file cannot be loaded: RuntimeError: boom"),
        ("import sys; sys.exit(3)", "cannot be loaded: SystemExit: 3"),
        ("x = '\0'", "the method file cannot be loaded"),
        ("x = 1", "holds no MethodSpec"),
        ("from vr_eval.methods.mlp.spec import SPEC", "holds no MethodSpec with module=__name__"),
        (CODE.replace("module=__name__", "module='os'"), "holds no MethodSpec with module=__name__"),
        (CODE.replace('name="max_pool"', 'name="mlp"'), "the name of its method mlp is taken"),
        (CODE.replace('name="max_pool"', 'name="none"'), "the name of its method none is taken"),
        (CODE.replace('name="max_pool"', 'name="a.b"'), "a.b: a method's name is small letters"),
        (
            CODE + "TWO = __import__('dataclasses').replace(SPEC, summary='')",
            "two of the file's methods have this name",
        ),
        (CODE.replace('cls="MaxPool"', 'cls="Pool"'), "the file has no class Pool"),
        (CODE.replace('= described(True, "whether the linear layer has a bias")', "= True"), "does not explain itself"),
        (CODE.replace("described(True,", "described(3,"), "the default of its option bias is not what it takes"),
        (
            IMAGE.replace("def patches", "def others"),
            "its options SoftOptions lack patches()",
        ),
        (IMAGE.replace(", trainable=False", ""), "holds no parameters"),
        (CODE.replace('cls="MaxPool"', 'cls="MaxPool", trainable=False'), "is trained with its checkpoint"),
    ],
)
def test_a_bad_file_is_one_clear_error(mine: Path, refused: Refused, code: str | None, message: str) -> None:
    mine.write_text(code) if code is not None else mine.unlink()
    methods = set(METHODS)
    text = refused(GRID)
    assert text.startswith("grid.yaml:3: methods: ")
    assert message in text
    assert "unknown projector" not in text
    assert set(METHODS) == methods


@pytest.mark.parametrize(
    "value", ["vr_eval.methods.mlp.spec", "os", ".", "my_method.txt", "3", "{a: b}", "a" * 4000 + ".py"]
)
def test_only_files_are_taken(tmp_path: Path, refused: Refused, value: str) -> None:
    (tmp_path / "my_method.txt").write_text(CODE)
    assert "methods" in refused(GRID.replace("[./my_method.py]", f"[{value}]"))
    assert "max_pool" not in METHODS


def test_two_files_cannot_bring_one_name(tmp_path: Path, mine: Path, refused: Refused) -> None:
    (tmp_path / "other.py").write_text(CODE + "\n")
    text = refused(GRID.replace("[./my_method.py]", "[./my_method.py, other.py]"))
    assert f"other.py: the name of its method max_pool is taken by {mine}" in text


def test_the_same_file_serves_from_two_places(tmp_path: Path, mine: Path, load: Load) -> None:
    (tmp_path / "other.py").write_text(CODE)
    grid = load(GRID)
    assert load(GRID.replace("my_method", "other")) == dataclasses.replace(grid)
