"""The script for a GPU: every check runs at small width on a CPU, one that fails stops no other, time is kept."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from scripts.gpu.bed import cells_of
from scripts.gpu.ledger import Ledger
from vr_eval.methods.registry import METHODS

ROOT = Path(__file__).resolve().parents[1]
ABOUT = {"backbone": "b", "machine": "m", "dtype": "d", "attention": "a", "environment": {"started": "now"}}


def test_every_method_of_the_registry_has_a_cell() -> None:
    cells = cells_of("llava_next_qwen2_7b")
    assert {method.name for cell in cells for method in cell.methods} == set(METHODS)
    assert cells[0].label == "mlp"
    assert all(cell.random_weights for cell in cells)


def test_a_check_that_fails_stops_no_other_and_what_time_does_not_suffice_for_is_named(tmp_path: Path) -> None:
    ledger = Ledger(dict(ABOUT), budget_s=60, first_s=1)

    def broken() -> dict[str, float]:
        raise ValueError("a | b\nc")

    ledger.run("batches", broken, "mlp")
    ledger.run("batches", lambda: {"relative_difference": 0.5}, "avg_pool")
    assert ledger.failed
    ledger.run("flash attention", lambda: {"skipped": "not installed"})
    ledger.budget_s = 0
    ledger.run("bench", lambda: pytest.fail("there is no time left"))
    ledger.write(tmp_path / "gpu", "card")
    results = json.loads((tmp_path / "gpu" / "card.json").read_text())["results"]
    assert [result["outcome"] for result in results] == ["failed", "passed", "skipped", "left out"]
    assert "ValueError: a | b" in results[0]["reason"]
    assert "Traceback" in results[0]["traceback"]
    page = (tmp_path / "gpu" / "card.md").read_text()
    assert "| mlp | failed |" in page
    assert "| avg_pool | 0.5 |" in page
    assert "| batches | mlp | failed | ValueError: a / b |" in page
    assert page.endswith("Left out, as the time was nearly over: bench.\n")


def run(tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    environment |= {"HF_ENDPOINT": "http://127.0.0.1:9", "VR_EVAL_HOME": str(tmp_path / "home")}
    call = [
        sys.executable,
        str(ROOT / "scripts" / "gpu_check.py"),
        "--tiny",
        "--out",
        str(tmp_path / "gpu"),
        *arguments,
    ]
    return subprocess.run(call, env=environment, capture_output=True, text=True, timeout=900, check=False)


@pytest.mark.slow
def test_all_checks_pass_at_small_width_without_network(tmp_path: Path) -> None:
    done = run(tmp_path, "--budget", "800")
    assert done.returncode == 0, done.stdout + done.stderr
    (file,) = (tmp_path / "gpu").glob("*-tiny.json")
    content = json.loads(file.read_text())
    outcomes = {(result["check"], result["method"]): result["outcome"] for result in content["results"]}
    assert set(outcomes.values()) <= {"passed", "skipped"}
    assert {check for check, _ in outcomes} == {
        *("batches", "cache", "costs", "flash attention", "out of memory", "probes", "bench", "training")
    }
    halved = next(result for result in content["results"] if result["check"] == "out of memory")
    assert halved["values"]["batches"] == [8, 4, 2, 2, 4, 2, 2]
    page = file.with_suffix(".md").read_text()
    assert all(f"| {cell.label} | " in page for cell in cells_of("llava_next_qwen2_7b"))
    assert "Left out, as the time was nearly over: nothing." in page


@pytest.mark.slow
def test_a_budget_that_is_too_small_ends_cleanly(tmp_path: Path) -> None:
    done = run(tmp_path, "--budget", "2")
    assert done.returncode == 0, done.stdout + done.stderr
    (file,) = (tmp_path / "gpu").glob("*-tiny.json")
    outcomes = [result["outcome"] for result in json.loads(file.read_text())["results"]]
    assert outcomes[-1] == "left out"
