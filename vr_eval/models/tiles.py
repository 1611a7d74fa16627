"""Where the tokens of a tiled image stand: base view, tiles, what is left of their padding, and a newline per row.

    base view              N tokens of tile 0
    row 1 of the tiles     tokens of tiles 1, 2, ... side by side, padding dropped, then a newline
    row 2                  ...

Every tile is compressed by itself to g x g tokens (N of them), and unpadded at that resolution; at g = G this is what
LLaVA-NeXT and LLaVA-OneVision do, whose own functions of transformers choose the resolution and drop the padding. So a
token stands above cells of one tile, and methods work tile by tile.

Above OneVision's limit the tokens of the tiles are resized. A resized token is taken to stand where its centre lies,
so that methods find the cells under it (ours).

The other schemes drop and resize nothing, and their base view is the last tile, left out where it would be the only
tile once more:

    internvl               tokens of all tiles in reading order, then those of the base view
    tokenpacker_hd         row 1: tokens of tile 1, separator, those of tile 2, ..., newline; row 2; ...
                           tokens of the base view, newline
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import sqrt

import torch
from torch import Tensor, nn
from transformers.models.llava_next.modeling_llava_next import unpad_image

from vr_eval.catalog.backbone import Tiling
from vr_eval.models.grids import Size as Size
from vr_eval.models.grids import grid_of

NEWLINE, SEPARATOR = -1, -2
"""In the places of tokens that end a row, and of those that stand between two tiles."""

BASE_ONLY: Size = (0, 0)
"""In place of the size of an image that is shown as its base view alone."""
_WORTH_RESIZING = 1.1
"""Linear excess above which OneVision resizes (official code)."""


@dataclass(frozen=True)
class Placement:
    """The tokens of one image, in their order.

    Attributes:
        tiles: Tiles of the image, base view included.
        places: ``(T,)`` ``tile * N + cell`` of every token, `NEWLINE` or `SEPARATOR` where there is none.
        before: ``(y, x)`` places of the tiles' tokens before they are resized; None if they are not.
        after: Rows and columns that they are resized to.
    """

    tiles: int
    places: Tensor
    before: Tensor | None = None
    after: Size = BASE_ONLY

    @property
    def shown(self) -> Tensor:
        """Which of its tokens are vision tokens, no newlines and no separators, ``(T,)`` bool."""
        return self.places >= 0


@lru_cache(maxsize=4096)
def place(tiling: Tiling, size: Size, tile_px: int, side: int) -> Placement:
    """The tokens of an image of `size`, cut into tiles of `tile_px` pixels that have ``side * side`` tokens each."""
    rows, columns = (1, 1) if size == BASE_ONLY else grid_of(tiling, size, tile_px)
    if tiling.scheme == "anyres":
        return _anyres(tiling, size, rows, columns, side)
    lines = [list(range(row * columns, (row + 1) * columns)) for row in range(rows)]
    if rows * columns > 1:
        lines.append([rows * columns])  # the base view
    marked = tiling.scheme == "tokenpacker_hd"
    return Placement(lines[-1][-1] + 1, torch.cat([_line(line, side**2, marked) for line in lines]))


def _line(tiles: Sequence[int], per_tile: int, marked: bool) -> Tensor:
    """Places of tiles side by side, one after the other; `marked`: separators between them, a newline at the end."""
    runs = [torch.arange(tile * per_tile, (tile + 1) * per_tile) for tile in tiles]
    if not marked:
        return torch.cat(runs)
    ends = [SEPARATOR] * (len(runs) - 1) + [NEWLINE]
    return torch.cat([part for run, end in zip(runs, ends, strict=True) for part in (run, torch.tensor([end]))])


def _anyres(tiling: Tiling, size: Size, rows: int, columns: int, side: int) -> Placement:
    base = torch.arange(side**2)
    if size == BASE_ONLY:
        return Placement(1, torch.cat([base, torch.tensor([NEWLINE])]))
    cells = torch.arange((1 + rows * columns) * side**2)[side**2 :]
    stitched = cells.view(rows, columns, side, side).transpose(1, 2).reshape(1, rows * side, columns * side)
    kept = unpad_image(stitched, size)[0]  # (y, x)
    before, after = None, (kept.shape[0], kept.shape[1])
    excess = sqrt(kept.numel() / (tiling.limit * side**2)) if tiling.limit else 0.0
    if excess > _WORTH_RESIZING:
        before, after = kept, (int(kept.shape[0] // excess), int(kept.shape[1] // excess))
        # Exact up to 2**24 places.
        nearest = nn.functional.interpolate(kept[None, None].float(), after, mode="nearest-exact")
        kept = nearest[0, 0].long()
    lines = torch.cat([kept, kept.new_full((len(kept), 1), NEWLINE)], dim=1)
    return Placement(1 + rows * columns, torch.cat([base, lines.flatten()]), before, after)


def shown_sizes(tiling: Tiling | None, sizes: Sequence[Size]) -> list[Size]:
    """Sizes of the images of one sample, `BASE_ONLY` in place of those that are shown as base views."""
    alone = tiling is None or not tiling.lone or len(sizes) == 1
    return list(sizes) if alone else [BASE_ONLY] * len(sizes)


def pack(tokens: Tensor, marks: Tensor, placements: Sequence[Placement]) -> Tensor:
    """What the decoder reads for all images of a batch, ``(T, H)``.

    Args:
        tokens: ``(M, N, H)`` projected tokens of all tiles.
        marks: ``(1 or 2, H)`` the newline, and the separator where there is one.
        placements: one per image, in order.
    """
    packed, start = [], 0
    for placement, tile in zip(placements, first_tiles(placements), strict=True):
        start = tile * tokens.shape[1]
        own = tokens.flatten(0, 1)[start : start + placement.tiles * tokens.shape[1]]
        places = placement.places.to(tokens.device)
        read = own[places.clamp(min=0)]
        if placement.before is not None:
            stitched = own[placement.before.to(tokens.device)].permute(2, 0, 1)[None]  # (1, H, y, x)
            resized = nn.functional.interpolate(stitched, placement.after, mode="bilinear")[0].permute(1, 2, 0)
            # The column of newlines, filled in below.
            lines = torch.cat([resized, resized.new_zeros(len(resized), 1, resized.shape[-1])], dim=1)
            read = torch.cat([read[: tokens.shape[1]], lines.flatten(0, 1)])
        marked = marks.to(tokens.dtype)[(NEWLINE - places).clamp(min=0)]
        packed.append(torch.where((places < 0)[:, None], marked, read))
    return torch.cat(packed)


def first_tiles(placements: Sequence[Placement]) -> list[int]:
    """The number of each image's first tile among all tiles of a batch."""
    starts = [0]
    for placement in placements[:-1]:
        starts.append(starts[-1] + placement.tiles)
    return starts[: len(placements)]


def flat_tiles(pixel_values: Tensor, placements: Sequence[Placement]) -> Tensor:
    """Processed images ``(I, tiles, 3, y, x)``, filled up with empty tiles, as the tiles that there are, ``(M, ...)``.

    Raises:
        ValueError: an image has fewer tiles than its size asks for.
    """
    short = [i for i, placement in enumerate(placements) if placement.tiles > pixel_values.shape[1]]
    if len(pixel_values) != len(placements) or short:
        wanted = [placement.tiles for placement in placements]
        raise ValueError(f"image_sizes ask for {wanted} tiles; pixel_values hold {tuple(pixel_values.shape[:2])}")
    return torch.cat([tiles[: p.tiles] for tiles, p in zip(pixel_values, placements, strict=True)])
