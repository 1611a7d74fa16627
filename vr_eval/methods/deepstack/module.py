"""DeepStack (arXiv 2406.04334): more tokens in depth instead of in length.

High-resolution tokens are sampled into stacks of as many tokens as there are to add them to, and each stack is added to
the vision positions before one layer. No gate, no norm; positions and mask stay; at prefill only.

    stack (i, j), token (y, x)  <-  high-resolution cell (y * rows + i, x * columns + j)

Where the stacks come from (`stacks`): the full patch grid whose compressed form the decoder sees, for a comparison at
equal tokens (grid), or crops of the enlarged image, each through the same tower (crops, the official model).

Where they are added (`place`): before layers of the decoder, or before layers of the vision tower (DeepStack-V), whose
features are then what the projector reads. There is nothing to train in the tower, so its features are computed once
per image, like any others; the pass itself is in models/encoding.py.

A processed image is a square of the tower's size, so here every image has the same n x n crops. Official crops follow
the image's shape (`best_crop_grid`), and images with fewer of them get empty stacks (`crop_stacks`).
"""

from __future__ import annotations

from math import isqrt
from typing import cast

import torch
from torch import Tensor, nn

from vr_eval.layers.mlp import gelu_mlp
from vr_eval.methods.base import Projector, Refusion, RefusionInput, Shapes, VisionFeatures
from vr_eval.methods.deepstack.spec import DeepStackOptions
from vr_eval.methods.levels import Level


def sample_stacks(high: Tensor, rows: int, columns: int) -> Tensor:
    """2d sampling: every `rows`-th row and `columns`-th column, from each of their starts.

    Args:
        high: ``(..., rows*y, columns*x, C)``.

    Returns:
        ``(rows*columns, ..., y*x, C)``, stacks and tokens both row-major.

    Raises:
        ValueError: the map cannot be divided so.
    """
    if high.shape[-3] % rows or high.shape[-2] % columns:
        raise ValueError(f"{rows} x {columns} stacks do not divide a map of {high.shape[-3]} x {high.shape[-2]} cells")
    parts = [high[..., i::rows, j::columns, :] for i in range(rows) for j in range(columns)]
    return torch.stack(parts).flatten(-3, -2)


def stitch(crops: Tensor, rows: int, columns: int) -> Tensor:
    """Row-major crops ``(..., rows*columns, n*n, C)`` put together, ``(..., rows*n, columns*n, C)``."""
    side = isqrt(crops.shape[-2])
    tiles = crops.unflatten(-2, (side, side)).unflatten(-4, (rows, columns))  # (..., rows, columns, n, n, C)
    return tiles.transpose(-4, -3).flatten(-3, -2).flatten(-4, -3)


def crop_stacks(crops: Tensor, rows: int, columns: int, count: int) -> Tensor:
    """Stacks of one image from its projected crops, row-major ``(rows*columns, n*n, C)``; ``(count, n*n, C)``.

    Images with fewer than `count` crops get stacks of zeros, which add nothing, so that images can share a batch.
    """
    stacks = sample_stacks(stitch(crops, rows, columns), rows, columns)
    if len(stacks) > count:
        raise ValueError(f"{len(stacks)} crops are more than {count}")
    return torch.cat([stacks, stacks.new_zeros(count - len(stacks), *stacks.shape[1:])])


def grid_stacks(cells: Tensor, stride: int) -> Tensor:
    """Stacks from the full grid: ``(M, G*G, C) -> (stride**2, M, g*g, C)``."""
    side = isqrt(cells.shape[1])
    return sample_stacks(cells.unflatten(1, (side, side)), stride, stride)


def best_crop_grid(width: int, height: int, crops: int, side: int) -> tuple[int, int]:
    """How many crops of `side` pixels, across and down, suit an image of `width` x `height` pixels.

    Of all grids of 2 to `crops` crops: the one in which the image, resized to fit with its aspect, keeps the most of
    its own pixels; of equal ones the smallest, then the narrowest.

    Raises:
        ValueError: `crops` is less than 2.
    """
    if crops < 2:
        raise ValueError("one crop is the global view; a grid needs at least 2")
    grids = [(w, h) for w in range(1, crops + 1) for h in range(1, crops // w + 1) if w * h > 1]

    def rank(grid: tuple[int, int]) -> tuple[int, int]:
        scale = min(grid[0] * side / width, grid[1] * side / height)
        kept = min(int(width * scale) * int(height * scale), width * height)
        return kept, kept - grid[0] * grid[1] * side**2

    return max(grids, key=rank)  # of equals, max takes the first


def stack_layers(stacks: int, start: int, interval: int) -> tuple[int, ...]:
    """After which decoder layers (-1: before the first) the stacks are added: before layers start + j*interval."""
    return tuple(start - 1 + j * interval for j in range(stacks))


class DeepStack(Refusion):
    """Adds stacks, projected to the decoder's width, to the vision tokens; or stacks in the tower, as they are.

    In the decoder there are ``s*s`` stacks from the full grid, ``n*n*s*s`` from n x n crops; in the tower ``n*n``.
    """

    def __init__(self, shapes: Shapes, options: DeepStackOptions) -> None:
        super().__init__()
        self.options = options = options.resolve(shapes)
        self.in_tower = options.place == "tower"
        self.stride = shapes.stride
        self.side = options.side
        self.levels: tuple[Level, ...] = ()
        self.layers: tuple[int, ...] = ()
        self.shared = options.shared
        self.mlp = None
        if not self.in_tower:
            self.levels = options.reads(shapes)
            self.layers = stack_layers(options.count(shapes.stride**2), options.start or 0, options.interval)
            self.mlp = None if options.shared else gelu_mlp(shapes.tower_width, shapes.decoder_width, 2)
        # In a tuple, so that the projector is no part of this module: its parameters are its own.
        self._projector: tuple[Projector, ...] = ()

    def share(self, projector: Projector) -> None:
        """With `shared`, the stacks go through the MLP of the projector (official code).

        Raises:
            ValueError: the projector has no MLP on single patches.
        """
        if self.shared:
            if projector.patch_mlp() is None:
                raise ValueError(f"{type(projector).__name__} has no MLP on single patches that DeepStack could share")
            self._projector = (projector,)

    def tower_level(self, level: Level) -> Level:
        return self.options.tower_level(level)

    def prepare(self, features: VisionFeatures) -> object:
        """The stacks ``(stacks, M, N, H)`` of all insertion points in the decoder; None where they are in the tower."""
        if self.in_tower:
            return None
        mlp = self.mlp if self.mlp is not None else cast(nn.Module, self._projector[0].patch_mlp())
        if self.side == 1:
            return grid_stacks(mlp(features.level(self.levels[0])), self.stride)
        crops = mlp(features.stack(self.levels)).transpose(1, 2)  # (M, n*n, G*G, H)
        per_token = self.side * self.stride  # cells of the crops over one visible token, along each side
        return sample_stacks(stitch(crops, self.side, self.side), per_token, per_token)

    def inject(self, point: int, hidden: Tensor, given: RefusionInput) -> Tensor:
        stacks = cast(Tensor, given.prepared)
        return given.layout.scatter(hidden, given.layout.gather(hidden) + stacks[point])
