"""TokenPacker-HD's processors: images in tiles of the grid that they fill best.

Computes what the official code computes (arXiv 2407.02392; models/grids.py chooses the grid): normalised pixels are
resized by bilinear interpolation without antialias, drawn in the upper left corner of the grid and padded with zeros;
the base view is the grid, padding included, resized to the size that the image would have in a single tile, and padded
likewise. An image so narrow that a side would vanish keeps one pixel of it (ours; the official code fails).
"""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor, nn
from transformers import (
    AutoImageProcessor,
    AutoProcessor,
    BatchFeature,
    LlavaNextProcessor,
    PreTrainedTokenizerBase,
)
from transformers.image_utils import SizeDict
from transformers.models.got_ocr2.image_processing_got_ocr2 import GotOcr2ImageProcessor

from vr_eval.catalog.backbone import Tiling
from vr_eval.models.config import LVLMConfig
from vr_eval.models.grids import Size, drawn_size, grid_of
from vr_eval.models.tiles import place

_MARKS = ("\n", ",")
"""What ends a row of tiles, and what separates them."""


class HDImageProcessor(GotOcr2ImageProcessor):
    """Images as all their tiles, ``(M, 3, y, x)``, with the images' sizes; `max_patches` is the most tiles of one."""

    model_input_names: ClassVar = ["pixel_values", "image_sizes"]
    crop_to_patches = True
    max_patches = 9

    def _preprocess(
        self,
        images: list[Tensor],
        size: SizeDict,
        do_rescale: bool,
        rescale_factor: float,
        do_normalize: bool,
        image_mean: Any,
        image_std: Any,
        return_tensors: Any,
        crop_to_patches: bool,
        max_patches: int,
        **others: Any,
    ) -> BatchFeature:
        tiling = Tiling.tokenpacker_hd(size.height, max_patches if crop_to_patches else 1)
        tiles: list[Tensor] = []
        for image in images:
            pixels = self.rescale_and_normalize(
                image[None], do_rescale, rescale_factor, do_normalize, image_mean, image_std
            )
            tiles += cut(pixels, tiling, size.height)
        sizes = [list(image.shape[-2:]) for image in images]
        return BatchFeature({"pixel_values": tiles, "image_sizes": sizes}, tensor_type=return_tensors)


class HDProcessor(LlavaNextProcessor):
    """One image token per token of a tile, and one for every separator and newline."""

    def replace_image_token(self, image_inputs: dict[str, Any], image_idx: int, **kwargs: Any) -> str:
        height, width = (int(side) for side in image_inputs["image_sizes"][image_idx])
        images = self.image_processor
        px = images.size["height"]
        tiling = Tiling.tokenpacker_hd(px, images.max_patches)
        return str(self.image_token * len(place(tiling, (height, width), px, px // self.patch_size).places))


AutoImageProcessor.register(LVLMConfig, image_processor_classes={"torchvision": HDImageProcessor})
AutoProcessor.register(LVLMConfig, HDProcessor)


def cut(pixels: Tensor, tiling: Tiling, px: int) -> list[Tensor]:
    """Tiles ``(3, px, px)`` of an image ``(1, 3, y, x)``, row by row, then its base view if there are several."""
    size: Size = (pixels.shape[-2], pixels.shape[-1])
    rows, columns = grid_of(tiling, size, px)
    canvas = _drawn(pixels, size, (rows * px, columns * px))
    tiles = [tile for row in canvas[0].split(px, dim=-2) for tile in row.split(px, dim=-1)]
    if len(tiles) > 1:
        tiles.append(_drawn(canvas, size, (px, px))[0])
    return tiles


def _drawn(pixels: Tensor, size: Size, resolution: Size) -> Tensor:
    """`pixels` in the corner of a canvas of `resolution`, as large as an image of `size` would be in it."""
    height, width = drawn_size(size, resolution)
    drawn = nn.functional.interpolate(pixels, (height, width), mode="bilinear")
    return nn.functional.pad(drawn, (0, resolution[1] - width, 0, resolution[0] - height))


def mark_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The tokens of a newline and of a separator, as the official code looks them up.

    That is the vocabulary's entry, or the unknown token (as for Llama's newline); where there is neither, the last
    token of the text.
    """
    found = [tokenizer.convert_tokens_to_ids(mark) for mark in _MARKS]
    written = [tokenizer.encode(mark, add_special_tokens=False)[-1] for mark in _MARKS]
    return [own if known is None else int(known) for known, own in zip(found, written, strict=True)]
