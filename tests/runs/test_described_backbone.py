"""The whole command on a backbone that the grid file describes: its weights are in a folder beside the file."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from tests.llava import ported
from vr_eval.cli import main

GRID = """\
name: own
backbone:
  name: my_llava
  from: llava_next_vicuna_7b
  checkpoint: hub/own
  grid: 6
  image_px: 24
  patch_px: 4
  tower_depth: 4
  tower_width: 16
  tower_heads: 2
  select_layer: 3
  decoder_depth: 4
  decoder_width: 32
  tiling: {pinpoints: [[24, 48], [48, 24], [48, 48], [72, 24], [24, 72]]}
  dtype: float32
tasks: [vr_toy_ocr]
cells: [{projector: mlp}]
"""


def test_a_run_of_it_gives_records_under_its_name(root: Path) -> None:
    ported("llava_next", root / "hub" / "own")
    (root / "own.yaml").write_text(GRID)
    assert main(["run", "own.yaml"]) == 0
    records = pd.read_parquet("runs/own/records.parquet")
    assert set(records["backbone"]) == {"my_llava"}
    assert not records["failure"].any()
    about = json.loads(next(Path("runs/own/cells").glob("*/cell.json")).read_text())
    assert about["loading"]["dtype"] == "float32"
    assert about["decoding"] == {}
    for report in ("report.html", "table.md", "table.tex"):
        said = (Path("runs/own") / report).read_text().lower()
        assert "what the task asks for, else greedy and no penalties." in said
    # Its resolved file names the same cells, wherever it lies.
    assert main(["plan", "runs/own/grid.yaml"]) == 0


@pytest.mark.parametrize(
    ("key", "given", "allowed"),
    [("decoder_depth", 4, 5), ("tower_width", 16, 32), ("own_projector", "'mlp'", "avg_pool")],
)
def test_sizes_that_are_not_those_of_the_weights_are_one_clear_error(
    key: str, given: object, allowed: object, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ported("llava_next", root / "hub" / "own")
    own = "avg_pool, ratio: 1" if key == "own_projector" else "mlp"
    (root / "own.yaml").write_text(GRID.replace("projector: mlp", f"projector: {own}"))
    assert main(["run", "own.yaml", "--set", f"backbone.{key}={allowed}"]) == 1
    said = capsys.readouterr().err
    assert f"{key}: these are not the weights of my_llava (given: {given}; allowed: {allowed})" in said
    assert "Traceback" not in said
