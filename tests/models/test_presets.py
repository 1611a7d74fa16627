"""Backbones of the field by name: planned and listed without torch, sized as their published configurations."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from vr_eval.catalog.backbone import BackboneSpec, Source
from vr_eval.catalog.backbones import BACKBONES, weights_hash
from vr_eval.catalog.presets import PRESETS
from vr_eval.catalog.tiling import InternVLTiles
from vr_eval.config.grid import load_grid
from vr_eval.config.identity import checkpoint_id
from vr_eval.errors import InputError
from vr_eval.listing import list_backbones, list_methods
from vr_eval.methods.registry import METHODS, projector_options

GRID = """\
name: real
backbone: {name}
grid:
  projector: [avg_pool, tokenpacker]
  ratio: [{ratio}]
  refusion: [none, vision_remember, deepstack, sva]
cells:
  - {{projector: mlp}}
  - {{projector: mlp, pruning: fastv}}
"""


@pytest.fixture(params=PRESETS, ids=lambda spec: spec.name)
def spec(request: pytest.FixtureRequest) -> BackboneSpec:
    return request.param


def test_sizes_fit_together(spec: BackboneSpec) -> None:
    assert spec.grid == spec.image_px // spec.patch_px
    assert spec.select_layer <= spec.tower_depth
    assert spec.tower_width % spec.tower_heads == 0
    assert bool(spec.checkpoint) != bool(spec.tower and spec.decoder)
    assert spec.own_ratio in projector_options(spec.own_projector).ratios(spec.grid)
    for height, width in spec.tiling.pinpoints if spec.tiling else ():
        assert height % spec.image_px == width % spec.image_px == 0


def test_a_grid_of_every_seam_resolves(spec: BackboneSpec, tmp_path: Path) -> None:
    file = tmp_path / "real.yaml"
    ratio = 9 if spec.grid % 3 == 0 else 16
    file.write_text(GRID.format(name=spec.name, ratio=ratio))
    grid = load_grid(file)
    assert len({checkpoint_id(cell) for cell in grid.cells}) == 9  # fastv runs on the checkpoint of mlp
    assert {cell.tokens for cell in grid.cells} == {spec.grid**2 // ratio, spec.grid**2}
    assert [task for _, task in grid.tasks] == list(spec.tasks)


def test_every_preset_is_listed_with_its_weights() -> None:
    text = list_backbones()
    for spec in PRESETS:
        assert f"\n{spec.name}: " in text
        assert all(f"  weights   {source}\n" in text for source in spec.sources)


def test_methods_are_listed_for_a_preset(spec: BackboneSpec) -> None:
    text = list_methods(spec.name)
    assert all(f"\n{name}  (" in text for name in METHODS)
    assert f"1/1: {spec.grid**2}" in text


def test_paper_levels_of_a_tower_of_24_layers() -> None:
    options = METHODS["vision_remember"].options().resolve(BACKBONES["llava_next_qwen2_0_5b"])
    assert options.levels == (13, 18, 23)


def test_the_revision_of_the_weights_is_part_of_the_identity(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import dataclasses

    spec = BACKBONES["llava_1_5_7b"]
    assert weights_hash(spec) == "llava-hf/llava-1.5-7b-hf@main"
    file = tmp_path / "real.yaml"
    file.write_text("name: a\nbackbone: llava_1_5_7b\ncells: [{projector: mlp}]\n")
    before = checkpoint_id(load_grid(file).cells[0])
    pinned = dataclasses.replace(spec, checkpoint=Source("llava-hf/llava-1.5-7b-hf", "0123abc"))
    monkeypatch.setitem(BACKBONES, "llava_1_5_7b", pinned)
    assert checkpoint_id(load_grid(file).cells[0]) != before


def test_an_unknown_preset_is_told_its_nearest_name(tmp_path: Path) -> None:
    file = tmp_path / "real.yaml"
    file.write_text("name: a\nbackbone: llava_next_qwen_0_5b\ncells: [{projector: mlp}]\n")
    with pytest.raises(InputError, match=r"real.yaml:2: backbone: unknown backbone .*mean 'llava_next_qwen2_0_5b'"):
        load_grid(file)


def test_resolutions_are_those_of_transformers_processor() -> None:
    from transformers.models.got_ocr2.image_processing_got_ocr2 import get_all_supported_aspect_ratios

    for most, least in ((12, 1), (6, 3)):
        ours = InternVLTiles.of(448, most, least).pinpoints
        theirs = [(448 * rows, 448 * columns) for columns, rows in get_all_supported_aspect_ratios(least, most)]
        assert sorted(ours) == sorted(theirs)


def test_presets_need_no_torch() -> None:
    code = "import sys; import vr_eval.catalog.presets, vr_eval.runs.plan; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_plan_of_a_backbone_whose_speed_was_not_measured_gives_no_time(tmp_path: Path, versions: None) -> None:
    from vr_eval.runs.plan import plan_grid

    file = tmp_path / "real.yaml"
    data = "recipe: {stage1: {data: someone/captions@main}}\n"
    file.write_text(GRID.format(name="llava_1_5_7b", ratio=4) + data)
    plan = plan_grid(load_grid(file), tmp_path / "out")
    assert plan.train_seconds is None
    lines = plan.to_text().splitlines()
    assert lines[-1] == "no estimate of the time: the speed of llava_1_5_7b was not measured"
    assert lines[6].split()[-1] == "-"


@pytest.fixture
def versions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Versions of the official tasks, which this test is not about."""
    from vr_eval.config import identity

    monkeypatch.setattr(identity, "task_version", lambda task, folders=(): "1")
