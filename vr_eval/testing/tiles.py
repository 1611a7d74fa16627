"""Checks of a model for images in tiles: each image sees its own, whatever else is in the batch."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.testing import assert_close
from transformers import LlavaNextImageProcessor, LlavaOnevisionImageProcessor

from vr_eval.catalog.tiling import TokenPackerHD
from vr_eval.models.lvlm import LVLM
from vr_eval.models.tiling.tokenpacker_hd import HDImageProcessor
from vr_eval.testing.require import require
from vr_eval.testing.tiny import IMAGE, SIDE, batch

Size = tuple[int, int]


def processed(model: LVLM, sizes: list[Size]) -> dict[str, Tensor]:
    """Random images as their processor gives them, filled up to one number of tiles."""
    square = {"height": SIDE, "width": SIDE}
    tiling, scheme = model.config.tiling, model.scheme
    if tiling is None or scheme is None:
        raise ValueError("this model takes no images in tiles")
    points = tiling["pinpoints"]
    images = [_image(size, seed=number) for number, size in enumerate(sizes)]
    if isinstance(model.config.tiles, TokenPackerHD):
        made = HDImageProcessor(size=square)(images, return_tensors="pt")
        counts = [scheme.place(size, 1).tiles for size in sizes]
        made["pixel_values"] = pad_sequence(made["pixel_values"].split(counts), batch_first=True)
        return dict(made)
    if tiling["limit"] is None:
        given = {"size": {"shortest_edge": SIDE}, "crop_size": square}
        reader: Any = LlavaNextImageProcessor(image_grid_pinpoints=points, **given)
    else:
        reader = LlavaOnevisionImageProcessor(size=square, image_grid_pinpoints=points)
    made = reader(images, return_tensors="pt")
    return {name: made[name] for name in ("pixel_values", "image_sizes")}


def samples(model: LVLM) -> tuple[list[list[int]], list[list[Size]]]:
    """Prompts about images of several shapes, two at once, and none; the sizes of each."""
    sizes = [[(40, 120)], [(150, 90), (16, 16)], [], [(1, 200)], [(130, 140)]]
    rows = []
    for number, own in enumerate(sizes):
        row = [10 + number]
        for count in model.image_tokens(own):
            row += [IMAGE] * count + [20]
        rows.append([*row, 30, 31])
    return rows, sizes


def generated(model: LVLM, ids: Tensor, mask: Tensor | None, sizes: Any, **how: Any) -> Any:
    """Four new tokens and their logits, of prompts about random images of these sizes."""
    images = processed(model, sizes) if sizes else {}
    arguments = {"max_new_tokens": 4, "do_sample": False, "return_dict_in_generate": True, "output_logits": True} | how
    return model.generate(ids, attention_mask=mask, **images, **arguments)


def tiled_batch(model: LVLM) -> None:
    """A batch of images in tiles gives the logits of its samples one by one, and a cache changes no answer."""
    rows, sizes = samples(model)
    ids, mask = batch(rows, "left")
    everything = [size for own in sizes for size in own]
    together = generated(model, ids, mask, everything)
    without = generated(model, ids, mask, everything, use_cache=False)
    require(torch.equal(together.sequences, without.sequences), "without a cache the answers differ")
    images = processed(model, everything)
    start = 0
    for number, (row, own) in enumerate(zip(rows, sizes, strict=True)):
        mine = {name: given[start : start + len(own)] for name, given in images.items()} if own else {}
        start += len(own)
        how: dict[str, Any] = {"max_new_tokens": 4, "do_sample": False, "return_dict_in_generate": True}
        alone = model.generate(torch.tensor([row]), output_logits=True, **mine, **how)
        for step, logits in enumerate(alone.logits):
            assert_close(together.logits[step][number], logits[0], atol=3e-4, rtol=1e-4)


TILES = (tiled_batch,)
"""All checks of a model for images in tiles."""


def _image(size: Size, seed: int) -> Image.Image:
    """A random image of a height and width."""
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8))
