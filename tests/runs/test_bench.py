"""Costs of a grid's cells, measured without training or writing anything."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.adapters.world import GRID, toy_grid
from vr_eval.cli import main
from vr_eval.config.checkpoint_folders import trained_checkpoint
from vr_eval.config.grid import Grid
from vr_eval.models.checkpoints import load_checkpoint
from vr_eval.runs import bench as bench_module
from vr_eval.runs.bench import bench_grid, inference_twin

PRUNED = "  - {projector: mlp, pruning: fastv, fastv.keep_ratio: 0.25}\n"


def files(root: Path) -> set[Path]:
    return set(root.rglob("*"))


def test_a_damaged_checkpoint_is_measured_by_nobody(root: Path, grid: Grid, capsys: pytest.CaptureFixture[str]) -> None:
    weights = trained_checkpoint(grid.cells[1]) / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert main(["bench", "toys.yaml", "--device", "cpu", "--repeats", "1"]) == 2
    said = capsys.readouterr()
    assert (said.out, said.err.count("file is damaged")) == ("", 1)
    assert f"vr-eval: {weights}: this file is damaged" in said.err


def test_every_configuration_is_measured_once_whatever_its_seeds(root: Path, grid: Grid) -> None:
    text = GRID.replace("seeds: [0]", "seeds: [0, 1]").replace("baseline:", f"{PRUNED}baseline:")
    text = text.replace("baseline: {projector: mlp}", "baseline: {projector: mlp, pruning: none}")
    many = toy_grid(root, text)
    before, said = files(root), []
    bench = bench_grid(many, "cpu", 2, said.append)
    assert files(root) == before
    assert [cell.label for cell in bench.cells] == [cell.label for cell in many.cells if cell.seed == 0]
    assert said[-3:] == [f"[{n}/3] {cell.label}" for n, cell in enumerate(bench.cells, start=1)]
    mlp, remembering, pruned = bench.cells
    assert all(cell.trained for cell in bench.cells)
    assert (mlp.vision_tokens, remembering.vision_tokens) == (144, 36)
    model, _ = load_checkpoint(trained_checkpoint(many.cells[0]))
    assert mlp.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert remembering.method_parameters > mlp.method_parameters > 0
    assert mlp.prefill_gflops > pruned.prefill_gflops > mlp.tower_gflops == pruned.tower_gflops
    assert mlp.kv_cache_bytes > pruned.kv_cache_bytes > remembering.kv_cache_bytes
    for cell in bench.cells:
        assert min(cell.prefill_ms, cell.training_prefill_ms, cell.decode_ms_per_token) > 0
        assert 0.1 < cell.inference_to_training < 10
        assert cell.peak_bytes is None


def test_json_has_units_in_its_names_and_text_says_what_was_measured(root: Path, grid: Grid) -> None:
    bench = bench_grid(grid, "cpu", 1, lambda text: None)
    content = json.loads(bench.to_json())
    assert content["text_tokens"] == 32
    assert content["environment"]["versions"]["torch"] == torch.__version__.partition("+")[0]
    wanted = {"prefill_ms", "decode_ms_per_token", "prefill_gflops", "inference_to_training", "kv_cache_bytes"}
    assert all(wanted <= set(cell) for cell in content["cells"])
    lines = bench.to_text().splitlines()
    assert lines[0].split("  ")[0] == "cell"
    assert "inference/training" in lines[0]
    assert lines[2].startswith("mlp ")
    assert "One image and 32 text tokens, batch 1, on cpu (" in bench.to_text()
    assert "checkpoint" not in bench.to_text()


def test_who_else_uses_the_machine_is_noticed_and_said(root: Path, grid: Grid, monkeypatch: pytest.MonkeyPatch) -> None:
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as other:
        try:
            assert bench_module.cores_in_use(1.0) >= bench_module.BUSY
        finally:
            other.kill()
    said: list[str] = []
    monkeypatch.setattr(bench_module, "cores_in_use", lambda: 1.2)
    assert "Others keep 1.2 cores of this machine busy" in bench_grid(grid, "cpu", 1, said.append).to_text()
    assert said[0].startswith("Others keep 1.2 cores")
    monkeypatch.setattr(bench_module, "cores_in_use", lambda: 0.4)
    assert "busy" not in bench_grid(grid, "cpu", 1, lambda text: None).to_text()


def test_a_cell_without_a_checkpoint_is_measured_untrained_and_named(
    root: Path, grid: Grid, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vr_eval.runs import bench as module

    model, processor = load_checkpoint(trained_checkpoint(grid.cells[0]))
    monkeypatch.setattr(module, "find_checkpoint", lambda cell: None)
    monkeypatch.setattr(module, "build_lvlm", lambda cell: (model, processor))
    bench = bench_grid(grid, "cpu", 1, lambda text: None)
    assert not any(cell.trained for cell in bench.cells)
    assert "No cell has a checkpoint" in bench.to_text()


def test_the_twin_shares_tower_and_decoder_and_leaves_the_training_version_alone(root: Path, grid: Grid) -> None:
    model, _ = load_checkpoint(trained_checkpoint(grid.cells[1]))
    names = list(model.state_dict())
    twin = inference_twin(model)
    assert twin.vision_tower is model.vision_tower
    assert twin.language_model is model.language_model
    assert list(model.state_dict()) == names
    assert not model.is_inference
    assert list(twin.refusion.state_dict()) != list(model.refusion.state_dict())
