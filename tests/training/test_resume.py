"""`vr-eval train FILE`, cut off in the middle of a stage, ends with the losses and weights of a run that was not."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from vr_eval import cli
from vr_eval.config import checkpoint_folders as store
from vr_eval.training import cell as module
from vr_eval.training import sources
from vr_eval.training.data import collate
from vr_eval.training.trainer import Schedule

GRID = """\
# Does it resume?
name: resuming
backbone: micro
seeds: [0]
suites: [ocr]
cells:
  - {projector: avg_pool, ratio: 9, refusion: vision_remember}
baseline: {projector: avg_pool}
recipe: {images: 4, questions: 2, batch_size: 4, stage1: {steps: 10}, stage2: {steps: 20}}
"""
STEPS = 10 + 20


def train(root: Path, monkeypatch: pytest.MonkeyPatch, home: str, batches: int | None = None) -> int:
    """The command in a home of its own; interrupted when the batch after `batches` is asked for."""
    monkeypatch.setenv("VR_EVAL_HOME", str(root / home))
    asked = 0

    def counted(rows: Any, pad_token_id: int) -> Any:
        nonlocal asked
        asked += 1
        if batches is not None and asked > batches:
            raise KeyboardInterrupt
        return collate(rows, pad_token_id)

    monkeypatch.setattr(sources, "collate", counted)
    monkeypatch.setattr(module, "Schedule", partial(Schedule, save_every=4))
    return cli.main(["train", str(root / "resuming.yaml"), "--device", "cpu"])


def checkpoint(root: Path, home: str) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    (manifest,) = (root / home / "checkpoints").glob("*/checkpoint.json")
    return json.loads(manifest.read_text()), load_file(manifest.parent / "model.safetensors")


def test_an_interrupted_command_ends_with_the_losses_and_weights_of_an_uninterrupted_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(store, "PACKAGE", tmp_path / "package")
    (tmp_path / "resuming.yaml").write_text(GRID)
    assert train(tmp_path, monkeypatch, "whole") == 0
    printed = capsys.readouterr().err
    assert "stage 1: 10 steps" in printed
    assert "refusion vision_remember" in printed
    assert train(tmp_path, monkeypatch, "cut", batches=6) == 130  # in stage 1
    assert train(tmp_path, monkeypatch, "cut", batches=20) == 130  # in stage 2
    assert not list((tmp_path / "cut" / "checkpoints").glob("*/checkpoint.json"))
    assert train(tmp_path, monkeypatch, "cut") == 0
    (manifest, weights), (other, resumed) = checkpoint(tmp_path, "whole"), checkpoint(tmp_path, "cut")
    assert [step for step, _ in manifest["loss"]["stage2"]] == [4, 8, 10, 12, 16, 20]
    assert manifest["loss"] == other["loss"]
    assert manifest["checkpoint_id"] == other["checkpoint_id"]
    assert weights.keys() == resumed.keys()
    assert all(torch.equal(weights[name], resumed[name]) for name in weights)
