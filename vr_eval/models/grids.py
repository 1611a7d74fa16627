"""Into how many rows and columns of tiles an image of some size is cut, and how large it is drawn on them."""

from __future__ import annotations

import torch
from transformers.models.got_ocr2.image_processing_got_ocr2 import get_optimal_tiled_canvas
from transformers.models.llava_next.modeling_llava_next import get_anyres_image_grid_shape

from vr_eval.catalog.backbone import Tiling

Size = tuple[int, int]
"""Height and width."""

_ENLARGED = 1.4
"""Side of the box, over that of the image, whose overlap with a resolution counts too (official code)."""
_OVERLAP = 0.1
"""Weight of that overlap."""


def grid_of(tiling: Tiling, size: Size, tile_px: int) -> tuple[int, int]:
    """Rows and columns of the tiles, of `tile_px` pixels a side, of an image of `size` pixels."""
    if tiling.scheme == "internvl":
        few, many = tiling.fewest_tiles(tile_px), tiling.most_tiles(tile_px)
        columns, rows = get_optimal_tiled_canvas(size, (tile_px, tile_px), few, many)
        return rows, columns
    if tiling.scheme == "tokenpacker_hd":
        height, width = fullest(tiling.pinpoints, size)
        return height // tile_px, width // tile_px
    pinpoints = [list(pinpoint) for pinpoint in tiling.pinpoints]
    rows, columns = get_anyres_image_grid_shape(size, pinpoints, tile_px)
    return int(rows), int(columns)


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
