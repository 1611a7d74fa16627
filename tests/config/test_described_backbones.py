"""Backbones that a grid file describes: what is taken, what is refused and where, and what names their results."""

from __future__ import annotations

import os
import pickle
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from vr_eval.catalog.backbone import Source
from vr_eval.catalog.backbones import BACKBONES
from vr_eval.catalog.tiling import AnyRes, InternVLTiles, Tiling, TokenPackerHD
from vr_eval.config.cell import Cell
from vr_eval.config.grid import Grid, load_grid
from vr_eval.config.identity import cell_id, checkpoint_id, checkpoint_identity
from vr_eval.probes.file import load_probes
from vr_eval.runs.plan import plan_grid

NEXT = BACKBONES["llava_next_vicuna_7b"]
GRID = """\
name: own
backbone: {{{}}}
suites: [ocr]
cells:
  - {{projector: mlp}}
  - {{projector: avg_pool, ratio: 4}}
"""
OWN = "name: my_llava, from: llava_next_vicuna_7b, checkpoint: me/my-llava@v2"

Load = Callable[..., Grid]
Refused = Callable[..., str]


def grid(text: str = OWN) -> str:
    return GRID.format(text)


def model(folder: Path, content: bytes = b"1") -> Path:
    """A folder that looks like a model's."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(content)
    return folder


def test_what_is_left_out_is_taken_from_the_named_one(load: Load) -> None:
    spec = load(grid()).spec
    assert spec.name == "my_llava"
    assert spec.checkpoint == Source("me/my-llava", "v2")
    assert (spec.tower, spec.decoder) == (None, None)
    for same in ("grid", "tiling", "suites", "recipe", "loading", "own_projector", "decoder_width", "data_version"):
        assert getattr(spec, same) == getattr(NEXT, same)
    assert [cell.pretrained for cell in load(grid()).cells] == [True, False]


def test_every_key_is_taken(load: Load) -> None:
    spec = load(
        """\
        name: own
        backbone:
          name: own
          from: llava_next_vicuna_7b
          tower: me/tower
          decoder: me/decoder@abc
          grid: 6
          image_px: 24
          patch_px: 4
          tower_depth: 4
          tower_width: 16
          tower_heads: 2
          select_layer: 3
          decoder_depth: 5
          decoder_width: 32
          own_projector: pixel_shuffle
          own_ratio: 4
          dtype: float16
          tiling: {scheme: anyres, pinpoints: [[24, 48], [48, 24]], limit: 9, lone: true}
        cells: [{projector: mlp}]
        """
    ).spec
    assert (spec.checkpoint, spec.tower, spec.decoder) == (None, Source("me/tower"), Source("me/decoder", "abc"))
    assert (spec.grid, spec.image_px, spec.patch_px, spec.tower_depth, spec.tower_width) == (6, 24, 4, 4, 16)
    assert (spec.tower_heads, spec.select_layer, spec.decoder_depth, spec.decoder_width) == (2, 3, 5, 32)
    assert (spec.own_projector, spec.own_ratio, spec.loading.dtype) == ("pixel_shuffle", 4, "float16")
    assert spec.tiling == AnyRes(((24, 48), (48, 24)), 9, True)


@pytest.mark.parametrize(
    ("tiling", "made"),
    [
        ("null", None),
        ("{limit: 9}", AnyRes(NEXT.tiling.pinpoints if NEXT.tiling else (), 9)),
        ("{scheme: internvl}", InternVLTiles.of(336)),
        ("{scheme: tokenpacker_hd, pinpoints: [[336, 336]]}", TokenPackerHD(((336, 336),))),
    ],
)
def test_tiles_are_none_those_of_the_named_one_or_of_another_scheme(tiling: str, made: Tiling, load: Load) -> None:
    assert load(grid(f"{OWN}, tiling: {tiling}")).spec.tiling == made


def test_a_part_replaces_that_part_alone(load: Load) -> None:
    named = BACKBONES["llava_next_qwen2_0_5b"]
    spec = load(grid("name: own, from: llava_next_qwen2_0_5b, decoder: me/decoder")).spec
    assert (spec.tower, spec.decoder) == (named.tower, Source("me/decoder"))
    whole = load(grid("name: own, from: llava_next_qwen2_0_5b, checkpoint: me/whole")).spec
    assert whole.sources == (Source("me/whole"),)


def test_a_folder_is_relative_to_the_file_that_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = model(tmp_path / "studies" / "my@home")
    (tmp_path / "studies" / "own.yaml").write_text(grid("name: own, from: llava_1_5_7b, checkpoint: my@home"))
    assert load_grid("studies/own.yaml").spec.checkpoint == Source(str(folder))
    monkeypatch.chdir(folder.parent)
    assert load_grid("own.yaml").spec.checkpoint == Source(str(folder))


TWO_PARTS = "name: own, from: llava_next_vicuna_7b, tower: me/t, decoder: me/d"


@pytest.mark.parametrize(
    ("described", "message"),
    [
        ("from: llava_1_5_7b", "backbone.name: must be given"),
        ("name: llava_1_5_7b, from: llava_1_5_7b", "backbone.name: this name is taken (given: 'llava_1_5_7b')"),
        ("name: a/b, from: llava_1_5_7b", "backbone.name: cannot name a backbone (given: 'a/b'"),
        ("name: 3, from: llava_1_5_7b", "backbone.name: this value does not fit (given: 3; allowed: text)"),
        ("name: own", "backbone.from: must be given (allowed: llava_next_qwen2_0_5b"),
        ("name: own, from: micro", "backbone.from: no backbone of this name has weights to replace (given: 'micro'"),
        ("name: own, from: llava_1_5_7", "did you mean 'llava_1_5_7b'?"),
        (f"{OWN}, tower_dpth: 3", "backbone.tower_dpth: unknown key"),
        (f"{OWN}, tower_dpth: 3", "did you mean 'tower_depth'?"),
        (f"{OWN}, tower_depth: 0", "backbone.tower_depth: this value does not fit (given: 0; allowed: a whole number"),
        (f"{OWN}, dtype: float8", "backbone.dtype: this value does not fit (given: 'float8'; allowed: float32, bfloat"),
        (f"{OWN}, own_projector: mpl", "did you mean 'mlp'?"),
        (f"{OWN}, tower: me/t", "backbone.tower: checkpoint and tower exclude each other"),
        (
            "name: own, from: llava_next_vicuna_7b, decoder: me/d",
            "backbone.tower: must be given beside decoder: llava_next_vicuna_7b is one checkpoint and has no tower to",
        ),
        ("name: own, from: llava_1_5_7b, checkpoint: ./none", "backbone.checkpoint: there is no such folder"),
        ("name: own, from: llava_1_5_7b, checkpoint: a/b/c", "backbone.checkpoint: there is no such folder"),
        ("name: own, from: llava_1_5_7b, checkpoint: grid.yaml", "this is a file, not a folder"),
        ("name: own, from: llava_1_5_7b, checkpoint: empty", "there is no config.json in this folder"),
        ("name: own, from: llava_1_5_7b, checkpoint: empty@main", "this is a folder, which has no revisions"),
        ("name: own, from: llava_1_5_7b, checkpoint: 'me/my model'", "this names no model (given: 'me/my model'"),
        ("name: own, from: llava_1_5_7b, checkpoint: me/m@", "backbone.checkpoint: this names no model"),
        (f"name: own, from: llava_1_5_7b, checkpoint: {'a' * 3000}", "backbone.checkpoint: this names no model"),
        ("name: own, from: llava_1_5_7b, checkpoint: ~nobody-here/m", "backbone.checkpoint: this names no model"),
        (f"{OWN}, grid: 25", "backbone.grid: image_px 336 is not grid 25 * patch_px 14 = 350"),
        (f"{OWN}, tower_heads: 7", "backbone.tower_heads: tower_width 1024 is no multiple of tower_heads 7"),
        (f"{OWN}, tower_depth: 12", "backbone.tower_depth: select_layer 23 is more than tower_depth 12"),
        (f"{OWN}, own_ratio: 4", "backbone.own_ratio: mlp cannot make own_ratio 4 of a 24x24 grid, but 1"),
        (f"{OWN}, tiling: 3", "backbone.tiling: must be a mapping (given: 3"),
        (f"{OWN}, tiling: {{schem: anyres}}", "did you mean 'scheme'?"),
        (f"{OWN}, tiling: {{pinpoints: [[3, 4, 5]]}}", "allowed: a list of: a list of 2: a whole number"),
        (f"{OWN}, tiling: {{pinpoints: [[336, 335]]}}", "must be multiples of image_px 336, unlike [336, 335]"),
        ("name: own, from: llava_1_5_7b, tiling: {}", "anyres needs pinpoints"),
        (f"{OWN}, tiling: {{scheme: internvll}}", "did you mean 'internvl'?"),
        (
            f"{OWN}, tiling: {{scheme: internvl, limit: 9}}",
            "backbone.tiling.limit: only anyres has this, and the scheme is internvl (given: 9)",
        ),
        (
            f"{OWN}, grid: 5, image_px: 70",
            "backbone.image_px: pinpoints must be multiples of image_px 70, unlike [336, 672]",
        ),
    ],
)
def test_what_makes_no_sense_is_refused_at_its_line(
    described: str, message: str, refused: Refused, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    said = refused(grid(described))
    assert message in said
    assert re.match(r"grid\.yaml:2: backbone\.", said)


def test_all_that_is_wrong_is_said_at_once(refused: Refused) -> None:
    said = refused(grid("name: micro, from: micro, tower_depth: none, tilling: null"))
    assert said.count("grid.yaml:2: backbone.") == 4


def test_the_command_line_replaces_all_or_a_part_of_it(load: Load, refused: Refused) -> None:
    text = grid("name: own, from: llava_next_qwen2_0_5b, tower: me/t, decoder: me/d")
    assert load(text, backbone="llava_1_5_7b").spec == BACKBONES["llava_1_5_7b"]
    assert load(text, "backbone.checkpoint=me/whole@1").spec.sources == (Source("me/whole", "1"),)
    assert load(text, "backbone.decoder=me/e").spec.sources == (Source("me/t"), Source("me/e"))
    assert load(text, "backbone.tiling.limit=4").spec.tiling.limit == 4  # type: ignore[union-attr]
    assert load(text, f"backbone={{{OWN}}}").spec.name == "my_llava"
    said = refused("name: a\nbackbone: llava_1_5_7b\ncells: [{projector: mlp}]", "backbone.checkpoint=me/x")
    assert "grid.yaml:2: backbone.name: must be given" in said


def test_the_resolved_file_loads_to_the_same_grid(load: Load, tmp_path: Path) -> None:
    model(tmp_path / "weights")
    described = (
        OWN,
        "name: own, from: llava_next_qwen2_0_5b, tiling: null, dtype: float32, checkpoint: weights",
        f"{TWO_PARTS}, tiling: {{scheme: internvl}}",
        "name: own, from: llava_hd_vicuna_7b, decoder: weights",
    )
    for text in described:
        first = load(grid(text))
        (tmp_path / "elsewhere").mkdir(exist_ok=True)
        (tmp_path / "elsewhere" / "again.yaml").write_text(first.to_yaml())
        again = load_grid(tmp_path / "elsewhere" / "again.yaml")
        assert again == first
        assert again.to_yaml() == first.to_yaml()
        assert [cell_id(cell, again) for cell in again.cells] == [cell_id(cell, first) for cell in first.cells]


def ids(made: Grid) -> list[str]:
    return [checkpoint_id(cell) for cell in made.cells]


@pytest.mark.parametrize(
    "change",
    [
        "tiling: null",
        "tiling: {limit: 9}",
        "select_layer: 22",
        "template: llama3",
        "template: null",
        "decoder_width: 128",
        "own_projector: avg_pool, own_ratio: 4",
    ],
)
def test_whatever_changes_results_changes_the_identity(change: str, load: Load) -> None:
    assert set(ids(load(grid(OWN)))).isdisjoint(ids(load(grid(f"{OWN}, {change}"))))


def test_weights_and_name_change_the_identity_and_what_is_only_written_out_does_not(load: Load) -> None:
    first = ids(load(grid(OWN)))
    assert ids(load(grid(f"{OWN}, grid: 24, tower_depth: 24, own_ratio: 1, dtype: float16"))) == first
    assert set(ids(load(grid(OWN.replace("v2", "v3"))))).isdisjoint(first)
    assert set(ids(load(grid(OWN.replace("my_llava", "other"))))).isdisjoint(first)
    assert "described" not in checkpoint_identity(load(grid(), backbone="llava_1_5_7b").cells[0])


def test_other_weights_in_the_same_folder_are_another_backbone(load: Load, tmp_path: Path) -> None:
    folder = model(tmp_path / "weights", bytes(3_000_000))
    text = grid("name: own, from: llava_1_5_7b, checkpoint: weights")
    seen = {ids(load(text))[0]}
    for change, content in enumerate((bytes(3_000_001), bytes(1_500_000) + b"\1" * 1_500_000, bytes(9))):
        (folder / "model.safetensors").write_bytes(content)
        os.utime(folder / "model.safetensors", ns=(change, change))
        seen.add(ids(load(text))[0])
    assert len(seen) == 4


def test_two_described_backbones_of_one_name_are_kept_apart(load: Load) -> None:
    small, large = (load(grid(f"{OWN}, decoder_width: {width}")).cells[1] for width in (128, 256))
    assert small != large
    assert (small.spec.decoder_width, large.spec.decoder_width) == (128, 256)
    again: Cell = pickle.loads(pickle.dumps(small))
    assert again == small
    assert hash(again) == hash(small)


def test_the_plan_says_what_stands_behind_the_name(load: Load) -> None:
    text = plan_grid(load(grid(), "cells=[{projector: mlp}]")).to_text()
    assert "backbone my_llava (me/my-llava@v2; the rest as llava_next_vicuna_7b)" in text


def test_probes_take_grids_of_a_described_backbone_and_no_two_different_ones(load: Load, tmp_path: Path) -> None:
    text = grid(f"{OWN}, decoder_depth: 3")
    (tmp_path / "a.yaml").write_text(text)
    (tmp_path / "b.yaml").write_text(text.replace("depth: 3", "depth: 4"))
    probe = tmp_path / "probe.yaml"
    probe.write_text("kind: probe\nname: p\ngrids: [a.yaml]\ntaps: [decoder.2]\n")
    assert load_probes(probe).cells[0].spec.decoder_depth == 3
    with pytest.raises(Exception, match="has no such tap"):
        load_probes(probe, ["taps=[decoder.3]"])
    with pytest.raises(Exception, match="the grids have different backbones"):
        load_probes(probe, ["grids=[a.yaml, b.yaml]"])
