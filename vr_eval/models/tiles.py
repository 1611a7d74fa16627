"""The tokens of images in tiles: where they stand (models/tiling says it), and how what the decoder reads is packed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

Size = tuple[int, int]
"""Height and width."""

NEWLINE, SEPARATOR = -1, -2
"""In the places of tokens that end a row, and of those that stand between two tiles."""

BASE_ONLY: Size = (0, 0)
"""In place of the size of an image that is shown as its base view alone."""


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
