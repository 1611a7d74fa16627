"""The one way from pixels to features: crops, stacks in the tower, and what they leave alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from vr_eval.methods.levels import CropLevel, StackedLevel, in_order
from vr_eval.models.encoding import added, crop, encode, hidden_states, resized
from vr_eval.testing.tiny import SIDE, pixels, tiny_lvlm


@pytest.fixture(scope="module")
def tower() -> torch.nn.Module:
    """On random weights of 0.02 every layer is close to the identity: these do something."""
    made = tiny_lvlm().vision_tower
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    return made.requires_grad_(False)


def test_enlarging_is_what_the_image_library_does() -> None:
    generator = torch.Generator().manual_seed(0)
    # Coarse blocks of the extreme values: interpolation overshoots at each of their edges.
    blocks = torch.randint(0, 2, (3, 6, 6), generator=generator).mul(255).to(torch.uint8)
    image = blocks.repeat_interleave(8, 1).repeat_interleave(8, 2)
    by_library = Image.fromarray(image.permute(1, 2, 0).numpy()).resize((96, 96), Image.Resampling.BICUBIC)
    expected = torch.from_numpy(np.array(by_library)).permute(2, 0, 1).float()
    made = resized(image.float().unsqueeze(0), 96)[0]
    assert (made - expected).abs().max() <= 1  # the library rounds to whole numbers, twice
    assert made.min() == 0
    assert made.max() == 255


@pytest.mark.parametrize("side", [2, 3])
def test_crops_are_the_pieces_of_the_enlarged_image(side: int) -> None:
    images = pixels(2)
    high = resized(images, side * SIDE)
    assert high.shape == (2, 3, side * SIDE, side * SIDE)
    pieces = [[crop(images, side, row, column, SIDE) for column in range(side)] for row in range(side)]
    assert pieces[0][0].shape == (2, 3, SIDE, SIDE)
    assert torch.equal(torch.cat([torch.cat(row, dim=-1) for row in pieces], dim=-2), high)


def test_half_precision_pixels_are_enlarged_in_full_precision() -> None:
    images = pixels(1).bfloat16()
    assert torch.equal(resized(images, 96), resized(images.float(), 96).bfloat16())


def test_a_crops_features_are_the_towers_on_its_pixels(tower) -> None:
    images = pixels(2)
    levels = (CropLevel(4, 2, 1, 0), 2, CropLevel(3, 2, 0, 1))
    got = encode(tower, images, levels)
    assert torch.equal(got[0], hidden_states(tower, resized(images, 96)[..., 48:, :48])[4])
    assert torch.equal(got[1], hidden_states(tower, images)[2])
    assert torch.equal(got[2], hidden_states(tower, resized(images, 96)[..., :48, 48:])[3])


def test_larger_pixels_give_crops_their_own_detail_and_the_plain_image_a_reduction(tower) -> None:
    fine = torch.randn(1, 3, 96, 96, generator=torch.Generator().manual_seed(2))
    crops, plain = encode(tower, fine, (CropLevel(4, 2, 0, 1), 4))
    assert torch.equal(crops, hidden_states(tower, fine[..., :48, 48:])[4])
    assert torch.equal(plain, hidden_states(tower, resized(fine, SIDE))[4])


def test_pixels_of_another_size_are_refused_where_only_the_plain_image_is_read(tower) -> None:
    with pytest.raises(ValueError, match="doesn't match model"):
        encode(tower, torch.zeros(1, 3, 96, 96), (4,))


def test_what_else_is_asked_for_changes_no_feature(tower) -> None:
    images = pixels(1)
    every = (2, 4, CropLevel(4, 2, 0, 0), CropLevel(4, 3, 0, 0), StackedLevel(4, 2, 0, 1), StackedLevel(3, 2, 0, 1))
    together = encode(tower, images, every)
    for level, features in zip(every, together, strict=True):
        assert torch.equal(features, encode(tower, images, (level,))[0])
    backwards = encode(tower, images, every[::-1])
    assert all(torch.equal(one, other) for one, other in zip(together, backwards[::-1], strict=True))


@pytest.mark.parametrize(("side", "start", "interval"), [(2, 0, 1), (1, 2, 1)])
def test_stacks_in_the_tower_are_those_of_a_hand_written_pass(tower, side: int, start: int, interval: int) -> None:
    # In four layers there is room for the four stacks of 2 x 2 crops from the first layer on only; one crop stands in
    # for a later start.
    images = pixels(2)
    high = resized(images, side * SIDE)
    states = [
        [_state(tower, high[..., r * SIDE : (r + 1) * SIDE, c * SIDE : (c + 1) * SIDE], start) for c in range(side)]
        for r in range(side)
    ]
    stacks = []
    for i in range(side):
        for j in range(side):
            stack = torch.empty(2, 144, 16)
            for y in range(12):
                for x in range(12):
                    row, column = y * side + i, x * side + j  # of the enlarged image's cells
                    stack[:, 12 * y + x] = states[row // 12][column // 12][:, row % 12 * 12 + column % 12]
            stacks.append(stack)
    hidden = tower.pre_layrnorm(tower.embeddings(images))
    for number, layer in enumerate(tower.encoder.layers):
        j, off = divmod(number - start, interval)
        if not off and 0 <= j < len(stacks):
            hidden = torch.cat([hidden[:, :1], hidden[:, 1:] + stacks[j]], dim=1)
        hidden = layer(hidden, None)
    got = encode(tower, images, (StackedLevel(4, side, start, interval), 4))
    torch.testing.assert_close(got[0], hidden[:, 1:], atol=1e-5, rtol=1e-5)
    assert (got[0] - got[1]).abs().max() > 0.1


def _state(tower, images: torch.Tensor, level: int) -> torch.Tensor:
    hidden = tower.pre_layrnorm(tower.embeddings(images))
    for layer in tower.encoder.layers[:level]:
        hidden = layer(hidden, None)
    return hidden[:, 1:]


def test_stacks_of_zeros_change_nothing_in_the_tower(tower) -> None:
    images = pixels(2)
    before = hidden_states(tower, images)
    with added(tower.encoder.layers, {0: torch.zeros(2, 144, 16), 2: torch.zeros(2, 144, 16)}):
        inside = hidden_states(tower, images)
    assert all(torch.equal(one, other) for one, other in zip(before, inside, strict=True))


def test_the_class_token_gets_no_stack(tower) -> None:
    seen = []
    handle = tower.encoder.layers[1].register_forward_pre_hook(lambda layer, args: seen.append(args[0]))
    hidden_states(tower, pixels(1))
    handle.remove()
    with added(tower.encoder.layers, {1: torch.ones(1, 144, 16)}):
        handle = tower.encoder.layers[1].register_forward_pre_hook(lambda layer, args: seen.append(args[0]))
        hidden_states(tower, pixels(1))
        handle.remove()
    assert torch.equal(seen[1][:, :1], seen[0][:, :1])
    assert torch.equal(seen[1][:, 1:], seen[0][:, 1:] + 1)


def test_nothing_stays_in_the_tower_after_an_exception(tower, monkeypatch: pytest.MonkeyPatch) -> None:
    images = pixels(1)
    before = hidden_states(tower, images)[4]
    forward = tower.encoder.layers[2].forward
    calls = []

    def breaks_at_the_fifth(*args: object, **kwargs: object) -> object:
        calls.append(1)
        if len(calls) == 5:  # four crops, then the pass that the stacks are added to
            assert tower.encoder.layers[0]._forward_pre_hooks
            raise RuntimeError("boom")
        return forward(*args, **kwargs)

    monkeypatch.setattr(tower.encoder.layers[2], "forward", breaks_at_the_fifth)
    with pytest.raises(RuntimeError, match="boom"):
        encode(tower, images, (StackedLevel(4, 2, 0, 1),))
    monkeypatch.undo()
    assert not any(layer._forward_pre_hooks for layer in tower.encoder.layers)
    assert torch.equal(hidden_states(tower, images)[4], before)


def test_levels_have_names_of_their_own_and_one_order() -> None:
    levels = [10, 4, CropLevel(4, 2, 0, 0), CropLevel(4, 3, 0, 0), CropLevel(4, 2, 1, 0), StackedLevel(4, 2, 0, 1)]
    levels += [StackedLevel(4, 2, 1, 1), StackedLevel(4, 2, 0, 2), StackedLevel(4, 3, 0, 1), CropLevel(3, 2, 0, 0)]
    assert len({str(level) for level in levels}) == len(set(levels)) == len(levels)
    assert in_order([*levels, 4])[:2] == (4, 10)
    assert in_order(levels) == in_order(levels[::-1])
    assert set(in_order(levels)) == set(levels)
