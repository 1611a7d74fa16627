"""Vision Remember: identity at the start, no answer leak, the right window under every token, every option."""

from __future__ import annotations

import weakref
from typing import Any

import pytest
import torch

from vr_eval.models.lvlm import LVLM
from vr_eval.testing.tiny import batch, pixels, prompt, tiny_lvlm

OPTIONS: list[dict[str, Any]] = [
    {},
    {"halo": 1},
    {"fusion": "per_level"},
    {"fusion": "per_level", "halo": 1},
    {"fusion": "last"},
    {"scope": "global"},
    {"scope": "global", "fusion": "per_level"},
    {"text_guide": "last"},
    {"text_guide": "none"},
    {"order": "self_first"},
    {"order": "cross_only"},
    {"order": "self_only"},
    {"ffn": True},
    {"levels": (1, 4)},
    {"layers": (0, 1, 2, 3)},
    {"heads": 2},
]


def label(options: dict[str, Any]) -> str:
    return ",".join(f"{k}={v}" for k, v in options.items()) or "defaults"


def vision_states(model: LVLM, ids: torch.Tensor, mask: torch.Tensor, images: torch.Tensor, **kw: Any) -> torch.Tensor:
    """The hidden states at vision positions after every decoder layer, ``(layers, T, H)``."""
    seen: list[torch.Tensor] = []
    at = ids == model.config.image_token_id
    # Registered on the layers' successors' inputs: what the next layer is handed, refusion included.
    handles = [
        layer.register_forward_pre_hook(lambda _, args, kwargs: seen.append(args[0][at].detach()), with_kwargs=True)
        for layer in model.decoder.layers
    ]
    handles.append(model.decoder.norm.register_forward_pre_hook(lambda _, args: seen.append(args[0][at].detach())))
    try:
        model(ids, mask, images, **kw)
    finally:
        for handle in handles:
            handle.remove()
    return torch.stack(seen)


@pytest.mark.parametrize("options", OPTIONS, ids=label)
@torch.no_grad()
def test_at_initialisation_it_equals_its_base_model_bit_for_bit(options: dict[str, Any]) -> None:
    model = tiny_lvlm("avg_pool", 4, "vision_remember", noise=0, **options)
    base = tiny_lvlm("avg_pool", 4, noise=0)
    base.load_state_dict({k: v for k, v in model.state_dict().items() if not k.startswith("refusion.")})
    ids = torch.tensor([prompt(model, 5, "image", 6, 7, "image", 8)])
    assert torch.equal(model(ids, None, pixels(2)).logits, base(ids, None, pixels(2)).logits)


@torch.no_grad()
def test_without_zero_init_it_does_not() -> None:
    model = tiny_lvlm("avg_pool", 4, "vision_remember", noise=0, zero_init=False)
    base = tiny_lvlm("avg_pool", 4, noise=0)
    base.load_state_dict({k: v for k, v in model.state_dict().items() if not k.startswith("refusion.")})
    ids = torch.tensor([prompt(model, 5, "image", 6, 7)])
    assert not torch.allclose(model(ids, None, pixels(1)).logits, base(ids, None, pixels(1)).logits)


@pytest.mark.parametrize("options", OPTIONS, ids=label)
@torch.no_grad()
def test_every_option_runs_batched_and_merged(options: dict[str, Any]) -> None:
    model = tiny_lvlm("avg_pool", 4, "vision_remember", **options)
    rows = [prompt(model, 5, "image", 6, 7), prompt(model, 5, 6, "image", 8, 9, 10)]
    ids, mask = batch(rows, "left")
    together = model(ids, mask, pixels(2)).logits
    base = tiny_lvlm("avg_pool", 4)
    assert not torch.allclose(together[1], base(ids, mask, pixels(2)).logits[1], atol=1e-3)
    for place, row in enumerate(rows):
        alone = model(torch.tensor([row]), None, pixels(2)[place : place + 1]).logits[0]
        torch.testing.assert_close(together[place][mask[place].bool()], alone, atol=2e-4, rtol=1e-4)
    merged = model.to_inference()(ids, mask, pixels(2)).logits
    torch.testing.assert_close(merged, together, atol=1e-4, rtol=0)


@pytest.mark.parametrize("guide", ["mean", "last"])
@torch.no_grad()
def test_changing_answers_leaves_every_vision_state_unchanged_bit_for_bit(guide: str) -> None:
    model = tiny_lvlm("avg_pool", 4, "vision_remember", text_guide=guide)
    # Two turns: everything from the first answer on must stay out of the text-guided token.
    row = prompt(model, 5, "image", 6, 7, 8, 30, 31, 9, 10, 40, 41)
    first_answer = len(row) - 6
    labels = torch.full((1, len(row)), -100)
    labels[0, first_answer : first_answer + 2] = torch.tensor(row[first_answer : first_answer + 2])
    labels[0, -2:] = torch.tensor(row[-2:])
    states = []
    for change in (0, 20):
        ids = torch.tensor([row])
        ids[0, first_answer : first_answer + 2] += change
        ids[0, -2:] += change
        states.append(vision_states(model, ids, torch.ones_like(ids), pixels(1), labels=labels))
    assert torch.equal(states[0], states[1])


