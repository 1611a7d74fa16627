"""Where the image tokens of a batch stand, and whose they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

import torch
from torch import Tensor

from vr_eval.methods.base import VisionLayout
from vr_eval.models.tiles import NEWLINE, Placement


@dataclass
class HeldImages:
    """The images of one `generate` call: `maps` are released after prefill, although frames of `generate` hold this."""

    maps: Tensor | None
    """``(M, G*G, len(levels), D)``."""
    placements: tuple[Placement, ...] | None
    """One per image; None where every image is one square."""

    def repeated(self, groups: Sequence[Sequence[int]], times: int) -> HeldImages:
        """The images of every sample, given as `groups`, so many times one after the other."""
        assert self.maps is not None
        order = [image for group in groups for _ in range(times) for image in group]
        if self.placements is None:
            return replace(self, maps=self.maps[order])
        parts = self.maps.split([placement.tiles for placement in self.placements])
        return HeldImages(torch.cat([parts[i] for i in order]), tuple(self.placements[i] for i in order))


def layout_of(vision: Tensor, tiles: int, per_tile: int, placements: Sequence[Placement] | None) -> VisionLayout:
    """The layout of a batch whose image tokens are `vision` ``(B, S)`` bool.

    Args:
        tiles: tiles that there are features of; images, if `placements` is None.
        per_tile: tokens of each.
        placements: one per image in tiles.

    Raises:
        ValueError: the image tokens do not fit the images, or an image's tokens are spread over samples.
    """
    row, column = vision.nonzero(as_tuple=True)
    if placements is None:
        if len(row) != tiles * per_tile:
            raise ValueError(f"{len(row)} image tokens for {tiles} image(s) of {per_tile} vision tokens each")
        return VisionLayout(row, column, tiles, per_tile)
    counts = [len(placement.places) for placement in placements]
    if len(row) != sum(counts):
        raise ValueError(f"{len(row)} image tokens for {len(counts)} image(s) of {counts} tokens")
    if tiles != sum(placement.tiles for placement in placements):
        raise ValueError(f"features of {tiles} tiles for {[p.tiles for p in placements]} tiles of the images")
    starts = torch.tensor([0, *accumulate(counts)], device=row.device)
    rows = row[starts[:-1]]
    if not torch.equal(rows, row[starts[1:] - 1]):
        raise ValueError("the tokens of an image are spread over several samples")
    places, first = [], 0
    for placement in placements:
        places.append(torch.where(placement.shown, placement.places + first, NEWLINE))
        first += placement.tiles * per_tile
    place = torch.cat(places).to(row.device)
    shown = place >= 0
    tile_rows = rows.repeat_interleave(torch.tensor([p.tiles for p in placements], device=row.device))
    return VisionLayout(row[shown], column[shown], tiles, per_tile, place[shown], tile_rows)


def images_of_rows(vision: Tensor, counts: Sequence[int]) -> list[list[int]]:
    """The images of each sample: numbers of those whose tokens (`counts` each) stand in that row of `vision`."""
    ends = list(accumulate(vision.sum(1).tolist()))
    groups: list[list[int]] = [[] for _ in ends]
    starts = [0, *accumulate(counts)][:-1]
    row = 0
    for image, start in enumerate(starts):
        while start >= ends[row]:
            row += 1
        groups[row].append(image)
    return groups
