"""Operations of a prefill: what is counted equals formulas written out here, for every part of a model."""

from __future__ import annotations

import pytest
import torch

from vr_eval.layers.attention import window_attention
from vr_eval.measure.flops import count_flops, prefill_flops
from vr_eval.measure.question import example
from vr_eval.methods.registry import refusions
from vr_eval.records.costs import PrefillFlops
from vr_eval.testing.cases import one_each
from vr_eval.testing.tiny import tiny_lvlm

TEXT = 32
VISION_WIDTH, WIDTH, GROUPS_WIDTH, INNER, VOCABULARY, DEPTH = 16, 32, 16, 64, 97, 4


def tower_flops(grid: int = 12) -> int:
    """Of the tiny CLIP vision model on grid x grid patches: a class token goes with them."""
    places = grid**2 + 1
    patches = 2 * grid**2 * (3 * 4 * 4) * VISION_WIDTH
    layer = 2 * places * (4 * VISION_WIDTH**2 + 2 * VISION_WIDTH * 32) + 4 * places**2 * VISION_WIDTH
    return patches + DEPTH * layer


def layer_flops(length: int) -> int:
    """Of one layer of the tiny Qwen2: projections, feed-forward, attention over all pairs."""
    per_token = 2 * WIDTH**2 + 2 * WIDTH * GROUPS_WIDTH + 3 * WIDTH * INNER
    return 2 * length * per_token + 4 * length**2 * WIDTH


def decoder_flops(length: int) -> int:
    """Of all layers, and of the head at the last position."""
    return DEPTH * layer_flops(length) + 2 * WIDTH * VOCABULARY


def mlp_flops(cells: int) -> int:
    return 2 * cells * (VISION_WIDTH * WIDTH + WIDTH**2)


def counted(*arguments: object, **options: object) -> int:
    return round(prefill_flops(tiny_lvlm(*arguments, **options), TEXT).gflops * 1e9)  # type: ignore[arg-type]


@pytest.mark.parametrize(("projector", "ratio"), [("mlp", 1), ("avg_pool", 4), ("avg_pool", 9)])
def test_a_plain_model_is_the_sum_of_its_matrix_products(projector: str, ratio: int) -> None:
    tokens = 144 // ratio
    assert counted(projector, ratio) == tower_flops() + mlp_flops(tokens) + decoder_flops(tokens + TEXT)


def test_the_towers_part_and_the_question_are_stated() -> None:
    found = prefill_flops(tiny_lvlm("avg_pool", 4), TEXT)
    assert round(found.tower_gflops * 1e9) == tower_flops()
    assert (found.vision_tokens, found.text_tokens) == (36, TEXT)
    kept = PrefillFlops(round(found.gflops, 6), round(found.tower_gflops, 6), vision_tokens=36, text_tokens=TEXT)
    assert found.rounded() == kept


@pytest.mark.parametrize("inference", [False, True])
def test_vision_remember_adds_the_products_and_the_windows_of_its_modules(inference: bool) -> None:
    model = tiny_lvlm("avg_pool", 4, "vision_remember", halo=1)
    model = model.to_inference() if inference else model
    tokens, cells, levels, window = 36, 144, 3, 16
    cross = 2 * (cells * levels * VISION_WIDTH * 2 * WIDTH + 2 * tokens * WIDTH**2) + 4 * tokens * window * WIDTH
    with_guide = tokens + 1
    mixing = 2 * (with_guide * 3 * WIDTH**2 + tokens * WIDTH**2) + 4 * tokens * with_guide * WIDTH
    plain = tower_flops() + mlp_flops(tokens) + decoder_flops(tokens + TEXT)
    assert round(prefill_flops(model, TEXT).gflops * 1e9) == plain + 2 * (cross + mixing)


def test_fastv_saves_in_later_layers_and_pays_for_its_ranking() -> None:
    length, kept = 144 + TEXT, 36 + TEXT
    ranking = 2 * length * WIDTH  # one row of scores, all heads
    expected = tower_flops() + mlp_flops(144) + decoder_flops(length) + ranking
    expected += 2 * (layer_flops(kept) - layer_flops(length))
    assert counted("mlp", 1, free="fastv", layer=2, keep_ratio=0.25) == expected


