"""A model that cuts images into tiles is probed on their base views; what marks the end of a row never enters."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor
from transformers import GotOcr2ImageProcessor, LlavaNextImageProcessor, LlavaOnevisionImageProcessor

from vr_eval.catalog.tiling import InternVLTiles, TokenPackerHD
from vr_eval.models.lvlm import LVLM
from vr_eval.models.tiles import BASE_ONLY
from vr_eval.models.tiling.tokenpacker_hd import HDImageProcessor
from vr_eval.probes.extract import Subject
from vr_eval.probes.taps import POOLS, Pooled, encode, levels_read, run_tapped, taps_of
from vr_eval.testing.tiny import IMAGE, SIDE, pixels, tiny_lvlm

SQUARE = {"height": SIDE, "width": SIDE}
POINTS = [[SIDE, 2 * SIDE], [2 * SIDE, SIDE], [2 * SIDE, 2 * SIDE]]
TILINGS: dict[str, dict[str, Any]] = {
    "llava_next": {"pinpoints": POINTS, "limit": None, "lone": False},
    "onevision": {"pinpoints": POINTS, "limit": 2, "lone": True},
    "tokenpacker_hd": TokenPackerHD.of(SIDE).row,
    "internvl": InternVLTiles.of(SIDE).row,
}


def row(model: LVLM) -> list[int]:
    return [5, *[IMAGE] * model.image_tokens([BASE_ONLY])[0], 6, 7]


def tapped(model: LVLM) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    ids = torch.tensor([row(model)] * 2)
    encoded = encode(model, pixels(2), levels_read(model))
    run_tapped(model, ids, encoded, lambda tap, tokens, kept: found.update({tap: tokens}))
    assert set(found) == set(taps_of(model))
    return found


@pytest.mark.parametrize("refusion", ["none", "vision_remember"])
@pytest.mark.parametrize("tiling", TILINGS)
def test_every_tap_reads_the_tokens_of_the_base_view_and_no_mark(tiling: str, refusion: str) -> None:
    # A guide of text would be told of marks by the text behind them.
    options = {} if refusion == "none" else {"text_guide": "none"}
    model = tiny_lvlm("avg_pool", 4, refusion, tiling=TILINGS[tiling], **options)
    before = tapped(model)
    for tap, tokens in before.items():
        assert tokens.shape[1] == (144 if tap.startswith("tower") else model.tokens_per_image), tap
    if model.image_newline is not None:
        model.image_newline.data += 100.0
    for tap, tokens in tapped(model).items():
        assert torch.equal(tokens, before[tap]), tap


@pytest.mark.parametrize("tiling", TILINGS)
@torch.no_grad()
def test_taps_of_base_views_are_the_models_own_hidden_states(tiling: str) -> None:
    model = tiny_lvlm("avg_pool", 4, tiling=TILINGS[tiling])
    found, ids = tapped(model), torch.tensor([row(model)] * 2)
    sizes = torch.tensor([BASE_ONLY] * 2)
    hidden = model(ids, None, pixels(2), image_sizes=sizes, output_hidden_states=True).hidden_states
    at = slice(1, 1 + model.tokens_per_image)
    for number, tap in enumerate(("projector", "decoder.0", "decoder.1", "decoder.2")):
        torch.testing.assert_close(found[tap], hidden[number][:, at])


@torch.no_grad()
def test_rows_of_which_pruning_kept_the_mark_or_not_are_pooled_by_what_they_have() -> None:
    """The token that ends a row of tiles competes with vision tokens, so images are left with 18 of these, or 17."""
    model = tiny_lvlm("avg_pool", 4, free="random", tiling=TILINGS["llava_next"], keep_ratio=0.5)
    line = row(model)
    ids = torch.tensor([[5 + number, *line[1:]] for number in range(8)])
    encoded = encode(model, pixels(8), levels_read(model))
    counts, together = [], Pooled((tap, pool) for tap in taps_of(model) for pool in POOLS)

    def note(tap: str, tokens: Tensor, kept: Tensor | None) -> None:
        together(tap, tokens, kept)
        if tap == "decoder.3":
            assert kept is not None
            counts.extend((kept >= 0).sum(1).tolist())

    run_tapped(model, ids, encoded, note)
    assert len(set(counts)) == 2
    for number in range(len(ids)):
        alone = Pooled(together.places)
        run_tapped(model, ids[number : number + 1], {k: v[number : number + 1] for k, v in encoded.items()}, alone)
        for place, pooled in alone.found.items():
            torch.testing.assert_close(together.found[place][number], pooled[0], atol=1e-4, rtol=1e-4)


PROCESSORS: dict[str, Callable[[], Any]] = {
    "llava_next": lambda: LlavaNextImageProcessor(
        size={"shortest_edge": SIDE}, crop_size=SQUARE, image_grid_pinpoints=POINTS
    ),
    "onevision": lambda: LlavaOnevisionImageProcessor(size=SQUARE, image_grid_pinpoints=POINTS),
    "tokenpacker_hd": lambda: HDImageProcessor(size=SQUARE),
    "internvl": lambda: GotOcr2ImageProcessor(size=SQUARE, crop_to_patches=True),
}


@pytest.mark.parametrize("tiling", PROCESSORS)
def test_pixels_are_one_base_view_of_every_image_whatever_its_shape(tiling: str) -> None:
    processor: Any = SimpleNamespace(image_processor=PROCESSORS[tiling]())
    subject = Subject(tiny_lvlm("avg_pool", 4, tiling=TILINGS[tiling]), processor, (), ("tiny", ""))
    white = [Image.new("RGB", size, "white") for size in ((96, 96), (48, 200))]
    # A base view holds the whole image: a dark right half is dark in the right half of its pixels.
    half = Image.new("RGB", (200, 200), "white")
    half.paste((0, 0, 0), (100, 0, 200, 200))
    together = subject.pixels([*white, half])
    assert together.shape == (3, 3, SIDE, SIDE)
    assert torch.equal(together[2], subject.pixels([half])[0])
    assert float(together[2, :, 8:-8, 30:].mean()) < float(together[2, :, 8:-8, :18].mean()) - 1
