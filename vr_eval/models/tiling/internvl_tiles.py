"""InternVL's tiles: tokens of all tiles in reading order, then those of the base view, if it is not the only tile."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NoReturn

import torch
from transformers import BaseImageProcessor, PreTrainedTokenizerBase
from transformers.models.got_ocr2.image_processing_got_ocr2 import get_optimal_tiled_canvas

from vr_eval.catalog.tiling import InternVLTiles
from vr_eval.errors import InputError, Problem
from vr_eval.models.tiles import BASE_ONLY, Placement, Size
from vr_eval.models.tiling.base import Scheme


@dataclass(frozen=True)
class InternVLScheme(Scheme):
    """The resolution of the closest aspect, as transformers' own function chooses it; nothing stands between tiles."""

    tiling: InternVLTiles

    marked: ClassVar[bool] = False

    def grid(self, size: Size) -> tuple[int, int]:
        few, many = self.tiling.fewest_tiles(self.tile_px), self.tiling.most_tiles(self.tile_px)
        columns, rows = get_optimal_tiled_canvas(size, (self.tile_px, self.tile_px), few, many)
        return rows, columns

    def placed(self, size: Size, side: int) -> Placement:
        rows, columns = (1, 1) if size == BASE_ONLY else self.grid(size)
        tiles = rows * columns + (rows * columns > 1)
        return Placement(tiles, torch.arange(tiles * side**2))

    def processor(self, images: BaseImageProcessor, tokenizer: PreTrainedTokenizerBase) -> NoReturn:
        """Refused: InternVL's processor asks its tokenizer for tokens that other decoders' tokenizers lack."""
        hint = "Take a whole InternVL checkpoint, or another scheme."
        message = "a tower and a decoder cannot have these tiles"
        raise InputError(Problem(message, key="tiling", given=self.tiling.scheme, hint=hint))
