"""`--random-weights` through the whole commands: marked wherever anything is printed, and never beside real results."""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tests.adapters.world import GRID as TOYS
from tests.shapes import small_preset
from vr_eval.cli import main
from vr_eval.config.checkpoint_folders import trained_checkpoint
from vr_eval.config.grid import load_grid
from vr_eval.config.identity import cell_id, checkpoint_id
from vr_eval.models.build import build_lvlm
from vr_eval.models.checkpoints import save_checkpoint
from vr_eval.reporting import build
from vr_eval.runs.bench import bench_grid

NAME = "llava_next_qwen2_0_5b"
GRID = f"""\
# What does a shape cost?
name: shapes
backbone: {NAME}
tasks: [vr_toy_ocr]
limit: 4
batch_size: 2
cells:
  - {{projector: mlp}}
  - {{projector: avg_pool, ratio: 4, refusion: vision_remember}}
"""
MARK = "Random weights: tower and decoder were drawn from a seed, and no score here means anything."


@pytest.fixture
def shapes(root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A grid on a small twin of a preset, and no network."""
    small_preset(NAME, monkeypatch)

    def connect(self: socket.socket, address: Any) -> None:
        raise AssertionError(f"this asked the network: {address}")

    monkeypatch.setattr(socket.socket, "connect", connect)
    (root / "shapes.yaml").write_text(GRID)
    return root


def test_a_run_is_marked_in_every_output_and_leaves_no_checkpoint(
    shapes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", "shapes.yaml", "--random-weights"]) == 0
    planned = capsys.readouterr().out
    assert planned.count("  random  ") == 2
    assert "random weights: nothing is fetched or trained, and scores mean nothing" in planned
    assert "run directory runs/shapes-random-weights" in planned
    assert main(["plan", "shapes.yaml", "--random-weights", "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["random_weights"] is True
    assert {cell["checkpoint"] for cell in content["cells"]} == {"random"}
    assert not (shapes / "runs").exists()

    assert main(["run", "shapes.yaml", "--random-weights"]) == 0
    assert capsys.readouterr().out.splitlines()[-2] == MARK
    folder = shapes / "runs" / "shapes-random-weights"
    records = pd.read_parquet(folder / "records.parquet")
    assert set(records["weights"]) == {"random"}
    assert not records["failure"].any()
    with (folder / "table.csv").open() as file:
        assert {row["weights"] for row in csv.DictReader(file)} == {"random"}
    assert (folder / "table.md").read_text().startswith("# shapes (random weights)\n")
    assert MARK in (folder / "table.md").read_text()
    assert "shapes (random weights)." in (folder / "table.tex").read_text()
    page = (folder / "report.html").read_text()
    assert "<h1>shapes (random weights)</h1>" in page
    assert page.count(MARK) == 2  # in place of an answer, and above the table
    about = [json.loads(path.read_text()) for path in folder.glob("cells/*/cell.json")]
    assert [cell["checkpoint"]["origin"] for cell in about] == ["random"] * 2
    assert not (shapes / "home" / "checkpoints").exists()

    # The same command has nothing to do, and its run directory says what it is of.
    assert main(["run", "shapes.yaml", "--random-weights"]) == 0
    assert load_grid(folder / "grid.yaml").random_weights


def test_random_results_are_never_those_of_a_real_cell(shapes: Path) -> None:
    real, random = load_grid("shapes.yaml"), load_grid("shapes.yaml", random_weights=True)
    ids = [{cell_id(cell, grid) for cell in grid.cells} for grid in (real, random)]
    assert not ids[0] & ids[1]
    said = load_grid("shapes.yaml", ["random_weights=true"])
    assert said.cells == random.cells
    assert said.to_yaml() == random.to_yaml()
    assert "random_weights" not in real.to_yaml()


@pytest.mark.parametrize("first", ["random", "real"])
def test_a_run_directory_holds_weights_of_one_kind(
    first: str, shapes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    grids = {"random": load_grid("shapes.yaml", random_weights=True), "real": load_grid("shapes.yaml")}
    folder = shapes / "mine"
    folder.mkdir()
    (folder / "grid.yaml").write_text(grids[first].to_yaml())
    before = {path: path.read_bytes() for path in folder.iterdir()}
    other = "real" if first == "random" else "random"
    assert main(["run", "shapes.yaml", "--out", "mine", *(["--random-weights"] * (other == "random"))]) == 2
    said = capsys.readouterr().err
    assert f"mine: this folder holds a run on {first} weights, which never meet {other} ones" in said
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


def test_a_report_refuses_records_of_both_kinds(shapes: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "shapes.yaml", "--random-weights"]) == 0
    folder = shapes / "runs" / "shapes-random-weights"
    path = folder / "records.parquet"
    records = pd.read_parquet(path)
    mine = records["cell_id"] == records["cell_id"].iloc[0]
    records.loc[mine, "weights"] = "real"
    records.to_parquet(path, index=False)
    capsys.readouterr()
    assert main(["report", str(folder)]) == 2
    assert "cells on random and on real weights never stand in one report" in capsys.readouterr().err
    records.drop(columns="weights").to_parquet(path, index=False)  # from before there was such a column
    assert "random weights" not in build(folder).read_text().partition("</header>")[0]


def test_random_weights_are_never_trained(shapes: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "shapes.yaml", "--set", "random_weights=true"]) == 2
    assert "shapes.yaml: random_weights: random weights are never trained" in capsys.readouterr().err
    assert not (shapes / "home").exists()


def test_nothing_of_the_hub_is_needed(shapes: Path) -> None:
    from vr_eval.doctor.needs import needs_of

    kinds = [{need.kind for need in needs_of(load_grid("shapes.yaml", random_weights=way))} for way in (True, False)]
    assert kinds == [set(), {"weights", "training data"}]


def test_bench_says_that_its_weights_are_random(shapes: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "shapes.yaml", "--random-weights", "--repeats", "1"]) == 0
    text = capsys.readouterr().out
    assert "Random weights: all were drawn for the stated shapes, and nothing was fetched." in text
    assert "threads; bfloat16)" in text
    assert main(["bench", "shapes.yaml", "--random-weights", "--repeats", "1", "--json", "--dtype", "float32"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert (content["random_weights"], content["dtype"]) == (True, "float32")
    assert [cell["random_weights"] for cell in content["cells"]] == [True] * 2
    assert not (shapes / "home").exists()


def test_bench_never_fetches_weights_that_are_not_here(shapes: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "shapes.yaml", "--repeats", "1"]) == 0
    text = capsys.readouterr().out
    assert "All: weights that are not on this machine were not fetched, but drawn for the stated shapes." in text


def test_bench_names_the_cells_whose_weights_were_drawn(shapes: Path) -> None:
    grid = load_grid("shapes.yaml")
    model, processor = build_lvlm(dataclasses.replace(grid.cells[0], random_weights=True))
    name = checkpoint_id(grid.cells[0])
    save_checkpoint(model, processor, trained_checkpoint(grid.cells[0]), {"checkpoint_id": name})
    bench = bench_grid(grid, "cpu", 1, lambda text: None)
    assert [cell.random_weights for cell in bench.cells] == [False, True]
    assert [cell.trained for cell in bench.cells] == [True, False]
    assert "avg_pool 1/4 + vision_remember: weights that are not on this machine were not fetched" in bench.to_text()


PROBE = """\
kind: probe
name: seen
grids: [shapes.yaml]
data: [glyphs]
probes: [ridge]
train_per_class: 2
test_per_class: 1
attention_images: 2
resamples: 100
"""


def test_probes_of_random_weights_are_marked_too(shapes: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (shapes / "probe.yaml").write_text(PROBE)
    assert main(["probe", "probe.yaml", "--random-weights"]) == 0
    folder = shapes / "runs" / "seen-random-weights"
    about = json.loads((folder / "probe.json").read_text())
    assert about["random_weights"] is True
    assert [cell["origin"] for cell in about["cells"]] == ["random"] * 2
    page = (folder / "report.html").read_text()
    assert MARK in page
    assert f"<dd>{NAME}, random weights</dd>" in page
    assert "2 cells probed on random weights" in capsys.readouterr().err
    (shapes / "toys.yaml").write_text(TOYS)
    (shapes / "real.yaml").write_text(PROBE.replace("shapes.yaml", "toys.yaml"))
    assert main(["probe", "real.yaml", "--out", str(folder)]) == 2
    assert "this folder holds probes of random weights, which never meet those of real ones" in capsys.readouterr().err


def test_grids_of_both_kinds_are_not_probed_together(shapes: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (shapes / "drawn.yaml").write_text(GRID + "random_weights: true\n")
    (shapes / "probe.yaml").write_text(PROBE.replace("[shapes.yaml]", "[shapes.yaml, drawn.yaml]"))
    assert main(["probe", "probe.yaml"]) == 2
    assert "grids: random weights in one grid and real ones in another" in capsys.readouterr().err


ALONE = """\
import socket, sys
from scripts.gpu.tiny import register
register("llava_next_qwen2_0_5b")
def connect(self, address):
    raise SystemExit(f"this asked the network: {address}")
socket.socket.connect = connect
from vr_eval.cli import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "command", [["bench", "shapes.yaml", "--repeats", "1"], ["run", "shapes.yaml"], ["probe", "probe.yaml"]]
)
def test_no_request_is_made_where_the_hub_is_allowed_and_away(command: list[str], tmp_path: Path) -> None:
    """Embedded tasks and data, whose files travel with the project."""
    (tmp_path / "shapes.yaml").write_text(GRID.replace("vr_toy_ocr", "vr_micro_ocr"))
    (tmp_path / "probe.yaml").write_text(PROBE)
    environment = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    environment |= {"HF_ENDPOINT": "http://127.0.0.1:9", "VR_EVAL_HOME": str(tmp_path / "home")}
    environment["PYTHONPATH"] = str(Path(__file__).resolve().parents[2])
    call = [sys.executable, "-c", ALONE, *command, "--random-weights"]
    done = subprocess.run(call, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert "andom weights" in done.stdout + done.stderr