def test_a_masked_prefill_saves_nothing() -> None:
    assert counted("mlp", 1, free="fastv", mode="mask") > counted("mlp", 1)


def test_downsampling_saves_in_the_tower_too() -> None:
    tokens = 36
    expected = tower_flops(6) + mlp_flops(tokens) + decoder_flops(tokens + TEXT)
    assert counted("mlp", 1, free="downsample", factor=2) == expected


def test_every_tile_goes_through_the_tower_and_into_the_decoder() -> None:
    tiling = {"pinpoints": [[96, 96], [48, 96]], "limit": None, "lone": False}
    found = prefill_flops(tiny_lvlm("avg_pool", 4, tiling=tiling), TEXT)
    assert round(found.tower_gflops * 1e9) == 5 * tower_flops()
    tokens = 5 * 36 + 12  # base view and four tiles, a newline for each of twelve rows
    assert found.vision_tokens == tokens
    assert round(found.gflops * 1e9) == 5 * (tower_flops() + mlp_flops(36)) + decoder_flops(tokens + TEXT)


def test_crops_go_through_the_tower_as_well() -> None:
    found = prefill_flops(tiny_lvlm("mlp", 1, "deepstack", stacks="crops"), TEXT)
    assert round(found.tower_gflops * 1e9) == 5 * tower_flops()


@pytest.mark.parametrize(
    ("projector", "refusion"), [("sva_connector", "none"), ("sva_connector", "sva"), ("mlp", "sva")]
)
def test_an_inference_version_never_computes_more(projector: str, refusion: str) -> None:
    model = tiny_lvlm(projector, 1 if projector == "mlp" else 4, refusion)
    trained = prefill_flops(model, TEXT).gflops
    assert prefill_flops(model.to_inference(), TEXT).gflops <= trained


def test_counting_leaves_a_model_as_it_was() -> None:
    model = tiny_lvlm("avg_pool", 4, "vision_remember").train()
    model.projector.requires_grad_(False)
    before = [parameter.requires_grad for parameter in model.parameters()]
    prefill_flops(model, TEXT)
    assert [parameter.requires_grad for parameter in model.parameters()] == before
    assert model.training


@pytest.mark.parametrize("refusion", refusions())
def test_every_refusion_method_costs_something(refusion: str) -> None:
    assert counted("avg_pool", 4, refusion) > counted("avg_pool", 4)


@pytest.mark.parametrize(("projector", "ratio"), one_each())
def test_a_longer_prompt_costs_exactly_what_it_costs_the_decoder(projector: str, ratio: int) -> None:
    model = tiny_lvlm(projector, ratio)
    longer = prefill_flops(model, TEXT + 8).gflops - prefill_flops(model, TEXT).gflops
    length = model.tokens_per_image + TEXT
    assert round(longer * 1e9) == decoder_flops(length + 8) - decoder_flops(length)


def test_a_depthwise_convolution_counts_its_own_channel_only() -> None:
    convolution = torch.nn.Conv2d(6, 6, 3, padding=1, groups=6)
    assert count_flops(convolution, lambda: convolution(torch.zeros(1, 6, 5, 5))) == 2 * 25 * 9 * 6


def test_counting_windows_changes_nothing_of_what_they_give() -> None:
    query, key, value = torch.randn(5, 8), torch.randn(5, 4, 8), torch.randn(5, 4, 8)
    seen: list[torch.Tensor] = []
    counted = count_flops(torch.nn.Identity(), lambda: seen.append(window_attention(query, key, value, 2)))
    assert counted == 2 * 2 * 5 * 4 * 8
    assert torch.equal(seen[0], window_attention(query, key, value, 2))


def test_the_question_holds_one_image_a_sample_and_no_other_image_token() -> None:
    model = tiny_lvlm("avg_pool", 4)
    given = example(model, text_tokens=500, batch=2)
    images = given["input_ids"] == model.config.image_token_id
    assert images[:, :36].all()
    assert not images[:, 36:].any()
    assert given["pixel_values"].shape == (2, 3, 48, 48)
