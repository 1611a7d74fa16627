"""A model that cuts images into tiles is probed on their base views; what marks the end of a row never enters."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor
from transformers import GotOcr2ImageProcessor, LlavaNextImageProcessor, LlavaOnevisionImageProcessor

from tests.tiny import IMAGE, SIDE, pixels, tiny_lvlm
from vr_eval.models.hd import HDImageProcessor
from vr_eval.models.lvlm import LVLM
from vr_eval.models.spec import Tiling
from vr_eval.models.tiles import BASE_ONLY
from vr_eval.probes.extract import Subject
from vr_eval.probes.taps import encode, levels_read, run_tapped, taps_of

SQUARE = {"height": SIDE, "width": SIDE}
POINTS = [[SIDE, 2 * SIDE], [2 * SIDE, SIDE], [2 * SIDE, 2 * SIDE]]
TILINGS: dict[str, dict[str, Any]] = {
    "llava_next": {"pinpoints": POINTS, "limit": None, "lone": False},
    "onevision": {"pinpoints": POINTS, "limit": 2, "lone": True},
    "tokenpacker_hd": dataclasses.asdict(Tiling.tokenpacker_hd(SIDE)),
    "internvl": dataclasses.asdict(Tiling.internvl(SIDE)),
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
    subject = Subject(tiny_lvlm("avg_pool", 4, tiling=TILINGS[tiling]), processor, (), ("tiny", 12))
    white = [Image.new("RGB", size, "white") for size in ((96, 96), (48, 200))]
    # A base view holds the whole image: a dark right half is dark in the right half of its pixels.
    half = Image.new("RGB", (200, 200), "white")
    half.paste((0, 0, 0), (100, 0, 200, 200))
    together = subject.pixels([*white, half])
    assert together.shape == (3, 3, SIDE, SIDE)
    assert torch.equal(together[2], subject.pixels([half])[0])
    assert float(together[2, :, 8:-8, 30:].mean()) < float(together[2, :, 8:-8, :18].mean()) - 1
