"""A downsampled model is the same model on a smaller image, and nothing else."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from vr_eval.methods.registry import projector_options
from vr_eval.models.lvlm import LVLM
from vr_eval.testing.cases import one_each
from vr_eval.testing.tiny import SIDE, pixels, prompt, tiny_lvlm


def resized_by_hand(images: Tensor, side: int) -> Tensor:
    """Every channel by Pillow, in floating point."""
    channels = [Image.fromarray(channel.numpy(), mode="F") for image in images for channel in image]
    resized = [np.asarray(channel.resize((side, side), Image.Resampling.BICUBIC)) for channel in channels]
    return torch.from_numpy(np.stack(resized)).view(len(images), 3, side, side)


def on_a_smaller_tower(model: LVLM, side: int) -> LVLM:
    """`model` without downsampling, around a tower made for images of `side` pixels, with the same weights."""
    config = copy.deepcopy(model.config)
    config.image, config.vision_config.image_size = "none", side
    state = model.state_dict()
    name = "vision_tower.embeddings.position_embedding.weight"
    grid, width = model.config.shapes.grid, model.config.shapes.tower_width
    places = state[name][1:].T.reshape(1, width, grid, grid)
    cells = side // config.vision_config.patch_size
    fewer = F.interpolate(places, (cells, cells), mode="bicubic", align_corners=False)
    state[name] = torch.cat([state[name][:1], fewer.flatten(2)[0].T])
    small = LVLM(config).eval()
    small.load_state_dict(state)
    return small


@pytest.mark.parametrize("factor", [2, 3])
@pytest.mark.parametrize(("projector", "ratio"), [("mlp", 1), ("avg_pool", 4), ("pixel_shuffle", 4)])
@torch.no_grad()
def test_it_equals_a_model_for_smaller_images_on_images_resized_by_hand(
    projector: str, ratio: int, factor: int
) -> None:
    model = tiny_lvlm(projector, ratio, free="downsample", factor=factor)
    small = on_a_smaller_tower(model, SIDE // factor)
    assert small.image_method is None
    assert model.tokens_per_image == small.tokens_per_image == 144 // factor**2 // ratio
    ids = torch.tensor([prompt(model, 5, "image", 6, "image", 7)])
    images = pixels(2)
    resized = resized_by_hand(images, SIDE // factor)
    torch.testing.assert_close(model.image_method(images), resized, atol=1e-5, rtol=1e-5)
    expected = small(ids, None, resized).logits
    torch.testing.assert_close(model(ids, None, images).logits, expected, atol=2e-4, rtol=1e-4)
    assert not torch.allclose(small(ids, None, resized.flip(0)).logits, expected, atol=1e-1)  # images do matter


@torch.no_grad()
def test_the_order_of_normalising_and_resizing_does_not_matter() -> None:
    shrink = tiny_lvlm("mlp", 1, free="downsample").image_method
    assert shrink is not None
    images, mean, std = pixels(2), torch.tensor([0.48, 0.46, 0.41]).view(3, 1, 1), 0.27
    torch.testing.assert_close(shrink((images - mean) / std), (shrink(images) - mean) / std, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_a_tower_whose_patches_do_not_cover_the_whole_image_is_downsampled_too() -> None:
    """As SigLIP's 384 pixels in patches of 14: 27 patches a side, and 6 pixels that belong to none."""
    config = copy.deepcopy(tiny_lvlm("mlp", 1, free="downsample", factor=3).config)
    config.vision_config.image_size = 39
    model = LVLM(config).eval()
    assert (model.config.shapes.grid, model.grid, model.tokens_per_image) == (9, 3, 9)
    assert model.encode_images(torch.randn(1, 3, 39, 39)).shape == (1, 9, 1, 16)


@torch.no_grad()
def test_downsampling_can_be_put_in_and_taken_out_of_a_model_that_is_there() -> None:
    """As a cell does with the checkpoint of the same model without pruning."""
    model = tiny_lvlm("mlp", 1)
    whole, made = copy.deepcopy(model), tiny_lvlm("mlp", 1, free="downsample", factor=4)
    ids = torch.tensor([prompt(made, 5, "image", 6)])
    with pytest.raises(ValueError, match="9 image tokens for 1 image"):
        model(ids, None, pixels(1))
    model.config.image, model.config.options = "downsample", {"downsample": {"factor": 4}}
    model.fill_training_free()
    assert model.state_dict().keys() == whole.state_dict().keys()
    assert torch.equal(model(ids, None, pixels(1)).logits, made(ids, None, pixels(1)).logits)
    model.config.image = "none"
    model.fill_training_free()
    ids = torch.tensor([prompt(whole, 5, "image", 6)])
    assert torch.equal(model(ids, None, pixels(1)).logits, whole(ids, None, pixels(1)).logits)


@pytest.mark.parametrize(
    ("projector", "ratio"), [(name, ratio) for name, ratio in one_each() if not projector_options(name).any_grid]
)
@torch.no_grad()
def test_a_projector_that_plans_refuse_would_not_run(projector: str, ratio: int) -> None:
    model = tiny_lvlm(projector, ratio, free="downsample")
    ids = torch.tensor([prompt(model, 5, "image", 6)])
    with pytest.raises((RuntimeError, IndexError)):
        model(ids, None, pixels(1))
