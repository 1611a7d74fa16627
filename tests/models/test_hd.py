"""TokenPacker-HD's tiles: the official choice of a grid, its pixels, its tokens in their order, and a whole cell."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from tests.llava import PX, SIZES, SIZES_OF_SPEC, asked, image, original, ported, tokenizer
from tests.models.test_tiles import sizes_of
from vr_eval.catalog.backbone import Source
from vr_eval.catalog.backbones import BACKBONES
from vr_eval.catalog.presets.llava_hd_vicuna_7b import LLAVA_HD_VICUNA_7B
from vr_eval.catalog.recipe import Recipe
from vr_eval.catalog.tiling import TokenPackerHD
from vr_eval.config.cell import Cell
from vr_eval.models.build import build_lvlm
from vr_eval.models.checkpoints import load_checkpoint, save_checkpoint
from vr_eval.models.features import processed
from vr_eval.models.pretrained import load_pretrained
from vr_eval.models.tiles import BASE_ONLY, NEWLINE, SEPARATOR
from vr_eval.models.tiling.tokenpacker_hd import HDImageProcessor, TokenPackerHDScheme, drawn_size

OFFICIAL = {
    (1, 2000): (1, 9),
    (8, 8): (1, 1),
    (336, 336): (1, 1),
    (400, 400): (2, 2),
    (480, 640): (2, 3),
    (1000, 700): (3, 2),
    (1088, 1088): (3, 3),
    (300, 1200): (1, 4),
    (2000, 500): (4, 1),
}
"""Heights and widths of images, and the grid of up to 9 tiles of 336 pixels that the official code gives them."""


def scheme(px: int, most: int = 9) -> TokenPackerHDScheme:
    return TokenPackerHDScheme(TokenPackerHD.of(px, most), px)


@pytest.mark.parametrize("most", [9, 16, 25])
def test_the_grids_are_the_official_ones(most: int) -> None:
    tiling = TokenPackerHD.of(336, most)
    # As many as the official lists hold, which name two of the 25 tiles' grids twice.
    assert len(tiling.pinpoints) == {9: 23, 16: 36, 25: 55}[most]
    assert (tiling.fewest_tiles(336), tiling.most_tiles(336)) == (1, most)
    assert (336, 10 * 336) not in tiling.pinpoints


def test_an_image_gets_the_grid_of_the_official_code() -> None:
    nine, sixteen = scheme(336), scheme(336, 16)
    assert {size: nine.grid(size) for size in OFFICIAL} == OFFICIAL
    assert [sixteen.grid(size) for size in ((1344, 1344), (900, 1600))] == [(4, 4), (3, 5)]


def test_places_of_tiles_with_separators_newlines_and_the_base_view_last() -> None:
    tiles = scheme(8, 4)
    base = [16, 17, 18, 19, NEWLINE]
    upper, lower = [0, 1, 2, 3, SEPARATOR, 4, 5, 6, 7, NEWLINE], [8, 9, 10, 11, SEPARATOR, 12, 13, 14, 15, NEWLINE]
    placement = tiles.place((40, 40), 2)
    assert (placement.tiles, placement.places.tolist()) == (5, [*upper, *lower, *base])
    alone = [0, 1, 2, 3, NEWLINE]
    assert tiles.place((8, 8), 2).places.tolist() == tiles.place(BASE_ONLY, 2).places.tolist() == alone


def test_an_image_is_drawn_in_the_corner_and_its_base_view_shows_the_whole_canvas() -> None:
    nine = scheme(PX)
    pixels = 1.0 + torch.rand(1, 3, 30, 2 * PX, generator=torch.Generator().manual_seed(0))
    rows, columns = nine.grid((30, 2 * PX))
    assert (rows, columns) == (2, 3)
    height, width = drawn_size((30, 2 * PX), (rows * PX, columns * PX))
    assert (height, width) == (45, 72)
    *tiles, base = nine.cut(pixels)
    canvas = torch.cat([torch.cat(tiles[3 * row : 3 * row + 3], dim=-1) for row in range(2)], dim=-2)
    assert canvas.shape == (3, 48, 72)
    expected = torch.nn.functional.interpolate(pixels, (45, 72), mode="bilinear")[0]
    assert torch.equal(canvas[:, :45], expected)
    assert not canvas[:, 45:].any()
    whole = torch.nn.functional.interpolate(canvas[None], (15, 24), mode="bilinear")[0]
    assert torch.equal(base[:, :15], whole)
    assert not base[:, 15:].any()
    assert [tile.shape for tile in nine.cut(pixels[..., :1, :])][-1] == (3, PX, PX)


def test_one_view_where_it_is_asked_for() -> None:
    reader = HDImageProcessor(size={"height": PX, "width": PX})
    assert processed(reader, image((100, 100)), BASE_ONLY).shape == (1, 3, PX, PX)
    assert processed(reader, image((100, 100)), (100, 100)).shape == (10, 3, PX, PX)


def test_marks_are_the_vocabularys_entries_or_what_stands_for_them() -> None:
    class Words:
        unknown: int | None = 0

        def convert_tokens_to_ids(self, token: str) -> int | None:
            return {",": 7}.get(token, self.unknown)

        def encode(self, text: str, add_special_tokens: bool) -> list[int]:
            return [9, {"\n": 13, ",": 8}[text]]

    words: Any = Words()
    assert scheme(PX).mark_ids(words) == [0, 7]
    words.unknown = None
    assert scheme(PX).mark_ids(words) == [13, 7]


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiny parts in the place of the preset's."""
    original(tmp_path)
    base, _ = load_pretrained(ported("llava_next", tmp_path / "hub"))
    base.language_model.save_pretrained(tmp_path / "decoder")
    words = tokenizer()
    words.chat_template = None
    words.save_pretrained(tmp_path / "decoder")
    spec = dataclasses.replace(
        LLAVA_HD_VICUNA_7B,
        tower=Source(str(tmp_path / "clip")),
        decoder=Source(str(tmp_path / "decoder")),
        **SIZES_OF_SPEC,
        tiling=TokenPackerHD.of(PX),
    )
    monkeypatch.setitem(BACKBONES, spec.name, spec)


