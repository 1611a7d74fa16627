"""Which cells of the ``G x G`` patch grid lie under each of the ``g x g`` vision tokens."""

from __future__ import annotations

import torch
from torch import Tensor


def window_index(grid: int, stride: int, halo: int = 0) -> Tensor:
    """Flat indices of the patch cells that every vision token looks at.

    Token ``(y, x)`` of the compressed ``g x g`` grid (``g = grid / stride``) covers the ``stride x stride`` cells below
    it, plus ``halo`` cells on each side. Cells beyond the border are clamped onto it, so a border window holds
    repeated cells and every window has the same size.

    Returns:
        ``(g*g, W)`` long tensor, ``W = (stride + 2*halo)**2``, windows and cells both row-major.

    Raises:
        ValueError: ``stride`` does not divide ``grid``, or ``halo`` is negative.

    Source: TokenPacker (the cells under a token); the halo is ours.
    """
    if stride < 1 or grid % stride:
        raise ValueError(f"a window of {stride} cells does not divide a grid of {grid}")
    if halo < 0:
        raise ValueError(f"halo must be 0 or more, not {halo}")
    offsets = torch.arange(-halo, stride + halo)
    origins = torch.arange(0, grid, stride)
    line = (origins[:, None] + offsets).clamp(0, grid - 1)  # (g, w): coordinates along one side
    index = line[:, None, :, None] * grid + line[None, :, None, :]  # (g, g, w, w)
    return index.reshape(len(origins) ** 2, len(offsets) ** 2)


def to_grid(tokens: Tensor) -> Tensor:
    """Row-major tokens ``(M, G*G, C)`` as a map ``(M, C, G, G)``. Raises ValueError where the count is no square."""
    count, cells, channels = tokens.shape
    side = round(cells**0.5)
    if side * side != cells:
        raise ValueError(f"{cells} tokens do not form a square grid")
    return tokens.transpose(1, 2).reshape(count, channels, side, side)


def from_grid(maps: Tensor) -> Tensor:
    """A map ``(M, C, G, G)`` as row-major tokens ``(M, G*G, C)``."""
    return maps.flatten(2).transpose(1, 2)
