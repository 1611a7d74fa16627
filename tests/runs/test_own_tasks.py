"""A run on tasks of the user's own, from a checkout and from an installed wheel."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pandas as pd
import pytest

from tests.adapters.world import GRID, TASKS, write_checkpoints, write_tasks
from vr_eval.cli import main
from vr_eval.config.grid import load_grid

CHECKOUT = Path(__file__).resolve().parents[2]


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the toy tasks in `mine/toy`, a grid beside it, and checkpoints of its cells."""
    write_tasks(tmp_path)
    (tmp_path / "tasks").rename(tmp_path / "mine")
    (tmp_path / "toys.yaml").write_text(f"{GRID}tasks_path: [mine]\n")
    monkeypatch.setenv("VR_EVAL_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    write_checkpoints(load_grid("toys.yaml").cells)
    return tmp_path


def test_a_run_asks_them_and_its_grid_says_where_they_are(elsewhere: Path) -> None:
    assert main(["run", "toys.yaml", "--device", "cpu"]) == 0
    out = elsewhere / "runs" / "toys"
    assert set(pd.read_parquet(out / "records.parquet")["task"]) == set(TASKS)
    again = load_grid(out / "grid.yaml")
    assert again.tasks_path == (str(elsewhere / "mine"),)
    shutil.rmtree(out / "images", ignore_errors=True)
    assert main(["run", str(out / "grid.yaml"), "--device", "cpu"]) == 0  # nothing is left to do but the report


def test_python_that_cannot_be_loaded_is_one_error(elsewhere: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (elsewhere / "mine" / "toy" / "scoring.py").write_text("def visual(doc:\n")
    assert main(["run", "toys.yaml", "--device", "cpu"]) == 2
    said = capsys.readouterr().err
    assert f"{elsewhere / 'mine' / 'toy' / TASKS[0]}.yaml: the task {TASKS[0]} cannot be loaded: SyntaxError" in said
    assert "Traceback" not in said
    assert not (elsewhere / "runs").exists()


@pytest.mark.slow
def test_an_installed_wheel_does_the_same(elsewhere: Path, tmp_path: Path) -> None:
    building = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", str(CHECKOUT), "-w", str(tmp_path / "w")]
    built = subprocess.run(building, capture_output=True, text=True)
    if built.returncode:
        pytest.skip(f"the wheel cannot be built here: {built.stderr.strip().splitlines()[-1]}")
    (wheel,) = (tmp_path / "w").glob("*.whl")
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    assert not (tmp_path / "site" / "tasks").exists()
    text = (elsewhere / "toys.yaml").read_text().replace("tasks_path: [mine]\n", "")
    (elsewhere / "toys.yaml").write_text(text)
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "site"), "OMP_NUM_THREADS": "1"}

    def vr_eval(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "vr_eval", *arguments]
        return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=elsewhere, timeout=600)

    where = vr_eval("plan", "toys.yaml", "--tasks-path", "mine", "--json")
    assert where.returncode == 0, where.stderr
    assert [task["task"] for task in json.loads(where.stdout)["tasks"]] == list(TASKS)
    made = vr_eval("run", "toys.yaml", "--tasks-path", "mine", "--device", "cpu")
    assert made.returncode == 0, made.stderr
    for command in ("doctor", "fetch"):
        looked = vr_eval(command, "toys.yaml", "--tasks-path", "mine")
        assert looked.returncode == 0, looked.stderr
    shipped = vr_eval("plan", "projectors")
    assert "shipped" in shipped.stdout, shipped.stderr