@torch.no_grad()
def test_a_cell_counts_as_its_processor_for_500_sizes_and_loads_again(tiny: None, tmp_path: Path) -> None:
    given = {"tokenpacker": {"heads": 4}, "vision_remember": {"heads": 4}}
    cell = Cell(LLAVA_HD_VICUNA_7B.name, "tokenpacker", 4, "vision_remember", "none", 0, given, Recipe())
    model, processor = build_lvlm(cell)
    sizes = sizes_of(500)
    counted = model.image_tokens(sizes)
    for start in range(0, len(sizes), 100):
        part = sizes[start : start + 100]
        images = [Image.new("RGB", size[::-1]) for size in part]
        inputs = processor(images=images, text=[asked(1)] * len(part))
        found = [row.count(processor.image_token_id) for row in inputs["input_ids"]]
        assert found == counted[start : start + 100]
        assert len(inputs["pixel_values"]) == sum(model.scheme.place(size, 3).tiles for size in part)
    save_checkpoint(model.eval(), processor, tmp_path / "cell", {"checkpoint_id": "a"}, torch.float32)
    again, reader = load_checkpoint(tmp_path / "cell", "a")
    shown = {"images": [image(size) for size in SIZES], "text": [asked(1)] * len(SIZES)}
    inputs = processor(**shown, return_tensors="pt", padding=True)
    read = reader(**shown, return_tensors="pt", padding=True)
    assert inputs.keys() == read.keys()
    assert all(torch.equal(inputs[name], read[name]) for name in inputs)
    whole = model(**inputs).logits
    assert torch.equal(again(**read).logits, whole)
    for number, size in enumerate(SIZES[:3]):
        alone = processor(images=[image(size)], text=[asked(1)], return_tensors="pt")
        row = whole[number][inputs["attention_mask"][number].bool()]
        torch.testing.assert_close(model(**alone).logits[0], row, atol=3e-4, rtol=1e-4)
