"""LLaVA-NeXT's and LLaVA-OneVision's tiles: base view, tiles, what is left of their padding, and a newline per row.

    base view              N tokens of tile 0
    row 1 of the tiles     tokens of tiles 1, 2, ... side by side, padding dropped, then a newline
    row 2                  ...

Every tile is compressed by itself to g x g tokens (N of them), and unpadded at that resolution; at g = G this is what
LLaVA-NeXT and LLaVA-OneVision do, whose own functions of transformers choose the resolution and drop the padding.

Above OneVision's limit the tokens of the tiles are resized. A resized token is taken to stand where its centre lies,
so that methods find the cells under it (ours).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from typing import ClassVar

import torch
from torch import nn
from transformers import (
    BaseImageProcessor,
    LlavaNextImageProcessor,
    LlavaNextProcessor,
    LlavaOnevisionImageProcessor,
    LlavaOnevisionProcessor,
    LlavaOnevisionVideoProcessor,
    PreTrainedTokenizerBase,
)
from transformers.models.llava_next.modeling_llava_next import get_anyres_image_grid_shape, unpad_image

from vr_eval.catalog.tiling import AnyRes
from vr_eval.models.tiles import BASE_ONLY, NEWLINE, Placement, Size
from vr_eval.models.tiling.base import Scheme, kept_settings

_WORTH_RESIZING = 1.1
"""Linear excess above which OneVision resizes (official code)."""


@dataclass(frozen=True)
class AnyResScheme(Scheme):
    """The resolution that shows most of the image; the base view comes first."""

    tiling: AnyRes

    learned_newline: ClassVar[bool] = True
    base_view: ClassVar[int] = 0

    def grid(self, size: Size) -> tuple[int, int]:
        points = [list(point) for point in self.tiling.pinpoints]
        rows, columns = get_anyres_image_grid_shape(size, points, self.tile_px)
        return int(rows), int(columns)

    def placed(self, size: Size, side: int) -> Placement:
        base = torch.arange(side**2)
        if size == BASE_ONLY:
            return Placement(1, torch.cat([base, torch.tensor([NEWLINE])]))
        rows, columns = self.grid(size)
        cells = torch.arange((1 + rows * columns) * side**2)[side**2 :]
        stitched = cells.view(rows, columns, side, side).transpose(1, 2).reshape(1, rows * side, columns * side)
        kept = unpad_image(stitched, size)[0]  # (y, x)
        before, after = None, (kept.shape[0], kept.shape[1])
        limit = self.tiling.limit
        excess = sqrt(kept.numel() / (limit * side**2)) if limit else 0.0
        if excess > _WORTH_RESIZING:
            before, after = kept, (int(kept.shape[0] // excess), int(kept.shape[1] // excess))
            # Exact up to 2**24 places.
            nearest = nn.functional.interpolate(kept[None, None].float(), after, mode="nearest-exact")
            kept = nearest[0, 0].long()
        lines = torch.cat([kept, kept.new_full((len(kept), 1), NEWLINE)], dim=1)
        return Placement(1 + rows * columns, torch.cat([base, lines.flatten()]), before, after)

    def shown_sizes(self, sizes: Sequence[Size]) -> list[Size]:
        several = self.tiling.lone and len(sizes) != 1
        return [BASE_ONLY] * len(sizes) if several else list(sizes)

    def processor(
        self, images: BaseImageProcessor, tokenizer: PreTrainedTokenizerBase
    ) -> LlavaNextProcessor | LlavaOnevisionProcessor:
        """OneVision's where there is a limit, which LLaVA-NeXT's does not know."""
        square = {"height": self.tile_px, "width": self.tile_px}
        kept = kept_settings(images) | {"image_grid_pinpoints": [list(point) for point in self.tiling.pinpoints]}
        template = tokenizer.chat_template
        if self.tiling.limit is None:
            cut = LlavaNextImageProcessor(size={"shortest_edge": self.tile_px}, crop_size=square, **kept)
            return LlavaNextProcessor(image_processor=cut, tokenizer=tokenizer, chat_template=template)
        return LlavaOnevisionProcessor(
            image_processor=LlavaOnevisionImageProcessor(size=square, **kept),
            tokenizer=tokenizer,
            video_processor=LlavaOnevisionVideoProcessor(),  # never used; the class wants one
            chat_template=template,
            vision_aspect_ratio=f"anyres_max_{self.tiling.limit}",
        )
