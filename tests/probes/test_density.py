"""Attention density is that of the model's own attention, and leaves no trace."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from vr_eval.models.lvlm import LVLM
from vr_eval.probes.density import Density
from vr_eval.probes.taps import encode, levels_read, run_tapped
from vr_eval.testing.tiny import batch, pixels, prompt, tiny_lvlm


def measured(model: LVLM, ids: torch.Tensor, images: torch.Tensor, mask: torch.Tensor | None = None) -> Density:
    density = Density(model)
    encoded = encode(model, images, levels_read(model))
    run_tapped(model, ids, encoded, lambda tap, tokens, kept: None, mask, inside=density.watching)
    return density


@pytest.mark.parametrize("refusion", ["none", "vision_remember"])
@torch.no_grad()
def test_the_share_is_that_of_the_models_own_attention(refusion: str) -> None:
    model = tiny_lvlm("avg_pool", 4, refusion)
    ids = torch.tensor([prompt(model, 5, "image", 6, 7), prompt(model, 8, "image", 9, 10)])
    density = measured(model, ids, pixels(2))
    model.set_attn_implementation("eager")
    attentions = model(ids, None, pixels(2), output_attentions=True).attentions
    at = slice(1, 1 + model.tokens_per_image)
    for layer, weights in enumerate(attentions):
        expected = weights[:, :, at.stop :, at].sum(-1).mean((1, 2))
        torch.testing.assert_close(density.shares[layer], expected, atol=1e-5, rtol=1e-4)
        even = torch.tensor([36 / 38, 36 / 39]).mean().expand(2)
        torch.testing.assert_close(density.even[layer], even)


@pytest.mark.parametrize("side", ["left", "right"])
@torch.no_grad()
def test_padding_takes_no_part(side: str) -> None:
    model = tiny_lvlm("avg_pool", 4)
    rows = [prompt(model, 5, "image", 6, 7), prompt(model, 8, 4, "image", 9, 10, 11, 12)]
    ids, mask = batch(rows, side)
    together = measured(model, ids, pixels(2), mask)
    for place, row in enumerate(rows):
        alone = measured(model, torch.tensor([row]), pixels(2)[place : place + 1])
        for layer, share in alone.shares.items():
            torch.testing.assert_close(together.shares[layer][place], share[0], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("options", [{}, {"mode": "mask"}])
@torch.no_grad()
def test_dropped_tokens_receive_nothing(options: dict[str, Any]) -> None:
    model = tiny_lvlm("mlp", 1, free="fastv", keep_ratio=0.25, **options)
    ids = torch.tensor([prompt(model, 5, "image", 6, 7)])
    even = measured(model, ids, pixels(1)).even
    whole, left = sum((144 / 146, 144 / 147)) / 2, sum((36 / 38, 36 / 39)) / 2
    assert [float(even[layer]) for layer in range(4)] == pytest.approx([whole, whole, left, left])


@torch.no_grad()
def test_measuring_changes_no_answer_and_ends_with_the_pass() -> None:
    for pruning in ("none", "fastv"):
        model = tiny_lvlm("mlp", 1, free=pruning)
        ids = torch.tensor([prompt(model, 5, "image", 6, 7)])
        before = model(ids, None, pixels(1)).logits
        measured(model, ids, pixels(1))
        assert model.decoder.config._attn_implementation == "sdpa"
        assert torch.equal(model(ids, None, pixels(1)).logits, before)
