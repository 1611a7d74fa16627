"""Taps are what they claim, whatever the method, the padding and the batch."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest
import torch
from torch import Tensor

from vr_eval.catalog.fields import info_of
from vr_eval.layers.rows import Rows
from vr_eval.models.lvlm import LVLM
from vr_eval.probes.options import ProbeFile
from vr_eval.probes.taps import POOLS, Pooled, attention_pool, encode, levels_read, run_tapped, taps_of
from vr_eval.testing.tiny import batch, pixels, prompt, tiny_lvlm

MODELS: dict[str, tuple[str, int, str, str, dict[str, Any]]] = {
    "plain": ("avg_pool", 4, "none", "none", {}),
    "refused": ("tokenpacker", 4, "vision_remember", "none", {}),
    "before-the-first-layer": ("avg_pool", 4, "deepstack", "none", {}),
    "stacked-in-the-tower": ("mlp", 1, "deepstack", "none", {"stacks": "crops", "place": "tower"}),
    "dropped": ("mlp", 1, "none", "fastv", {"keep_ratio": 0.25}),
    "masked": ("mlp", 1, "none", "fastv", {"keep_ratio": 0.25, "mode": "mask"}),
    "refused-and-dropped": ("avg_pool", 4, "vision_remember", "fastv", {"layer": 3}),
    "downsampled": ("mlp", 1, "none", "downsample", {}),
}


@pytest.fixture(params=list(MODELS), scope="module")
def model(request: pytest.FixtureRequest) -> LVLM:
    projector, ratio, refusion, pruning, options = MODELS[request.param]
    return tiny_lvlm(projector, ratio, refusion, pruning, **options)


def tapped(model: LVLM, ids: Tensor, images: Tensor, mask: Tensor | None = None) -> dict[str, Tensor]:
    """Mean over the vision tokens at every tap."""
    pooled = Pooled((tap, "mean") for tap in taps_of(model))
    run_tapped(model, ids, encode(model, images, levels_read(model)), pooled, mask)
    assert list(pooled.found) == [(tap, "mean") for tap in taps_of(model)]
    return {tap: features for (tap, _), features in pooled.found.items()}


def test_every_tap_is_found_in_the_order_of_the_pass(model: LVLM) -> None:
    ids = torch.tensor([prompt(model, 5, "image", 6, 7)])
    found = tapped(model, ids, pixels(1))
    assert all(torch.isfinite(features).all() for features in found.values())


def test_padding_other_text_and_the_batch_never_enter_a_feature(model: LVLM) -> None:
    images = pixels(3)
    rows = [prompt(model, 5, "image", 6, 7), prompt(model, 5, "image", 6, 7), prompt(model, 5, "image", 6, 7, 8, 9)]
    alone = tapped(model, torch.tensor(rows[:1]), images[:1])
    for side in ("left", "right"):
        ids, mask = batch(rows, side)
        together = tapped(model, ids, images, mask)
        for tap, features in alone.items():
            torch.testing.assert_close(together[tap][:1], features, atol=1e-4, rtol=1e-4)


def test_text_behind_the_image_changes_nothing_where_no_method_reads_it() -> None:
    model = tiny_lvlm("avg_pool", 4)
    one, other = (tapped(model, torch.tensor([prompt(model, 5, "image", *t)]), pixels(1)) for t in ((6, 7), (8, 9)))
    for tap, features in one.items():
        assert torch.equal(features, other[tap])


@torch.no_grad()
def test_taps_are_the_models_own_hidden_states() -> None:
    model = tiny_lvlm("avg_pool", 4)
    ids = torch.tensor([prompt(model, 5, "image", 6, 7)] * 2)
    found = tapped(model, ids, pixels(2))
    tower = model.vision_tower(pixels(2), output_hidden_states=True).hidden_states
    for level, hidden in enumerate(tower):
        torch.testing.assert_close(found[f"tower.{level}"], hidden[:, 1:].mean(1))
    assert torch.equal(found["tower.out"], found["tower.4"])
    hidden = model(ids, None, pixels(2), output_hidden_states=True).hidden_states
    at = slice(1, 1 + model.tokens_per_image)
    torch.testing.assert_close(found["projector"], hidden[0][:, at].mean(1))
    for layer in range(3):  # the last of Hugging Face's is behind the norm
        torch.testing.assert_close(found[f"decoder.{layer}"], hidden[layer + 1][:, at].mean(1))
    normed = []

    def note(tap: str, tokens: Tensor, kept: Tensor | None) -> None:
        normed.append(model.decoder.norm(tokens) if tap == "decoder.3" else None)

    run_tapped(model, ids, encode(model, pixels(2), levels_read(model)), note)
    torch.testing.assert_close(normed[-1], hidden[-1][:, at])


@torch.no_grad()
def test_before_and_after_a_refusion_point_differ_by_what_it_adds() -> None:
    model = tiny_lvlm("avg_pool", 4, "vision_remember")
    assert model.refusion is not None
    points = [f"decoder.{layer}" for layer in model.refusion.layers]
    ids = torch.tensor([prompt(model, 5, "image", 6, 7)])
    seen: dict[str, Tensor] = {}
    inject = model.refusion.inject

    def watched(point: int, hidden: Tensor, given: Any) -> Tensor:
        after = inject(point, hidden, given)
        seen[points[point]] = given.layout.gather(hidden).mean(1)
        seen[f"{points[point]}+refusion"] = given.layout.gather(after).mean(1)
        return after

    model.refusion.inject = watched  # type: ignore[method-assign]
    found = tapped(model, ids, pixels(1))
    for tap, expected in seen.items():
        torch.testing.assert_close(found[tap], expected)
    assert not torch.allclose(found[points[0]], found[f"{points[0]}+refusion"])


@pytest.mark.parametrize("mode", ["drop", "mask"])
def test_pruned_tokens_are_left_out(mode: str) -> None:
    model = tiny_lvlm("mlp", 1, free="fastv", keep_ratio=0.25, mode=mode)
    chosen = list(range(3, 3 + 36))
    assert model.pruning is not None

    model.pruning.choose = lambda step, sample: Rows.of(torch.tensor(chosen))  # type: ignore[method-assign]
    tokens: dict[str, Tensor] = {}
    kept: dict[str, Tensor | None] = {}

    def note(tap: str, found: Tensor, places: Tensor | None) -> None:
        tokens[tap], kept[tap] = found, places

    ids = torch.tensor([prompt(model, 5, "image", 6, 7)])
    run_tapped(model, ids, encode(model, pixels(1), levels_read(model)), note)
    assert tokens["decoder.1"].shape[1] == 144
    assert kept["decoder.1"] is None
    for tap in ("decoder.1+pruning", "decoder.2", "decoder.3"):
        places = kept[tap]
        assert places is not None
        assert places[0].tolist() == chosen
    torch.testing.assert_close(tokens["decoder.1+pruning"], tokens["decoder.1"][:, chosen])


def test_every_stage_of_a_reduction_is_a_tap_with_what_is_left_of_it() -> None:
    model = tiny_lvlm("mlp", 1, free="pyramiddrop")
    left = [list(range(2, 74)), list(range(10, 46)), list(range(10, 28))]
    before: list[int] = list(range(144))

    def choose(step: int, sample: Any) -> Rows:
        nonlocal before
        rows = Rows.of(torch.tensor([before.index(number) for number in left[step]]))
        before = left[step]
        return rows

    assert model.pruning is not None
    model.pruning.choose = choose  # type: ignore[method-assign]
    tokens: dict[str, Tensor] = {}
    kept: dict[str, Tensor | None] = {}

    def note(tap: str, found: Tensor, places: Tensor | None) -> None:
        tokens[tap], kept[tap] = found, places

    ids = torch.tensor([prompt(model, 5, "image", 6, 7)])
    run_tapped(model, ids, encode(model, pixels(1), levels_read(model)), note)
    assert [tap for tap in taps_of(model) if tap.endswith("+pruning")] == [f"decoder.{n}+pruning" for n in range(3)]
    for layer, expected in enumerate(left):
        for tap in (f"decoder.{layer}+pruning", f"decoder.{layer + 1}"):
            places = kept[tap]
            assert places is not None
            assert places[0].tolist() == expected
            assert tokens[tap].shape[1] == len(expected)


def test_nothing_of_a_reading_outlives_it(model: LVLM, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = torch.tensor([prompt(model, 5, "image", 6, 7)])
    before = model(ids, None, pixels(1)).logits

    def hooks() -> list[int]:  # transformers leaves some of its own
        return [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()]

    had = hooks()
    tapped(model, ids, pixels(1))
    assert hooks() == had

    def broken(*args: object, **kwargs: object) -> None:
        raise RuntimeError("boom")

    with monkeypatch.context() as patched:
        patched.setattr(model.decoder.layers[-1], "forward", broken)
        with pytest.raises(RuntimeError, match="boom"):
            tapped(model, ids, pixels(1))
    assert hooks() == had
    assert model.pruning is None or "select" not in model.pruning.__dict__
    assert torch.equal(model(ids, None, pixels(1)).logits, before)


def test_the_maximum_is_over_vision_tokens_alone() -> None:
    model = tiny_lvlm("avg_pool", 4)
    tokens: dict[str, Tensor] = {}
    ids = torch.tensor([prompt(model, 5, "image", 6, 7)])
    run_tapped(model, ids, encode(model, pixels(1), levels_read(model)), lambda tap, t, kept: tokens.update({tap: t}))
    pooled = Pooled([("decoder.3", "max")])
    run_tapped(model, ids, encode(model, pixels(1), levels_read(model)), pooled)
    assert torch.equal(pooled.found["decoder.3", "max"], tokens["decoder.3"].amax(1))
    assert list(pooled.found) == [("decoder.3", "max")]


def test_the_attention_pool_weighs_tokens_by_their_likeness_to_the_mean() -> None:
    tokens = torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(0))
    scores = torch.einsum("bnd,bd->bn", tokens, tokens.mean(1)) / 2  # the root of the width
    expected = (scores.softmax(1)[..., None] * tokens).sum(1)
    pooled = Pooled([("projector", "attention")])
    pooled("projector", tokens, None)
    torch.testing.assert_close(pooled.found["projector", "attention"], expected)
    alike = tokens[:, :1].expand(-1, 5, -1)
    torch.testing.assert_close(attention_pool(alike), alike[:, 0])
    assert attention_pool(tokens.bfloat16()).dtype == torch.float32


def test_the_pools_of_probe_files_are_those_there_are() -> None:
    assert info_of(next(field for field in fields(ProbeFile) if field.name == "pools")).choices == tuple(POOLS)


@pytest.mark.parametrize("parts", [(5, 6), (5, "image", "image", 6)])
def test_a_row_without_exactly_one_image_is_refused(parts: tuple[int | str, ...]) -> None:
    model = tiny_lvlm("avg_pool", 4)
    with pytest.raises(ValueError, match="one image of 36"):
        tapped(model, torch.tensor([prompt(model, *parts)]), pixels(1))
