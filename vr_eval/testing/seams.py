"""Checks of a whole model: the same whatever the batch, the padding, the cache or the number of images.

Each takes a tiny model in eval mode, leaves it as it was, and raises an AssertionError; its docstring says what holds.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn
from torch.testing import assert_close

from vr_eval.models.lvlm import LVLM
from vr_eval.testing.require import require
from vr_eval.testing.tiny import IMAGE, batch, pixels, prompt
from vr_eval.testing.versions import VERSIONS

GENERATIONS: dict[str, dict[str, Any]] = {
    "greedy": {"do_sample": False},
    "beams": {"num_beams": 3, "num_return_sequences": 2, "do_sample": False},
    "samples": {"do_sample": True, "num_return_sequences": 2, "temperature": 0.7},
}


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


@torch.no_grad()
def left_padded_batch(model: LVLM) -> None:
    """A batch, padded on the left, gives the logits of its samples one by one."""
    _batch(model, "left")


@torch.no_grad()
def right_padded_batch(model: LVLM) -> None:
    """A batch, padded on the right, gives the logits of its samples one by one."""
    _batch(model, "right")


def _batch(model: LVLM, side: str) -> None:
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
        assert_close(together[place, end - shown : end], alone[len(alone) - shown :], atol=2e-4, rtol=1e-4)
        start += count


@torch.no_grad()
def images_matter(model: LVLM) -> None:
    """Another image gives other logits, and so does another order of two images."""
    ids = torch.tensor([prompt(model, 5, "image", 6, "image", 7)])
    one, other = (model(ids, None, pixels(2, seed)).logits[0, -1] for seed in (0, 1))
    swapped = model(ids, None, pixels(2).flip(0)).logits[0, -1]
    require((one - other).abs().max() > 1e-4, "the logits do not depend on the images")
    require((one - swapped).abs().max() > 1e-4, "the logits do not depend on which image stands where")


def greedy_cache(model: LVLM) -> None:
    """Greedy generation with a cache equals generation without."""
    _cache(model, "greedy")


def beam_cache(model: LVLM) -> None:
    """Beam search with a cache equals beam search without."""
    _cache(model, "beams")


def sample_cache(model: LVLM) -> None:
    """Drawn answers with a cache equal those without."""
    _cache(model, "samples")


def _cache(model: LVLM, how: str) -> None:
    rows, counts = samples(model)
    ids, mask = batch(rows, "left")
    texts = []
    for use_cache in (True, False):
        torch.manual_seed(5)
        given = {"attention_mask": mask, "pixel_values": pixels(sum(counts)), "max_new_tokens": 6}
        texts.append(model.generate(ids, use_cache=use_cache, **given, **GENERATIONS[how]))
    require(texts[0].shape[1] == ids.shape[1] + 6, "there are not as many new tokens as were asked for")
    require(torch.equal(texts[0], texts[1]), "the answers differ")


def several_sequences(model: LVLM) -> None:
    """Several sequences of one prompt see the prompt's own images."""
    rows, counts = samples(model)
    ids, mask = batch(rows, "left")
    images = pixels(sum(counts))
    alike = {"max_new_tokens": 5, "do_sample": False, "num_beams": 2, "num_return_sequences": 2}
    together = model.generate(ids, attention_mask=mask, pixel_values=images, **alike)
    start = 0
    for place, (row, count) in enumerate(zip(rows, counts, strict=True)):
        own = images[start : start + count] if count else None
        alone = model.generate(torch.tensor([row]), pixel_values=own, **alike)
        got = together[2 * place : 2 * place + 2, -5:]
        require(torch.equal(got, alone[:, -5:]), f"prompt {place} is answered otherwise in a batch")
        start += count


@torch.no_grad()
def features_for_pixels(model: LVLM) -> None:
    """Features of the vision tower, handed in, give the logits of the pixels."""
    ids = torch.tensor([prompt(model, 5, "image", 6, 7)])
    features = model.encode_images(pixels(1))
    expected = model(ids, None, pixels(1)).logits
    require(torch.equal(expected, model(ids, vision_features=features).logits), "the logits differ")


@torch.no_grad()
def nothing_outlives_a_call(model: LVLM) -> None:
    """Nothing of a call outlives it: text alone gives the same logits after an image."""
    ids = torch.tensor([prompt(model, 5, "image", 6, 7)])
    text = torch.tensor([[5, 6, 7]])
    before = model(text).logits
    first, second = (model(ids, None, pixels(1)).logits for _ in range(2))
    require(torch.equal(first, second), "the same call gives something else the second time")
    require(torch.equal(model(text).logits, before), "text alone is read otherwise after an image")
    require(not _hooks(model), "hooks are left on the model's layers")


@torch.no_grad()
def hooks_go_with_an_exception(model: LVLM) -> None:
    """No hook is left after an exception inside the decoder."""
    twin = copy.deepcopy(model)

    def broken(*args: object, **kwargs: object) -> None:
        raise RuntimeError("on purpose")

    twin.decoder.layers[-1].forward = broken
    try:
        twin(torch.tensor([prompt(twin, 5, "image", 6, 7)]), None, pixels(1))
    except RuntimeError as error:
        require("on purpose" in str(error), f"it fails before the last decoder layer: {error}")
    require(not _hooks(twin), "hooks are left on the decoder's layers")


def too_few_images(model: LVLM) -> None:
    """A prompt with tokens for more images than there are, or for some where there are none, is refused."""
    ids = torch.tensor([prompt(model, 5, "image", "image", 7)])
    for call in (model, model.generate):
        for images in (1, 0):
            try:
                call(ids, pixel_values=pixels(images) if images else None)
            except ValueError as error:
                require(f"image tokens for {images} image" in str(error), f"the message is another one: {error}")
            else:
                raise AssertionError(f"{images} images are taken for 2")


SEAMS = (
    *(left_padded_batch, right_padded_batch, images_matter, features_for_pixels),
    *VERSIONS,
    *(nothing_outlives_a_call, hooks_go_with_an_exception, too_few_images),
    *(greedy_cache, beam_cache, sample_cache, several_sequences),
)
"""All checks of a model, in the order in which they are run: the slow ones last."""


def _hooks(model: LVLM) -> list[nn.Module]:
    """The layers that have some; after a tower's, transformers has its own."""
    decoder = [layer for layer in model.decoder.layers if layer._forward_hooks or layer._forward_pre_hooks]
    return decoder + [layer for layer in model.vision_tower.encoder.layers if layer._forward_pre_hooks]
