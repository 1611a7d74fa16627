"""Pruned models: a shorter cache from layer K, original positions, the same answer in any batch and without a cache."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from vr_eval.layers.rows import Rows
from vr_eval.models.lvlm import LVLM
from vr_eval.testing.tiny import batch, pixels, prompt, tiny_lvlm

Case = tuple[str, int, str, str, dict[str, Any]]
DROPPING: list[Case] = [
    ("mlp", 1, "none", "fastv", {}),
    ("mlp", 1, "none", "fastv", {"query": "mean", "keep_ratio": 0.25}),
    ("mlp", 1, "none", "fastv", {"mode": "mask"}),
    ("mlp", 1, "none", "random", {"layer": 1}),
    ("tokenpacker", 4, "vision_remember", "fastv", {"layer": 3}),
]
"""Methods that drop tokens inside the decoder."""
CASES: list[Case] = [
    *DROPPING,
    # Refusion before, between and behind what is dropped.
    ("avg_pool", 4, "vision_remember", "pyramiddrop", {}),
    ("avg_pool", 4, "vision_remember", "divprune", {"keep_ratio": 0.3}),
    ("mlp", 1, "sva", "fastv", {"layer": 1}),
    ("mlp", 1, "deepstack", "uniform", {}),
    ("mlp", 1, "none", "downsample", {}),
    ("avg_pool", 4, "none", "downsample", {"factor": 3}),
]


def named(case: Case) -> str:
    return f"{case[0]}-{case[2]}-{case[3]}-{case[4]}"


def build(case: Case) -> LVLM:
    projector, ratio, refusion, pruning, options = case
    return tiny_lvlm(projector, ratio, refusion, pruning, **options)


@pytest.fixture(params=CASES, ids=named, scope="module")
def model(request: pytest.FixtureRequest) -> LVLM:
    return build(request.param)


def rows_of(model: LVLM) -> tuple[list[list[int]], list[int]]:
    rows = [
        prompt(model, "image", 10, 11, 12),
        prompt(model, 13, 14, "image", 15),
        prompt(model, 20, "image", 21, "image", 22, 23),
        prompt(model, 24, 25, 26),
    ]
    return rows, [1, 1, 2, 0]


def test_a_batch_generates_what_its_samples_generate_one_by_one_with_and_without_cache(model: LVLM) -> None:
    rows, counts = rows_of(model)
    ids, mask = batch(rows, "left")
    images = pixels(sum(counts))
    how: dict[str, Any] = {"max_new_tokens": 5, "do_sample": False, "output_logits": True}
    how["return_dict_in_generate"] = True
    together = model.generate(ids, attention_mask=mask, pixel_values=images, **how)
    without = model.generate(ids, attention_mask=mask, pixel_values=images, use_cache=False, **how)
    assert torch.equal(together.sequences, without.sequences)
    for step, other in zip(together.logits, without.logits, strict=True):
        torch.testing.assert_close(step, other, atol=2e-4, rtol=1e-4)
    start = 0
    for place, (row, count) in enumerate(zip(rows, counts, strict=True)):
        own = images[start : start + count] if count else None
        alone = model.generate(torch.tensor([row]), pixel_values=own, **how)
        assert torch.equal(together.sequences[place, -5:], alone.sequences[0, -5:])
        torch.testing.assert_close(together.logits[0][place], alone.logits[0][0], atol=2e-4, rtol=1e-4)
        start += count


def test_beams_and_samples_run_and_see_their_own_images(model: LVLM) -> None:
    rows, counts = rows_of(model)
    ids, mask = batch(rows, "left")
    images = pixels(sum(counts))
    how: dict[str, Any] = {"max_new_tokens": 4, "num_beams": 2, "num_return_sequences": 2, "do_sample": False}
    together = model.generate(ids, attention_mask=mask, pixel_values=images, **how)
    alone = model.generate(torch.tensor([rows[2]]), pixel_values=images[2:4], **how)
    assert torch.equal(together[4:6, -4:], alone[:, -4:])


def test_several_sequences_of_one_prompt_see_its_images(model: LVLM) -> None:
    """The most probable token, drawn twice, is the greedy one twice."""
    rows, counts = rows_of(model)
    ids, mask = batch(rows, "left")
    how: dict[str, Any] = {"attention_mask": mask, "pixel_values": pixels(sum(counts)), "max_new_tokens": 5}
    greedy = model.generate(ids, do_sample=False, **how)
    drawn = model.generate(ids, do_sample=True, top_k=1, num_return_sequences=2, **how)
    assert torch.equal(drawn, greedy.repeat_interleave(2, dim=0))
    other = model.generate(ids, do_sample=False, **how | {"pixel_values": pixels(sum(counts), seed=1)})
    assert not torch.equal(greedy, other)  # images do matter


@pytest.mark.parametrize("case", DROPPING, ids=named)
@torch.no_grad()
def test_layers_from_k_on_hold_the_short_cache_and_earlier_ones_the_whole(case: Case) -> None:
    model = build(case)
    ids = torch.tensor([prompt(model, 5, "image", 6, 7)])
    out = model(ids, None, pixels(1), use_cache=True)
    pruning, tokens = model.pruning, model.tokens_per_image
    assert pruning is not None
    kept = int(tokens * pruning.keep_ratio + 0.5)
    short = ids.shape[1] - tokens + kept if pruning.mode == "drop" else ids.shape[1]
    lengths = [out.past_key_values.get_seq_length(layer) for layer in range(4)]
    (place,) = pruning.places
    assert lengths == [ids.shape[1]] * place + [short] * (4 - place)
    assert out.logits.shape[1] == short


@pytest.mark.parametrize("pruning", ["fastv", "random"])
@torch.no_grad()
def test_what_is_kept_keeps_its_position_and_an_answer_goes_on_behind_the_whole_prompt(pruning: str) -> None:
    model = tiny_lvlm("mlp", 1, free=pruning, layer=2, keep_ratio=0.1)
    ids = torch.tensor([prompt(model, 5, "image", 6, 7)])
    chosen: list[Rows] = []
    choose = model.pruning.choose
    model.pruning.choose = lambda step, sample: (chosen.append(choose(step, sample)), chosen[-1])[1]
    rotary: list[tuple[torch.Tensor, ...]] = []
    for layer in (0, 2, 3):
        model.decoder.layers[layer].self_attn.register_forward_pre_hook(
            lambda module, args, kwargs: rotary.append(kwargs["position_embeddings"]), with_kwargs=True
        )
    out = model(ids, None, pixels(1), use_cache=True)
    model(input_ids=torch.tensor([[8]]), attention_mask=torch.ones(1, 148).long(), past_key_values=out.past_key_values)
    kept = torch.cat([torch.tensor([0]), 1 + chosen[0].home, torch.tensor([145, 146])])
    assert len(kept) == 1 + 14 + 2
    whole, after = torch.arange(147), torch.tensor([147])
    for got, positions in zip(rotary, (whole, kept, kept, after, after, after), strict=True):
        expected = model.decoder.rotary_emb(torch.empty(1, 1, 32), positions[None])
        for part, of in zip(got, expected, strict=True):
            torch.testing.assert_close(part, of)


@torch.no_grad()
def test_keeping_everything_changes_nothing() -> None:
    whole = tiny_lvlm("mlp", 1)
    ids, mask = batch([prompt(whole, 5, "image", 6, 7), prompt(whole, 8, "image", 9)], "left")
    expected = whole(ids, mask, pixels(2)).logits
    for pruning in ("fastv", "random"):
        model = tiny_lvlm("mlp", 1, free=pruning, keep_ratio=1.0)
        torch.testing.assert_close(model(ids, mask, pixels(2)).logits, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("refusion", ["none", "vision_remember", "deepstack", "sva"])
@torch.no_grad()
def test_dropping_and_masking_the_same_tokens_give_the_same_logits(refusion: str) -> None:
    """A refusion method acts behind the choice, too, on what is left where it stands."""
    drop = tiny_lvlm("mlp", 1, refusion, free="fastv", layer=1, keep_ratio=0.25)
    mask = tiny_lvlm("mlp", 1, refusion, free="fastv", layer=1, keep_ratio=0.25, mode="mask")
    ids = torch.tensor([prompt(drop, 5, "image", 6, 7)])
    dropped, masked = drop(ids, None, pixels(1)).logits, mask(ids, None, pixels(1)).logits
    torch.testing.assert_close(dropped[:, -2:], masked[:, -2:], atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_the_recorded_attention_is_the_layers_own() -> None:
    """Against `output_attentions` of the eager implementation of the same weights."""
    model = tiny_lvlm("mlp", 1, free="fastv")
    ids = torch.tensor([prompt(model, 5, "image", 6, 7)])
    seen: list[torch.Tensor] = []
    choose = model.pruning.choose
    model.pruning.choose = lambda step, sample: (
        seen.append(sample.asked.received(sample.last())),
        choose(step, sample),
    )[1]
    model(ids, None, pixels(1))
    plain = tiny_lvlm("mlp", 1)
    plain.set_attn_implementation("eager")
    attentions = plain(ids, None, pixels(1), output_attentions=True).attentions
    torch.testing.assert_close(seen[0], attentions[1].mean(1)[0, -1], atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_the_loss_is_that_of_the_supervised_tokens(model: LVLM) -> None:
    ids = torch.tensor([prompt(model, 5, "image", 6, 7, 8)])
    labels = torch.full_like(ids, -100)
    labels[0, -2:] = ids[0, -2:]
    out = model(ids, None, pixels(1), labels=labels)
    expected = torch.nn.functional.cross_entropy(out.logits[0, -3:-1], ids[0, -2:])
    torch.testing.assert_close(out.loss, expected)


@torch.no_grad()
def test_nothing_of_a_pruned_call_outlives_it(model: LVLM, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = torch.tensor([prompt(model, 5, "image", 6, 7)])
    text = torch.tensor([[5, 6, 7]])
    before = model(text).logits
    model(ids, None, pixels(1))
    assert torch.equal(model(text).logits, before)

    def broken(*args: object, **kwargs: object) -> None:
        raise RuntimeError("boom")

    with monkeypatch.context() as patched:
        patched.setattr(model.decoder.layers[-1], "forward", broken)
        with pytest.raises(RuntimeError, match="boom"):
            model(ids, None, pixels(1))
    assert not any(layer._forward_hooks or layer._forward_pre_hooks for layer in model.decoder.layers)
    assert model.decoder.config._attn_implementation == "sdpa"
    assert torch.equal(model(text).logits, before)


@pytest.mark.parametrize("refusion", ["vision_remember", "deepstack"])
@torch.no_grad()
def test_a_refusion_method_reads_the_window_of_each_token_that_is_left(refusion: str) -> None:
    """Cells that no token is left over are not looked at; and if all are left, nothing changes."""
    whole = tiny_lvlm("mlp", 1, refusion)
    ids = torch.tensor([prompt(whole, 5, "image", 6, 7)])
    images = pixels(1)
    everything = tiny_lvlm("mlp", 1, refusion, free="uniform", keep_ratio=1.0)
    torch.testing.assert_close(everything(ids, None, images).logits, whole(ids, None, images).logits)
    model = tiny_lvlm("mlp", 1, refusion, free="uniform", keep_ratio=0.5)  # tokens 1, 3, 5, ..: every second column
    features = model.encode_images(images).requires_grad_()
    with torch.enable_grad():
        model(ids, None, vision_features=features).logits[:, -1].sum().backward()
    assert features.grad is not None
    looked_at = features.grad[0].abs().sum((1, 2)).nonzero().flatten().tolist()
    assert looked_at == list(range(1, 144, 2))
