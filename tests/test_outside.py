"""A method of another package: one file and an entry point bring it into lists, plans, training, runs and reports."""

from __future__ import annotations

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
recipe: {images: 8, stage1_steps: 2, stage2_steps: 1, batch_size: 2}
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
    code = (
        "import sys, pathlib; from vr_eval.models import checkpoints as c; c.load_checkpoint(pathlib.Path(sys.argv[1]))"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code, str(manifest.parent)]
    lone = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert "the method max_pool is not installed" in lone.stderr
    assert "pip install vr-outside==1.0" in lone.stderr
    assert vr_eval(world, "plan", "grid.yaml", packages=None).returncode == 2


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
