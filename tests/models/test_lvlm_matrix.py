"""Every method and composition computes the same whatever the batch, the padding, the cache or the number of images."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.tiny import DOWNSAMPLED, IMAGE, PROJECTORS, REFUSIONS, VARIANTS, batch, pixels, prompt, tiny_lvlm
from vr_eval.models.lvlm import LVLM


def compositions() -> list[tuple[str, int, str, str]]:
    """Every projector alone, with every refusion and pruning method that it can carry."""
    every = []
    for projector, ratio in PROJECTORS:
        every.append((projector, ratio, "none", "none"))
        for refusion in REFUSIONS:
            if projector == "resampler" and refusion != "vision_remember":
                continue  # its tokens do not stand over the grid
            # A decoder of four layers has no place for nine stacks.
            every.append((projector, min(ratio, 4) if refusion == "deepstack" else ratio, refusion, "none"))
    # Stacks of crops fill the decoder of four layers without compression already; in the tower any projector will do.
    every += [("mlp", 1, name, "none") for name in VARIANTS]
    every += [(projector, 4, "deepstack-tower", "none") for projector in ("tokenpacker", "resampler")]
    every += [(projector, ratio, "none", name) for projector, ratio in PROJECTORS for name in ("fastv", "random")]
    return [*every, *((projector, ratio, "none", "downsample") for projector, ratio in DOWNSAMPLED)]


def options(projector: str, ratio: int, refusion: str) -> dict[str, Any]:
    if projector == "resampler" and refusion == "vision_remember":
        return {"scope": "global"}
    if ratio > 1:
        return {}
    # One key per token gives attention nothing to choose: uncompressed tokens get more of them.
    return {"vision_remember": {"halo": 1}, "sva": {"levels": (2, 4)}}.get(refusion, {})


@pytest.fixture(params=compositions(), ids=lambda c: "-".join(map(str, c)), scope="module")
def model(request: pytest.FixtureRequest) -> LVLM:
    projector, ratio, refusion, pruning = request.param
    name, chosen = VARIANTS.get(refusion, (refusion, options(projector, ratio, refusion)))
    return tiny_lvlm(projector, ratio, name, pruning, **chosen)


def samples(model: LVLM) -> tuple[list[list[int]], list[int]]:
    """Prompts with the image at the start, in the middle, at the end, twice, and not at all; images in each."""
    rows = [
        prompt(model, "image", 10, 11, 12),
        prompt(model, 13, 14, "image", 15),
        prompt(model, 16, 17, 18, 19, "image"),
        prompt(model, 20, "image", 21, "image", 22, 23),
        prompt(model, 24, 25, 26),
    ]
    return rows, [1, 1, 1, 2, 0]


def comparable(model: LVLM, row: list[int]) -> int:
    """How many tokens at the end of a prompt have logits at the same distance from it in any batch.

    All of them; but where tokens are dropped, what stands before an image moves by the number of those.
    """
    if model.pruning is None or IMAGE not in row:
        return len(row)
    return row[::-1].index(IMAGE)


@pytest.mark.parametrize("side", ["left", "right"])
@torch.no_grad()
def test_a_batch_gives_the_logits_of_its_samples_one_by_one(model: LVLM, side: str) -> None:
    rows, counts = samples(model)
    images = pixels(sum(counts))
    ids, mask = batch(rows, side)
    together = model(ids, mask, images).logits
    start = 0
    for place, (row, count) in enumerate(zip(rows, counts, strict=True)):
        own = images[start : start + count] if count else None
        alone = model(torch.tensor([row]), None, own).logits[0]
        shown = comparable(model, row)
        end = together.shape[1] - (ids.shape[1] - len(row) if side == "right" else 0)
        same = together[place, end - shown : end]
        torch.testing.assert_close(same, alone[len(alone) - shown :], atol=2e-4, rtol=1e-4)
        start += count


@pytest.mark.parametrize(
    "how",
    [
        {"do_sample": False},
        {"num_beams": 3, "num_return_sequences": 2, "do_sample": False},
        {"do_sample": True, "num_return_sequences": 2, "temperature": 0.7},
    ],
    ids=["greedy", "beams", "samples"],
)
def test_generation_with_cache_equals_generation_without(model: LVLM, how: dict) -> None:
    rows, counts = samples(model)
    ids, mask = batch(rows, "left")
    texts = []
    for use_cache in (True, False):
        torch.manual_seed(5)
        texts.append(
            model.generate(
                ids,
                attention_mask=mask,
                pixel_values=pixels(sum(counts)),
                max_new_tokens=6,
                use_cache=use_cache,
                **how,
            )
        )
    assert texts[0].shape[1] == ids.shape[1] + 6
    assert torch.equal(texts[0], texts[1])


def test_several_sequences_of_one_prompt_see_the_prompts_own_images(model: LVLM) -> None:
    rows, counts = samples(model)
    ids, mask = batch(rows, "left")
    images = pixels(sum(counts))
    alike = {"max_new_tokens": 5, "do_sample": False, "num_beams": 2}
    together = model.generate(ids, attention_mask=mask, pixel_values=images, num_return_sequences=2, **alike)
    start = 0
    for place, (row, count) in enumerate(zip(rows, counts, strict=True)):
        own = images[start : start + count] if count else None
        alone = model.generate(torch.tensor([row]), pixel_values=own, num_return_sequences=2, **alike)
        got = together[2 * place : 2 * place + 2, -5:]
        assert torch.equal(got, alone[:, -5:])
        start += count


@torch.no_grad()
def test_features_handed_in_equal_pixels(model: LVLM) -> None:
    ids = torch.tensor([prompt(model, 5, "image", 6, 7)])
    features = model.encode_images(pixels(1))
    assert torch.equal(model(ids, None, pixels(1)).logits, model(ids, vision_features=features).logits)


@torch.no_grad()
def test_the_inference_version_agrees(model: LVLM) -> None:
    import copy

    ids = torch.tensor([prompt(model, 5, "image", 6, 7), prompt(model, 8, "image", 9, 10)])
    trained = model(ids, None, pixels(2)).logits
    merged = copy.deepcopy(model).to_inference()
    torch.testing.assert_close(merged(ids, None, pixels(2)).logits, trained, atol=1e-4, rtol=0)
    assert not any(parameter.requires_grad for parameter in merged.parameters())
    assert torch.equal(merged.to_inference()(ids, None, pixels(2)).logits, merged(ids, None, pixels(2)).logits)


def test_the_inference_version_holds_no_dead_parameter(model: LVLM) -> None:
    import copy

    merged = copy.deepcopy(model).to_inference()
    parts = [part for part in (merged.projector, merged.refusion) if part is not None]
    for part in parts:
        part.requires_grad_(True)
    ids = torch.tensor([prompt(merged, 5, "image", 6, 7, 8)])
    merged(ids, None, pixels(1)).logits[0, -1].square().sum().backward()
    assert all(p.grad is not None for part in parts for p in part.parameters())
    trained = [part for part in (model.projector, model.refusion) if part is not None]
    assert sum(p.numel() for part in parts for p in part.parameters()) <= sum(
        p.numel() for part in trained for p in part.parameters()
    )
    with pytest.raises(ValueError, match="inference version of a model cannot be saved"):
        merged.save_pretrained("nowhere")


@torch.no_grad()
def test_saved_and_loaded_gives_the_same_logits(model: LVLM, tmp_path) -> None:
    import copy

    ids = torch.tensor([prompt(model, 5, "image", 6, 7)])
    model.save_pretrained(tmp_path)
    loaded = LVLM.from_pretrained(tmp_path).eval()
    state = loaded.state_dict()
    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())
    # Convolutions choose their algorithm by how the weights lie in memory: equal in float64, not bit for bit.
    got, expected = (twin.double()(ids, None, pixels(1)).logits for twin in (loaded, copy.deepcopy(model)))
    torch.testing.assert_close(got, expected, atol=1e-10, rtol=1e-10)
    assert not list(tmp_path.glob("*.bin"))


@torch.no_grad()
def test_bfloat16_runs_and_stays_close(model: LVLM) -> None:
    import copy

    ids = torch.tensor([prompt(model, 5, "image", 6, 7)])
    half = copy.deepcopy(model).to(torch.bfloat16)
    out = half(ids, None, pixels(1)).logits
    assert out.dtype == torch.bfloat16
    whole = model(ids, None, pixels(1)).logits
    assert out.shape == whole.shape
    # After the image, where nothing moves if a rounding makes FastV keep another token.
    difference, expected = (out.float() - whole)[0, -2:], whole[0, -2:]
    assert difference.norm() < 0.2 * expected.norm()


def test_gradient_checkpointing_changes_no_gradient(model: LVLM) -> None:
    import copy

    ids = torch.tensor([prompt(model, 5, "image", 6, 7)])
    grads = []
    for checkpointing in (False, True):
        twin = copy.deepcopy(model).train().requires_grad_(True)
        if checkpointing:
            twin.gradient_checkpointing_enable({"use_reentrant": False})
        labels = ids.clone()
        labels[:, :-2] = -100
        twin(ids, None, pixels(1), labels=labels).loss.backward()
        grads.append({name: p.grad for name, p in twin.named_parameters() if p.grad is not None})
    assert grads[0].keys() == grads[1].keys()
    for name, gradient in grads[0].items():
        torch.testing.assert_close(gradient, grads[1][name], atol=1e-6, rtol=1e-4)


def test_the_gradient_reaches_every_method_parameter(model: LVLM) -> None:
    import copy

    twin = copy.deepcopy(model).train()
    ids = torch.tensor([prompt(twin, 5, "image", 6, 7, 8)])
    labels = ids.clone()
    labels[:, :-1] = -100
    twin(ids, None, pixels(1), labels=labels).loss.backward()
    for part in (twin.projector, twin.refusion):
        for name, parameter in part.named_parameters() if part is not None else ():
            assert parameter.grad is not None, name
            if "k_proj" not in name or "bias" not in name:
                assert parameter.grad.abs().sum() > 0, name


@torch.no_grad()
def test_nothing_of_a_call_outlives_it(model: LVLM) -> None:
    ids = torch.tensor([prompt(model, 5, "image", 6, 7)])
    text = torch.tensor([[5, 6, 7]])
    before = model(text).logits
    model(ids, None, pixels(1))
    assert torch.equal(model(text).logits, before)
    assert not any(layer._forward_hooks or layer._forward_pre_hooks for layer in model.decoder.layers)
    assert not any(layer._forward_pre_hooks for layer in model.vision_tower.encoder.layers)


@torch.no_grad()
def test_hooks_are_gone_after_an_exception(model: LVLM, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: object, **kwargs: object) -> None:
        raise RuntimeError("boom")

    last = model.decoder.layers[-1]
    monkeypatch.setattr(last, "forward", broken)
    ids = torch.tensor([prompt(model, 5, "image", 6, 7)])
    with pytest.raises(RuntimeError, match="boom"):
        model(ids, None, pixels(1))
    assert not any(layer._forward_hooks or layer._forward_pre_hooks for layer in model.decoder.layers)


def test_too_few_images_are_refused(model: LVLM) -> None:
    ids = torch.tensor([prompt(model, 5, "image", "image", 7)])
    with pytest.raises(ValueError, match="image tokens for 1 image"):
        model(ids, None, pixels(1))
