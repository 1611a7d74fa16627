"""TokenPacker-HD's tiles, of the grid that an image fills best, and the processors that cut it.

    row 1 of the tiles     tokens of tile 1, separator, those of tile 2, ..., newline
    row 2                  ...
    base view              its tokens, newline; left out where it would be the only tile once more

Computes what the official code computes (arXiv 2407.02392): normalised pixels are resized by bilinear interpolation
without antialias, drawn in the upper left corner of the grid and padded with zeros; the base view is the grid, padding
included, resized to the size that the image would have in a single tile, and padded likewise. An image so narrow that a
side would vanish keeps one pixel of it (ours; the official code fails).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import (
    AutoImageProcessor,
    AutoProcessor,
    BaseImageProcessor,
    BatchFeature,
    LlavaNextProcessor,
    PreTrainedTokenizerBase,
)
from transformers.image_utils import SizeDict
from transformers.models.got_ocr2.image_processing_got_ocr2 import GotOcr2ImageProcessor

from vr_eval.catalog.tiling import TokenPackerHD
from vr_eval.models.config import LVLMConfig
from vr_eval.models.tiles import BASE_ONLY, NEWLINE, SEPARATOR, Placement, Size
from vr_eval.models.tiling.base import Scheme, kept_settings

_MARKS = ("\n", ",")
"""What ends a row of tiles, and what separates them."""
_ENLARGED = 1.4
"""Side of the box, over that of the image, whose overlap with a resolution counts too (official code)."""
_OVERLAP = 0.1
"""Weight of that overlap."""


@dataclass(frozen=True)
class TokenPackerHDScheme(Scheme):
    """The resolution that the image fills best; the decoder's own tokens stand between the tiles."""

    tiling: TokenPackerHD

    def grid(self, size: Size) -> tuple[int, int]:
        height, width = fullest(self.tiling.pinpoints, size)
        return height // self.tile_px, width // self.tile_px

    def placed(self, size: Size, side: int) -> Placement:
        rows, columns = (1, 1) if size == BASE_ONLY else self.grid(size)
        lines = [range(row * columns, (row + 1) * columns) for row in range(rows)]
        if rows * columns > 1:
            lines.append(range(rows * columns, rows * columns + 1))  # the base view
        return Placement(lines[-1].stop, torch.cat([_line(line, side**2) for line in lines]))

    def processor(self, images: BaseImageProcessor, tokenizer: PreTrainedTokenizerBase) -> LlavaNextProcessor:
        square = {"height": self.tile_px, "width": self.tile_px}
        most = self.tiling.most_tiles(self.tile_px)
        cut = HDImageProcessor(size=square, max_patches=most, **kept_settings(images))
        return HDProcessor(image_processor=cut, tokenizer=tokenizer, chat_template=tokenizer.chat_template)

    def mark_ids(self, tokenizer: PreTrainedTokenizerBase) -> list[int]:
        """The tokens of a newline and of a separator, as the official code looks them up.

        That is the vocabulary's entry, or the unknown token (as for Llama's newline); where there is neither, the last
        token of the text.
        """
        found = [tokenizer.convert_tokens_to_ids(mark) for mark in _MARKS]
        written = [tokenizer.encode(mark, add_special_tokens=False)[-1] for mark in _MARKS]
        return [own if known is None else int(known) for known, own in zip(found, written, strict=True)]

    def cut(self, pixels: Tensor) -> list[Tensor]:
        """Tiles ``(3, px, px)`` of an image ``(1, 3, y, x)``, row by row, then its base view if there are several."""
        size, px = (pixels.shape[-2], pixels.shape[-1]), self.tile_px
        rows, columns = self.grid(size)
        canvas = _drawn(pixels, size, (rows * px, columns * px))
        tiles = [tile for row in canvas[0].split(px, dim=-2) for tile in row.split(px, dim=-1)]
        if len(tiles) > 1:
            tiles.append(_drawn(canvas, size, (px, px))[0])
        return tiles


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
        scheme = _scheme(size.height, max_patches if crop_to_patches else 1)
        tiles: list[Tensor] = []
        for image in images:
            pixels = self.rescale_and_normalize(
                image[None], do_rescale, rescale_factor, do_normalize, image_mean, image_std
            )
            tiles += scheme.cut(pixels)
        sizes = [list(image.shape[-2:]) for image in images]
        return BatchFeature({"pixel_values": tiles, "image_sizes": sizes}, tensor_type=return_tensors)


class HDProcessor(LlavaNextProcessor):
    """One image token per token of a tile, and one for every separator and newline."""

    def replace_image_token(self, image_inputs: dict[str, Any], image_idx: int, **kwargs: Any) -> str:
        height, width = (int(side) for side in image_inputs["image_sizes"][image_idx])
        images = self.image_processor
        px = images.size["height"]
        placement = _scheme(px, images.max_patches).place((height, width), px // self.patch_size)
        return str(self.image_token * len(placement.places))


AutoImageProcessor.register(LVLMConfig, image_processor_classes={"torchvision": HDImageProcessor})
AutoProcessor.register(LVLMConfig, HDProcessor)


def _scheme(px: int, most: int) -> TokenPackerHDScheme:
    return TokenPackerHDScheme(TokenPackerHD.of(px, most), px)


def _line(tiles: Sequence[int], per_tile: int) -> Tensor:
    """Places of tiles side by side, one after the other; separators between them, a newline at the end."""
    runs = [torch.arange(tile * per_tile, (tile + 1) * per_tile) for tile in tiles]
    ends = [SEPARATOR] * (len(runs) - 1) + [NEWLINE]
    return torch.cat([part for run, end in zip(runs, ends, strict=True) for part in (run, torch.tensor([end]))])


def fullest(pinpoints: tuple[Size, ...], size: Size) -> Size:
    """The resolution that an image of `size` fills best with its aspect kept, as TokenPacker-HD chooses it.

    To the share of the pixels that are filled comes a tenth of the intersection over union of the resolution with the
    image enlarged by 1.4: of several that are filled alike, the one about as large as the image. In float32, as there.
    """
    boxes, image = torch.tensor(pinpoints), torch.tensor(size)
    area = boxes.prod(1)
    drawn = torch.round(image * (boxes / image).amin(1, keepdim=True)).prod(1)
    enlarged = image * _ENLARGED
    common = torch.minimum(boxes, enlarged).prod(1)
    score = drawn / area + _OVERLAP * common / (area + enlarged.prod() - common)
    height, width = pinpoints[int(score.argmax())]
    return height, width


def drawn_size(size: Size, resolution: Size) -> Size:
    """Height and width in which an image of `size` is drawn into `resolution`, its aspect kept; at least one pixel."""
    scales = [whole / side for whole, side in zip(resolution, size, strict=True)]
    scale = min(scales)
    sides = [
        whole if own == scale else min(whole, max(1, round(side * scale)))
        for whole, side, own in zip(resolution, size, scales, strict=True)
    ]
    return sides[0], sides[1]


def _drawn(pixels: Tensor, size: Size, resolution: Size) -> Tensor:
    """`pixels` in the corner of a canvas of `resolution`, as large as an image of `size` would be in it."""
    height, width = drawn_size(size, resolution)
    drawn = nn.functional.interpolate(pixels, (height, width), mode="bilinear")
    return nn.functional.pad(drawn, (0, resolution[1] - width, 0, resolution[0] - height))