@pytest.mark.parametrize("guide", ["mean", "last"])
@torch.no_grad()
def test_changing_the_question_changes_vision_states(guide: str) -> None:
    model = tiny_lvlm("avg_pool", 4, "vision_remember", text_guide=guide)
    ids = torch.tensor([prompt(model, 5, "image", 6, 7, 8)])
    other = ids.clone()
    other[0, -1] = 50
    mask = torch.ones_like(ids)
    assert not torch.equal(vision_states(model, ids, mask, pixels(1)), vision_states(model, other, mask, pixels(1)))


@torch.no_grad()
def test_teacher_forcing_and_generation_see_the_same_vision_states() -> None:
    model = tiny_lvlm("avg_pool", 4, "vision_remember")
    question = prompt(model, 5, "image", 6, 7, 8)
    ids = torch.tensor([[*question, 30, 31]])
    labels = ids.clone()
    labels[0, : len(question)] = -100
    taught = vision_states(model, ids, torch.ones_like(ids), pixels(1), labels=labels)
    asked = torch.tensor([question])
    torch.testing.assert_close(
        vision_states(model, asked, torch.ones_like(asked), pixels(1)), taught, atol=1e-5, rtol=0
    )


@torch.no_grad()
def test_a_token_sees_the_cells_under_it_and_no_others() -> None:
    """Changing one cell of the features moves, at the first insertion point, the one token above it."""
    model = tiny_lvlm("avg_pool", 4, "vision_remember", order="cross_only", layers=(0,))
    ids = torch.tensor([prompt(model, 5, "image", 6, 7)])
    features = model.encode_images(pixels(1))
    grid, stride = 12, 2
    # The projector gives the unchanged features' tokens in every run: only refusion may differ.
    tokens = model.projector(_view(model, features))
    model.projector.forward = lambda _: tokens
    for y, x in ((0, 0), (3, 8), (11, 11), (5, 6)):
        given = {}
        changed = features.clone()
        changed[0, y * grid + x] += 1.0
        for name, maps in (("before", features), ("after", changed)):
            given[name] = vision_states(model, ids, torch.ones_like(ids), None, vision_features=maps)[1]
        moved = (given["after"] - given["before"]).abs().amax(1).nonzero().flatten().tolist()
        assert moved == [(y // stride) * (grid // stride) + x // stride]


def _view(model: LVLM, maps: torch.Tensor) -> Any:
    from vr_eval.methods.base import VisionFeatures

    return VisionFeatures(maps, model.feature_levels)


@torch.no_grad()
def test_a_sample_without_any_instruction_trains_and_batches() -> None:
    model = tiny_lvlm("avg_pool", 4, "vision_remember")
    row = prompt(model, "image", 30, 31)  # a caption: everything after the image is supervised
    ids = torch.tensor([row, prompt(model, "image", 6, 31)])
    labels = ids.clone()
    labels[:, :-2] = -100
    labels[1, -2] = -100
    out = model(ids, None, pixels(2), labels=labels)
    assert torch.isfinite(out.loss)
    alone = model(ids[:1], None, pixels(2)[:1], labels=labels[:1])
    torch.testing.assert_close(out.logits[0], alone.logits[0], atol=1e-4, rtol=1e-4)


def test_features_are_freed_after_prefill(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_lvlm("avg_pool", 4, "vision_remember").to_inference()
    alive: list[weakref.ref[torch.Tensor]] = []
    encode, prepare = model.encode_images, model.refusion.prepare

    def encoded(*args: Any) -> torch.Tensor:
        features = encode(*args)
        alive.append(weakref.ref(features))
        return features

    def prepared(features: Any) -> Any:
        ready = prepare(features)
        alive.extend(weakref.ref(part) for part in ready)
        return ready

    monkeypatch.setattr(model, "encode_images", encoded)
    monkeypatch.setattr(model.refusion, "prepare", prepared)
    lengths: list[int] = []

    def watch(module: Any, args: Any, kwargs: Any) -> None:
        length = kwargs["inputs_embeds"].shape[1]
        lengths.append(length)
        if length == 1:
            assert alive
            assert all(reference() is None for reference in alive)

    handle = model.language_model.register_forward_pre_hook(watch, with_kwargs=True)
    ids = torch.tensor([prompt(model, 5, "image", 6, 7)])
    model.generate(ids, attention_mask=torch.ones_like(ids), pixel_values=pixels(1), max_new_tokens=4, do_sample=False)
    handle.remove()
    assert lengths == [ids.shape[1], 1, 1, 1]
