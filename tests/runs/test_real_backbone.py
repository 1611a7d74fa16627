"""The whole command on a checkpoint of the field: tiny, of the real class, with tiles, in the preset's bfloat16."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from tests.llava import tiny_preset
from vr_eval.cli import main
from vr_eval.config.grid import load_grid
from vr_eval.config.identity import cell_id
from vr_eval.models import hub

GRID = """\
name: real
backbone: llava_next_vicuna_7b
tasks: [vr_toy_ocr, vr_toy_doc]
cells:
  - {projector: mlp}
  - {projector: mlp, pruning: fastv, fastv.keep_ratio: 0.25}
batch_size: 5
"""


def test_a_run_of_a_published_checkpoint_trains_nothing(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny_preset(root / "hub", monkeypatch)
    (root / "real.yaml").write_text(GRID)
    assert main(["plan", "real.yaml"]) == 0
    planned = capsys.readouterr().out
    assert planned.count(" pretrained ") == 2
    assert "0 checkpoints to train" in planned
    assert main(["run", "real.yaml"]) == 0
    grid = load_grid("real.yaml")
    records = pd.read_parquet("runs/real/records.parquet")
    assert len(records) == 2 * 24
    assert not records["failure"].any()
    for cell in grid.cells:
        about = json.loads((Path("runs/real/cells") / cell_id(cell, grid) / "cell.json").read_text())
        assert about["loading"] == {"dtype": "bfloat16", "device_map": None, "attention": None, "bits": None}
        metrics = json.loads((Path("runs/real/cells") / cell_id(cell, grid) / "metrics.json").read_text())
        assert metrics["failures"] == 0
    capsys.readouterr()
    assert main(["plan", "real.yaml"]) == 0
    assert "2 cells: 2 answered, 0 checkpoints to train" in capsys.readouterr().out
    assert main(["plan", "real.yaml", "--dtype", "float32"]) == 0
    assert "2 cells: 0 answered, 0 checkpoints" in capsys.readouterr().out  # other roundings are other results
    whole = load_grid("real.yaml", loading={"dtype": "float32", "attention": "eager"})
    assert cell_id(whole.cells[0], whole) == cell_id(
        whole.cells[0], load_grid("real.yaml", loading={"dtype": "float32"})
    )


@pytest.mark.parametrize(
    ("option", "package"), [("--bits=4", "bitsandbytes"), ("--attention=flash_attention_2", "flash_attn")]
)
def test_a_package_that_is_missing_is_said_before_anything_is_done(
    option: str, package: str, root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny_preset(root / "hub", monkeypatch)
    found = hub.importlib.util.find_spec
    monkeypatch.setattr(hub.importlib.util, "find_spec", lambda name: None if name == package else found(name))
    (root / "real.yaml").write_text(GRID)
    assert main(["run", "real.yaml", option]) == 2
    said = capsys.readouterr().err
    assert f"this needs the package {package}\n    Install it (pip install {package.replace('_', '-')})" in said
    assert "Traceback" not in said
    assert not (root / "runs").exists()


def test_weights_that_cannot_be_had_are_one_line_in_the_report_of_the_run(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (root / "real.yaml").write_text(GRID)
    assert main(["run", "real.yaml"]) == 1
    said = capsys.readouterr().err
    assert "llava-hf/llava-v1.6-vicuna-7b-hf: the configuration is not in the cache, and the hub cannot be" in said
    assert "Traceback" not in said
