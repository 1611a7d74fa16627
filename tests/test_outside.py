"""A method of another package: one file and an entry point bring it into lists, plans, training, runs and reports."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
OUTSIDE = ROOT / "tests" / "outside"
"""As pip leaves an installed package: a module, and its metadata beside it."""
GRID = """
name: outside
backbone: micro
tasks: [vr_micro_ocr]
cells: [{projector: max_pool, ratio: 4, max_pool.bias: false}]
recipe: {images: 8, batch_size: 2, stage1: {steps: 2}, stage2: {steps: 1}}
limit: 4
"""


@pytest.fixture
def world(tmp_path: Path) -> Path:
    (tmp_path / "grid.yaml").write_text(GRID)
    return tmp_path


def vr_eval(world: Path, *arguments: str, packages: Path | None = OUTSIDE) -> subprocess.CompletedProcess[str]:
    found = os.pathsep.join(map(str, filter(None, (packages, ROOT))))
    environment = {**os.environ, "PYTHONPATH": found, "VR_EVAL_HOME": str(world / "home"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "vr_eval", *arguments]
    return subprocess.run(command, cwd=world, env=environment, capture_output=True, text=True, timeout=300)


def test_it_is_listed_with_its_package_and_its_options_are_checked(world: Path) -> None:
    text = vr_eval(world, "list", "methods").stdout
    assert "max_pool" in text
    assert "vr-outside==1.0" in text
    bad = vr_eval(world, "plan", "grid.yaml", "--set", "options.max_pool.bais=true")
    assert bad.returncode == 2
    assert "max_pool.bais" in bad.stderr
    assert "bias" in bad.stderr
    assert "Traceback" not in bad.stderr


def test_it_is_trained_run_and_reported_and_its_checkpoint_names_the_package(world: Path) -> None:
    done = vr_eval(world, "run", "grid.yaml")
    assert done.returncode == 0, done.stderr
    assert "max_pool" in (world / "runs" / "outside" / "report.html").read_text()
    (manifest,) = (world / "home" / "checkpoints").glob("*/checkpoint.json")
    lone = loaded(world, manifest.parent, "")
    assert "the method max_pool is not installed" in lone.stderr
    assert "pip install vr-outside==1.0" in lone.stderr
    assert vr_eval(world, "plan", "grid.yaml", packages=None).returncode == 2


@pytest.mark.slow
def test_a_file_that_a_grid_names_does_as_well(world: Path) -> None:
    """Trained, run and reported; the checkpoint tells which file it needs, and neither it nor a report executes any."""
    mine = world / "my_method.py"
    mine.write_text((OUTSIDE / "vr_outside.py").read_text() + "open('executed', 'a').write('once ')\n")
    (world / "grid.yaml").write_text(f"{GRID}methods: [./my_method.py]\n")
    done = vr_eval(world, "run", "grid.yaml", packages=None)
    assert done.returncode == 0, done.stderr
    assert f"method file {mine} (sha256 " in done.stderr
    assert (world / "executed").read_text() == "once "
    page = world / "runs" / "outside" / "report.html"
    page.unlink()
    assert vr_eval(world, "report", "runs/outside", packages=None).returncode == 0
    assert "max_pool" in page.read_text()
    (manifest,) = (world / "home" / "checkpoints").glob("*/checkpoint.json")
    assert json.loads(manifest.read_text())["method_files"]["max_pool"]["name"] == "my_method.py"
    alone = loaded(world, manifest.parent, "")
    assert "the method max_pool stands in the file my_method.py (sha256 " in alone.stderr
    assert "method_file=my_method.py" in alone.stderr
    assert (world / "executed").read_text() == "once "
    assert loaded(world, manifest.parent, "f.load_methods('my_method.py');").returncode == 0
    mine.write_text(mine.read_text() + "# edited\n")
    assert "holds something else" in loaded(world, manifest.parent, "f.load_methods('my_method.py');").stderr
    assert vr_eval(world, "plan", "runs/outside/grid.yaml", packages=None).stdout.count("trained") == 1


def loaded(world: Path, checkpoint: Path, before: str) -> subprocess.CompletedProcess[str]:
    """A process that loads a checkpoint with the public functions."""
    code = f"""
import pathlib
from vr_eval.methods import method_file as f
from vr_eval.models import checkpoints
{before}checkpoints.load_checkpoint(pathlib.Path({str(checkpoint)!r}))
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code]
    return subprocess.run(command, cwd=world, env=environment, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("mlp = vr_outside:SPEC", "is not the MethodSpec of a method of this name"),
        ("max_pool = vr_outside:MaxPool", "is not the MethodSpec of a method of this name"),
        ("max_pool = vr_outside:NOTHING", "cannot be loaded"),
        ("max_pool = nowhere:SPEC", "cannot be loaded"),
    ],
)
def test_a_broken_entry_point_is_one_clear_error(world: Path, entry: str, message: str) -> None:
    shutil.copytree(OUTSIDE, world / "packages")
    (world / "packages" / "vr_outside-1.0.dist-info" / "entry_points.txt").write_text(f"[vr_eval.methods]\n{entry}\n")
    done = vr_eval(world, "list", "methods", packages=world / "packages")
    assert done.returncode == 2
    assert message in done.stderr
    assert "vr-outside==1.0" in done.stderr
    assert "Traceback" not in done.stderr
